"""Alignment: every code of the result stands for whole codes of the source, and the mean that this moves comes off behind."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests.builders import Builder, edited
from tf_requant.corrections.alignment import merged, noise, snapped
from tf_requant.errors import UsageError
from tf_requant.io.tflite import read
from tf_requant.model.ops import Activation, Padding
from tf_requant.pipeline.lanes import Lane
from tf_requant.validation.legality import check_legality

DATA = np.random.default_rng(1).integers(-128, 128, (60, 6, 6, 4)).astype(np.int8)
KINDS = {"dense": [16, 3, 3, 4], "grouped": [16, 3, 3, 2], "depthwise": [1, 3, 3, 16], "connected": [16, 144]}
STEP = {"strideW": 1, "strideH": 1, "padding": Padding.SAME}
HIDDEN = "hidden"


def two_layers(
    kind: str = "dense", small: int = 0, between: str = "", per_channel: bool = False, scale: float = 1 / 128,
    beyond: bool = False,
) -> bytes:  # fmt: skip
    """A rectified layer of sixteen channels, and one of five behind it.

    Args:
        kind: of the first layer.
        small: so many channels stay below half of the range.
        between: an op between the two.
        per_channel: whether each output of the first has a scale of its own.
        scale: of the input; its zero point is 0, for other scales -128.
        beyond: whether the second has a weight of -128.
    """
    random, b, shape = np.random.default_rng(3), Builder(3), KINDS[kind]
    axis, point = 3 if kind == "depthwise" else 0, 0 if scale == 1 / 128 else -128
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    weights = np.round(random.integers(-127, 128, shape) / np.where(np.arange(16) < small, 2.5, 1.0).reshape(along))
    steps, taps = 0.01 * (np.linspace(1, 2, 16) if per_channel else np.ones(1)), int(np.prod(shape)) // 16
    x, places = b.activation([1, 6, 6, 4], "int8", scale, point), [1, 16] if kind == "connected" else [1, 6, 6, 16]
    # Three deviations of the sum of so many products.
    step = 3 * taps**0.5 * steps.max() * 73 * (73 * scale) / 255
    hidden = b.tensor(places, "int8", step, -128, name=HIDDEN)
    filters = b.tensor(shape, "int8", steps, 0, weights, axis if per_channel else 0)
    bias = b.tensor([16], "int32", steps * scale, 0, random.integers(2000, 9000, 16))
    if kind == "connected":
        flat = b.activation([1, 144], "int8", scale, point)
        b.op("RESHAPE", [x, b.integers([1, 144])], [flat])
        b.op("FULLY_CONNECTED", [flat, filters, bias], [hidden], "FullyConnectedOptions", 4, fusedActivationFunction=Activation.RELU)
    elif kind == "depthwise":
        fields = {**STEP, "depthMultiplier": 4, "fusedActivationFunction": Activation.RELU}
        b.op("DEPTHWISE_CONV_2D", [x, filters, bias], [hidden], "DepthwiseConv2DOptions", 3, **fields)
    else:
        b.op("CONV_2D", [x, filters, bias], [hidden], "Conv2DOptions", 3, fusedActivationFunction=Activation.RELU, **STEP)
    read_by = hidden
    if between:
        read_by = b.activation(places, "int8", step, -128)
        if between == "ADD":
            b.op(between, [hidden, hidden], [read_by], "AddOptions", 2)
        else:
            b.op(between, [hidden], [read_by], "Pool2DOptions", 2, filterWidth=1, filterHeight=1, **STEP)
    shape = [5, 16] if kind == "connected" else [5, 1, 1, 16]
    reading = random.integers(-90, 91, shape)
    reading.reshape(5, 16)[2, 7] = -128 if beyond else 5
    dense, bias = b.tensor(shape, "int8", 0.02, 0, reading), b.tensor([5], "int32", 0.02 * step, 0, np.zeros(5))
    scores = b.activation([*places[:-1], 5], "int8", 2 * step)
    if kind == "connected":
        b.op("FULLY_CONNECTED", [read_by, dense, bias], [scores], "FullyConnectedOptions", 4)
    else:
        b.op("CONV_2D", [read_by, dense, bias], [scores], "Conv2DOptions", 3, **STEP)
    return b.finish([x], [scores])


def converted(model: bytes, target: Any, corrections: str = "alignment,bias", **options: Any) -> tf_requant.Result:
    result = tf_requant.requantize(model, target, corrections=corrections, calibration=DATA[:40], **options)
    assert check_legality(result.model, result.target).legal
    return result


def steps_of(content: bytes, data: NDArray[np.int8]) -> NDArray[np.int64]:
    """The hidden tensor's codes above its zero point, in LiteRT's reference arithmetic, int64[samples * places, 16]."""
    model = read(content)
    tensor = next(i for i, t in enumerate(model.main.tensors) if t.name == HIDDEN)
    lane = Lane(model, [{model.main.inputs[0]: x[None]} for x in data])
    found = np.concatenate([run[tensor] for run in lane.branch(model.main, len(model.main.ops), {tensor})])
    quant = model.main.tensors[tensor].quant
    assert quant is not None
    return found.reshape(-1, 16).astype(np.int64) - int(quant.zero_point[0])


def assert_nearly_all(found: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Half a step of the source is no whole number of accumulator units, and a kernel rounds twice: ties may differ."""
    assert (found != wanted).mean() < 2e-3


