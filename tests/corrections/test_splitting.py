"""Splitting changes no code of the source, leaves weights that the target holds, and asks the target for a GATHER."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests.builders import Builder, depthwise, fully_connected
from tf_requant.corrections import chosen, judged
from tf_requant.corrections.splitting import SUFFIX, named, outliers, split, split_again
from tf_requant.errors import UsageError
from tf_requant.io import tflite_writer
from tf_requant.io.tflite import read
from tf_requant.model.graph import Model
from tf_requant.model.ops import Activation, Padding
from tf_requant.model.verify import check
from tf_requant.pipeline.record import read_record
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


def found(model: Model, highest: int = 127, lowest: int | None = None) -> dict[int, tuple[int, ...]]:
    return outliers(model.main, range(len(model.main.ops)), -highest if lowest is None else lowest, highest)


def two_readers(shared: bool, names: tuple[str, ...] = ()) -> bytes:
    """Two convolutions one behind the other, with one filter or two alike; some tensors' names."""
    b, random = Builder(1), np.random.default_rng(3)
    x, hidden, y = (b.activation([1, 5, 5, CHANNELS], "uint8", 0.1 + 0.3 * (i > 0)) for i in range(3))
    codes = random.integers(-30, 31, [CHANNELS, 1, 1, CHANNELS])
    codes[5, ..., 11] = 140
    filters = [b.tensor(codes.shape, "uint8", 0.01, 100, codes + 100) for _ in range(1 if shared else 2)] * (2 if shared else 1)
    for data, weights, out in ((x, filters[0], hidden), (hidden, filters[1], y)):
        bias = b.tensor([CHANNELS], "int32", 0.001, 0, np.zeros(CHANNELS))
        b.op("CONV_2D", [data, weights, bias], [out], "Conv2DOptions", strideW=1, strideH=1, padding=Padding.SAME)
    for tensor, name in zip((hidden, y), names):
        b.graph.tensors[tensor].name = name
    return b.finish([x], [y])


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


def test_no_more_copies_than_a_sixteenth_and_none_for_little() -> None:
    model = read(net(few=90, high=140))
    assert found(model, 127) == {0: (3, 17)}
    # To 63 it would take too many; what a few bring is a range of 90 or 100 for one of 140.
    assert found(model, 63) == {0: (3, 17)}
    divided = split(model, found(model, 63)).main
    assert 63 < np.abs(divided.tensors[divided.ops[1].inputs[1]].steps()).max() <= 100
    assert found(read(net(few=98, high=120, low=-100)), 63) == {}  # 100 for 120


def test_a_target_that_holds_the_lowest_code_needs_no_copy_for_it() -> None:
    model = read(net(dtype="int8", point=0, low=-128, high=127))
    assert found(model) == {0: (17,)} and found(model, lowest=-128) == {}
    wide = tf_requant.load_target("nna_sym8").derive(name="wide", weight={"narrow": False})
    assert "splitting" not in tf_requant.requantize(tflite_writer.write(model), wide, corrections="splitting").report.corrections


def test_layers_that_cannot_add_up_copies_are_left_alone() -> None:
    assert found(read(depthwise("uint8"))) == {}
    assert found(read(fully_connected("int8"))) == {}  # nothing beyond 127
    kept = tf_requant.requantize(net(), "nna_sym8", corrections="splitting", keep=("CONV_2D", "CONV_3D"))
    assert [w for w in kept.report.warnings if "keep" in w] == ["keep names 'CONV_3D', which matches no op"]
    assert "splitting" not in kept.report.corrections and len(kept.model.main.ops) < 5


def test_a_filter_that_two_layers_share_stays_one() -> None:
    sizes = {}
    for shared in (False, True):
        model = read(two_readers(shared))
        divided = check(split(model, found(model)))
        filters = {divided.main.ops[i].inputs[1] for i in (1, 3)}
        assert len(filters) == 2 - shared
        sizes[shared] = len(tf_requant.requantize(tflite_writer.write(model), "nna_sym8", corrections="splitting").model_bytes)
        ours, theirs = (answers(tflite_writer.write(m), data_of(model)) for m in (model, divided))
        np.testing.assert_array_equal(ours, theirs)
    assert sizes[True] < 0.75 * sizes[False]
    model = read(two_readers(True))
    one = split(model, {2 - 1: (11,)}).main  # the other reader keeps the filter as it is
    assert one.ops[0].inputs[1] == model.main.ops[0].inputs[1] != one.ops[2].inputs[1]


