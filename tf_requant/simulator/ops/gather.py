"""GATHER: slices picked by index along one axis."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import UsageError
from tf_requant.simulator.site import Arrays, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one GATHER: inputs (codes, indices)."""
    site.codes(site.input(0), site.output())
    axis, batch = int(site.attrs.get("axis", 0)), int(site.attrs.get("batch_dims", 0))

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, indices = arrays[0], arrays[1]
        along, shared = axis % codes.ndim, batch + indices.ndim if batch < 0 else batch
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < codes.shape[along]:
            raise UsageError(
                f"{site.graph.where(site.index)}: an index is outside 0..{codes.shape[along] - 1}, the length of axis {along}"
            )
        if not shared:
            return [np.take(codes, indices, axis=along)]
        lead = codes.shape[:shared]
        pairs = zip(codes.reshape(-1, *codes.shape[shared:]), indices.reshape(-1, *indices.shape[shared:]))
        picked = np.stack([np.take(c, i, axis=along - shared) for c, i in pairs])
        return [picked.reshape(*lead, *picked.shape[1:])]

    return run
