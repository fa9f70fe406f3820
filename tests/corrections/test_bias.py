"""Bias correction mends the mean error of each output channel on images that it never saw."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests.builders import small_net
from tf_requant.calibration.layers import LAYERS
from tf_requant.errors import CalibrationError, UsageError
from tf_requant.io.data import feed
from tf_requant.io.tflite import read
from tf_requant.model.graph import Model
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.requantize import Result
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.validation.legality import check_legality

MEASURED = re.compile(
    r"(?P<what>[a-z_, ]+): (?P<verdict>kept|kept as asked|left out); the scores' squared error on "
    r"(?P<samples>\d+ (synthetic )?samples) held back goes from (?P<before>-[\d.]+) to (?P<after>-[\d.]+) dB "
    r"of their own"
)
WITH_DATA = "thresholds, folding, equalization, scale_search, gptq, error_folding, bias"


def images(path: Path, count: int) -> NDArray[np.uint8]:
    with np.load(path) as file:
        return np.asarray(file["images"][:count])


def measured(result: Result) -> dict[str, str]:
    """The parts of the sentence on what was measured."""
    (found,) = [m for m in map(MEASURED.fullmatch, result.report.notes) if m]
    return found.groupdict()


def channel_means(model: Model, codes: NDArray[np.integer], gains: dict[str, float]) -> NDArray[np.float64]:
    """The mean of every output channel of every layer in the source's real units."""
    graph = model.main
    with tf_requant.Simulation(model) as simulation:
        values = simulation.run(codes, "all")
    result = []
    for op in graph.ops:
        if op.code in LAYERS:
            tensor = graph.tensors[op.outputs[0]]
            assert tensor.quant is not None
            real = (values[tensor.name].astype(np.float64) - tensor.quant.zero_point[0]) * tensor.quant.scale[0]
            result.append(real.reshape(-1, tensor.shape[-1]).mean(axis=0) / gains.get(tensor.name, 1.0))
    return np.concatenate(result)


@cache
def source_means() -> NDArray[np.float64]:
    return channel_means(read(model_path()), images(evaluation_path(), 60), {})


def channel_errors(result: Result) -> NDArray[np.float64]:
    """|mean error| of every channel on images that no correction saw."""
    (old,), (new,) = input_specs(read(model_path())), input_specs(result.model)
    gains = {r.name: r.gain for r in result.source_report.tensors if r.role == "activation"}
    unseen = feed(images(evaluation_path(), 60), old, new)
    return np.abs(channel_means(result.model, unseen, gains) - source_means())


@pytest.mark.parametrize("target", ["dpu_pow2", "nna_sym8_pow2", "nna_usym8_pow2"])
def test_channel_means_come_nearer_on_images_never_seen(target: str) -> None:
    plain = channel_errors(tf_requant.requantize(model_path(), target, corrections="none"))
    seen = images(calibration_path(), 40)
    mended = channel_errors(tf_requant.requantize(model_path(), target, corrections="bias", calibration=seen))
    blind = channel_errors(tf_requant.requantize(model_path(), target, corrections="bias"))
    # Measured: 0.23 to 0.31 and 0.80 to 0.84; a wrong sign doubles the error, a wrong axis scatters it.
    assert mended.mean() < 0.45 * plain.mean() and (mended < plain).mean() > 0.75
    assert blind.mean() < 0.75 * plain.mean()  # on synthetic inputs: 0.47 to 0.57


def test_a_same_scheme_has_no_error_to_mend() -> None:
    data = images(calibration_path(), 10)
    plain = tf_requant.requantize(model_path(), "tflite_uint8")
    mended = tf_requant.requantize(model_path(), "tflite_uint8", calibration=data)
    assert mended.model_bytes == plain.model_bytes
    assert "every value is exact: there is nothing to correct" in mended.report.notes


