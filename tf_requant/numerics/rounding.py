"""The six rounding rules, on reals, right shifts and quotients: the only place that rounds.

The functions are exact for every input: nothing is computed as `floor(x + 0.5)`, which turns
0.49999999999999994 into 1, nor as `(x + half) >> bits`, which overflows near the type's limit.
"""

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT64_BITS = 64
_LOWEST = np.iinfo(np.int64).min


class Rounding(str, Enum):
    """What becomes of the part that is dropped; the HALF rules differ on exact ties only.

    Attributes:
        FLOOR: toward minus infinity; what a bare arithmetic shift does.
        TRUNCATE: toward zero.
        HALF_UP: to the nearest, ties toward plus infinity.
        HALF_DOWN: to the nearest, ties toward minus infinity.
        HALF_AWAY: to the nearest, ties away from zero (C `round`, gemmlowp's RoundingDivideByPOT).
        HALF_EVEN: to the nearest, ties to the even neighbour (IEEE 754 default, `np.rint`).
    """

    FLOOR = "FLOOR"
    TRUNCATE = "TRUNCATE"
    HALF_UP = "HALF_UP"
    HALF_DOWN = "HALF_DOWN"
    HALF_AWAY = "HALF_AWAY"
    HALF_EVEN = "HALF_EVEN"


def round_real(x: ArrayLike, rounding: Rounding | str) -> NDArray[np.float64]:
    """Real x -> the integer that the rule picks, as float64; infinities and NaN stay.

    >>> x = [-2.5, -1.5, -0.5, -0.3, 0.49999999999999994, 0.5, 1.5, 2.5]
    >>> for rounding in Rounding:
    ...     print(f"{rounding.value:9}", round_real(x, rounding).astype(int).tolist())
    FLOOR     [-3, -2, -1, -1, 0, 0, 1, 2]
    TRUNCATE  [-2, -1, 0, 0, 0, 0, 1, 2]
    HALF_UP   [-2, -1, 0, 0, 0, 1, 2, 3]
    HALF_DOWN [-3, -2, -1, 0, 0, 0, 1, 2]
    HALF_AWAY [-3, -2, -1, 0, 0, 1, 2, 3]
    HALF_EVEN [-2, -2, 0, 0, 0, 0, 2, 2]

    Args:
        x: float64[...]; other dtypes are converted to float64 first.
        rounding: the rule, or its name.

    Returns:
        float64[...] of x's shape, integral.
    """
    rounding = Rounding(rounding)
    real = np.asarray(x, dtype=np.float64)
    if rounding is Rounding.FLOOR:
        return np.asarray(np.floor(real))
    if rounding is Rounding.HALF_EVEN:
        return np.asarray(np.rint(real))
    # modf is exact, where x - floor(x) is not for small negative x.
    fraction, whole = np.modf(real)
    if rounding is Rounding.TRUNCATE:
        return np.asarray(whole)
    if rounding is Rounding.HALF_UP:
        step = (fraction >= 0.5) * 1.0 - (fraction < -0.5)
    elif rounding is Rounding.HALF_DOWN:
        step = (fraction > 0.5) * 1.0 - (fraction <= -0.5)
    else:
        step = (fraction >= 0.5) * 1.0 - (fraction <= -0.5)
    return np.asarray(whole + step)


def round_half_even(x: NDArray[np.floating[Any]], out: NDArray[np.floating[Any]]) -> None:
    """HALF_EVEN on a whole array in the array's own precision, without a temporary: for bulk work.

    >>> x = np.array([0.5, 1.5, -2.6], np.float32)
    >>> round_half_even(x, out=x)
    >>> x.tolist()
    [0.0, 2.0, -3.0]

    Args:
        x: float32 or float64[...].
        out: the same type and shape, overwritten; may be x.
    """
    np.rint(x, out=out)


