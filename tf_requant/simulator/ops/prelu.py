"""PRELU: LEAKY_RELU with a quantized alpha of its own for each channel."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.ops import Activation
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.simulator.ops.leaky_relu import split_at_zero
from tf_requant.simulator.site import Arrays, Kernel, Site, centered, scale
from tf_requant.simulator.tables import in_blocks


def prepare(site: Site) -> Kernel:
    """The kernel of one PRELU: inputs (codes, alpha), broadcast."""
    data, slope, target = site.input(0), site.input(1), site.output()
    site.codes(data, slope, target)
    above, below = stages_of(site)

    def function(codes: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
        value = centered(codes, data)
        product = value * centered(alpha, slope)
        return split_at_zero(site, np.broadcast_to(value, product.shape), product, above, below)

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, alpha = arrays[0], arrays[1]
        return [in_blocks(function, codes, alpha)]

    return run


def stages_of(site: Site) -> tuple[OutputStage, OutputStage]:
    """Of values at or above zero, and of products of value and alpha below."""
    data, slope, target, rule = site.input(0), site.input(1), site.output(), site.requantizer(site.input(0))
    above = site.stage(site.rescale((scale(data),), scale(target), rule), activation=Activation.NONE)
    below = site.stage(site.rescale((scale(data), scale(slope)), scale(target), rule), activation=Activation.NONE)
    return above, below
