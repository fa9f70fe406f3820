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
from tf_requant.model.quant import QuantParams
from tf_requant.plan import ConstantPlan, Plan
from tf_requant.planning.planner import plan_model
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.validation.legality import check_legality


def images(path: object, count: int) -> np.ndarray:
    with np.load(path) as file:  # type: ignore[call-overload]
        return np.asarray(file["images"][:count])


def test_a_channel_is_stretched_by_the_noise_it_saves_against_what_its_weights_lose() -> None:
    own, power = np.array([16.0, 1.0, 1.0]), np.array([1.0, 1.0, 16.0])
    found = candidates(own, power, np.full(3, 1e3))
    balanced = [f for f in found if f.min() > 1 and not np.allclose(f, f[0])]
    assert len(balanced) >= 3
    for factors in balanced:
        np.testing.assert_allclose(factors / factors[1], [2.0, 1.0, 0.5])  # (a / b)^(1/4)


def test_no_candidate_leaves_the_room_of_a_channel() -> None:
    random = np.random.default_rng(0)
    most = random.uniform(1, 5, 32)
    found = candidates(random.uniform(0, 3, 32), random.uniform(0, 9, 32), most)
    assert len(found) >= 8 and all(((f >= 1) & (f <= most)).all() for f in found)
    np.testing.assert_allclose(found[0], most)


def test_a_channel_without_noise_or_power_is_no_reason_for_a_factor() -> None:
    found = candidates(np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0]), np.array([8.0, 1.0, 1.0]))
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
@pytest.mark.parametrize("names", ["equalization,bias", "splitting,equalization,bias"])
@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_per_channel", "nna_sym8_pow2"])
def test_the_function_stays(target: str, names: str) -> None:
    seen, unseen = images(calibration_path(), 60), images(evaluation_path(), 50)
    result = tf_requant.requantize(model_path(), target, corrections=names, calibration=seen)
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
        assert (held.channel_gains[peak > 0.999 * top] == 1).all()
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


def two_layers(scale: float, weights: NDArray[np.int64], reading: NDArray[np.int64]) -> bytes:
    """Convolutions to sixteen channels at a scale, rectified, and from them to five."""
    b = Builder(3)
    x, hidden = b.activation([1, 6, 6, 3], "int8", 1 / 128, 0), b.activation([1, 6, 6, 16], "int8", scale, -128)
    filters, bias = b.tensor([16, 3, 3, 3], "int8", 0.01, 0, weights), b.tensor([16], "int32", 0.01 / 128, 0, np.zeros(16))
    step = {"strideW": 1, "strideH": 1, "padding": Padding.SAME}
    b.op("CONV_2D", [x, filters, bias], [hidden], "Conv2DOptions", 3, fusedActivationFunction=Activation.RELU, **step)
    dense, bias = b.tensor([5, 1, 1, 16], "int8", 0.02, 0, reading), b.tensor([5], "int32", 0.02 * scale, 0, np.zeros(5))
    scores = b.activation([1, 6, 6, 5], "int8", 0.05)
    b.op("CONV_2D", [hidden, dense, bias], [scores], "Conv2DOptions", 3, **step)
    return b.finish([x], [scores])


def decibels(model: bytes, target: str) -> tuple[float, float]:
    """Of the scores on samples that no correction saw, by bias correction and by equalization ahead of it."""
    data, found = np.random.default_rng(1).integers(-128, 128, (60, 6, 6, 3)).astype(np.int8), []
    for names in ("bias", "equalization,bias"):
        result = tf_requant.requantize(model, target, corrections=names, calibration=data[:40])
        found.append(tf_requant.validate(result.model_bytes, reference=model, data=data[40:]).quality["litert"].sqnr)
    return found[0], found[1]


SMALL = np.arange(16) >= 8


def uneven() -> bytes:
    """Eight of sixteen channels go to 1/32 of the tensor's range, and what reads them multiplies them by as much."""
    random = np.random.default_rng(3)
    weights = random.integers(-127, 128, (16, 3, 3, 3))
    weights[SMALL] = np.round(weights[SMALL] / 32)
    return two_layers(8 / 255, weights, random.choice([-1, 1], (5, 1, 1, 16)) * np.where(SMALL, 96, 3))


@pytest.mark.parametrize("target", ["nna_sym8_per_channel", "nna_usym8_pow2"])
def test_channels_that_use_few_of_their_codes_get_finer_ones(target: str) -> None:
    plain, stretched = decibels(uneven(), target)
    assert stretched > plain + 2  # measured: 6.4 and 2.8


@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2", "nna_usym8_pow2"])
@pytest.mark.parametrize("scale", [0.0031, 0.0047, 0.018])
def test_a_channel_that_saturates_in_the_source_does_so_at_the_same_value(target: str, scale: float) -> None:
    """A factor that puts the result's clamp where the source's is; one below would clamp later, one above sooner."""
    random = np.random.default_rng(3)
    weights = random.integers(-127, 128, (16, 3, 3, 3))
    weights[SMALL] = np.round(weights[SMALL] / 8)
    plain, moved = decibels(two_layers(scale, weights, random.integers(-90, 91, (5, 1, 1, 16))), target)
    # On a power of two the result's clamp is not the source's: 9.9 dB without the factor.
    assert moved > plain - 1.0 + 15 * (scale == 0.0031 and target.endswith("pow2"))


def test_a_filter_that_planning_clipped_may_stay_clipped() -> None:
    values = np.array([[[128.0, 50.0]]]) / 256
    filter_ = equalization._Filter(0, ConstantPlan(QuantParams("int8", np.float32(1 / 256), 0)), values, np.array([1 / 256]))
    tight, same = (f.scale[0] for f in filter_.times(np.ones((1, 1, 1))))
    assert (tight, same) == (1 / 128, 1 / 256)


def test_auto_takes_it_where_it_pays_and_not_where_steps_are_kept() -> None:
    data = np.random.default_rng(1).integers(-128, 128, (40, 6, 6, 3)).astype(np.int8)
    assert "equalization" in tf_requant.requantize(uneven(), "nna_sym8_per_channel", calibration=data).report.corrections
    exact = tf_requant.requantize(model_path(), "tflite_int8", calibration=images(calibration_path(), 40))
    assert "equalization" not in exact.report.corrections


@pytest.mark.parametrize("names", ["equalization,bias", "auto"])
def test_a_saved_calibration_and_its_data_give_the_same_model(names: str) -> None:
    """Equalization goes by what noise does to the scores: it is measured where it is asked for."""
    data = images(calibration_path(), 20)
    saved = tf_requant.requantize(model_path(), "nna_sym8", corrections=names, calibration=tf_requant.calibrate(model_path(), data))
    assert tf_requant.requantize(model_path(), "nna_sym8", corrections=names, calibration=data).model_bytes == saved.model_bytes
