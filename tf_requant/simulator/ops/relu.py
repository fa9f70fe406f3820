"""RELU, RELU6, RELU_N1_TO_1 that stand alone: a rescale and a clamp."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.ops import Activation
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.simulator.site import Kernel, Site, centered, scale
from tf_requant.simulator.tables import unary

_CLAMP = {"RELU": Activation.RELU, "RELU6": Activation.RELU6, "RELU_N1_TO_1": Activation.RELU_N1_TO_1}


def prepare(site: Site) -> Kernel:
    """The kernel of one stand-alone RELU of any kind."""
    data = site.input()
    site.codes(data, site.output())
    stage = stage_of(site)

    def function(codes: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(site.finish(centered(codes, data), stage))

    return unary(site, function)


def stage_of(site: Site) -> OutputStage:
    """From codes without their zero point to output codes."""
    rescale = site.rescale((scale(site.input()),), scale(site.output()), site.requantizer(site.input()))
    return site.stage(rescale, activation=_CLAMP[site.op.code])
