"""Equalization moves range between filters and leaves the function alone, clamps included."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests.builders import Builder
from tf_requant.calibration.layers import grouped, input_channels
from tf_requant.calibration.statistics import Calibration
from tf_requant.corrections import equalization
from tf_requant.corrections.equalization import candidates, equalize, wanted_codes
from tf_requant.io.tflite import read
from tf_requant.model.graph import Graph, Model
from tf_requant.model.ops import Activation, Padding, fused_activation
from tf_requant.plan import ConstantPlan, Plan
from tf_requant.planning.planner import plan_model
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.validation.legality import check_legality


def images(path: object, count: int) -> np.ndarray:
    with np.load(path) as file:  # type: ignore[call-overload]
        return np.asarray(file["images"][:count])


def test_a_channel_is_stretched_by_the_noise_it_saves_against_what_its_weights_lose() -> None:
    own, power = np.array([16.0, 1.0, 1.0]), np.array([1.0, 1.0, 16.0])
    found = candidates(own, power, np.full(3, 1e-3), np.full(3, 1e3))
    balanced = [f / f[1] for f in found if not np.allclose(f, f[0])]
    assert len(balanced) >= 5
    for factors in balanced:
        np.testing.assert_allclose(factors, [2.0, 1.0, 0.5])  # (a / b)^(1/4)


def test_no_candidate_leaves_the_room_of_a_channel() -> None:
    random = np.random.default_rng(0)
    least, most = np.where(random.random(32) < 0.5, 0.125, 1.0), random.uniform(1, 5, 32)
    found = candidates(random.uniform(0, 3, 32), random.uniform(0, 9, 32), least, most)
    assert len(found) >= 8 and all(((least <= f) & (f <= most)).all() for f in found)
    np.testing.assert_allclose(found[0], most)


def test_a_channel_without_noise_or_power_is_no_reason_for_a_factor() -> None:
    found = candidates(np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0]), np.full(3, 0.125), np.array([8.0, 1.0, 1.0]))
    assert all((f[1:] == 1).all() for f in found)


@cache
def statistics() -> Calibration:
    return tf_requant.calibrate(model_path(), images(calibration_path(), 30))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equalizes whatever can be, worth it or not."""
    monkeypatch.setattr(equalization, "_WORTH", 1e9)


def planned(target: str) -> tuple[Model, Plan, Plan]:
    source = read(model_path())
    plain = plan_model(source, tf_requant.load_target(target))
    return source, plain, equalize(source, plain, statistics(), tf_requant.load_target(target))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_per_channel", "nna_sym8_pow2", "nna_sym8_pow2_per_channel"])
