"""DEQUANTIZE: codes to float32, scale * (code - zero_point)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import CannotRun, Kernel, Site, centered, scale
from tf_requant.simulator.tables import unary


def prepare(site: Site) -> Kernel:
    """The kernel of one DEQUANTIZE."""
    data = site.input()
    site.codes(data)
    if site.output().dtype != "float32":
        raise CannotRun(f"its output is {site.output().dtype}; it runs float32")

    def function(codes: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(centered(codes, data).astype(np.float32) * scale(data))

    return unary(site, function)
