"""Ops that join, border and move codes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.export.kinds import Concatenation, Copy, Interpolation, Move, Neighbours, Pad, Part
from tf_requant.model.ops import info
from tf_requant.simulator.ops import KERNELS, concatenation, pad, resize_bilinear
from tf_requant.simulator.site import CannotRun, Site, point

_FIRST = 1 << 20
"""The number of the first element while a kernel moves them: above every code, so that a border's code stands out."""


def concatenated(site: Site) -> Concatenation:
    """CONCATENATION and PACK."""
    target, axis = site.output(), int(site.attrs.get("axis", 0))
    tables = [concatenation.table_of(site.input(i), target) for i in range(len(site.op.inputs))]
    parts = tuple(Part(b"" if table is None else table.tobytes()) for table in tables)
    return Concatenation(int(np.prod(target.shape[: axis % len(target.shape)], dtype=np.int64)), parts)


def packed(site: Site) -> Concatenation:
    """PACK: raw codes, whatever the parameters."""
    target, axis = site.output(), int(site.attrs.get("axis", 0))
    outer = int(np.prod(target.shape[: axis % len(target.shape)], dtype=np.int64))
    return Concatenation(outer, (Part(b""),) * len(site.op.inputs))


def padded(site: Site) -> Pad:
    """PAD and PADV2."""
    value = None if site.optional(2) is None else site.constant(2)
    border = site.constant(1).reshape(-1, 2).astype(np.int64)
    return Pad(tuple(border[:, 0].tolist()), tuple(border[:, 1].tolist()), pad.fill(site, value))


def moved(site: Site) -> Move:
    """An op that only moves codes: the simulator's kernel moves element numbers, and the pattern is read off them."""
    row = info(site.op)
    data = row.data if row is not None else 0
    shape = site.input(data).shape
    numbers = _FIRST + np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    arrays = [
        numbers if i == data else None if tensor is None else site.constant(i) for i, tensor in enumerate(site.inputs)
    ]
    fill = point(site.output())
    return Move(data, tuple(_copy(np.asarray(result) - _FIRST, fill) for result in KERNELS[site.op.code](site)(arrays)))


def resized(site: Site) -> Interpolation:
    """RESIZE_BILINEAR."""
    data, size = site.input(), site.constant(1)
    if data.dtype == "uint8":
        raise CannotRun(f"{data.name!r} is uint8, which TFLite interpolates in float32, and this program in integers")
    align, half = bool(site.attrs.get("align_corners", False)), bool(site.attrs.get("half_pixel_centers", False))
    rows, columns = (resize_bilinear.neighbours(data.shape[1 + i], int(size[i]), align, half) for i in (0, 1))
    pairs = (tuple(Neighbours(*map(int, one)) for one in zip(*axis)) for axis in (rows, columns))
    return Interpolation(resize_bilinear.BITS, *pairs)


def _copy(numbers: NDArray[Any], fill: int = 0) -> Copy:
    """Element numbers -> offset, sizes and strides, or the numbers themselves; a negative one is the code `fill`.

    >>> _copy(np.arange(6).reshape(2, 3).T)
    Copy(offset=0, sizes=(3, 2), strides=(1, 3), elements=(), fill=0)
    >>> _copy(np.array([0, 1, 3, 2]))
    Copy(offset=0, sizes=(), strides=(), elements=(0, 1, 3, 2), fill=0)
    """
    flat = numbers.reshape(-1).astype(np.int64)
    strided = None if (flat < 0).any() else _strided(flat)
    if strided is None:
        return Copy(0, (), (), tuple(np.maximum(flat, -1).tolist()), fill)
    return Copy(int(flat[0]) if flat.size else 0, *strided)


def _strided(left: NDArray[np.int64]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Sizes and strides, the fewest: the longest run of equal steps, then the run of such runs; None if there are none."""
    sizes: list[int] = []
    strides: list[int] = []
    while left.size > 1:
        steps = np.diff(left)
        broken = np.flatnonzero(steps != steps[0])
        size = int(broken[0]) + 1 if broken.size else left.size
        if left.size % size or size == 1:
            return None
        blocks = left.reshape(-1, size)
        if (np.diff(blocks, axis=1) != steps[0]).any():
            return None
        sizes.insert(0, size)
        strides.insert(0, int(steps[0]))
        left = blocks[:, 0]
    return tuple(sizes), tuple(strides)
