"""The plain-integer oracle's ops that move, pick, resize or join codes."""

from collections.abc import Callable, Iterable
from itertools import product

import numpy as np

from tests.simulator.scalar_site import (
    LIMITS,
    Codes,
    Index,
    Results,
    Site,
    clamp,
    indices,
    round_float,
    round_ratio,
    round_shift,
)


def reshape(site: Site) -> Results:
    """RESHAPE, SQUEEZE, EXPAND_DIMS: the elements stay in order."""
    return [list(site.x[0].flat)]


def moved(site: Site) -> Results:
    """Ops that copy: each output element is the input's at an index that the op computes."""
    x, p = site.x[0], site.x[1].flat
    axis, batch = (
        site.attrs.get("axis", 0) % len(x.shape),
        site.attrs.get("batch_dims", 0) % max(len(site.x[1].shape), 1),
    )
    last = axis + len(site.x[1].shape) - batch
    sources: dict[str, Callable[[Index], Iterable[int]]] = {
        "TRANSPOSE": lambda i: [i[p.index(d)] for d in range(len(i))],
        "SLICE": lambda i: [begin + k for begin, k in zip(p, i)],
        "TILE": lambda i: [k % n for k, n in zip(i, x.shape)],
        "GATHER": lambda i: [*i[:axis], site.x[1].at(*i[:batch], *i[axis:last]), *i[last:]],
        "RESIZE_NEAREST_NEIGHBOR": lambda i: [i[0], nearest(site, 1, i[1]), nearest(site, 2, i[2]), i[3]],
    }
    return [[x.at(*sources[site.name](index)) for index in indices(site.y.shape)]]


def nearest(site: Site, d: int, place: int) -> int:
    """RESIZE_NEAREST_NEIGHBOR along one dimension: floor (round, with aligned corners) of a float32 coordinate."""
    old, new, corners = site.x[0].shape[d], site.y.shape[d], site.attrs["align_corners"]
    less = 1 if corners and new > 1 else 0
    centre = 0.5 if site.attrs["half_pixel_centers"] else 0.0
    value = np.float32(place + centre) * (np.float32(old - less) / np.float32(new - less))
    return clamp(round_float(value, "HALF_AWAY" if corners else "FLOOR"), 0, old - 1)


