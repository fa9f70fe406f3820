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