def shift_right(x: ArrayLike, bits: ArrayLike, rounding: Rounding | str) -> NDArray[np.int64]:
    """X / 2^bits, rounded; exact for every int64 x and every bits >= 0, of which 0 is the identity.

    >>> x = [-12, -6, -5, -2, -1, 0, 1, 2, 5, 6]
    >>> for rounding in Rounding:
    ...     print(f"{rounding.value:9}", shift_right(x, 2, rounding).tolist())
    FLOOR     [-3, -2, -2, -1, -1, 0, 0, 0, 1, 1]
    TRUNCATE  [-3, -1, -1, 0, 0, 0, 0, 0, 1, 1]
    HALF_UP   [-3, -1, -1, 0, 0, 0, 0, 1, 1, 2]
    HALF_DOWN [-3, -2, -1, -1, 0, 0, 0, 0, 1, 1]
    HALF_AWAY [-3, -2, -1, -1, 0, 0, 0, 1, 1, 2]
    HALF_EVEN [-3, -2, -1, 0, 0, 0, 0, 0, 1, 2]
    >>> shift_right([2**63 - 1, -(2**63)], [1, 64], "HALF_AWAY").tolist()
    [4611686018427387904, -1]

    Args:
        x: int64[...] (narrower integers are widened).
        bits: how many low bits go, scalar or broadcastable to x, >= 0.
        rounding: the rule, or its name.

    Returns:
        int64[...] of the broadcast shape.

    Raises:
        ValueError: x or bits is not an integer array that int64 holds, or bits is negative.
    """
    rounding = Rounding(rounding)
    value, drop = _int64(x, "x"), _int64(bits, "bits")
    if (drop < 0).any():
        raise ValueError(f"bits must be 0 or more, got {int(drop.min())}; shift left with np.left_shift")
    if (drop > INT64_BITS).any():
        # Beyond 2^64 only the sign still matters, and +-1 / 2^64 rounds as any such quotient does.
        value, drop = np.where(drop > INT64_BITS, np.sign(value), value), np.minimum(drop, INT64_BITS)
    if rounding is Rounding.FLOOR:
        return np.asarray(value >> np.minimum(drop, INT64_BITS - 1))
    if rounding in (Rounding.HALF_UP, Rounding.HALF_AWAY) and drop.all() and value.size and value.min() > _LOWEST:
        return _half_up(value, drop) if rounding is Rounding.HALF_UP else _half_up(value + (value >> (INT64_BITS - 1)), drop)
    quotient = np.asarray(value >> np.minimum(drop, INT64_BITS - 1))
    return np.asarray(quotient + _carry(value, drop, quotient, rounding))


def _half_up(value: NDArray[np.int64], drop: NDArray[np.int64]) -> NDArray[np.int64]:
    """floor(x / 2^bits + 1/2) for bits >= 1, keeping one bit for the half; of x - 1 where x < 0 it is HALF_AWAY."""
    kept = np.asarray(value >> (drop - 1))
    result = kept >> 1
    kept &= 1
    result += kept
    return result


def divide(x: ArrayLike, n: ArrayLike, rounding: Rounding | str) -> NDArray[np.int64]:
    """X / n, rounded; exact.

    >>> for rounding in Rounding:
    ...     print(f"{rounding.value:9}", divide([-7, -6, -5, 5, 6, 7], 4, rounding).tolist())
    FLOOR     [-2, -2, -2, 1, 1, 1]
    TRUNCATE  [-1, -1, -1, 1, 1, 1]
    HALF_UP   [-2, -1, -1, 1, 2, 2]
    HALF_DOWN [-2, -2, -1, 1, 1, 2]
    HALF_AWAY [-2, -2, -1, 1, 2, 2]
    HALF_EVEN [-2, -2, -1, 1, 2, 2]

    Args:
        x: int64[...], |x| < 2^62.
        n: int64, broadcastable to x, > 0.
        rounding: the rule, or its name.
    """
    rounding = Rounding(rounding)
    value, by = _int64(x, "x"), _int64(n, "n")
    quotient = value // by
    rest = value - quotient * by
    if rounding is Rounding.FLOOR:
        return np.asarray(quotient)
    if rounding is Rounding.TRUNCATE:
        return np.asarray(quotient + ((value < 0) & (rest != 0)))
    above, tie = 2 * rest > by, 2 * rest == by
    if rounding is Rounding.HALF_UP:
        above = above | tie
    elif rounding is Rounding.HALF_AWAY:
        above = above | (tie & (value >= 0))
    elif rounding is Rounding.HALF_EVEN:
        above = above | (tie & ((quotient & 1) != 0))
    return np.asarray(quotient + above)


def _carry(
    value: NDArray[np.int64], drop: NDArray[np.int64], quotient: NDArray[np.int64], rounding: Rounding
) -> NDArray[Any]:
    """What the rule adds to the floor, 0 or 1: decided by the dropped half bit and the bits below it."""
    below = np.maximum(drop - 1, 0)
    half = (value >> below) & (drop > 0)
    if rounding is Rounding.HALF_UP:
        return np.asarray(half)
    rest = (value & ~(np.int64(-1) << below)) != 0
    if rounding is Rounding.TRUNCATE:
        return np.asarray((value < 0) & ((half != 0) | rest))
    if rounding is Rounding.HALF_DOWN:
        return np.asarray(half & rest)
    if rounding is Rounding.HALF_AWAY:
        return np.asarray(half & (rest | (value >= 0)))
    return np.asarray(half & (rest | ((quotient & 1) != 0)))


def _int64(x: ArrayLike, what: str) -> NDArray[np.int64]:
    array = np.asarray(x)
    if array.dtype.kind not in "iu" or not np.can_cast(array.dtype, np.int64):
        if array.size:
            raise ValueError(f"{what} must be integers that int64 holds, got dtype {array.dtype}")
    return np.asarray(array, dtype=np.int64)
