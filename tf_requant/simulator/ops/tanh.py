"""TANH: a table for 8-bit codes; for int16 the sigmoid's table read as 2 sigmoid(2x) - 1."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.ops.logistic import sigmoid_table, table_kernel, to_table
from tf_requant.simulator.site import Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one TANH."""
    return table_kernel(site, real, int16)


def real(x: NDArray[Any]) -> NDArray[Any]:
    """tanh(x), rounded to x's type."""
    return np.asarray(np.tanh(x.astype(np.float64)).astype(x.dtype))


def int16(codes: NDArray[np.int64], multiplier: int, shift: int) -> NDArray[np.int64]:
    """The int16 core, TFLite's reference_integer_ops::Tanh: int64[...] codes -> codes."""
    value = to_table(codes, multiplier, shift)
    size, table = np.abs(value), sigmoid_table()
    at = np.minimum(size >> 8, 254)
    result = (table[at] << 8) + (size & 0xFF) * (table[at + 1] - table[at])
    result = np.where(size >> 8 >= 255, 0xFFFF << 8, result)
    result = np.where(value >= 0, result - (1 << 23) + (1 << 7), -result + (1 << 23) + (1 << 7) - 1)
    return np.asarray(result >> 8)
