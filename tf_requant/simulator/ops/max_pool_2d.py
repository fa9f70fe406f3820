"""MAX_POOL_2D: the largest code of the taps inside the image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry, pool_geometry
from tf_requant.model.ops import fused_activation
from tf_requant.model.quant import code_limits
from tf_requant.simulator.site import Arrays, Kernel, Site, activation_limits


def prepare(site: Site) -> Kernel:
    """The kernel of one MAX_POOL_2D."""
    data = site.input()
    site.codes(data, site.output())
    low, high = activation_limits(fused_activation(site.op), site.output())
    geometry = pool_geometry(site.op)

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        image = arrays[0]
        return [np.asarray(pool(image, geometry(image)).clip(low, high), image.dtype)]

    return run


def pool(codes: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The integer core: codes [N, H, W, C] -> [N, rows, columns, C]."""
    lowest = code_limits(codes.dtype.name)[0]
    result = [geometry.windows(geometry.pad(image, lowest, image.dtype)).max(axis=(2, 3)) for image in codes]
    return np.stack(result) if result else np.empty((0, *geometry.output, codes.shape[3]), codes.dtype)
