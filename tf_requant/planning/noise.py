"""What predicted errors cost at the scores, by the sensitivities that calibration measured."""

import numpy as np

from tf_requant.calibration.sensitivity import LEFT_OVER
from tf_requant.calibration.statistics import Calibration
from tf_requant.model.graph import Graph
from tf_requant.model.ops import OPS
from tf_requant.model.partition import Partition
from tf_requant.model.quant import code_limits
from tf_requant.planning.weights import Histogram


def noise_of_classes(graph: Graph, parameters: Partition, calibration: Calibration | None) -> dict[int, float]:
    """What unit noise in real units squared on each parameter class does to the scores; empty without data."""
    if calibration is None or not calibration.noise:
        return {}
    found = {}
    for root, members in parameters.classes().items():
        shares = [calibration.noise[m] / _step(graph, m) ** 2 for m in members if m in calibration.noise]
        found[root] = float(np.sum(shares))
    return found


def link_weight(graph: Graph, index: int, histogram: Histogram, calibration: Calibration | None) -> float:
    """What a relative error of a filter's weights of one does to the scores; one without data."""
    op = graph.ops[index]
    x, y = op.inputs[OPS[op.code].data], op.outputs[0]
    if calibration is None or y not in calibration.noise or x not in calibration.histograms:
        return 1.0 if calibration is None or not calibration.noise else 0.0
    quant = graph.tensors[x].quant
    counts = calibration.histograms[x]
    assert quant is not None
    values = np.arange(counts.size) + code_limits(quant.dtype)[0] - int(quant.zero_point[0])
    # Between the second moment and the variance: a bias takes off what the mean input makes of a rounding error, and
    # which of the two the mean over places is differs from channel to channel.
    power = float(values**2 @ counts) / float(counts.sum()) - float(values @ counts / counts.sum()) ** 2 / 2
    written = calibration.histograms.get(y)
    moving = 1.0 if written is None else 1.0 - float(written[0] + written[-1]) / float(written.sum())
    steps = power * (_step(graph, x) * histogram.scale / _step(graph, y)) ** 2 * histogram.energy
    return calibration.noise[y] * moving * steps * LEFT_OVER


def _step(graph: Graph, tensor: int) -> float:
    quant = graph.tensors[tensor].quant
    assert quant is not None
    return float(quant.scale[0])
