"""Functions of one code: a table over every code of the type, filled by the op's own definition."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.quant import code_limits
from tf_requant.numerics.output_stage import BLOCK
from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.simulator.site import CODES, Arrays, Kernel, Site, point, scale

Function = Callable[[NDArray[Any]], NDArray[Any]]
"""Codes of any shape -> codes of that shape."""

RealFunction = Callable[[NDArray[Any]], NDArray[Any]]
"""A real function, evaluated in the float type that comes in; exp and tanh of a float32 are rounded once, as a libm's."""


def all_codes(dtype: str) -> NDArray[Any]:
    """Every code of a type, the lowest first."""
    low, high = code_limits(dtype)
    return np.arange(low, high + 1).astype(dtype)


def look_up(table: NDArray[Any], codes: NDArray[Any]) -> NDArray[Any]:
    """The table's entry of each code; entry 0 belongs to the lowest code."""
    unsigned = codes.dtype.kind == "u"
    # Seen as unsigned, negative codes follow the positive ones: turn the table likewise.
    turned = table if unsigned else np.roll(table, table.size // 2)
    index = codes if unsigned else codes.view(codes.dtype.str.replace("i", "u"))
    result = np.empty(codes.shape, table.dtype)
    source, target = index.reshape(-1), result.reshape(-1)
    for start in range(0, source.size, BLOCK):  # numpy widens indices to 64 bits
        np.take(turned, source[start : start + BLOCK], out=target[start : start + BLOCK], mode="clip")
    return result


def in_blocks(function: Callable[..., NDArray[Any]], *arrays: NDArray[Any]) -> NDArray[Any]:
    """An element-wise function of broadcast arrays, computed a part at a time: its temporaries stay small."""
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    size = int(np.prod(shape, dtype=np.int64))
    if size <= BLOCK:
        return function(*arrays)
    views = [np.broadcast_to(a, shape) for a in arrays]
    # The axis whose slices are small enough to be taken some at a time, and everything ahead of it one by one.
    behind = [size // int(np.prod(shape[: i + 1], dtype=np.int64)) for i in range(len(shape))]
    axis = next(i for i, length in enumerate(behind) if length <= BLOCK)
    step = max(1, BLOCK // behind[axis])
    result: NDArray[Any] | None = None
    for ahead in np.ndindex(shape[:axis]):
        for start in range(0, shape[axis], step):
            index = (*ahead, slice(start, start + step))
            part = function(*(view[index] for view in views))
            if result is None:
                result = np.empty(shape, part.dtype)
            result[index] = part
    return np.asarray(result)


def unary(site: Site, function: Function) -> Kernel:
    """The kernel of an op that maps each code by itself: by table, or element by element where it is observed or wide."""
    if site.observation is not None or site.input().dtype not in CODES:
        return lambda arrays: [function(_first(arrays))]
    table = function(all_codes(site.input().dtype))
    return lambda arrays: [look_up(table, np.ascontiguousarray(_first(arrays)))]


def _first(arrays: Arrays) -> NDArray[Any]:
    return np.asarray(arrays[0])


def real_function(site: Site, function: RealFunction) -> Function:
    """The codes of a real function, as the arithmetic's table unit is filled: round(f(s (q - z)) / s_out) + z_out.

    In float32 the function's value is rounded to float32 and multiplied by the float32 reciprocal of the output
    scale (TFLite's LUTPopulate); in float64 it is divided by the scale.
    """
    lookup = site.arithmetic.lookup
    return lambda codes: real_table(site, codes, function, lookup.precision, lookup.rounding)


def real_table(
    site: Site, codes: NDArray[Any], function: RealFunction, precision: str, rounding: Rounding
) -> NDArray[Any]:
    """`real_function` in a given precision and rounding: codes of any shape -> output codes, counted if asked."""
    source, target = site.input(), site.output()
    limits = site.limits(target)
    centered = codes.astype(np.int64) - point(source)
    if precision == "float64":
        real = function(centered * np.float64(scale(source))) / np.float64(scale(target))
    else:
        real = function(centered.astype(np.float32) * scale(source)) * (np.float32(1) / scale(target))
    free = round_real(real, rounding) + point(target)
    if site.observation is not None:
        site.observation.rounded(free, limits)
    return np.asarray(free.clip(*limits).astype(target.dtype))