def aligned(result: tf_requant.Result) -> Any:
    """The hidden tensor's plan."""
    tensor = next(i for i, t in enumerate(result.source.model.main.tensors) if t.name == HIDDEN)
    return result.plan.graphs[0].activations[tensor]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_per_channel"])
def test_each_code_stands_for_two_whole_codes_of_the_source(kind: str, target: str) -> None:
    model = two_layers(kind, per_channel=target == "nna_sym8_per_channel" and kind != "connected")
    result, held = converted(model, target), DATA[40:]
    assert aligned(result).alignment.multiple == 2
    ours, theirs = steps_of(model, held), steps_of(result.model_bytes, held)
    offset = aligned(result).alignment.offset
    assert_nearly_all(theirs * 2, merged(ours.astype(np.float64), 2, offset, 127))
    assert len(np.unique(theirs)) > 60


@pytest.mark.parametrize("kind", KINDS)
def test_the_scores_gain_by_it(kind: str) -> None:
    model, found = two_layers(kind), []
    for names in ("bias", "alignment,bias"):
        result = converted(model, "nna_sym8_per_channel", names)
        check = tf_requant.validate(result.model_bytes, reference=model, data=DATA[40:])
        found.append(check.quality["litert"].sqnr)
    assert found[1] > found[0] + 0.5


def test_channels_with_room_for_it_keep_the_sources_codes() -> None:
    """Equalization stretches by two what the coarser step would have merged."""
    model = two_layers(small=6)
    result = converted(model, "nna_sym8_per_channel", "alignment,equalization,bias")
    gains = aligned(result).channel_gains
    assert gains is not None and set(gains) <= {1.0, 2.0} | set(gains[(gains > 2**0.5) & (gains < 2)])
    ours, theirs = (steps_of(m, DATA[40:]) for m in (model, result.model_bytes))
    twice, once = gains == 2, gains == 1
    assert twice.sum() >= 4 and once.sum() >= 4
    assert_nearly_all(theirs[:, twice], ours[:, twice])
    whole = merged(ours[:, once].astype(np.float64), 2, aligned(result).alignment.offset, 127)
    assert_nearly_all(theirs[:, once] * 2, whole)


