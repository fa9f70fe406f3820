"""Re-expression of integer codes: from one affine grid to another, from the integers, never from floats.

With v = code - zero_point an integer, the new code is round(v * step) + new zero point, where step is
the old scale times a gain over the new scale. A step of one is exact wherever the value fits.
"""

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.rounding import Rounding, round_real


def reexpress(
    values: NDArray[np.integer], step: float | NDArray[np.float64], low: int, high: int
) -> NDArray[np.float64]:
    """round(values * step) saturated to [low, high], ties to even.

    Args:
        values: code - zero_point, any shape.
        step: old scale * gain / new scale; a number, or an array that broadcasts against `values`.
        low: the lowest new code, less the new zero point.
        high: the highest.

    Returns:
        The new codes less the new zero point, as float64 integers.

    >>> reexpress(np.array([-3, 0, 5, 300]), 0.5, -127, 127).tolist()
    [-2.0, 0.0, 2.0, 127.0]
    """
    codes = round_real(np.multiply(values, step, dtype=np.float64), Rounding.HALF_EVEN)
    np.minimum(codes, high, out=codes)
    return np.maximum(codes, low, out=codes)


def code_table(dtype: str, zero_point: int, step: float, low: int, high: int, new_zero_point: int) -> NDArray[np.int64]:
    """The new code of each of the 256 codes of an 8-bit type, in the order of the type's unsigned bytes.

    Args:
        dtype: `uint8` or `int8`, the old codes.
        zero_point: theirs.
        step: old scale * gain / new scale.
        low: the lowest new code.
        high: the highest.
        new_zero_point: the new one.
    """
    codes = np.arange(256) if dtype == "uint8" else np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64)
    shifted = reexpress(codes - zero_point, step, low - new_zero_point, high - new_zero_point)
    return (shifted + new_zero_point).astype(np.int64)
