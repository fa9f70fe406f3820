"""SOFTMAX in integers: gemmlowp's exponential and reciprocal for 8-bit codes, two interpolated tables for int16."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.quant import code_limits
from tf_requant.numerics.arithmetic import Requantizer
from tf_requant.numerics.fixed_point import Rescale, quantize_multiplier
from tf_requant.numerics.gemmlowp import INT32
from tf_requant.numerics.output_stage import BLOCK
from tf_requant.numerics.rounding import Rounding, round_real, shift_right
from tf_requant.simulator.site import Arrays, Kernel, Site, rescale_of, scale

_DIFFERENCE_BITS = 5
_SUM_BITS = 12
_TABLE_STEPS = 512
_INT16_RANGE = 65535


def prepare(site: Site) -> Kernel:
    """The kernel of one SOFTMAX over the last axis; what its output codes mean is fixed by the kernel."""
    data = site.input()
    site.codes(data, site.output(), same=False)
    beta, dtype = float(site.attrs.get("beta", 1.0)), site.output().dtype
    core: Callable[[NDArray[np.int64]], NDArray[np.int64]]
    if data.dtype == "int16":
        rescale = rescale_of(float(scale(data) * np.float32(beta)) / (10 / _INT16_RANGE), Requantizer())
        core = lambda rows: int16(rows, rescale)  # noqa: E731
    else:
        rescale, radius = preprocess(beta * float(scale(data)))
        core = lambda rows: int8(rows, rescale, radius, dtype)  # noqa: E731

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes = arrays[0]
        rows = codes.reshape(-1, codes.shape[-1])
        result = np.empty(rows.shape, dtype)
        step = max(1, BLOCK // rows.shape[1])
        for start in range(0, len(rows), step):
            result[start : start + step] = core(rows[start : start + step].astype(np.int64))
        return [result.reshape(codes.shape)]

    return run


def preprocess(input_scale: float) -> tuple[Rescale, int]:
    """(rescale of differences to Q5.26, the largest difference that matters), of beta times the input's scale."""
    real = min(input_scale * 2.0 ** (31 - _DIFFERENCE_BITS), 2.0**31 - 1)
    multiplier, shift = quantize_multiplier(real)
    radius = int((2**_DIFFERENCE_BITS - 1) * 2 ** (31 - _DIFFERENCE_BITS) / 2 ** int(-shift))
    return Rescale.of_integers(multiplier, -shift, Requantizer()), radius


def int8(rows: NDArray[np.int64], rescale: Rescale, radius: int, dtype: str) -> NDArray[np.int64]:
    """The 8-bit core.

    Args:
        rows: int64[N, classes] codes.
        rescale: of differences from the largest code, to Q5.26.
        radius: differences beyond it count as probability 0.
        dtype: of the output, int8 or uint8 (or int16 codes of an int8 input).
    """
    low, high = code_limits(dtype)
    bits = (high - low).bit_length()
    difference = rows - rows.max(axis=1, keepdims=True)
    near = difference >= -radius
    exponential = INT32.exp_of_negative(rescale.apply(np.where(near, difference, 0)), _DIFFERENCE_BITS)
    total = np.where(near, INT32.shift(exponential, -_SUM_BITS), 0).sum(axis=1, keepdims=True)
    headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    reciprocal = INT32.one_over_one_plus((total << headroom) - (1 << 31))
    drop = _SUM_BITS - headroom + 31 - bits
    codes = shift_right(INT32.multiply(exponential, reciprocal), drop, Rounding.HALF_AWAY) + low
    return np.asarray(np.where(near, codes, low).clip(low, high))


def int16(rows: NDArray[np.int64], rescale: Rescale) -> NDArray[np.int64]:
    """The int16 core: rows int64[N, classes]; `rescale` brings differences to [-10, 0] on 65536 steps."""
    exp, reciprocal = _tables()
    difference = rescale.apply(rows - rows.max(axis=1, keepdims=True)) + 32767
    exponential = interpolate(difference.clip(-32768, 32767), exp)
    total = exponential.sum(axis=1, keepdims=True)
    headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    x = ((total << (headroom - 1)) + (1 << 13) >> 14) - (1 << 15) - (1 << 16)
    inverse = interpolate(x.clip(-32768, 32767), reciprocal)
    return np.asarray(shift_right(exponential * inverse, 31 - headroom, Rounding.HALF_UP).clip(0, 32767))


def interpolate(value: NDArray[np.int64], table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Between the neighbours of a 513-entry table, in 7 bits: int64[...] in -32768..32767."""
    index = 256 + (value >> 7)
    base = table[index]
    return np.asarray(base + ((table[index + 1] - base) * (value & 0x7F) + 64 >> 7))


@cache
def _tables() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return table_of(np.exp, -10.0, 0.0), table_of(lambda x: 1 / (1 + x), 0.0, 1.0)


def table_of(function: Callable[[Any], Any], low: float, high: float) -> NDArray[np.int64]:
    """513 entries of a real function in Q0.15, each moved by half its error at the middle of its step (LUTPopulate)."""
    step = (high - low) / _TABLE_STEPS

    def rounded(x: Any) -> NDArray[np.float64]:
        return round_real(x, Rounding.HALF_AWAY)

    at = low + np.arange(_TABLE_STEPS) * step
    sample, following = rounded(function(at) * 32768), function(at + step) * 32768
    interpolated = rounded((following + sample) / 2)
    error = interpolated - rounded(function(at + step / 2) * 32768)
    entries = np.append(sample - rounded(error / 2), rounded(function(np.float64(high)) * 32768))
    return np.asarray(entries.clip(-32768, 32767).astype(np.int64))
