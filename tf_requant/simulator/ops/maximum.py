"""MAXIMUM, MINIMUM, REDUCE_MAX and REDUCE_MIN on raw codes, which order as the reals do."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site, same_params

_PAIRWISE = {"MAXIMUM": np.maximum, "MINIMUM": np.minimum}
_REDUCED = {"REDUCE_MAX": np.max, "REDUCE_MIN": np.min}


def prepare(site: Site) -> Kernel:
    """The kernel of one MAXIMUM or MINIMUM; broadcasts."""
    left, right = site.input(0), site.input(1)
    site.codes(left, right, site.output())
    if not (same_params(left, right) and same_params(left, site.output())):
        raise CannotRun("its inputs and output have different parameters, and raw codes are compared")
    function = _PAIRWISE[site.op.code]
    return lambda arrays: [function(arrays[0], arrays[1])]


def prepare_reduce(site: Site) -> Kernel:
    """The kernel of one REDUCE_MAX or REDUCE_MIN: inputs (codes, axes)."""
    site.codes(site.input(0), site.output())
    if not same_params(site.input(0), site.output()):
        raise CannotRun("its input and output have different parameters, and raw codes are compared")
    function, keep = _REDUCED[site.op.code], bool(site.attrs.get("keep_dims", False))

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, axes = arrays[0], arrays[1]
        over = tuple({int(a) % codes.ndim for a in np.atleast_1d(axes)})
        return [np.asarray(function(codes, axis=over, keepdims=keep))]

    return run
