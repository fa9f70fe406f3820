"""SPLIT and SPLIT_V: parts along one axis."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one SPLIT: inputs (axis, codes), equal parts."""
    count = len(site.op.outputs)
    site.codes(site.input(1), *(site.output(i) for i in range(count)))

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        axis, codes = arrays[0], arrays[1]
        return np.split(codes, count, axis=int(axis.reshape(-1)[0]))

    return run


def prepare_sized(site: Site) -> Kernel:
    """The kernel of one SPLIT_V: inputs (codes, sizes, axis), one size -1 takes what is left."""
    count = len(site.op.outputs)
    site.codes(site.input(0), *(site.output(i) for i in range(count)))

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, sizes, axis = arrays[0], arrays[1], arrays[2]
        along = int(axis.reshape(-1)[0])
        each = sizes.reshape(-1).astype(np.int64)
        each = np.where(each < 0, codes.shape[along] - each[each >= 0].sum(), each)
        return np.split(codes, np.cumsum(each)[:-1], axis=along)

    return run