def test_narrow_codes_stand_for_four() -> None:
    target = tf_requant.load_target("nna_sym8_per_channel").derive(name="narrow", activation={"bits": [8, 7]})
    model = two_layers()
    result = converted(model, target, activation_bits=7)
    assert aligned(result).alignment.multiple == 4
    ours, theirs = (steps_of(m, DATA[40:]) for m in (model, result.model_bytes))
    whole = merged(ours.astype(np.float64), 4, aligned(result).alignment.offset, 63)
    # An interpreter does not clip where the device does.
    assert_nearly_all(np.minimum(theirs, 63) * 4, whole)


def test_channels_that_are_read_twice_are_aligned_with_their_originals() -> None:
    """Splitting reads some of what is aligned through a GATHER, which copies codes."""
    model = two_layers(beyond=True)
    result = converted(model, "nna_sym8_per_channel", "splitting,alignment,bias")
    assert "splitting" in result.report.corrections and aligned(result).alignment.multiple == 2
    ours, theirs = (steps_of(m, DATA[40:]) for m in (model, result.model_bytes))
    assert_nearly_all(theirs * 2, merged(ours.astype(np.float64), 2, aligned(result).alignment.offset, 127))


@pytest.mark.parametrize(
    "changes, target",
    [
        ({"scale": 1 / 255}, "nna_sym8"),  # 127 steps of the input are left: accumulators differ
        ({"between": "ADD"}, "nna_sym8"),  # nothing takes the mean off
        ({"between": "MAX_POOL_2D"}, "nna_sym8"),
        ({}, "nna_sym8_pow2"),  # no such step
        ({}, "tflite_int8"),  # the source's own
        ({}, "nna_usym8"),
    ],
)
def test_what_gains_nothing_is_left_alone(changes: dict[str, Any], target: str) -> None:
    model = two_layers(**changes)
    result = converted(model, target)
    assert all(a.alignment is None for a in result.plan.graphs[0].activations.values())
    assert result.model_bytes == converted(model, target, "bias").model_bytes


def three_layers(first: int, between: str = "", point: int = 0) -> bytes:
    """A linear layer whose largest weight is given, an op or none, and what `two_layers` has; all up to there keep their steps.

    Args:
        first: the weight.
        between: the op.
        point: the zero point of what the linear layer writes.
    """
    random, b = np.random.default_rng(5), Builder(5)
    x, linear = b.activation([1, 6, 6, 4], "int8", 1 / 128, 0), b.activation([1, 6, 6, 8], "int8", 0.02, point)
    hidden = b.tensor([1, 6, 6, 16], "int8", 3 * 72**0.5 * 0.01 * 73 * 1.6 / 255, -128, name=HIDDEN)
    codes, wide = random.integers(-90, 91, [8, 3, 3, 4]), random.integers(-127, 128, [16, 3, 3, 8])
    codes[3, 1, 1, 2] = first
    filters = b.tensor(codes.shape, "int8", 0.01, 0, codes), b.tensor(wide.shape, "int8", 0.01, 0, wide)
    biases = [b.tensor([n], "int32", s, 0, np.zeros(n)) for n, s in ((8, 0.01 / 128), (16, 0.01 * 0.02))]
    b.op("CONV_2D", [x, filters[0], biases[0]], [linear], "Conv2DOptions", 3, **STEP)
    if between:
        data, linear = linear, b.activation([1, 6, 6, 8], "int8", 0.02, point)
        b.op(between, [data], [linear], "Pool2DOptions", 2, filterWidth=2, filterHeight=2, **STEP)
    b.op("CONV_2D", [linear, filters[1], biases[1]], [hidden], "Conv2DOptions", 3, fusedActivationFunction=Activation.RELU, **STEP)
    step, reading = float(b.graph.tensors[hidden].quantization.scale[0]), random.integers(-90, 91, [5, 1, 1, 16])
    dense, bias = b.tensor(reading.shape, "int8", 0.02, 0, reading), b.tensor([5], "int32", 0.02 * step, 0, np.zeros(5))
    scores = b.activation([1, 6, 6, 5], "int8", 2 * step)
    b.op("CONV_2D", [hidden, dense, bias], [scores], "Conv2DOptions", 3, **STEP)
    return b.finish([x], [scores])


