"""Winograd's transform in integers is the direct convolution in every element, and says what it needs of the accumulator."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.builders import conv2d
from tests.simulator import scalar
from tests.simulator.draw import Draw
from tf_requant.errors import UnsupportedOpError
from tf_requant.model.geometry import Geometry
from tf_requant.model.ops import Activation, Padding
from tf_requant.model.quant import code_limits
from tf_requant.numerics.arithmetic import Accumulator, Arithmetic, Requantizer, Stage
from tf_requant.numerics.fixed_point import Rescale
from tf_requant.numerics.integers import limits
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.numerics.rounding import Rounding
from tf_requant.pipeline.simulate import checked_model
from tf_requant.simulator.mac import Layer, Weights
from tf_requant.simulator.ops.conv_2d import convolve
from tf_requant.simulator.profiles import NNA
from tf_requant.simulator.simulator import Simulator
from tf_requant.simulator.site import CannotRun
from tf_requant.simulator.winograd import FILTER, INPUT, OUTPUT, Ranges, Winograd

WIDE = Accumulator(64)
ONCE = Requantizer("shift", 0, (-30, 62), (Stage("rest", Rounding.HALF_UP),))


def layer(
    filter_: Any, dtype: str = "int8", zero_point: int = 0, accumulator: Accumulator = WIDE, bits: int | None = None,
    ratio: float = 1.0, out: str = "int16", seed: int = 0, pad: int | None = None,
) -> Layer:  # fmt: skip
    """One group [3, 3, inputs, outputs]; by default its output type shows sums as they are, as far as it goes."""
    taps = np.asarray(filter_, np.int64).reshape(9, *np.shape(filter_)[2:])
    bias = np.random.default_rng(seed).integers(-100, 100, taps.shape[2])
    low, high = code_limits(out)
    stage = OutputStage(Rescale.of_ratio(ratio, ONCE), 0, low, high, out)
    outside = zero_point if pad is None else pad
    return Layer(Weights(taps, bias, zero_point, outside, dtype, False, bits), stage, accumulator)


def both(codes: Any, one: Layer, padding: Padding) -> tuple[Any, Any]:
    geometry = Geometry.of(codes.shape[1:3], (3, 3), padding=padding)
    return convolve(codes, [one], geometry), convolve(codes, [one], geometry, [Winograd(one)])


KINDS = {
    "uint8": ("uint8", None, 255, (0, 255)),
    "int8 of 8 bits": ("int8", None, 127, (-128, 127)),
    "int8 of 7 bits": ("int8", 7, 63, (-64, 63)),
    "int8 of 4 bits": ("int8", 4, 7, (-8, 7)),
    "int16": ("int16", None, 127, (-32768, 32767)),
}


@pytest.mark.parametrize("padding", [Padding.SAME, Padding.VALID])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_it_equals_the_direct_convolution_in_every_element(kind: str, padding: Padding, seed: int) -> None:
    dtype, bits, top, (low, high) = KINDS[kind]
    random = np.random.default_rng([seed, padding, len(kind)])
    smallest = 1 if padding == Padding.SAME else 3
    shape = [random.integers(1, 3), *random.integers(smallest, 12, 2), random.integers(1, 9)]
    outputs = int(random.integers(1, 9))
    point = 0 if bits is not None or dtype == "int16" else int(random.choice([low, high, 0, random.integers(low, high)]))
    weights = [3, 3, int(shape[3]), outputs]
    drawn: Any = {  # every code, extremes only, one extreme
        0: (random.integers(low, high + 1, shape), random.integers(-top, top + 1, weights)),
        1: (random.choice([low, high], shape), random.choice([-top, top], weights)),
        2: (np.full(shape, low), np.full(weights, random.choice([-top, top]))),
        3: (np.full(shape, high), random.choice([-top, 0, top], weights)),
    }[seed % 4]
    # Ratios at which no output saturates, and one at which rounding has to agree.
    ratio = {"int16": 2.0**-15}.get(dtype, 1 / 16 if dtype == "uint8" else 1 / 8) * (1 if seed % 3 else 2.0**-6)
    # Outside the image lies the zero point, or code 0 whatever that means.
    one = layer(drawn[1], dtype, point, bits=bits, ratio=ratio, seed=seed, pad=None if seed < 8 else 0)
    direct, tiled = both(drawn[0].astype(dtype), one, padding)
    np.testing.assert_array_equal(tiled, direct)


@pytest.mark.parametrize(("size", "channels"), [((2, 2), 3), ((31, 33), 65), ((64, 3), 40), ((3, 200), 7)])
def test_blocks_of_tiles_join_without_a_seam(size: tuple[int, int], channels: int) -> None:
    random = np.random.default_rng(channels)
    codes = random.integers(-128, 128, (1, *size, channels)).astype(np.int8)
    one = layer(random.integers(-127, 128, (3, 3, channels, 130)), ratio=2.0**-8)
    direct, tiled = both(codes, one, Padding.SAME)
    np.testing.assert_array_equal(tiled, direct)


@pytest.mark.parametrize(
    ("top", "channels", "dtype", "precision"),
    [(1, 50, "int8", np.float32), (127, 301, "int8", np.float64), (127, 301, "int16", np.float64), (2**37, 3, "int16", np.int64)],
)
def test_every_route_is_exact_up_to_its_own_bound(top: int, channels: int, dtype: str, precision: Any) -> None:
    low, high = code_limits(dtype)
    random = np.random.default_rng(channels)
    codes = random.choice([low, low + 1], (6, 8, channels))
    filter_ = random.choice([top, top - 1], (3, 3, channels, 2))
    one = Winograd(layer(filter_, dtype))
    assert one.precision is precision
    windows = np.lib.stride_tricks.sliding_window_view(codes, (3, 3), axis=(0, 1))
    np.testing.assert_array_equal(one.sums(codes.astype(precision)), np.einsum("hwckl,klco->hwo", windows, filter_))


def test_a_window_larger_than_the_image_gives_nothing() -> None:
    direct, tiled = both(np.ones((1, 2, 5, 1), np.int8), layer(np.ones((3, 3, 1, 1))), Padding.VALID)
    assert direct.shape == tiled.shape and not tiled.size


def test_the_transforms_are_those_of_the_paper_with_g_doubled() -> None:
    g, d = np.array([3, -5, 7]), np.array([2, 11, -4, 6])
    products = (FILTER @ g) * (INPUT @ d)
    assert (OUTPUT @ products).tolist() == [2 * (3 * 2 - 5 * 11 - 7 * 4), 2 * (3 * 11 + 5 * 4 + 7 * 6)]
    assert np.abs(INPUT).sum(axis=1).tolist() == [2, 2, 2, 2] and np.abs(FILTER).sum(axis=1).max() == 3


@pytest.mark.parametrize("bits", [4, 7, 8])
def test_each_range_is_as_stated_and_the_extreme_codes_reach_it(bits: int) -> None:
    top, reach, channels = 2 ** (bits - 1) - 1, 2 ** (bits - 1), 5
    one = Winograd(layer(np.full((3, 3, channels, 1), top), bits=bits))
    assert one.ranges.inputs == 4 * reach and one.ranges.filters == 9 * top
    assert one.ranges.products == 36 * reach * top and one.ranges.sums == 36 * reach * top * channels
    # U of equal taps is 6, 9, 6, 3, ... times the tap, hence less than 9 at most places.
    assert one.ranges.sums <= one.ranges.outputs <= 324 * reach * top * channels
    tile = np.full((4, 4), -reach)
    tile[2, 1:3], tile[1, 2] = top, top
    assert np.abs(INPUT @ tile @ INPUT.T).max() <= one.ranges.inputs
    sign = np.outer([1, -1, -1, 1], [1, -1, -1, 1])  # the sign of each code in one entry of V
    assert np.abs(INPUT @ (sign * reach) @ INPUT.T).max() == one.ranges.inputs


def test_what_an_accumulator_might_not_hold_is_refused_and_one_bit_more_is_enough() -> None:
    filter_ = np.full((3, 3, 40, 2), 127)
    ranges = Winograd(layer(filter_)).ranges
    enough = next(bits for bits in range(16, 64) if ranges.outputs <= limits(bits)[1])
    Winograd(layer(filter_, accumulator=Accumulator(enough, "saturate")))
    with pytest.raises(CannotRun, match=rf"sums reach {ranges.outputs} in Winograd's transform.* of {enough - 1} bits"):
        Winograd(layer(filter_, accumulator=Accumulator(enough - 1, "saturate")))
    # The direct sums of equal taps need four bits less.
    assert layer(filter_).weights.worst_case <= limits(enough - 4)[1]
    assert isinstance(ranges, Ranges)


def test_an_accumulator_that_overflows_at_each_product_is_refused() -> None:
    with pytest.raises(CannotRun, match="overflows at each product"):
        Winograd(layer(np.full((3, 3, 8, 1), 127), accumulator=Accumulator(18, "wrap", "each_step")))


IN_TILES = replace(NNA, name="tiles", winograd="F(2x2,3x3)")


@pytest.mark.parametrize("padding", [Padding.SAME, Padding.VALID])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_a_model_runs_in_tiles_as_the_plain_integers_have_it(dtype: str, padding: Padding) -> None:
    for seed, activation in enumerate((Activation.NONE, Activation.RELU, Activation.RELU6)):
        content = conv2d(dtype, per_channel=dtype != "uint8", padding=padding, activation=activation, size=7, channels=3, seed=seed)
        graph = checked_model(content).main
        tensor = graph.tensors[graph.inputs[0]]
        low, high = code_limits(dtype)
        for codes in (np.random.default_rng(seed).integers(low, high + 1, tensor.shape), np.full(tensor.shape, low)):
            inputs = {graph.inputs[0]: codes.astype(dtype)}
            wide = replace(IN_TILES, accumulator=Accumulator(40, "saturate"))
            expected = scalar.execute(graph, inputs, replace(wide, winograd=None))[graph.outputs[0]]
            for engine in ("numpy", "auto"):
                result = Simulator(graph, wide, strict=True, engine=engine).run(inputs)  # type: ignore[arg-type]
                np.testing.assert_array_equal(result[graph.outputs[0]], expected)


def test_groups_of_channels_are_transformed_one_by_one() -> None:
    for seed in range(10):
        d = Draw(seed, "int8", symmetric=True)
        groups, depth, edge = d.any(2, 3), d.any(1, 3), d.any(3, 7)
        data, filter_ = d.tensor([1, edge, edge + 1, depth * groups]), d.filter([groups * 2, 3, 3, depth], 0)
        bias, _ = d.bias(data, filter_, groups * 2)
        output = d.tensor([1, edge, edge + 1, groups * 2], d.aimed(0.5))
        fields = {"strideH": 1, "strideW": 1, "padding": Padding.SAME, "dilationHFactor": 1, "dilationWFactor": 1}
        d.builder.op("CONV_2D", [data, filter_, bias], [output], "Conv2DOptions", 3, **fields)
        graph = checked_model(d.finish([data], [output])).main
        inputs = {data: d.random.integers(-128, 128, graph.tensors[data].shape).astype(np.int8)}
        simulators = [Simulator(graph, a) for a in (replace(NNA, host_ops=()), IN_TILES)]
        direct, tiled = (s.run(inputs)[output] for s in simulators)
        assert [s.placed[0].where for s in simulators] == ["device", "device"]
        np.testing.assert_array_equal(tiled, direct)


@pytest.mark.parametrize("change", [{"window": 5}, {"stride": 2}, {"dilation": 2}, {"window": 1}])
def test_every_other_convolution_stays_direct(change: dict[str, int]) -> None:
    # A register that the transform could not use says which way it goes.
    tight = replace(IN_TILES, accumulator=Accumulator(20, "saturate"))
    graph = checked_model(conv2d("int8", **change)).main  # type: ignore[arg-type]
    assert Simulator(graph, tight).placed[0].where == "device"


def test_a_layer_beyond_the_accumulator_runs_by_the_reference_rules_or_is_refused_by_name() -> None:
    tight: Arithmetic = replace(IN_TILES, accumulator=Accumulator(20, "saturate"))
    graph = checked_model(conv2d("int8")).main
    place = Simulator(graph, tight).placed[0]
    assert place.where == "reference" and "in Winograd's transform, and the accumulator of 20 bits holds 524287" in place.reason
    with pytest.raises(UnsupportedOpError, match=r"op 0 \(CONV_2D.*Winograd"):
        Simulator(graph, tight, strict=True)