def test_names_stay_apart() -> None:
    model = read(two_readers(False, ("a", f"a{SUFFIX}")))
    names = [t.name for t in split(model, found(model)).main.tensors]
    assert len(set(names)) == len(names)


def test_trained_floats_come_along() -> None:
    model = read(net())
    graph = model.main
    weights = graph.tensors[1]
    floats = np.float32(weights.steps() + np.random.default_rng(0).uniform(-0.5, 0.5, weights.shape))
    tensors = [t.with_(trained=floats) if i == 1 else t for i, t in enumerate(graph.tensors)]
    held = split(model.with_(graphs=(graph.with_(tensors=tuple(tensors)),)), {0: (3, 17)}).main.tensors[1].trained
    assert held is not None and held.shape[-1] == CHANNELS + 2
    whole = held[..., :CHANNELS].copy()
    whole[..., [3, 17]] += held[..., CHANNELS:]
    np.testing.assert_allclose(whole, floats, atol=1e-4)


def test_what_the_target_cannot_run_is_refused() -> None:
    without = tf_requant.load_target("nna_sym8").to_dict()
    del without["ops"]["GATHER"]
    with pytest.raises(UsageError, match="GATHER, which target plain does not run"):
        tf_requant.requantize(net(), {**without, "name": "plain"}, corrections="splitting")
    passed = tf_requant.requantize(net(), {**without, "name": "plain"}, corrections="auto,splitting")
    assert "splitting" not in passed.report.corrections and passed.report.notes[0].endswith("does not run: left out")
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
    copied = [t.name for t in result.model.main.tensors if t.is_activation and t.name.endswith(SUFFIX)]
    assert len(copied) >= 5
    plain = tf_requant.requantize(model_path(), "nna_sym8", corrections="bias", calibration=images)
    # Weights a few percent, and lists of channels; twice as much where the old filters stayed.
    assert len(result.model_bytes) < 1.15 * len(plain.model_bytes)
    with np.load(evaluation_path()) as file:
        unseen = file["images"][:20]
    check_ = tf_requant.validate(result.model_bytes, reference=model_path(), data=unseen, isolate=True, target="nna_sym8")
    assert check_.passed and check_.isolation is not None and not [c.why for c in check_.isolation.culprits if c.fault]
    # Beside the source as it is, a layer with more inputs could be neither run alone nor restored.
    behind = {name.removesuffix(SUFFIX) for name in copied}
    assert behind <= {row.name for row in check_.isolation.layers if row.isolated and row.sqnr is not None and row.sqnr > 10}


def isolated(reference: Any, result: bytes, data: NDArray[Any]) -> dict[str, float | None]:
    check_ = tf_requant.validate(result, reference=reference, data=data, isolate=True)
    assert check_.isolation is not None and not [c.why for c in check_.isolation.culprits if c.fault]
    return {row.name: row.sqnr for row in check_.isolation.layers if row.isolated}


@pytest.mark.parametrize("options", [{}, {"io": "source"}, {"io": "float"}, {"keep": ["^no_such_op$", "GATHER"]}])
def test_layers_are_compared_whatever_the_interface(options: dict[str, Any]) -> None:
    model, rows = two_readers(False), []
    for names in ("none", "splitting"):
        result = tf_requant.requantize(model, "nna_sym8", corrections=names, **options)
        rows.append(isolated(model, result.model_bytes, data_of(read(model))))
    # Every row that there is without copies, and with them no layer errs.
    assert rows[0].keys() <= rows[1].keys() and len(rows[0]) >= 2
    assert all(sqnr == np.inf for sqnr in rows[1].values())


def test_a_second_conversion_is_compared_with_the_first_source_and_with_the_first_result() -> None:
    content = two_readers(False)
    data = data_of(read(content))
    first = tf_requant.requantize(content, "nna_sym8", corrections="splitting").model_bytes
    narrow = tf_requant.load_target("nna_sym8").derive(name="narrow", weight={"bits": [8, 6]})
    second = tf_requant.requantize(first, narrow, corrections="splitting", bits=6)
    assert "splitting" in second.report.corrections
    names = [t.name for t in second.model.main.tensors]
    assert len(set(names)) == len(names)
    turns = read_record(second.model).copies
    assert turns and all(len(own) == 2 for own in turns.values())
    for reference in (content, first):
        assert min(s for s in isolated(reference, second.model_bytes, data).values() if s is not None) > 15


