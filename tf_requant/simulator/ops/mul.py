"""MUL: the product of both codes, rescaled once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.integers import largest
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.simulator.site import Arrays, Finish, Kernel, Site, centered, scale
from tf_requant.simulator.tables import all_codes, in_blocks


def prepare(site: Site) -> Kernel:
    """The kernel of one MUL; broadcasts."""
    left, right = site.input(0), site.input(1)
    site.codes(left, right, site.output())
    bound = largest(centered(all_codes(left.dtype), left)) * largest(centered(all_codes(right.dtype), right))
    finish = site.finisher(stage_of(site), bound)

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        a, b = arrays[0], arrays[1]
        return [in_blocks(lambda p, q: multiply(centered(p, left), centered(q, right), finish), a, b)]

    return run


def stage_of(site: Site) -> OutputStage:
    """From products of codes without their zero points to output codes."""
    left, right = site.input(0), site.input(1)
    return site.stage(site.rescale((scale(left), scale(right)), scale(site.output()), site.requantizer(left)))


def multiply(left: NDArray[np.int64], right: NDArray[np.int64], finish: Finish) -> NDArray[Any]:
    """The integer core: int64[...] codes without zero points, broadcastable; `finish` turns products to codes."""
    return np.asarray(finish(left * right))
