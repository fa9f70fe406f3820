"""RELU, RELU6, RELU_N1_TO_1 that stand alone: a rescale and a clamp."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.ops import Activation
from tf_requant.simulator.site import Kernel, Site, centered, scale
from tf_requant.simulator.tables import unary

_CLAMP = {"RELU": Activation.RELU, "RELU6": Activation.RELU6, "RELU_N1_TO_1": Activation.RELU_N1_TO_1}


def prepare(site: Site) -> Kernel:
    """The kernel of one stand-alone RELU of any kind."""
    data = site.input()
    site.codes(data, site.output())
    rescale = site.rescale((scale(data),), scale(site.output()), site.requantizer(data))
    stage = site.stage(rescale, activation=_CLAMP[site.op.code])

    def function(codes: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(site.finish(centered(codes, data), stage))

    return unary(site, function)
