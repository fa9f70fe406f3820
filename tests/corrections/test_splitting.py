"""Splitting changes no code of the source, leaves weights that the target holds, and asks the target for a GATHER."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests.builders import Builder, depthwise, fully_connected
from tf_requant.corrections import chosen, judged
from tf_requant.corrections.splitting import SUFFIX, outliers, split, split_alike
from tf_requant.errors import UsageError
from tf_requant.io import tflite_writer
from tf_requant.io.tflite import read
from tf_requant.model.graph import Model
from tf_requant.model.ops import Activation, Padding
from tf_requant.model.verify import check
from tf_requant.runtime.interpreter import run_model
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.validation.legality import check_legality

CHANNELS = 64
KINDS = ("conv", "strided", "dilated", "connected")


def net(kind: str = "conv", dtype: str = "uint8", point: int = 100, low: int = -100, high: int = 155, few: int = 40) -> bytes:
    """One layer of five outputs: weights of up to `few` steps, on two of its input channels some that go to the ends."""
    b, random = Builder(1), np.random.default_rng(3)
    x = b.activation([1, CHANNELS] if kind == "connected" else [1, 9, 9, CHANNELS], dtype, 0.02)
    shape = [5, CHANNELS] if kind == "connected" else [5, 3, 3, CHANNELS]
    codes = random.integers(max(low, -few), few + 1, shape)
    codes[0, ..., 3], codes[1, ..., 17], codes[2, ..., 17] = high, low, high - 9
    weights, bias = b.tensor(shape, dtype, 0.01, point, codes + point), b.tensor([5], "int32", 0.0002, 0, random.integers(-3000, 3000, 5))
    version = {"uint8": 1, "int8": 3}[dtype]
    if kind == "connected":
        y = b.activation([1, 5], dtype, 0.05)
        b.op("FULLY_CONNECTED", [x, weights, bias], [y], "FullyConnectedOptions", version, fusedActivationFunction=Activation.RELU)
        return b.finish([x], [y])
    step = {"strided": {"strideW": 2, "strideH": 2}, "dilated": {"dilationWFactor": 2, "dilationHFactor": 2}}.get(kind, {})
    fields: dict[str, Any] = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1} | step
    edge = 5 if kind == "strided" else 9
    y = b.activation([1, edge, edge, 5], dtype, 0.3)
    b.op("CONV_2D", [x, weights, bias], [y], "Conv2DOptions", version, padding=Padding.SAME, **fields)
    return b.finish([x], [y])


def found(model: Model, highest: int = 127) -> dict[int, tuple[int, ...]]:
    return outliers(model.main, range(len(model.main.ops)), highest)


def data_of(model: Model, count: int = 12, seed: int = 7) -> NDArray[Any]:
    x = model.main.tensors[model.main.inputs[0]]
    low, high = x.limits
    return np.random.default_rng(seed).integers(low, high + 1, (count, *x.shape[1:])).astype(x.dtype)


def answers(model: bytes, data: NDArray[Any], backend: str = "litert_ref") -> NDArray[Any]:
    name = read(model).main.tensors[read(model).main.inputs[0]].name
    (scores,) = run_model(model, {name: data}, backend).values()
    return scores


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "point, low, high, copies", [(100, -100, 155, (3, 17)), (200, -200, 55, (17,)), (0, 0, 255, (3, 3, 17)), (128, -128, 127, (17,))]
)
def test_a_split_is_its_source_bit_by_bit(kind: str, point: int, low: int, high: int, copies: tuple[int, ...]) -> None:
    content = net(kind, "uint8", point, low, high)
    model = read(content)
    assert found(model) == {0: copies}
    divided = check(split(model, found(model)))
    gather, layer = divided.main.ops
    assert gather.code == "GATHER" and divided.main.tensors[gather.outputs[0]].shape[-1] == CHANNELS + len(copies)
    assert np.abs(divided.main.tensors[layer.inputs[1]].steps()).max() <= 127
    for backend in ("litert_ref", "litert"):
        ours, theirs = (answers(m, data_of(model), backend) for m in (content, tflite_writer.write(divided)))
        np.testing.assert_array_equal(ours, theirs)
        assert len(np.unique(ours)) > 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_per_channel", "tflite_int8", "tflite_int8_per_tensor", "tflite_int16x8"])
def test_every_weight_is_exact_on_a_target_that_would_clip_or_round_it(kind: str, target: str) -> None:
    model = read(net(kind))
    result = tf_requant.requantize(model, target, corrections="splitting")
    assert check_legality(result.model, tf_requant.load_target(target)).legal
    assert result.report.corrections == ("splitting",)
    layer = next(op for op in result.model.main.ops if op.code in ("CONV_2D", "FULLY_CONNECTED"))
    whole = split(model, found(model)).main
    np.testing.assert_array_equal(
        result.model.main.tensors[layer.inputs[1]].steps(), whole.tensors[whole.ops[1].inputs[1]].steps()
    )
    again = read(result.model_bytes)
    assert [op.code for op in again.main.ops] == [op.code for op in result.model.main.ops]


def test_the_scores_gain_by_it() -> None:
    model = read(net())
    data, errors = data_of(model, 60), []
    for names in ("bias", "splitting,bias"):
        result = tf_requant.requantize(model, "nna_sym8", corrections=names, calibration=data[:40])
        check_ = tf_requant.validate(result.model_bytes, reference=tflite_writer.write(model), data=data[40:])
        errors.append(check_.quality["litert"].sqnr)
    assert errors[1] > errors[0] + 2


def test_narrow_weights_get_a_finer_step() -> None:
    """What the paper is about: a few outliers no longer set the step of all."""
    target = tf_requant.load_target("nna_sym8").derive(name="narrow", weight={"bits": [8, 4]})
    model = read(net(few=30))
    data, errors = data_of(model, 60), []
    for names in ("bias", "splitting,bias"):
        result = tf_requant.requantize(model, target, corrections=names, calibration=data[:40], bits=4)
        assert check_legality(result.model, result.target).legal
        check_ = tf_requant.validate(result.model_bytes, reference=tflite_writer.write(model), data=data[40:])
        errors.append(check_.quality["litert"].sqnr)
    assert errors[1] > errors[0] + 1


def test_more_copies_than_a_sixteenth_are_not_taken() -> None:
    model = read(net(few=100, high=140))
    assert found(model, 127) == {0: (3, 17)}
    assert found(model, 63) == {0: (3, 17)}  # at a higher end than was asked for
    divided = split(model, found(model, 63)).main
    assert 63 < np.abs(divided.tensors[divided.ops[1].inputs[1]].steps()).max() <= 100


def test_layers_that_cannot_add_up_copies_are_left_alone() -> None:
    assert found(read(depthwise("uint8"))) == {}
    assert found(read(fully_connected("int8"))) == {}  # nothing beyond 127
    assert outliers(read(net()).main, [], 127) == {}  # a layer of the host


def test_what_the_target_cannot_run_is_refused() -> None:
    without = tf_requant.load_target("nna_sym8").to_dict()
    del without["ops"]["GATHER"]
    with pytest.raises(UsageError, match="GATHER, which target plain does not run"):
        tf_requant.requantize(net(), {**without, "name": "plain"}, corrections="splitting")
    coded = tf_requant.load_target("nna_sym8").derive(name="coded", weight={"codebook": 4})
    with pytest.raises(UsageError, match="codebook"):
        tf_requant.requantize(net(), coded, corrections="splitting")


def test_where_there_is_nothing_to_split_the_model_stays() -> None:
    for target, model in (("tflite_uint8", net()), ("nna_sym8", fully_connected("int8"))):
        result = tf_requant.requantize(model, target, corrections="splitting,bias")
        assert "splitting" not in result.report.corrections and result.report.notes[0].startswith("splitting: ")
        assert result.model_bytes == tf_requant.requantize(model, target, corrections="bias").model_bytes


def test_auto_leaves_it_out_and_may_be_asked_for_it() -> None:
    assert "splitting" not in chosen("auto", True) and judged("auto,splitting") and not judged("splitting")
    assert set(chosen("auto,splitting", True)) == {*chosen("auto", True), "splitting"}
    with np.load(calibration_path()) as file:
        images = file["images"][:40]
    result = tf_requant.requantize(model_path(), "nna_sym8", corrections="auto,splitting", calibration=images)
    assert {"splitting", "gptq", "bias"} <= set(result.report.corrections) and "moments" not in result.report.corrections
    saved = tf_requant.calibrate(model_path(), images)
    again = tf_requant.requantize(model_path(), "nna_sym8", corrections="auto,splitting", calibration=saved)
    assert again.model_bytes == result.model_bytes


def test_layers_are_compared_and_restored_beside_the_source() -> None:
    with np.load(calibration_path()) as file:
        images = file["images"][:40]
    result = tf_requant.requantize(model_path(), "nna_sym8", corrections="splitting,bias", calibration=images)
    source, copied = read(model_path()), [t.name for t in result.model.main.tensors if t.is_activation and t.name.endswith(SUFFIX)]
    assert len(copied) >= 5
    plain = tf_requant.requantize(model_path(), "nna_sym8", corrections="bias", calibration=images)
    # Weights a few percent, and lists of channels; twice as much where the old filters stayed.
    assert len(result.model_bytes) < 1.15 * len(plain.model_bytes)
    alike = split_alike(source, read(result.model_bytes))
    assert {t.name for t in alike.main.tensors} >= set(copied) and split_alike(source, source) is source
    with np.load(evaluation_path()) as file:
        unseen = file["images"][:20]
    check_ = tf_requant.validate(result.model_bytes, reference=model_path(), data=unseen, isolate=True, target="nna_sym8")
    assert check_.passed and check_.isolation is not None and not [c.why for c in check_.isolation.culprits if c.fault]
    # Beside the source as it is, a layer with more inputs could be neither run alone nor restored.
    behind = {name.removesuffix(SUFFIX) for name in copied}
    assert behind <= {row.name for row in check_.isolation.layers if row.isolated and row.sqnr is not None and row.sqnr > 10}


def test_a_graph_is_not_written_back_with_ops_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    result = tf_requant.requantize(net(), "nna_sym8", corrections="splitting")
    object.__setattr__(result.source, "graph", object())
    with pytest.raises(UsageError, match="splitting adds ops"):
        _ = result.graph_bytes
