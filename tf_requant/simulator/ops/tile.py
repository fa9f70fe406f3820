"""TILE: codes repeated along each axis."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one TILE: inputs (codes, multiples)."""
    site.codes(site.input(0), site.output())

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, multiples = arrays[0], arrays[1]
        return [np.tile(codes, [int(m) for m in multiples.reshape(-1)])]

    return run
