"""RESHAPE, SQUEEZE and EXPAND_DIMS: the same codes under another shape."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one RESHAPE: the shape is an input, an option, or the output's own."""
    site.codes(site.input(0), site.output())
    option = site.attrs.get("new_shape")

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes = arrays[0]
        given = arrays[1] if len(arrays) > 1 else None
        if given is not None and given.ndim == 1:
            shape = [int(n) for n in given]
        else:
            shape = [int(n) for n in (site.output().shape if option is None else option)]
        return [codes.reshape(shape)]

    return run


def prepare_squeeze(site: Site) -> Kernel:
    """The kernel of one SQUEEZE: drops the named dimensions of length 1, or all."""
    site.codes(site.input(0), site.output())
    named = site.attrs.get("squeeze_dims")
    dims = [] if named is None else [int(d) for d in named]

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes = arrays[0]
        return [np.squeeze(codes, tuple(dims) if dims else None)]

    return run


def prepare_expand(site: Site) -> Kernel:
    """The kernel of one EXPAND_DIMS: inputs (codes, axis)."""
    site.codes(site.input(0), site.output())

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, axis = arrays[0], arrays[1]
        return [np.expand_dims(codes, int(axis.reshape(-1)[0]))]

    return run
