"""PACK and UNPACK: tensors stacked along a new axis, and taken apart again."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one PACK."""
    site.codes(*(site.input(i) for i in range(len(site.op.inputs))), site.output())
    axis = int(site.attrs.get("axis", 0))
    return lambda arrays: [np.stack([a for a in arrays if a is not None], axis=axis)]


def prepare_unpack(site: Site) -> Kernel:
    """The kernel of one UNPACK."""
    site.codes(site.input(0), *(site.output(i) for i in range(len(site.op.outputs))))
    axis = int(site.attrs.get("axis", 0))

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes = arrays[0]
        return [np.ascontiguousarray(part) for part in np.moveaxis(codes, axis, 0)]

    return run