def test_auto_keeps_what_helps_and_says_so() -> None:
    result = tf_requant.requantize(model_path(), "nna_sym8_pow2", calibration=images(calibration_path(), 50))
    found = measured(result)
    assert (found["what"], found["verdict"], found["samples"]) == (WITH_DATA, "kept", "10 samples")
    assert float(found["after"]) < float(found["before"])
    assert ", ".join(n for n in result.report.corrections if n != "rounding") == WITH_DATA


@pytest.mark.parametrize("target", ["dpu_pow2", "nvdla_int8", "tflite_int16x8", "nna_usym8_pow2"])
def test_a_corrected_bias_stays_on_the_target_s_grid(target: str) -> None:
    result = tf_requant.requantize(model_path(), target, corrections="bias", calibration=images(calibration_path(), 20))
    assert check_legality(result.model, tf_requant.load_target(target)).legal


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_a_small_net_is_corrected_or_left_alone(dtype: str) -> None:
    limits = np.iinfo(dtype)
    data = np.random.default_rng(0).integers(limits.min, limits.max + 1, (20, 8, 8, 3)).astype(dtype)
    result = tf_requant.requantize(small_net(dtype), "nna_sym8", calibration=data)
    plain = tf_requant.requantize(small_net(dtype), "nna_sym8", corrections="rounding")
    (sentence,) = [w for w in result.report.notes if "held back" in w]
    assert sentence.startswith("thresholds, scale_search, gptq, error_folding, bias: ") and "on 4 samples" in sentence
    whole, _, alone = sentence.partition(". Then bias: ")
    helps = ": kept;" in whole or alone.startswith("kept;")
    assert (": kept;" in whole) is (not alone)
    wanted = {True: ("thresholds", "rounding", "scale_search", "gptq", "error_folding", "bias"), False: ("rounding", "bias")}
    assert result.report.corrections == (wanted[not alone] if helps else ("rounding",))
    assert (result.model_bytes == plain.model_bytes) is not helps


def test_a_correction_that_was_named_is_kept_even_where_it_does_not_help() -> None:
    result = tf_requant.requantize(small_net("uint8"), "nna_sym8", corrections="bias")
    assert measured(result)["verdict"] == "kept as asked" and result.report.corrections == ("bias",)
    plain = tf_requant.requantize(small_net("uint8"), "nna_sym8", corrections="none")
    assert result.model_bytes != plain.model_bytes


def test_auto_learns_nothing_from_samples_too_few_to_judge_by() -> None:
    few = tf_requant.requantize(model_path(), "nna_sym8_pow2", calibration=images(calibration_path(), 4))
    assert few.model_bytes == tf_requant.requantize(model_path(), "nna_sym8_pow2").model_bytes
    assert "4 different calibration samples are too few" in few.report.notes[0]


def test_what_no_sample_judged_is_not_said_to_have_been_measured() -> None:
    data = images(calibration_path(), 3)
    result = tf_requant.requantize(model_path(), "nna_sym8_pow2", corrections="bias", calibration=data)
    (sentence,) = [w for w in result.report.notes if "bias:" in w]
    assert "kept unjudged" in sentence and "dB" not in sentence


def test_bias_without_data_takes_synthetic_inputs_and_is_the_same_each_time() -> None:
    first, again = (tf_requant.requantize(model_path(), "nna_sym8_pow2", corrections="bias") for _ in range(2))
    found = measured(first)
    assert (found["what"], found["verdict"], found["samples"]) == ("bias", "kept", "2 synthetic samples")
    assert first.report.corrections == ("bias",) and first.model_bytes == again.model_bytes


@pytest.mark.parametrize("name", ["thresholds", "folding", "scale_search", "gptq", "error_folding"])
def test_what_needs_data_is_refused_without(name: str) -> None:
    with pytest.raises(UsageError, match="give calibration data"):
        tf_requant.requantize(model_path(), "nna_sym8", corrections=name)


def test_data_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CalibrationError):
        tf_requant.requantize(model_path(), "nna_sym8", calibration=np.zeros((3, 5, 5, 3), np.uint8))
