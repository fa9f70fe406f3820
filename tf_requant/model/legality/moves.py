"""Ops that move codes without changing them: reshapes, slices, pads, splits, joins, gathers."""

from math import prod

import numpy as np

from tf_requant.model.graph import Tensor
from tf_requant.model.legality.site import LARGEST_GEOMETRY, Site

_EIGHT_BITS = ("uint8", "int8")
_INDEX = ("int32", "int64")


def reshape(site: Site) -> None:
    """The same elements in the shape of the second input, or of `new_shape`."""
    data, output = site.input(0), site.outputs[0]
    site.same_dtype(data, output)
    target: list[int] | None
    if len(site.inputs) > 1 and site.inputs[1] is not None:
        site.dtype(site.input(1), "int32")
        site.rank(site.input(1), 1)
        target = site.integers(1)
    else:
        stored = site.op.attrs.get("new_shape")
        target = [] if stored is None else stored.tolist()
        target = [] if target == [0] else target  # TOCO's spelling of a scalar
    if target is None:
        site.need(output.size == data.size, f"{output.name!r} holds {output.size} elements", f"{data.size}")
        return
    known = prod(d for d in target if d != -1)
    sound = target.count(-1) <= 1 and min(target, default=1) >= -1
    sound = sound and (known == data.size if -1 not in target else known > 0 and data.size % known == 0)
    if site.need(sound, f"{list(data.shape)} is reshaped to {target}", f"a shape of {data.size} elements"):
        site.shape(output, [data.size // known if d == -1 else d for d in target])


def squeeze(site: Site) -> None:
    """Drops dimensions of 1: those listed, or all."""
    data, output = site.input(0), site.outputs[0]
    site.same_dtype(data, output)
    stored = site.op.attrs.get("squeeze_dims")
    axes = [] if stored is None else stored.tolist()
    rank = len(data.shape)
    sound = rank <= 8 and all(-rank <= a < rank and data.shape[a] == 1 for a in axes)
    if site.need(sound, f"squeeze_dims is {axes} for {list(data.shape)}", "dimensions of 1"):
        dropped = {a % rank for a in axes} or {i for i, d in enumerate(data.shape) if d == 1}
        site.shape(output, [d for i, d in enumerate(data.shape) if i not in dropped])


def expand_dims(site: Site) -> None:
    """Inserts a dimension of 1; the kernel insists on equal parameters."""
    data, output = site.input(0), site.outputs[0]
    site.same_params(data, output)
    site.same_dtype(data, output)
    site.dtype(site.input(1), *_INDEX)
    axes = site.integers(1, *_INDEX)
    if axes is None or not site.need(len(axes) == 1, f"axes are {axes}", "one axis"):
        return
    axis = site.axis(axes[0], len(data.shape) + 1)
    if axis is not None:
        site.shape(output, (*data.shape[:axis], 1, *data.shape[axis:]))


def transpose(site: Site) -> None:
    """Dimensions in the order of a constant permutation."""
    data, output = site.input(0), site.outputs[0]
    _raw(site, data, output)
    site.dtype(site.input(1), "int32")
    order = site.integers(1)
    if order is None:
        return
    rank = len(data.shape)
    sound = rank <= 6 and sorted(order) == list(range(rank))
    if site.need(sound, f"the permutation is {order}", f"0 to {rank - 1}, each once, in at most 6 dimensions"):
        site.shape(output, [data.shape[i] for i in order])


def slice_(site: Site) -> None:
    """`size` elements from `begin`; -1 means all that follow."""
    data, output = site.input(0), site.outputs[0]
    _raw(site, data, output)
    for position in (1, 2):
        site.dtype(site.input(position), *_INDEX)
    begin, size = site.integers(1, *_INDEX), site.integers(2, *_INDEX)
    if begin is None or size is None:
        return
    rank = len(data.shape)
    sound = len(begin) == len(size) == rank <= 5
    if not site.need(sound, f"begin is {begin}, size {size}", f"{rank} numbers each, at most 5"):
        return
    taken = [d - b if s == -1 else s for d, b, s in zip(data.shape, begin, size)]
    inside = all(b >= 0 and s > 0 and b + s <= d for d, b, s in zip(data.shape, begin, taken))
    if site.need(inside, f"begin {begin} and size {size} leave {list(data.shape)}", "a slice inside the tensor"):
        site.shape(output, taken)


def strided_slice(site: Site) -> None:
    """begin:end:stride along each dimension, with TensorFlow's five masks."""
    data, output = site.input(0), site.outputs[0]
    _raw(site, data, output)
    for position in (1, 2, 3):
        site.dtype(site.input(position), "int32")
    parts = [site.integers(position) for position in (1, 2, 3)]
    if None in parts:
        return
    begin, end, strides = (part or [] for part in parts)
    sound = len(begin) == len(end) == len(strides) and len(data.shape) <= 4 and 0 not in strides
    if not site.need(sound, f"begin {begin}, end {end}, strides {strides}", "equal lengths, strides other than 0"):
        return
    masks = {n: site.number(f"{n}_mask") for n in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    limit = 1 << len(begin)
    if not site.need(
        all(0 <= m < limit for n, m in masks.items() if n[0] in "ens" and n != "end") and not site.number("offset"),
        f"masks are {masks}",
        f"bits for {len(begin)} dimensions",
    ):
        return
    try:
        shape = np.broadcast_to(np.int8(0), data.shape)[_indices(begin, end, strides, masks)].shape  # type: ignore[index]
    except (IndexError, ValueError):
        site.need(False, f"the slice {begin}:{end}:{strides} does not fit {list(data.shape)}", "one that does")
        return
    if site.need(prod(shape) > 0, f"the slice {begin}:{end}:{strides} is empty", "at least one element"):
        site.shape(output, shape)


def _indices(begin: list[int], end: list[int], strides: list[int], masks: dict[str, int]) -> tuple[object, ...]:
    """The slice as numpy indices, which clamp and count from the back as TensorFlow does."""
    found: list[object] = []
    for i, (start, stop, step) in enumerate(zip(begin, end, strides)):
        bit = 1 << i
        if masks["ellipsis"] & bit:
            found.append(Ellipsis)
        elif masks["new_axis"] & bit:
            found.append(None)
        elif masks["shrink_axis"] & bit:
            found.append(0 if masks["begin"] & bit else start)
        else:
            found.append(slice(None if masks["begin"] & bit else start, None if masks["end"] & bit else stop, step))
    return tuple(found)


def pad(site: Site) -> None:
    """PAD, PADV2 and MIRROR_PAD by constant [rank, 2] paddings."""
    data, output = site.input(0), site.outputs[0]
    _raw(site, data, output)
    if site.op.code == "MIRROR_PAD" and data.dtype == "int16":
        site.same_params(data, output)
    if site.op.code == "PADV2":
        value = site.input(2)
        site.same_dtype(data, value)
        site.same_params(output, value)
        site.need(value.size == 1, f"the value {value.name!r} holds {value.size} elements", "1")
    site.dtype(site.input(1), *_INDEX)
    flat, rank = site.integers(1, *_INDEX), len(data.shape)
    if flat is None:
        return
    sound = site.input(1).shape == (rank, 2) and 0 < rank <= 4 and 0 <= min(flat) and max(flat) < LARGEST_GEOMETRY
    if not site.need(sound, f"paddings are {flat}", f"a pair of numbers from 0 for each of {rank} (at most 4) dimensions"):
        return
    pairs = list(zip(flat[::2], flat[1::2]))
    if site.op.code == "MIRROR_PAD":
        mode = site.number("mode")
        site.need(mode in (0, 1), f"mode is {mode}", "0 (REFLECT) or 1 (SYMMETRIC)")
        fits = all(max(p) <= d - (mode == 0) for d, p in zip(data.shape, pairs))
        site.need(fits, f"paddings {pairs} reflect more than {list(data.shape)} holds", "less than the dimension")
    site.shape(output, [d + a + b for d, (a, b) in zip(data.shape, pairs)])


def concatenation(site: Site) -> None:
    """Joins along an axis; int8 needs equal parameters, uint8 rescales."""
    output, parts = site.outputs[0], [site.input(i) for i in range(len(site.inputs))]
    site.same_dtype(output, *parts)
    site.fused(allowed=(0,))
    site.symmetric_int16(output, *parts)
    if output.dtype == "int8":
        site.same_params(output, *parts)
    if output.dtype == "uint8" and any(t.quant is not None for t in parts):
        site.quantized(output, *parts)
    rank = len(output.shape)
    if not all([site.rank(t, rank) for t in parts]) or not site.need(0 < rank <= 6, f"rank is {rank}", "1 to 6"):
        return
    axis = site.axis(site.number("axis"), rank)
    if axis is None:
        return
    total = sum(t.shape[axis] for t in parts)
    for part in parts:
        site.shape(part, (*output.shape[:axis], part.shape[axis], *output.shape[axis + 1 :]))
    site.shape(output, (*output.shape[:axis], total, *output.shape[axis + 1 :]))


def pack(site: Site) -> None:
    """Joins along a new axis."""
    output, parts = site.outputs[0], [site.input(i) for i in range(len(site.inputs))]
    site.same_dtype(*parts, output)
    site.same_params(output, *parts)
    count = site.number("values_count")
    site.need(count == len(parts), f"values_count is {count}", f"{len(parts)}, the number of inputs")
    for part in parts[1:]:
        site.shape(part, parts[0].shape)
    axis = site.axis(site.number("axis"), len(parts[0].shape) + 1)
    if axis is not None:
        site.shape(output, (*parts[0].shape[:axis], len(parts), *parts[0].shape[axis:]))


def unpack(site: Site) -> None:
    """One output for each slice along an axis, without that axis."""
    data = site.input(0)
    site.same_dtype(data, *site.outputs)
    site.same_params(data, *site.outputs)
    axis = site.axis(site.number("axis"), len(data.shape))
    if axis is None:
        return
    counts = {site.number("num"), data.shape[axis], len(site.outputs)}
    site.need(len(counts) == 1, f"num, the dimension and the outputs count {counts}", "one count")
    for output in site.outputs:
        site.shape(output, data.shape[:axis] + data.shape[axis + 1 :])


def split(site: Site) -> None:
    """SPLIT into equal parts (axis first), SPLIT_V into parts of given sizes (axis last)."""
    sized = site.op.code == "SPLIT_V"
    data, axes = (site.input(0), site.integers(2)) if sized else (site.input(1), site.integers(0))
    site.dtype(site.input(2 if sized else 0), "int32")
    for output in site.outputs:
        _raw(site, data, output)
    count, declared = len(site.outputs), site.number("num_splits")
    site.need(declared == count, f"num_splits is {declared}", f"{count}, the number of outputs")
    if axes is None or not site.need(len(axes) == 1, f"axes are {axes}", "one axis"):
        return
    axis = site.axis(axes[0], len(data.shape))
    sizes = _split_sizes(site, data.shape[axis], count) if axis is not None else None
    if axis is None or sizes is None:
        return
    for output, size in zip(site.outputs, sizes):
        site.shape(output, (*data.shape[:axis], size, *data.shape[axis + 1 :]))


def _split_sizes(site: Site, edge: int, count: int) -> list[int] | None:
    if site.op.code == "SPLIT":
        whole = site.need(edge % count == 0, f"{edge} elements do not split into {count}", "equal parts")
        return [edge // count] * count if whole else None
    site.dtype(site.input(1), *_INDEX)
    sizes = site.integers(1, *_INDEX)
    if sizes is None:
        return None
    rest = edge - sum(s for s in sizes if s != -1)
    full = [rest if s == -1 else s for s in sizes]
    sound = len(sizes) == count and sizes.count(-1) <= 1 and min(full) > 0 and sum(full) == edge
    return full if site.need(sound, f"sizes are {sizes}", f"{count} sizes that make up {edge}") else None


def tile(site: Site) -> None:
    """Each dimension repeated."""
    data, output = site.input(0), site.outputs[0]
    site.same_dtype(data, output)
    site.dtype(site.input(1), *_INDEX)
    times = site.integers(1, *_INDEX)
    if times is None:
        return
    sound = len(times) == len(data.shape) > 0 and min(times) > 0
    if site.need(sound, f"multiples are {times}", f"a positive number for each of {len(data.shape)} dimensions"):
        site.shape(output, [d * n for d, n in zip(data.shape, times)])


def reverse(site: Site) -> None:
    """REVERSE_V2: turned around along constant axes."""
    data, output = site.input(0), site.outputs[0]
    site.same_dtype(data, output)
    site.shape(output, data.shape)
    site.dtype(site.input(1), "int32")
    axes, rank = site.integers(1), len(data.shape)
    if axes is not None and site.rank(site.input(1), 1):
        inside = all(-rank <= a < rank for a in axes)
        seen = sorted(a % rank for a in axes) if inside and rank else []
        # The kernel turns neighbouring axes around together.
        sound = bool(seen) and seen == list(range(seen[0], seen[0] + len(seen)))
        site.need(sound, f"axes are {axes}", f"neighbouring axes from -{rank} to {rank - 1}")


def _raw(site: Site, data: Tensor, output: Tensor) -> None:
    """One type, and for 8-bit codes one set of parameters, without which XNNPACK refuses the model."""
    site.same_dtype(data, output)
    if data.dtype in _EIGHT_BITS:
        site.same_params(data, output)