def test_copies_that_do_not_fit_a_source_are_left_out() -> None:
    model = read(net())
    name = model.main.tensors[model.main.ops[0].outputs[0]].name
    for copies in ({"other": [(3,)]}, {name: [(CHANNELS,)]}, {name: [()]}, {}):
        assert len(split_again(model, copies).main.ops) == 1
    assert len(split_again(model, {name: [(3, 17), (64,)]}).main.ops) == 3
    assert len(split_again(model, {name: [(0,) * 200]}).main.ops) == 1
    assert named(model.main, {0: (3, 17)}) == {name: (3, 17)}


@pytest.mark.parametrize("entry", [5, [1], None, [[-1]], [["11"]], "11", [[float("inf")]], [[]], [[10**30]], [[1.5]], [[]] * 20, {}])
def test_a_record_that_was_tampered_with_costs_rows_and_no_more(entry: Any) -> None:
    content = two_readers(False)
    data = data_of(read(content), 4)
    result = tf_requant.requantize(content, "nna_sym8", corrections="splitting,bias", calibration=data_of(read(content), 8, 1)).model
    held = json.loads(result.metadata["tf_requant"])
    assert set(held["copies"]) == {read(content).main.tensors[op.outputs[0]].name for op in read(content).main.ops}
    for name in list(held["copies"]):
        for copies in ({**held["copies"], name: entry}, {n: own for n, own in held["copies"].items() if n != name}, entry):
            tampered = {**held, "copies": copies} if isinstance(copies, dict) else held
            metadata = {**result.metadata, "tf_requant": json.dumps(tampered).encode()}
            changed = tflite_writer.write(result.with_(metadata=metadata))
            assert read_record(read(changed)).calibration == read_record(result).calibration
            isolated(content, changed, data)
    bare = tflite_writer.write(result.with_(metadata={n: v for n, v in result.metadata.items() if n != "tf_requant"}))
    check_ = tf_requant.validate(bare, reference=content, data=data, isolate=True)
    assert check_.isolation is not None


def test_results_of_one_source_that_were_split_otherwise_can_be_compared() -> None:
    content = two_readers(False)
    data = data_of(read(content), 4)
    narrow = tf_requant.load_target("nna_sym8").derive(name="narrow", weight={"bits": [8, 6]})
    whole = tf_requant.requantize(content, "nna_sym8", corrections="none").model_bytes
    made = [tf_requant.requantize(content, narrow, corrections="splitting", bits=bits).model_bytes for bits in (8, 6)]
    for reference, result in ((made[0], made[1]), (made[1], made[0]), (made[0], whole), (whole, made[0])):
        assert tf_requant.validate(result, reference=reference, data=data, isolate=True).isolation is not None
    for first in ("source", "float", "target"):
        again = tf_requant.requantize(content, narrow, corrections="splitting", bits=8, io=first).model_bytes
        if first != "float":
            again = tf_requant.requantize(again, narrow, corrections="splitting", bits=6).model_bytes
        assert tf_requant.validate(again, reference=content, data=data, isolate=True).isolation is not None


def test_a_choice_of_widths_is_split_for_the_widest() -> None:
    target = tf_requant.load_target("nna_sym8").derive(name="mixed", weight={"bits": [8, 6]})
    asked: dict[str, Any] = {"budget": "weights:0.9", "calibration": data_of(read(two_readers(False)), 12)}
    notes = [
        tf_requant.requantize(two_readers(False), target, corrections="splitting,bias", bits=bits, **options).report.notes[0]
        for bits, options in (((6, 8), asked), (8, {}), (6, {}))
    ]
    assert notes[0] == notes[1] != notes[2]


def test_a_dry_run_carries_the_source_as_it_is() -> None:
    result = tf_requant.requantize(net(), "nna_sym8", corrections="splitting", dry_run=True)
    assert len(result.model.main.ops) == 1 and result.report.corrections == ("splitting",)


def test_a_graph_is_not_written_back_with_ops_that_it_lacks() -> None:
    result = tf_requant.requantize(net(), "nna_sym8", corrections="splitting")
    object.__setattr__(result.source, "graph", object())
    with pytest.raises(UsageError, match="splitting adds ops"):
        _ = result.graph_bytes
