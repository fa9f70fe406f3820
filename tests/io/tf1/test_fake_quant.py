"""A FakeQuant node's grid, against the formula that TensorFlow documents, one number at a time."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.io.tf1 import graphs
from tf_requant.io.tf1.fake_quant import Range, quantized, range_from, range_of

F32 = np.float32
BITS = st.sampled_from([4, 5, 6, 7, 8, 16])
SCALES = st.floats(2.0**-100, 2.0**80, width=32)
WIDE = settings(max_examples=150, deadline=None, derandomize=True)


def nudged(minimum: F32, maximum: F32, bits: int, narrow: bool) -> tuple[F32, int]:
    """The scale and zero point of one range: every step rounded to float32, as fake_quant_ops_functor.h does."""
    low, high = F32(1 if narrow else 0), F32(2**bits - 1)
    scale = F32(F32(maximum - minimum) / F32(high - low))
    from_minimum = F32(low - F32(minimum / scale))
    if from_minimum < low:
        return scale, int(low)
    return scale, int(high) if from_minimum > high else math.floor(float(from_minimum) + 0.5)


def code(value: F32, scale: F32, zero_point: int, bits: int, narrow: bool) -> int:
    """The code of one value on a grid, in exact arithmetic."""
    rounded = math.floor(Fraction(float(value)) / Fraction(float(scale)) + Fraction(1, 2)) + zero_point
    return max(int(narrow), min(2**bits - 1, rounded))


def one(held: Range) -> tuple[float, int]:
    scale, zero_point = held.grid()
    assert scale.shape == zero_point.shape == (1,) and scale.dtype == np.float32 and zero_point.dtype == np.int64
    return float(scale[0]), int(zero_point[0])


def range_between(minimum: float, maximum: float, bits: int = 8, narrow: bool = False) -> Range:
    return Range(np.array([minimum], F32), np.array([maximum], F32), bits, narrow)


@st.composite
def grids(draw: st.DrawFn) -> tuple[int, bool, int]:
    """A width, whether it is narrow, and a zero point among its codes."""
    bits, narrow = draw(BITS), draw(st.booleans())
    return bits, narrow, draw(st.integers(int(narrow), 2**bits - 1))


@pytest.mark.parametrize(
    ("minimum", "maximum", "bits", "narrow", "scale", "zero_point"),
    [
        (-1.0, 1.0, 8, False, 2 / 255, 127),  # 1 / scale is 127.49999 in float32
        (-1.0, 1.0, 8, True, 2 / 254, 128),
        (-31.75, 31.75, 8, True, 0.25, 128),
        (-32.0, 31.75, 8, False, 0.25, 128),
        (0.0, 63.75, 8, False, 0.25, 0),
        (0.0, 63.5, 8, True, 0.25, 1),
        (-63.75, 0.0, 8, False, 0.25, 255),
        (1.0, 256.0, 8, False, 1.0, 0),  # a range without zero is moved to it, not widened
        (-256.0, -1.0, 8, False, 1.0, 255),
        (-7.0, 7.0, 4, True, 1.0, 8),
        (-8.0, 7.0, 4, False, 1.0, 8),
        (-32768.0, 32767.0, 16, False, 1.0, 32768),
        (-2.5, 252.5, 8, False, 1.0, 3),  # a half is rounded away from zero
        (-1.25, 253.75, 8, False, 1.0, 1),
    ],
)
def test_a_range_has_the_grid_that_its_formula_gives(minimum, maximum, bits, narrow, scale, zero_point):
    assert one(range_between(minimum, maximum, bits, narrow)) == (float(F32(scale)), zero_point)


@WIDE
@given(st.floats(-1000, 1000, width=32), st.floats(-1000, 1000, width=32), BITS, st.booleans())
def test_a_grid_is_the_scalar_formula_in_float32(first, second, bits, narrow):
    assume(abs(first - second) > 1e-3)
    low, high = F32(min(first, second)), F32(max(first, second))
    scale, zero_point = nudged(low, high, bits, narrow)
    assert one(Range(np.array([low]), np.array([high]), bits, narrow)) == (float(scale), zero_point)


def test_each_channel_has_a_grid_of_its_own():
    held = Range(np.array([-32, 0, -63.75], F32), np.array([31.75, 127.5, 0], F32))
    scale, zero_point = held.grid()
    assert scale.tolist() == [0.25, 0.5, 0.25] and zero_point.tolist() == [128, 0, 255]


def test_a_range_of_nothing_holds_zero_alone():
    held = range_between(0, 0)
    assert one(held) == (0.0, 0)
    assert quantized(np.array([-1, 0, 1], F32), held).tolist() == [0, 0, 0]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8, 16])
def test_a_power_of_two_is_met_exactly_per_tensor_and_per_channel(bits, signed, narrow):
    zero_point = 1 << (bits - 1) if signed else int(narrow)
    scales = F32(2.0) ** np.arange(-40, 20, dtype=F32)
    for wanted in (*scales.reshape(-1, 1), scales):
        held = range_of(wanted, zero_point, bits, narrow)
        scale, found = held.grid()
        assert np.array_equal(scale, wanted) and (found == zero_point).all()
        assert held.minimum.dtype == held.maximum.dtype == np.float32 and (held.bits, held.narrow) == (bits, narrow)


@WIDE
@given(st.integers(-90, 80), grids())
def test_a_power_of_two_is_met_exactly_whatever_its_zero_point(exponent, grid):
    bits, narrow, zero_point = grid
    assert one(range_of(np.array([2.0**exponent], F32), zero_point, bits, narrow)) == (2.0**exponent, zero_point)


@WIDE
@given(st.lists(SCALES, min_size=1, max_size=4), grids())
def test_any_scale_is_met_within_an_ulp_and_its_zero_point_exactly(wanted, grid):
    bits, narrow, zero_point = grid
    scales = np.array(wanted, F32)
    held = range_of(scales, zero_point, bits, narrow)
    for low, high, scale in zip(held.minimum, held.maximum, scales, strict=True):
        found, found_zero = nudged(low, high, bits, narrow)
        assert found_zero == zero_point
        assert abs(float(found) - float(scale)) <= float(np.spacing(scale))


@pytest.mark.parametrize("zero_point", [0, 3, 128])
def test_nearly_every_scale_is_met_exactly(zero_point):
    scales = np.linspace(0.001, 0.1, 2000, dtype=F32)
    scale, _ = range_of(scales, zero_point, 8, False).grid()
    assert np.mean(scale == scales) > 0.95  # ends that are only multiplied out meet two thirds or three quarters


def test_a_range_at_an_end_of_the_codes_keeps_zero_as_its_end():
    low, high = range_of(np.array([0.1, 0.3], F32), 0, 8, False), range_of(np.array([0.1, 0.3], F32), 255, 8, False)
    assert low.minimum.tolist() == [0, 0] and high.maximum.tolist() == [0, 0]


@WIDE
@given(SCALES, grids(), st.booleans())
def test_a_value_on_the_grid_comes_back_as_its_code(scale, grid, power_of_two):
    bits, narrow, zero_point = grid
    wanted = np.array([2.0 ** math.floor(math.log2(scale)) if power_of_two else scale], F32)
    held = range_of(wanted, zero_point, bits, narrow)
    codes = np.unique(np.linspace(int(narrow), 2**bits - 1, 100).astype(np.int64))
    assert np.array_equal(quantized((wanted * (codes - zero_point)).astype(F32), held), codes)


@WIDE
@given(SCALES, grids(), st.lists(st.floats(-2.0, 3.0), min_size=1, max_size=20))
def test_a_value_is_rounded_as_in_exact_arithmetic(scale, grid, places):
    bits, narrow, zero_point = grid
    held = range_of(np.array([scale], F32), zero_point, bits, narrow)
    step, _ = held.grid()
    values = np.array([F32(p * 2**bits - zero_point) * step[0] for p in places], F32)
    assert quantized(values, held).tolist() == [code(v, step[0], zero_point, bits, narrow) for v in values]


def test_the_middle_between_two_codes_is_rounded_up():
    held = range_of(np.array([0.25], F32), 128, 8, True)
    values = np.array([-0.375, -0.125, 0.125, 0.375, 0.624, 0.626], F32)
    assert quantized(values, held).tolist() == [127, 128, 129, 130, 130, 131]


def test_the_floats_next_to_a_middle_are_told_from_it():
    held = range_of(np.array([0.25], F32), 128, 8, False)
    middle = F32(0.125)
    values = np.array([np.nextafter(middle, F32(0)), middle, np.nextafter(middle, F32(1))], F32)
    assert quantized(values, held).tolist() == [128, 129, 129]


@pytest.mark.parametrize(("narrow", "lowest"), [(False, 0), (True, 1)])
def test_values_outside_the_range_are_clipped_to_its_ends(narrow, lowest):
    held = range_of(np.array([0.25], F32), 128, 8, narrow)
    values = np.array([-np.inf, -1e30, -32.2, -31.9, 31.8, 31.9, 1e30, np.inf], F32)
    assert quantized(values, held).tolist() == [lowest, lowest, lowest, lowest, 255, 255, 255, 255]


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_a_range_per_channel_runs_along_its_axis(axis):
    scales = np.array([0.25, 0.5, 1.0], F32)
    held = range_of(scales, 128, 8, True)
    values = np.full((3, 3, 3, 3), 4.0, F32)
    codes = quantized(values, held, axis)
    assert [np.unique(codes.take(c, axis)).tolist() for c in range(3)] == [[144], [136], [132]]


def test_a_range_of_one_number_holds_for_every_channel():
    codes = quantized(np.full((2, 3), -0.5, F32), range_of(np.array([0.25], F32), 128, 8, True), 1)
    assert codes.tolist() == [[126] * 3] * 2 and codes.dtype == np.int64


def test_a_nodes_range_takes_its_width_from_the_node():
    node = graphs.node("q", graphs.QUANTIZER, num_bits=4, narrow_range=True)
    held = range_from(node, np.array([-7, -14], F32), np.array([7, 14], F32))
    assert (held.bits, held.narrow, held.lowest, held.highest) == (4, True, 1, 15)
    assert [v.tolist() for v in held.grid()] == [[1, 2], [8, 8]]


def test_a_nodes_range_is_of_eight_bits_where_the_node_does_not_say():
    held = range_from(graphs.node("q", graphs.QUANTIZER), np.array(-1, F32), np.array(1, F32))
    assert (held.bits, held.narrow) == (8, False) and held.minimum.shape == held.maximum.shape == (1,)
