"""QUANTIZE from codes to codes: a rescale; a float input is the host's business."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.output_stage import OutputStage
from tf_requant.simulator.site import CODES, Kernel, Site, centered, scale
from tf_requant.simulator.tables import unary


def prepare(site: Site) -> Kernel:
    """The kernel of one QUANTIZE between quantized types, int32 included."""
    data, target = site.input(), site.output()
    site.codes(data, target, dtypes=(*CODES, "int32"), same=False)
    stage = stage_of(site)

    def function(codes: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(site.finish(centered(codes, data), stage))

    return unary(site, function)


def stage_of(site: Site) -> OutputStage:
    """From codes without their zero point to output codes."""
    data = site.input()
    return site.stage(site.rescale((scale(data),), scale(site.output()), site.requantizer(data)))
