"""Bias correction mends the mean error of each output channel on images that it never saw."""

import numpy as np
import pytest

import tf_requant
from tests.builders import small_net
from tf_requant.errors import CalibrationError, UsageError
from tf_requant.model.graph import Graph, Model
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.validation.legality import check_legality

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def images(path: object, count: int) -> np.ndarray:
    with np.load(path) as file:  # type: ignore[call-overload]
        return np.asarray(file["images"][:count])


def channel_means(model: Model, codes: np.ndarray, gains: dict[str, float]) -> list[np.ndarray]:
    """The mean of every layer's output channel in the source's real units."""
    graph: Graph = model.main
    with tf_requant.Simulation(model) as simulation:
        values = simulation.run(codes, "all")
    result = []
    for op in graph.ops:
        if op.code in LAYERS:
            tensor = graph.tensors[op.outputs[0]]
            assert tensor.quant is not None
            real = (values[tensor.name].astype(np.float64) - tensor.quant.zero_point[0]) * tensor.quant.scale[0]
            result.append(real.reshape(-1, tensor.shape[-1]).mean(axis=0) / gains.get(tensor.name, 1.0))
    return result


@pytest.mark.parametrize("target", ["dpu_pow2", "nna_sym8_pow2", "nna_usym8_pow2"])
def test_channel_means_come_nearer_on_images_never_seen(target: str) -> None:
    seen, unseen = images(calibration_path(), 60), images(evaluation_path(), 100)
    plain = tf_requant.requantize(model_path(), target, corrections="none")
    mended = tf_requant.requantize(model_path(), target, corrections="bias", calibration=seen)
    gains = {r.name: r.gain for r in mended.source_report.tensors if r.role == "activation"}
    source = channel_means(tf_requant.requantize(model_path(), "tflite_uint8").model, unseen, {})
    shift = unseen.astype(np.int64)
    errors = []
    for result in (plain, mended):
        tensor = result.model.main.tensors[result.model.main.inputs[0]]
        assert tensor.quant is not None
        real = shift * _input_scale() - _input_offset()
        codes = np.clip(np.rint(real / tensor.quant.scale[0]) + tensor.quant.zero_point[0], -128, 127)
        means = channel_means(result.model, codes.astype(tensor.dtype), gains)
        errors.append(np.concatenate([np.abs(a - b) for a, b in zip(means, source)]))
    # Measured: 0.22 to 0.31; a wrong sign doubles the error, a wrong axis scatters it.
    assert errors[1].mean() < 0.7 * errors[0].mean()


def _input_scale() -> float:
    return float(_input().scale[0])


def _input_offset() -> float:
    return float(_input().scale[0]) * int(_input().zero_point[0])


def _input() -> object:
    from tf_requant.io.tflite import read

    graph = read(model_path()).main
    return graph.tensors[graph.inputs[0]].quant


def test_a_same_scheme_has_no_error_to_mend() -> None:
    data = images(calibration_path(), 10)
    plain = tf_requant.requantize(model_path(), "tflite_uint8")
    mended = tf_requant.requantize(model_path(), "tflite_uint8", calibration=data)
    assert mended.model_bytes == plain.model_bytes


def test_auto_keeps_what_helps_and_says_so() -> None:
    result = tf_requant.requantize(model_path(), "nna_sym8_pow2", calibration=images(calibration_path(), 50))
    (sentence,) = [w for w in result.report.warnings if w.startswith("bias:")]
    assert "10 samples held back" in sentence and ("kept" in sentence or "left out" in sentence)
    assert result.report.corrections == ("rounding", "bias")


@pytest.mark.parametrize("target", ["dpu_pow2", "nvdla_int8", "tflite_int16x8", "nna_usym8_pow2"])
def test_a_corrected_bias_stays_on_the_target_s_grid(target: str) -> None:
    result = tf_requant.requantize(model_path(), target, corrections="bias", calibration=images(calibration_path(), 20))
    assert check_legality(result.model, tf_requant.load_target(target)).legal


def test_a_small_net_of_each_type_is_corrected_or_left_alone() -> None:
    random = np.random.default_rng(0)
    for dtype, low in (("uint8", 0), ("int8", -128)):
        data = random.integers(low, low + 256, (20, 8, 8, 3)).astype(dtype)
        result = tf_requant.requantize(small_net(dtype), "nna_sym8", calibration=data)
        assert any(w.startswith("bias:") for w in result.report.warnings)


def test_bias_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match="give calibration data"):
        tf_requant.requantize(model_path(), "nna_sym8", corrections="bias")


def test_data_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CalibrationError):
        tf_requant.requantize(model_path(), "nna_sym8", calibration=np.zeros((3, 5, 5, 3), np.uint8))
