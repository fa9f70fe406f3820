"""Two's complement registers: what happens to a sum that does not fit."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT64_BITS = 64


def limits(bits: int) -> tuple[int, int]:
    """The lowest and the highest signed integer of a width.

    >>> limits(8)
    (-128, 127)
    """
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def wrap(x: ArrayLike, bits: int) -> NDArray[np.int64]:
    """X modulo 2^bits, as the signed integer that a register of that width holds.

    >>> wrap([127, 128, -129, 256], 8).tolist()
    [127, -128, 127, 0]

    Args:
        x: int64[...].
        bits: the width, sign included, 1 to 64.
    """
    value = np.asarray(x, np.int64)
    if bits >= INT64_BITS:
        return value
    spare = INT64_BITS - bits
    return np.asarray((value << spare) >> spare)


def saturate(x: ArrayLike, bits: int) -> NDArray[np.int64]:
    """X, held at the nearest limit of a signed register of that width.

    >>> saturate([127, 128, -129], 8).tolist()
    [127, 127, -128]

    Args:
        x: int64[...].
        bits: the width, sign included, 1 to 64.
    """
    value = np.asarray(x, np.int64)
    return value if bits >= INT64_BITS else np.asarray(value.clip(*limits(bits)))


def signed_bits(low: int, high: int) -> int:
    """The narrowest signed width that holds every integer from low to high.

    >>> signed_bits(-128, 127), signed_bits(0, 128), signed_bits(0, 0)
    (8, 9, 1)
    """
    return 1 + max(int(high).bit_length() if high > 0 else 0, (-int(low) - 1).bit_length() if low < 0 else 0)


def largest(x: NDArray[Any]) -> int:
    """Max |x| as a Python integer; 0 of nothing."""
    return max(abs(int(x.min())), abs(int(x.max()))) if x.size else 0


def signed_width(low: int, high: int) -> int:
    """Bits of the narrowest two's complement type that holds both.

    >>> [signed_width(*ends) for ends in ((-8, 7), (-7, 8), (0, 0), (-128, 3))]
    [4, 5, 1, 8]
    """
    return max(high, -low - 1, 0).bit_length() + 1