def test_filters_and_biases_move_by_exactly_the_factors(target: str) -> None:
    source, plain, moved = planned(target)
    graph, before, after = source.main, plain.graphs[0], moved.graphs[0]
    factors = {t: a.channel_gains for t, a in after.activations.items() if a.channel_gains is not None}
    assert len(factors) >= 5 and any((f != 1).any() for f in factors.values())
    depthwise = 0
    for (index, position), constant in after.constants.items():
        op = graph.ops[index]
        if position != 1:
            continue
        old, new = (in_reals(graph, index, c[index, 1]) for c in (before.constants, after.constants))
        groups, outputs, taps = old.shape
        written = factors.get(op.outputs[0], np.ones(groups * outputs)).reshape(groups, outputs, 1)
        read_by = factors.get(op.inputs[0], np.ones(1))
        if read_by.size > 1 and groups == 1:
            read_by = np.tile(read_by, taps // read_by.size)[None, None]
        elif read_by.size > 1:
            read_by = read_by[:, None, None]
        depthwise += op.code == "DEPTHWISE_CONV_2D" and bool((written != 1).any())
        np.testing.assert_allclose(new, old * written / read_by, rtol=1e-6)
        bias = op.inputs[2]
        codes = graph.tensors[bias].data
        assert codes is not None
        real = [codes * np.asarray(c[index, 2].step) * c[index, 2].params.scale for c in (before.constants, after.constants)]
        np.testing.assert_allclose(real[1], real[0] * written.reshape(-1), rtol=1e-5)
        if constant.codes is None:
            continue
        # What is written to the file is the moved filter, each output to half a step of its own scale (or clipped).
        held = grouped(op, constant.codes.astype(np.float64), input_channels(graph, op))
        steps = np.broadcast_to(constant.params.scale, (groups * outputs,)).reshape(groups, outputs, 1)
        assert np.abs(held).max() <= 127
        inside = np.abs(new) <= 127 * steps
        assert (np.abs(held * steps - new)[inside] <= (0.5 + 1e-4) * np.broadcast_to(steps, new.shape)[inside]).all()
    assert depthwise >= 2


def in_reals(graph: Graph, index: int, constant: ConstantPlan) -> NDArray[np.float64]:
    values = wanted_codes(graph, index, constant)
    return values * np.broadcast_to(constant.params.scale, (values.shape[0] * values.shape[1],)).reshape(*values.shape[:2], 1)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_per_channel", "nna_sym8_pow2"])
def test_the_function_stays(target: str) -> None:
    seen, unseen = images(calibration_path(), 60), images(evaluation_path(), 50)
    result = tf_requant.requantize(model_path(), target, corrections="equalization,bias", calibration=seen)
    assert check_legality(read(result.model_bytes), tf_requant.load_target(target)).legal
    check = tf_requant.validate(result.model_bytes, reference=model_path(), data=unseen)
    assert check.quality["litert"].agreement >= 0.9
    # Compared channel by channel through the factors in the record: an inverted one leaves 0 dB.
    assert min(t.sqnr for t in check.tensors) > 10


def test_what_keeps_the_sources_steps_is_left_alone() -> None:
    _, plain, moved = planned("tflite_int8")
    assert moved.graphs[0].constants == plain.graphs[0].constants
    assert all(a.channel_gains is None for a in moved.graphs[0].activations.values())


def test_no_channel_gets_beyond_its_clamp() -> None:
    source, _, moved = planned("nna_sym8_per_channel")
    found, stretched = statistics(), 0
    for tensor, held in moved.graphs[0].activations.items():
        if held.channel_gains is None:
            continue
        quant, written = source.main.tensors[tensor].quant, fused_activation(source.main.ops[source.main.producers[tensor]])
        assert quant is not None
        peak = found.peaks[tensor][:, 0] * float(quant.scale[0])
        top = 6.0 if written is Activation.RELU6 else 127 * float(held.params.scale[0])
        assert (held.channel_gains[peak > 0.999 * top] == 1).all()  # later, too, the clamp would not be the same
        inside = held.channel_gains > 1
        assert (held.channel_gains[inside] * peak[inside] <= top).all()
        stretched += int(inside.sum())
    assert stretched >= 20


def test_a_depthwise_filter_with_a_scale_a_channel_stays_exact() -> None:
    """Factors of its channels move its scales and its codes not at all: equalization is free there."""
    source, plain, moved = planned("nna_sym8_per_channel")
    free = 0
    for index, op in enumerate(source.main.ops):
        factors = moved.graphs[0].activations[op.inputs[0]].channel_gains if op.code == "DEPTHWISE_CONV_2D" else None
        if factors is None:
            continue
        exact = np.atleast_1d(plain.graphs[0].constants[index, 1].step) == 1
        codes, weights = moved.graphs[0].constants[index, 1].codes, source.main.tensors[op.inputs[1]]
        assert codes is not None
        kept = np.flatnonzero(exact & (np.abs(weights.steps()).max(axis=(0, 1, 2)) <= 127))
        np.testing.assert_array_equal(codes[..., kept], weights.steps()[..., kept])
        free += int((factors[kept] != 1).sum())
    assert free >= 5


def test_channels_that_use_few_of_their_codes_get_finer_ones() -> None:
    """Eight of sixteen channels go to 1/32 of the tensor's range, and what reads them multiplies them by as much."""
    b, small = Builder(3), np.arange(16) >= 8
    x = b.activation([1, 6, 6, 3], "int8", 1 / 128, 0)
    weights = b.random.integers(-127, 128, (16, 3, 3, 3))
    weights[small] = np.round(weights[small] / 32)
    filters = b.tensor([16, 3, 3, 3], "int8", 0.01, 0, weights)
    hidden = b.activation([1, 6, 6, 16], "int8", 8 / 255, -128)
    step = {"strideW": 1, "strideH": 1, "padding": Padding.SAME}
    bias = b.tensor([16], "int32", 0.01 / 128, 0, np.zeros(16))
    b.op("CONV_2D", [x, filters, bias], [hidden], "Conv2DOptions", 3, fusedActivationFunction=Activation.RELU, **step)
    reading = b.random.choice([-1, 1], (5, 1, 1, 16)) * np.where(small, 96, 3)
    dense = b.tensor([5, 1, 1, 16], "int8", 0.02, 0, reading)
    scores, bias = b.activation([1, 6, 6, 5], "int8", 0.05), b.tensor([5], "int32", 0.02 * 8 / 255, 0, np.zeros(5))
    b.op("CONV_2D", [hidden, dense, bias], [scores], "Conv2DOptions", 3, **step)
    model, data = b.finish([x], [scores]), np.random.default_rng(1).integers(-128, 128, (60, 6, 6, 3)).astype(np.int8)
    found = {}
    for names in ("bias", "equalization,bias"):
        result = tf_requant.requantize(model, "nna_sym8_per_channel", corrections=names, calibration=data[:40])
        found[names] = tf_requant.validate(result.model_bytes, reference=model, data=data[40:]).quality["litert"].sqnr
    assert found["equalization,bias"] > found["bias"] + 3


def test_auto_takes_it_where_it_pays_and_says_so() -> None:
    data = images(calibration_path(), 40)
    result = tf_requant.requantize(model_path(), "nna_sym8_per_channel", calibration=data)
    assert "equalization" in result.report.corrections or "equalization" not in str(result.report.notes)
    exact = tf_requant.requantize(model_path(), "tflite_int8", calibration=data)
    assert "equalization" not in exact.report.corrections
