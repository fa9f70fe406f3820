"""PAD, PADV2 and MIRROR_PAD: a border of zero points, of a given code, or of the tensor's own edge."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site, point, same_params

_REFLECT = 0


def prepare(site: Site) -> Kernel:
    """The kernel of one PAD or PADV2: inputs (codes, paddings [rank, 2], value)."""
    site.codes(site.input(0), site.output())
    value = site.optional(2)
    if value is not None and value.quant is not None and not same_params(value, site.output()):
        raise CannotRun(f"the value {value.name!r} has other parameters than the output")

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, paddings = arrays[0], arrays[1]
        given = arrays[2] if len(arrays) > 2 else None
        border = paddings.reshape(codes.ndim, 2).astype(np.int64)
        return [np.pad(codes, border, constant_values=fill(site, given))]

    return run


def fill(site: Site, given: NDArray[Any] | None) -> int:
    """The border's code: the given one, or the zero point."""
    return point(site.output()) if given is None else int(given.reshape(-1)[0])


def prepare_mirror(site: Site) -> Kernel:
    """The kernel of one MIRROR_PAD: REFLECT leaves the edge out, SYMMETRIC repeats it."""
    site.codes(site.input(0), site.output())
    mode: Any = "reflect" if int(site.attrs.get("mode", _REFLECT)) == _REFLECT else "symmetric"

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, paddings = arrays[0], arrays[1]
        return [np.pad(codes, paddings.reshape(codes.ndim, 2).astype(np.int64), mode=mode)]

    return run
