"""LEAKY_RELU: one rescale for codes at or above the zero point, another, with alpha in it, below."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.ops import Activation
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.simulator.site import Kernel, Site, centered, scale
from tf_requant.simulator.tables import unary


def prepare(site: Site) -> Kernel:
    """The kernel of one LEAKY_RELU."""
    data = site.input()
    site.codes(data, site.output())
    above, below = stages_of(site)

    def function(codes: NDArray[Any]) -> NDArray[Any]:
        value = centered(codes, data)
        return split_at_zero(site, value, value, above, below)

    return unary(site, function)


def stages_of(site: Site) -> tuple[OutputStage, OutputStage]:
    """Of values at or above zero, and of those below."""
    data, alpha, rule = site.input(), np.float32(site.attrs["alpha"]), site.requantizer(site.input())
    above = site.stage(site.rescale((scale(data),), scale(site.output()), rule), activation=Activation.NONE)
    below = site.stage(site.rescale((scale(data), alpha), scale(site.output()), rule), activation=Activation.NONE)
    return above, below


def split_at_zero(
    site: Site, value: NDArray[np.int64], negative: NDArray[np.int64], above: OutputStage, below: OutputStage
) -> NDArray[Any]:
    """The integer core: `above` of the values >= 0, `below` of `negative` where they are less; int64[...] -> codes."""
    result = np.empty(value.shape, above.dtype)
    positive = value >= 0
    result[positive] = site.finish(value[positive], above)
    result[~positive] = site.finish(negative[~positive], below)
    return result
