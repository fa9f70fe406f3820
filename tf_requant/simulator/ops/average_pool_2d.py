"""AVERAGE_POOL_2D: the sum of the taps inside the image times 1 / n, as the device forms 1 / n."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry, pool_geometry
from tf_requant.model.ops import fused_activation
from tf_requant.numerics.arithmetic import AveragePoolStyle
from tf_requant.numerics.output_stage import BLOCK
from tf_requant.numerics.rounding import Rounding, divide, round_real, shift_right
from tf_requant.simulator.site import Arrays, Finish, Kernel, Site, activation_limits, point


def prepare(site: Site) -> Kernel:
    """The kernel of one AVERAGE_POOL_2D; input and output share their parameters, so raw codes are averaged."""
    data = site.input()
    site.codes(data, site.output())
    style, zero_point = site.arithmetic.average_pool, point(data)
    low, high = activation_limits(fused_activation(site.op), site.output())
    geometry = pool_geometry(site.op)

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        image = arrays[0]
        return [pool(image, geometry(image), style, zero_point, lambda mean: mean.clip(low, high))]

    return run


def pool(
    codes: NDArray[Any],
    geometry: Geometry,
    style: AveragePoolStyle,
    zero_point: int,
    finish: Finish,
) -> NDArray[Any]:
    """The integer core.

    Args:
        codes: [N, H, W, C].
        geometry: where the window falls.
        style: how the sum is divided.
        zero_point: of the codes.
        finish: clamps means, int64[...].

    Returns:
        codes [N, rows, columns, C].
    """
    taps = geometry.taps_inside((codes.shape[1], codes.shape[2]))[..., None]
    result = np.empty((codes.shape[0], *geometry.output, codes.shape[3]), codes.dtype)
    for image, out in zip(codes, result):
        padded = geometry.pad(image, 0, image.dtype)
        step = max(1, BLOCK // (geometry.output[1] * codes.shape[3]))
        for start in range(0, geometry.output[0], step):
            count = min(step, geometry.output[0] - start)
            sums = geometry.windows(geometry.slab(padded, start, count), count).sum(axis=(2, 3), dtype=np.int64)
            out[start : start + count] = finish(average(sums, taps[start : start + count], style, zero_point))
    return result


def average(
    sums: NDArray[np.int64], count: NDArray[np.int64], style: AveragePoolStyle, zero_point: int
) -> NDArray[np.int64]:
    """Sums of `count` raw codes -> their rounded mean, a code that is not yet clamped."""
    if style.style == "divide" and not style.table:
        return divide(sums, count, style.rounding)
    multiplier, bits = reciprocal(count, style)
    return zero_point + shift_right((sums - count * zero_point) * multiplier, bits, style.rounding)


def reciprocal(count: NDArray[np.int64], style: AveragePoolStyle) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """1 / n as (multiplier, bits) for each n, int64 of count's shape."""
    bits = np.full(count.shape, style.multiplier_bits, np.int64)
    if style.style == "reciprocal":
        # ((2^bits + 1) << k) // n, k the bit length of n - 1, so that the multiplier keeps its width.
        extra = np.frexp((count - 1).astype(np.float64))[1].astype(np.int64)
        multiplier = (((np.int64(1) << bits) + 1) << extra) // count
        bits = bits + extra
    else:
        multiplier = round_real((np.int64(1) << bits) / count, Rounding.HALF_UP).astype(np.int64)
    for taps, numerator, shift in style.table:
        multiplier, bits = np.where(count == taps, numerator, multiplier), np.where(count == taps, shift, bits)
    return multiplier, bits
