"""RESIZE_NEAREST_NEIGHBOR: raw codes picked by a float32 coordinate."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.simulator.site import Arrays, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one RESIZE_NEAREST_NEIGHBOR: inputs (codes, size)."""
    site.codes(site.input(0), site.output())
    align, half = bool(site.attrs.get("align_corners", False)), bool(site.attrs.get("half_pixel_centers", False))

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, size = arrays[0], arrays[1]
        rows, columns = (nearest(codes.shape[1 + i], int(size[i]), align, half) for i in (0, 1))
        return [codes[:, rows[:, None], columns[None]]]

    return run


def nearest(edge: int, size: int, align: bool, half: bool) -> NDArray[np.int64]:
    """Which of `edge` inputs each of `size` outputs copies (TFLite's GetNearestNeighbor, in float32)."""
    scale = np.float32((edge - 1) / (size - 1)) if align and size > 1 else np.float32(edge / size)
    at = (np.arange(size, dtype=np.float32) + np.float32(0.5 if half else 0)) * scale
    picked = round_real(at, Rounding.HALF_AWAY if align else Rounding.FLOOR).astype(np.int64)
    return np.asarray(picked.clip(0 if half else None, edge - 1))
