"""RESIZE_BILINEAR: 10-bit coordinates and a 20-bit product for int8 and int16; float32 weights for uint8."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.output_stage import BLOCK
from tf_requant.numerics.rounding import Rounding, shift_right
from tf_requant.simulator.site import Arrays, Kernel, Site

BITS = 10
"""Of the weights of neighbours."""
_ONE = 1 << BITS


def prepare(site: Site) -> Kernel:
    """The kernel of one RESIZE_BILINEAR: inputs (codes, size)."""
    site.codes(site.input(0), site.output())
    align, half = bool(site.attrs.get("align_corners", False)), bool(site.attrs.get("half_pixel_centers", False))

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, size = arrays[0], arrays[1]
        resize = in_float32 if codes.dtype == np.uint8 else in_integers
        return [resize(codes, (int(size[0]), int(size[1])), align, half)]

    return run


def in_integers(codes: NDArray[Any], size: tuple[int, int], align: bool, half: bool) -> NDArray[Any]:
    """TFLite's ResizeBilinearInteger: codes [N, H, W, C] -> [N, rows, columns, C]."""
    (top, bottom, down), (left, right, across) = (neighbours(codes.shape[1 + i], size[i], align, half) for i in (0, 1))
    result = np.empty((codes.shape[0], *size, codes.shape[3]), codes.dtype)
    across = across[None, :, None]
    for image, rows in _rows(codes, result):
        upper, lower = (codes[image, edge[rows]].astype(np.int64) for edge in (top, bottom))
        below = down[rows, None, None]
        total = upper[:, left] * (_ONE - below) * (_ONE - across) + lower[:, left] * below * (_ONE - across)
        total += upper[:, right] * (_ONE - below) * across + lower[:, right] * below * across
        result[image, rows] = shift_right(total, 2 * BITS, Rounding.HALF_AWAY)
    return result


def _rows(codes: NDArray[Any], result: NDArray[Any]) -> Iterator[tuple[int, slice]]:
    """Blocks of output rows, as (image, rows): the temporaries of a block stay small."""
    step = max(1, BLOCK // (result.shape[2] * result.shape[3]))
    for image in range(codes.shape[0]):
        for start in range(0, result.shape[1], step):
            yield image, slice(start, start + step)


def neighbours(edge: int, size: int, align: bool, half: bool) -> tuple[NDArray[np.int64], ...]:
    """(first neighbour, second neighbour, weight of the second in 1/1024) of each output along one axis."""
    step = (_ONE * edge + size // 2) // size
    if align and size > 1:
        step = (_ONE * (edge - 1) + (size - 1) // 2) // (size - 1)
    at = np.arange(size, dtype=np.int64) * step
    if half:
        at = at + step // 2 - _ONE // 2
    first = np.maximum(at // _ONE, 0)
    second = np.minimum((at + _ONE - 1) // _ONE, edge - 1)
    return first, np.maximum(second, 0), at - _ONE * first


def in_float32(codes: NDArray[Any], size: tuple[int, int], align: bool, half: bool) -> NDArray[Any]:
    """TFLite's ResizeBilinear for uint8: float32 weights, 0.5 added, truncated."""
    (top, bottom, down), (left, right, across) = (_real(codes.shape[1 + i], size[i], align, half) for i in (0, 1))
    one = np.float32(1)
    down, across = down[:, None, None], across[None, :, None]
    result = np.empty((codes.shape[0], *size, codes.shape[3]), codes.dtype)
    for image, rows in _rows(codes, result):
        upper, lower = (codes[image, edge[rows]].astype(np.float32) for edge in (top, bottom))
        below = down[rows]
        total = upper[:, left] * (one - below) * (one - across)
        total += lower[:, left] * below * (one - across)
        total += upper[:, right] * (one - below) * across
        total += lower[:, right] * below * across
        total += np.float32(0.5)
        np.copyto(result[image, rows], total, casting="unsafe")
    return result


def _real(edge: int, size: int, align: bool, half: bool) -> tuple[NDArray[Any], ...]:
    """(first neighbour, second neighbour, float32 weight of the second) of each output along one axis."""
    step = np.float32(edge) / np.float32(size)
    if align and size > 1:
        step = np.float32(edge - 1) / np.float32(size - 1)
    place = np.arange(size, dtype=np.float32)
    at = (place + np.float32(0.5)) * step - np.float32(0.5) if half else place * step
    first = np.maximum(np.floor(at).astype(np.int64), 0)
    second = np.minimum(np.ceil(at).astype(np.int64), edge - 1)
    return first, second, at - first.astype(np.float32)
