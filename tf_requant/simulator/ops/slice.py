"""SLICE: a box of codes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one SLICE: inputs (codes, begin, size), size -1 runs to the end."""
    site.codes(site.input(0), site.output())

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, begin, size = arrays[0], arrays[1], arrays[2]
        box = tuple(
            slice(int(b), n if int(s) < 0 else int(b) + int(s))
            for b, s, n in zip(begin.reshape(-1), size.reshape(-1), codes.shape)
        )
        return [np.ascontiguousarray(codes[box])]

    return run
