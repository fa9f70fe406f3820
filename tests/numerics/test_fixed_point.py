"""Multipliers and rescales against exact fractions and TFLite's own table."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_requant.numerics.arithmetic import DOUBLE_ROUNDING, Requantizer, Stage
from tf_requant.numerics.fixed_point import NotExpressible, Rescale, narrowed, quantize_multiplier, scale_ratio
from tf_requant.numerics.rounding import Rounding

ONCE_UP = (Stage("rest", Rounding.HALF_UP),)


@given(st.floats(2.0**-30, 2.0**20))
def test_a_multiplier_is_the_ratio_to_half_a_unit_in_its_last_place(ratio: float) -> None:
    multiplier, shift = (int(v) for v in quantize_multiplier(ratio))
    assert 1 << 30 <= multiplier < 1 << 31
    assert abs(Fraction(multiplier) * Fraction(2) ** -(31 + shift) - Fraction(ratio)) <= Fraction(2) ** -(32 + shift)


def test_a_mantissa_that_rounds_up_to_a_power_of_two_is_halved() -> None:
    assert [int(v) for v in quantize_multiplier(1 - 2.0**-40)] == [1 << 30, -1]


def test_a_tiny_ratio_is_flushed_as_tflite_does() -> None:
    assert [int(v) for v in quantize_multiplier(2.0**-33)] == [0, 0]
    assert [int(v) for v in quantize_multiplier(1.5 * 2.0**-32)] == [3 << 29, 31]
    assert Rescale.of_ratio(1.5 * 2.0**-32, Requantizer()).apply([2**31 - 1, -(2**31)]).tolist() == [1, -1]


def test_the_16_bit_multiplier_is_held_at_its_limit() -> None:
    assert narrowed([0x7FFEFFFF, 0x7FFF0000, 0x7FFFFFFF, 1 << 30]).tolist() == [0x7FFF, 0x7FFF, 0x7FFF, 0x4000]


@pytest.mark.parametrize("shift", [1, 2, 4, 6])
def test_two_roundings_differ_from_one_as_often_as_the_law_says(shift: int) -> None:
    random = np.random.default_rng(shift)
    codes = random.integers(-(2**20), 2**20, 400_000)
    ratio = random.uniform(0.5, 1) * 2.0**-shift
    twice = Rescale.of_ratio(ratio, Requantizer()).apply(codes)
    once = Rescale.of_ratio(ratio, Requantizer(stages=ONCE_UP)).apply(codes)
    # P = 2^-(shift + 1); five standard deviations of 400 000 draws.
    law = 2.0 ** -(shift + 1)
    assert abs(float((twice != once).mean()) - law) < 5 * (law / codes.size) ** 0.5


def test_a_quarter_of_1_is_rounded_up_twice() -> None:
    assert Rescale.of_ratio(0.25, Requantizer()).apply([1, -2]).tolist() == [1, -1]
    assert Rescale.of_ratio(0.25, Requantizer(stages=ONCE_UP)).apply([1, -2]).tolist() == [0, 0]


@given(st.integers(-(2**31), 2**31 - 1), st.floats(2.0**-20, 0.999))
def test_two_stages_are_gemmlowps_definition(accumulator: int, ratio: float) -> None:
    multiplier, shift = (int(v) for v in quantize_multiplier(ratio))
    product = accumulator * multiplier
    high = (product + (1 << 30)) >> 31
    mask = (1 << shift) - 1
    expected = (high >> shift) + ((high & mask) > (mask >> 1) + (high < 0))
    assert Rescale.of_ratio(ratio, Requantizer()).apply(accumulator).tolist() == [expected]


@given(st.integers(-(2**62), 2**62), st.floats(2.0**-25, 2.0**-3), st.sampled_from(Rounding))
def test_a_product_beyond_64_bits_is_still_exact(accumulator: int, ratio: float, rounding: Rounding) -> None:
    rescale = Rescale.of_ratio(ratio, Requantizer(stages=(Stage("rest", rounding),)))
    real = Fraction(accumulator) * Fraction(int(rescale.multiplier[0])) * Fraction(2) ** -(31 + int(rescale.shift[0]))
    found = int(rescale.apply(accumulator)[0])
    assert abs(real - found) <= (Fraction(1, 2) if rounding.value.startswith("HALF") else 1)
    floor = real.numerator // real.denominator
    if rounding is Rounding.FLOOR:
        assert found == floor
    if rounding is Rounding.HALF_UP:
        assert found == (2 * real + 1).numerator // (2 * (2 * real + 1).denominator)


def test_a_left_shift_leaves_the_32_bit_register_as_on_x86() -> None:
    rescale = Rescale.of_ratio(4.0, Requantizer())
    assert rescale.apply([3, 2**30]).tolist() == [12, 0]
    single = Rescale.of_ratio(4.0, Requantizer(stages=ONCE_UP))
    assert single.apply([3, 2**30]).tolist() == [12, 2**32]


def test_a_shift_holds_powers_of_two_only() -> None:
    shift = Requantizer("shift", 0, (-7, 31), ONCE_UP)
    assert Rescale.of_ratio([0.25, 2.0], shift).apply([[6, 6]]).tolist() == [[2, 12]]
    with pytest.raises(NotExpressible, match="0.75"):
        Rescale.of_ratio(0.75, shift)
    with pytest.raises(NotExpressible, match="left by 8 bits"):
        Rescale.of_ratio(256.0, shift)


def test_a_narrow_shift_range_is_made_up_by_a_smaller_multiplier() -> None:
    narrow = Requantizer("multiplier_shift", 24, (0, 15), ONCE_UP)
    rescale = Rescale.of_ratio(2.0**-20, narrow)
    assert (int(rescale.multiplier[0]), int(rescale.shift[0])) == (1 << 19, 15)
    assert rescale.apply(3 << 20).tolist() == [3]


def test_the_float_kinds_round_in_their_own_precision() -> None:
    accumulator = 16777217  # not a float32
    single = Rescale.of_ratio(1.0, Requantizer("float32", 0, stages=(Stage("rest", Rounding.HALF_EVEN),)))
    double = Rescale.of_ratio(0.5, Requantizer("float64", 0, stages=(Stage("rest", Rounding.HALF_AWAY),)))
    assert single.apply(accumulator).tolist() == [16777216]
    assert double.apply([accumulator, -accumulator]).tolist() == [8388609, -8388609]


def test_a_ratio_is_rounded_where_its_maker_rounds_it() -> None:
    one, two, out = np.float32(0.1), np.float32(0.3), np.float32(0.7)
    assert scale_ratio((one, two), out, Requantizer()) == np.float64(one) * np.float64(two) / np.float64(out)
    product = Requantizer(scale_product="float32")
    assert scale_ratio((one, two), out, product) == np.float64(one * two) / np.float64(out)
    all_single = Requantizer(scale_product="float32", ratio="float32")
    assert scale_ratio((one, two), out, all_single) == np.float64(one * two / out)


def test_stages_are_shared_by_default() -> None:
    assert Requantizer().stages == DOUBLE_ROUNDING
