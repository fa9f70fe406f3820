"""LOGISTIC: a table for 8-bit codes; for int16 a table of 256 values, interpolated."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.simulator.site import CannotRun, Kernel, Site, scale
from tf_requant.simulator.tables import real_function, real_table, unary

_ONE_MORE = (
    4, 8, 12, 14, 15, 16, 17, 19, 20, 21, 22, 25, 27, 28, 29, 30, 31, 33, 34, 35, 37, 39, 40, 41, 43, 44, 45, 46, 49, 50,
    54, 62, 63, 64, 66, 82, 86, 93, 100, 103, 112, 116, 135, 255,
)  # fmt: skip
"""Entries of TFLite's table that are 1 above the rounded function; read off LiteRT 2.3.0's TANH, entry by entry."""


def prepare(site: Site) -> Kernel:
    """The kernel of one LOGISTIC."""
    return table_kernel(site, real, int16)


def real(x: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(-x)), each step in x's type."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x.astype(np.float64)).astype(x.dtype)))


def table_kernel(site: Site, function: Any, wide: Any) -> Kernel:
    """LOGISTIC's and TANH's kernel: `function` by table for 8-bit codes, `wide` for int16 ones."""
    data, target, lookup = site.input(), site.output(), site.arithmetic.lookup
    site.codes(data, target)
    if data.dtype == "int16":
        if site.op.code in lookup.ops and lookup.interpolation == "none":
            raise CannotRun(f"its table has {lookup.entries} entries, and {data.name!r} is int16")
        multiplier, shift = _to_table_scale(float(scale(data)))
        return unary(site, lambda codes: wide(codes.astype(np.int64), multiplier, shift).astype(np.int16))
    if site.op.code in lookup.ops:
        if lookup.interpolation != "none" or lookup.entries < 256:
            raise CannotRun(f"a table of {lookup.entries} interpolated entries is not simulated")
        return unary(site, real_function(site, function))
    return unary(site, lambda codes: real_table(site, codes, function, "float32", Rounding.HALF_AWAY))


def _to_table_scale(input_scale: float) -> tuple[int, int]:
    """(multiplier, right shift) from the input's scale to 1 / (3 * 4096), as TFLite prepares them."""
    log2 = np.frexp(input_scale)[1] - 1
    if np.frexp(input_scale)[0] == 0.5 and 12 + log2 == 0:
        return 3, 0
    multiplier, shift = input_scale * 4096.0 * 3.0, 0
    while multiplier <= 32767.0 / 2.0 and shift <= 30:
        multiplier, shift = multiplier * 2.0, shift + 1
    return int(multiplier), shift


def to_table(codes: NDArray[np.int64], multiplier: int, shift: int) -> NDArray[np.int64]:
    """Codes on the table's scale."""
    half = (1 << (shift - 1)) if shift > 0 else 0
    return np.asarray((codes * multiplier + half) >> shift)


def int16(codes: NDArray[np.int64], multiplier: int, shift: int) -> NDArray[np.int64]:
    """The int16 core, TFLite's reference_integer_ops::Logistic: int64[...] codes -> codes."""
    value = to_table(codes, multiplier, shift)
    size, table = np.abs(value), sigmoid_table()
    at = np.minimum(size >> 9, 254)
    result = (table[at] << 9) + (size & 0x1FF) * (table[at + 1] - table[at])
    result = np.where(size >> 9 >= 255, 0x7FFF << 10, result)
    result = np.where(value >= 0, result + (1 << 9), (1 << 25) - result + (1 << 9) - 1)
    return np.asarray(result >> 10)


@cache
def sigmoid_table() -> NDArray[np.int64]:
    """TFLite's 65536 sigmoid(i / 24), i = 0..255, uint16."""
    table = round_real(65536 * real(np.arange(256) / 24), Rounding.HALF_AWAY).astype(np.int64)
    table[list(_ONE_MORE)] += 1
    return table
