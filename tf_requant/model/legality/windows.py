"""Pools, resizes, and the ops that fold space into batch or depth."""

from math import prod

from tf_requant.model.legality.multiply import window_edges
from tf_requant.model.legality.site import LARGEST_GEOMETRY, Site
from tf_requant.model.ops import Padding

_TYPES = ("uint8", "int8", "int16", "float32")
_EIGHT_BITS = ("uint8", "int8")


def pool_2d(site: Site) -> None:
    """AVERAGE_POOL_2D and MAX_POOL_2D of [n, h, w, c]; an 8-bit MAX_POOL_2D needs equal parameters."""
    data, output = site.input(0), site.outputs[0]
    site.dtype(data, *_TYPES)
    site.same_dtype(data, output)
    site.quantized(data, output)
    if site.op.code == "MAX_POOL_2D" and data.dtype in _EIGHT_BITS:
        site.same_params(data, output)
    padding = site.number("padding")
    known = site.need(padding in (Padding.SAME, Padding.VALID), f"padding is {padding}", "0 (SAME) or 1 (VALID)")
    sound = site.positive("stride_w", "stride_h", "filter_width", "filter_height") & site.fused() & known
    if not (sound and site.rank(data, 4)):
        return
    windows, strides = ("filter_height", "filter_width"), ("stride_h", "stride_w")
    edges = [
        window_edges(edge, site.number(window), site.number(stride), 1, padding)
        for edge, window, stride in zip(data.shape[1:3], windows, strides)
    ]
    if site.need(min(edges) > 0, f"the window leaves no position in {list(data.shape)}", "a window inside the image"):
        site.shape(output, (data.shape[0], *edges, data.shape[3]))


def resize(site: Site) -> None:
    """[n, h, w, c] to the constant size [h, w]."""
    data, output = site.input(0), site.outputs[0]
    site.same_dtype(data, output)
    if site.op.code == "RESIZE_BILINEAR" and data.dtype in _EIGHT_BITS:
        site.same_params(data, output)
    both = site.number("align_corners") and site.number("half_pixel_centers")
    site.need(not both, "align_corners and half_pixel_centers are both set", "at most one of them")
    if not (site.dtype(data, *_TYPES) and site.rank(data, 4) and site.dtype(site.input(1), "int32")):
        return
    size = site.integers(1)
    fits = max(data.shape[1:3]) < LARGEST_GEOMETRY
    if not site.need(fits, f"{list(data.shape)} is resized", f"edges below {LARGEST_GEOMETRY}") or size is None:
        return
    sound = len(size) == 2 and len(site.input(1).shape) == 1 and min(size) > 0 and max(size) < LARGEST_GEOMETRY
    if site.need(sound, f"the size is {size}", "two positive numbers, height and width"):
        site.shape(output, (data.shape[0], *size, data.shape[3]))


def depth_to_space(site: Site) -> None:
    """[n, h, w, c * b * b] to [n, h * b, w * b, c]."""
    data, output = site.input(0), site.outputs[0]
    if not _block_op(site):
        return
    n, h, w, c = data.shape
    b = site.number("block_size")
    if site.need(c % (b * b) == 0, f"{c} channels do not divide by {b} * {b}", "a multiple of the block's area"):
        site.shape(output, (n, h * b, w * b, c // (b * b)))


def space_to_depth(site: Site) -> None:
    """[n, h * b, w * b, c] to [n, h, w, c * b * b]."""
    data, output = site.input(0), site.outputs[0]
    if not _block_op(site):
        return
    n, h, w, c = data.shape
    b = site.number("block_size")
    if site.need(h % b == 0 and w % b == 0, f"{h} by {w} does not divide by {b}", "a multiple of the block"):
        site.shape(output, (n, h // b, w // b, c * b * b))


def _block_op(site: Site) -> bool:
    data, output = site.input(0), site.outputs[0]
    site.same_dtype(data, output)
    if data.dtype in _EIGHT_BITS:
        site.same_params(data, output)
    allowed = (*_EIGHT_BITS, "float32", "int32", "int64")
    return site.dtype(data, *allowed) & site.rank(data, 4) & site.positive("block_size")


def space_to_batch(site: Site) -> None:
    """Pads [n, h, w, ...] and folds each block into n."""
    parts = _batch_op(site)
    if parts is None:
        return
    block, pads = parts
    data = site.input(0)
    padded = [d + a + b for d, (a, b) in zip(data.shape[1:], pads)]
    if site.need(all(d % b == 0 for d, b in zip(padded, block)), f"{padded} does not divide by {block}", "whole blocks"):
        edges = [d // b for d, b in zip(padded, block)]
        site.shape(site.outputs[0], (data.shape[0] * prod(block), *edges, *data.shape[1 + len(block) :]))


def batch_to_space(site: Site) -> None:
    """Unfolds n into blocks of [h, w] and crops them."""
    parts = _batch_op(site)
    if parts is None:
        return
    block, crops = parts
    data = site.input(0)
    edges = [d * b - c - e for d, b, (c, e) in zip(data.shape[1:], block, crops)]
    whole = data.shape[0] % prod(block) == 0 and min(edges) > 0
    if site.need(whole, f"{list(data.shape)} does not unfold by {block} cropped {crops}", "whole blocks"):
        site.shape(site.outputs[0], (data.shape[0] // prod(block), *edges, *data.shape[1 + len(block) :]))


def _batch_op(site: Site) -> tuple[list[int], list[tuple[int, int]]] | None:
    """The block shape and the pairs of pads or crops; None if they are wrong or computed at run time."""
    data, output = site.input(0), site.outputs[0]
    site.same_dtype(data, output)
    if data.dtype in (*_EIGHT_BITS, "int16"):
        site.same_params(data, output)
    if not (site.dtype(data, *_TYPES, "int32", "int64") & site.rank(data, 3, 4)):
        return None
    if not (site.dtype(site.input(1), "int32") & site.dtype(site.input(2), "int32")):
        return None
    block, flat = site.integers(1), site.integers(2)
    if block is None or flat is None:
        return None
    spatial = len(data.shape) - 2
    shaped = site.input(1).shape == (spatial,) and site.input(2).shape == (spatial, 2)
    sound = shaped and min(block) > 0 and min(flat) >= 0 and max(*block, *flat) < LARGEST_GEOMETRY
    if not site.need(sound, f"block {block} and pairs {flat}", f"a block and a pair for each of {spatial} edges"):
        return None
    return block, list(zip(flat[::2], flat[1::2]))
