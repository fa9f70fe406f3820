"""gemmlowp's fixed-point functions near the reals that they approximate, and at their fixed points."""

import numpy as np
import pytest

from tf_requant.numerics.gemmlowp import INT16, INT32, FixedPoint


@pytest.mark.parametrize("kind", [INT16, INT32])
def test_the_functions_are_close_to_the_reals(kind: FixedPoint) -> None:
    raw = np.linspace(-(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1, 2001).astype(np.int64)
    real = raw / 2.0 ** (kind.bits - 4)
    one = 2.0 ** (kind.bits - 1)
    tolerance = {16: 3e-3, 32: 3e-7}[kind.bits]  # gemmlowp's own tests allow as much
    assert np.abs(kind.logistic(raw, 3) / one - 1 / (1 + np.exp(-real))).max() < tolerance
    assert np.abs(kind.tanh(raw, 3) / one - np.tanh(real)).max() < tolerance
    low = raw[raw <= 0]
    assert np.abs(kind.exp_of_negative(low, 3) / one - np.exp(low / 2.0 ** (kind.bits - 4))).max() < tolerance


@pytest.mark.parametrize("kind", [INT16, INT32])
def test_zero_is_exact(kind: FixedPoint) -> None:
    zero = np.zeros(1, np.int64)
    assert kind.exp_of_negative(zero, 5).tolist() == [kind.one]
    assert kind.logistic(zero, 3).tolist() == [1 << (kind.bits - 2)]
    assert kind.tanh(zero, 3).tolist() == [0]


def test_the_highest_product_saturates() -> None:
    lowest = np.asarray([-(2**15)])
    assert INT16.multiply(lowest, lowest).tolist() == [2**15 - 1]


def test_an_argument_under_minus_32_gives_zero() -> None:
    assert INT16.exp_of_negative(np.asarray([-(2**15)]), 6).tolist() == [0]