@pytest.mark.parametrize("between", ["", "MAX_POOL_2D"])
def test_a_layer_behind_exact_ones_is_aligned_and_behind_a_rounded_one_it_is_not(between: str) -> None:
    """A tensor that keeps the source's step has the source's values only where what writes it computes them."""
    assert aligned(converted(three_layers(90, between), "nna_sym8")).alignment is not None
    assert aligned(converted(three_layers(-128, between), "nna_sym8")).alignment is None


def test_averages_round_otherwise_on_other_codes() -> None:
    assert aligned(converted(three_layers(90, "AVERAGE_POOL_2D"), "nna_sym8")).alignment is None


@pytest.mark.parametrize("pinned, kept", [((-1.0, 127 / 128), True), ((-0.5, 0.5), False)])
def test_an_input_whose_range_the_user_cut_is_not_exact(pinned: tuple[float, float], kept: bool) -> None:
    name = read(two_layers()).main.tensors[0].name
    result = converted(two_layers(), "nna_sym8", pin_range={name: pinned})
    assert (aligned(result).alignment is not None) is kept


@pytest.mark.parametrize("point", [-128, -3, 0])
def test_a_tensor_that_saturates_elsewhere_is_not_exact(point: int) -> None:
    """On symmetric codes, an output of another zero point goes beyond where the source's ends."""
    model = three_layers(90, point=point)
    assert (aligned(converted(model, "nna_sym8")).alignment is not None) is (point == 0)


def test_a_writer_without_a_bias_cannot_move_its_thresholds() -> None:
    model = edited(two_layers("connected"), lambda m: setattr(m.subgraphs[0].operators[1], "inputs", [*m.subgraphs[0].operators[1].inputs[:2], -1]))
    result = converted(model, "nna_sym8")
    assert aligned(result).alignment is None
    assert result.model_bytes == converted(model, "nna_sym8", "bias").model_bytes


def test_auto_names_it_only_where_something_was_aligned() -> None:
    assert "alignment" in converted(two_layers(), "nna_sym8", "auto").report.corrections
    assert "alignment" not in converted(two_layers(), "nna_sym8_pow2", "auto").report.corrections


def test_it_needs_the_bias() -> None:
    with pytest.raises(UsageError, match="'alignment' without 'bias'"):
        converted(two_layers(), "nna_sym8", "alignment")


def test_merging_leaves_the_noise_that_is_predicted() -> None:
    values = np.arange(240, dtype=np.float64)
    for multiple, offsets in ((2, (-0.5, 0.5)), (3, (0.0,)), (4, (-0.5, 0.5))):
        for offset in offsets:
            errors = merged(values, multiple, offset, 127) - values
            assert abs(errors.mean() - offset) < 0.05
            assert abs(errors.var() - noise(np.ones(1), multiple)[0]) < 0.05


def test_factors_that_cost_more_than_they_bring_are_none() -> None:
    """By what rounding to such a step leaves of accumulators anywhere between the source's thresholds."""
    random = np.random.default_rng(0)
    exact = random.uniform(0, 100, 200_000)
    source = np.round(exact)
    for multiple, offset in ((2, -0.5), (3, 0.0), (4, 0.5)):
        whole = merged(source, multiple, offset, 1000) - source
        for factor in (1.097, 1.313, 1.537, 1.913, 2.511, 3.571, multiple, 5.0):
            (moved,) = snapped(np.array([factor]), multiple)
            step = multiple / moved
            errors = np.round(exact / step) * step - source if moved > 1 else whole
            assert errors.var() <= 1.05 * whole.var() and abs(errors.var() - noise(np.array([moved]), multiple)[0]) < 0.03
            assert moved in (1.0, factor, multiple)
            if moved == 1:
                assert (np.round(exact * factor / multiple) * multiple / factor - source).var() > 0.98 * whole.var()
