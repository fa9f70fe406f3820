"""TRANSPOSE and REVERSE_V2: codes in another order."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one TRANSPOSE: inputs (codes, permutation)."""
    site.codes(site.input(0), site.output())

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, order = arrays[0], arrays[1]
        return [np.ascontiguousarray(codes.transpose([int(a) for a in order]))]

    return run


def prepare_reverse(site: Site) -> Kernel:
    """The kernel of one REVERSE_V2: inputs (codes, axes)."""
    site.codes(site.input(0), site.output())

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, axes = arrays[0], arrays[1]
        return [np.ascontiguousarray(np.flip(codes, tuple(int(a) for a in axes.reshape(-1))))]

    return run