def resize_bilinear(site: Site) -> Results:
    """Signed codes: coordinates with 10 fraction bits, the 20-bit sum of products rounded half away from zero."""
    x, y = site.x[0], site.y
    if x.dtype == "uint8":
        raise NotImplementedError(site.name)

    def neighbours(place: int, old: int, new: int) -> tuple[tuple[int, int], tuple[int, int]]:
        less = 1 if site.attrs["align_corners"] and new > 1 else 0
        step = (1024 * (old - less) + (new - less) // 2) // (new - less)
        value = place * step + (step // 2 - 512 if site.attrs["half_pixel_centers"] else 0)
        low, high = max(round_ratio(value, 1024, "TRUNCATE"), 0), round_ratio(value + 1023, 1024, "TRUNCATE")
        return (low, 1024 * (low + 1) - value), (min(high, old - 1), value - 1024 * low)

    def one(n: int, i: int, j: int, c: int) -> int:
        pairs = product(neighbours(i, x.shape[1], y.shape[1]), neighbours(j, x.shape[2], y.shape[2]))
        return round_shift(sum(x.at(n, r, k, c) * u * v for (r, u), (k, v) in pairs), 20, "HALF_AWAY")

    return [[one(*index) for index in indices(y.shape)]]


def concatenation(site: Site) -> Results:
    """Inputs one behind the other; uint8 codes of other parameters are brought to the output's as TFLite does."""
    y, axis = site.y, site.attrs["axis"] % len(site.y.shape)

    def brought(q: int, x: Codes) -> int:
        if (x.s, x.z) == (y.s, y.z):
            return q
        if x.dtype != "uint8":
            raise NotImplementedError("CONCATENATION of other parameters")
        scale = np.float32(x.s) * (np.float32(1) / np.float32(y.s))
        value = round_float(np.float32(q) * scale + np.float32(-x.z) * scale, "HALF_AWAY")
        return clamp(value + y.z, *LIMITS[y.dtype])

    places = [(x, k) for x in site.x for k in range(x.shape[axis])]

    def one(index: Index) -> int:
        x, k = places[index[axis]]
        return brought(x.at(*index[:axis], k, *index[axis + 1 :]), x)

    return [[one(index) for index in indices(y.shape)]]


def pad(site: Site) -> Results:
    """PAD, PADV2: the input with a frame of real 0, of the third input's code."""
    x, widths = site.x[:2]
    fill = site.x[2].flat[0] if site.name == "PADV2" else site.y.z
    inner = ([k - widths.at(d, 0) for d, k in enumerate(index)] for index in indices(site.y.shape))
    return [[x.at(*i) if all(0 <= k < n for k, n in zip(i, x.shape)) else fill for i in inner]]


def strided_slice(site: Site) -> Results:
    """Python's x[begin:end:stride] in each dimension; a shrunk dimension is x[begin]."""
    x, mask = site.x[0], {k: site.attrs[f"{k}_mask"] for k in ("begin", "end", "shrink_axis", "ellipsis", "new_axis")}
    if mask["ellipsis"] or mask["new_axis"]:
        raise NotImplementedError(site.name)
    picks = [range(size) for size in x.shape]
    for d, (begin, end, stride) in enumerate(zip(*(limits.flat for limits in site.x[1:]))):
        end += begin if site.attrs.get("offset") else 0
        cut = slice(None if mask["begin"] >> d & 1 else begin, None if mask["end"] >> d & 1 else end, stride)
        picks[d] = picks[d][begin:][:1] if mask["shrink_axis"] >> d & 1 else picks[d][cut]
    return [[x.at(*index) for index in product(*picks)]]


def split(site: Site) -> Results:
    """Equal parts along an axis."""
    axis, size = site.x[0].flat[0] % len(site.y.shape), site.y.shape[site.x[0].flat[0]]
    return [
        [site.x[1].at(*i[:axis], i[axis] + part * size, *i[axis + 1 :]) for i in indices(site.y.shape)]
        for part in range(len(site.outputs))
    ]


def pack(site: Site) -> Results:
    """Inputs side by side along a new axis."""
    axis = site.attrs["axis"] % len(site.y.shape)
    return [[site.x[i[axis]].at(*i[:axis], *i[axis + 1 :]) for i in indices(site.y.shape)]]


def unpack(site: Site) -> Results:
    """One output for each place along an axis, which goes."""
    x, axis = site.x[0], site.attrs["axis"] % len(site.x[0].shape)
    return [[x.at(*i[:axis], k, *i[axis:]) for i in indices(site.y.shape)] for k in range(x.shape[axis])]


def split_sized(site: Site) -> Results:
    """SPLIT_V: parts of given sizes along one axis; -1 takes what the others leave."""
    x, axis = site.x[0], site.x[2].flat[0] % len(site.x[0].shape)
    starts, results = 0, []
    for y in site.outputs:
        results.append([x.at(*i[:axis], starts + i[axis], *i[axis + 1 :]) for i in indices(y.shape)])
        starts += y.shape[axis]
    return results


def mirrored(site: Site) -> Results:
    """MIRROR_PAD: the edge seen backwards, without (REFLECT, 0) or with (SYMMETRIC, 1) the edge itself."""
    x, pads, again = site.x[0], site.x[1], int(site.attrs["mode"])

    def source(place: int, d: int) -> int:
        at, size = place - pads.at(d, 0), x.shape[d]
        if at < 0:
            return -at - again
        return at if at < size else 2 * (size - 1) - at + again

    return [[x.at(*(source(k, d) for d, k in enumerate(i))) for i in indices(site.y.shape)]]


def reversed_axes(site: Site) -> Results:
    """REVERSE_V2: the named axes run backwards."""
    x = site.x[0]
    axes = {a % len(x.shape) for a in site.x[1].flat}
    return [[x.at(*(x.shape[d] - 1 - k if d in axes else k for d, k in enumerate(i))) for i in indices(x.shape)]]


def reduced(site: Site) -> Results:
    """REDUCE_MAX, REDUCE_MIN, ARG_MAX, ARG_MIN: the extreme of the raw codes along some axes, or where it first stands."""
    x, name = site.x[0], site.name
    axes = {a % len(x.shape) for a in site.x[1].flat}
    pick = max if name.endswith("MAX") else min
    result = []
    for fixed in indices([1 if d in axes else n for d, n in enumerate(x.shape)]):
        run = [x.at(*map(sum, zip(fixed, k))) for k in indices([n if d in axes else 1 for d, n in enumerate(x.shape)])]
        result.append(run.index(pick(run)) if name.startswith("ARG") else pick(run))
    return [result]


def blocks(site: Site) -> Results:
    """SPACE_TO_DEPTH, DEPTH_TO_SPACE: a block of pixels lies row by row in the channels."""
    x, y, b = site.x[0], site.y, int(site.attrs["block_size"])
    if site.name == "SPACE_TO_DEPTH":
        depth = x.shape[3]
        places = ((n, i * b + c // (b * depth), j * b + c // depth % b, c % depth) for n, i, j, c in indices(y.shape))
    else:
        depth = y.shape[3]
        places = ((n, i // b, j // b, (i % b * b + j % b) * depth + c) for n, i, j, c in indices(y.shape))
    return [[x.at(*p) for p in places]]


def batched(site: Site) -> Results:
    """SPACE_TO_BATCH_ND, BATCH_TO_SPACE_ND of images: a pixel's place in its block is the batch's slow index."""
    x, y, (rows, columns), edge = site.x[0], site.y, site.x[1].flat, site.x[2]
    result = []
    for n, i, j, c in indices(y.shape):
        if site.name == "SPACE_TO_BATCH_ND":
            block, batch = divmod(n, x.shape[0])
            r, k = i * rows + block // columns - edge.at(0, 0), j * columns + block % columns - edge.at(1, 0)
            inside = 0 <= r < x.shape[1] and 0 <= k < x.shape[2]
            result.append(x.at(batch, r, k, c) if inside else y.z)
        else:
            r, k = i + edge.at(0, 0), j + edge.at(1, 0)
            result.append(x.at((r % rows * columns + k % columns) * y.shape[0] + n, r // rows, k // columns, c))
    return [result]


MOVES: dict[Callable[[Site], Results], str] = {
    reshape: "RESHAPE SQUEEZE EXPAND_DIMS", moved: "TRANSPOSE SLICE TILE GATHER RESIZE_NEAREST_NEIGHBOR",
    resize_bilinear: "RESIZE_BILINEAR", concatenation: "CONCATENATION", pad: "PAD PADV2", split: "SPLIT", pack: "PACK",
    strided_slice: "STRIDED_SLICE", unpack: "UNPACK", split_sized: "SPLIT_V", mirrored: "MIRROR_PAD",
    reversed_axes: "REVERSE_V2", reduced: "REDUCE_MAX REDUCE_MIN ARG_MAX ARG_MIN",
    blocks: "SPACE_TO_DEPTH DEPTH_TO_SPACE", batched: "SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND",
}  # fmt: skip
