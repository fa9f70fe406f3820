"""ARG_MAX and ARG_MIN: where the extreme code stands; the first one wins."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one ARG_MAX or ARG_MIN: inputs (codes, axis), indices out."""
    site.codes(site.input(0))
    function, dtype = (np.argmax if site.op.code == "ARG_MAX" else np.argmin), site.output().dtype

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, axis = arrays[0], arrays[1]
        return [function(codes, axis=int(axis.reshape(-1)[0])).astype(dtype)]

    return run
