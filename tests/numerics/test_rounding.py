"""The rounding rules against tables of literal values and against exact integer arithmetic."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest

from tf_requant.numerics.rounding import Rounding, round_real, shift_right


def exact(x: Fraction, rounding: Rounding) -> int:
    low, high = floor(x), ceil(x)
    if low == high:
        return low
    if rounding is Rounding.FLOOR:
        return low
    if rounding is Rounding.TRUNCATE:
        return low if x > 0 else high
    if x - low != Fraction(1, 2):
        return low if x - low < Fraction(1, 2) else high
    return {
        Rounding.HALF_UP: high,
        Rounding.HALF_DOWN: low,
        Rounding.HALF_AWAY: high if x > 0 else low,
        Rounding.HALF_EVEN: low if low % 2 == 0 else high,
    }[rounding]


EDGES = [0, 1, -1, 2, 3, -3, 7, -7, 127, -128, 2**31 - 1, -(2**31), 2**62, -(2**62), 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("bits", [0, 1, 2, 3, 8, 15, 31, 32, 62])
def test_a_shift_is_exact_for_every_int64(rounding: Rounding, bits: int) -> None:
    rng = np.random.default_rng(bits)
    x = np.concatenate([np.array(EDGES, np.int64), rng.integers(-(2**40), 2**40, 300), np.arange(-40, 40)])
    got = shift_right(x, bits, rounding)
    assert got.tolist() == [exact(Fraction(int(v), 2**bits), rounding) for v in x]


@pytest.mark.parametrize("rounding", list(Rounding))
def test_reals_round_as_their_exact_value_does(rounding: Rounding) -> None:
    x = [0.5, -0.5, 1.5, 2.5, -2.5, 0.49999999999999994, -0.49999999999999994, 4503599627370495.5, 1e300, 0.1]
    assert round_real(x, rounding).tolist() == [float(exact(Fraction(v), rounding)) for v in x]


@pytest.mark.parametrize("rounding", list(Rounding))
def test_bits_may_be_an_array_and_reach_past_the_type(rounding: Rounding) -> None:
    bits = [0, 1, 63, 64, 65, 1000]
    got = shift_right(np.array(EDGES, np.int64)[:, None], np.array(bits), rounding)
    assert got.tolist() == [[exact(Fraction(x, 2**b), rounding) for b in bits] for x in EDGES]


def test_a_left_shift_and_reals_are_refused() -> None:
    with pytest.raises(ValueError, match="bits must be 0 or more, got -1"):
        shift_right([1], -1, Rounding.FLOOR)
    with pytest.raises(ValueError, match="x must be integers that int64 holds, got dtype float64"):
        shift_right([1.5], 1, Rounding.FLOOR)
    with pytest.raises(ValueError, match="got dtype uint64"):
        shift_right(np.array([2**63], np.uint64), 1, Rounding.FLOOR)


def test_infinities_and_nan_stay() -> None:
    for rounding in Rounding:
        low, high, nan = round_real([-np.inf, np.inf, np.nan], rounding).tolist()
        assert (low, high) == (-np.inf, np.inf) and nan != nan


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("bits", [1, 2, 31, 62, 63, 64])
def test_each_edge_of_int64_is_exact_by_itself(rounding: Rounding, bits: int) -> None:
    for value in (-(2**63), -(2**63) + 1, -1, 0, 1, 2**62, 2**63 - 2, 2**63 - 1):
        real = Fraction(value, 2**bits)
        low = real.numerator // real.denominator
        above = real - low
        up = {
            "FLOOR": False,
            "TRUNCATE": above > 0 and value < 0,
            "HALF_UP": above >= Fraction(1, 2),
            "HALF_DOWN": above > Fraction(1, 2),
            "HALF_AWAY": above > Fraction(1, 2) or (above == Fraction(1, 2) and value > 0),
            "HALF_EVEN": above > Fraction(1, 2) or (above == Fraction(1, 2) and low % 2 == 1),
        }
        assert shift_right([value], bits, rounding).tolist() == [low + up[rounding.value]], value
