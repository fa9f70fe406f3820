"""Bias correction: the mean error that a layer's new integers make, taken off its bias.

With E = E[W' x'] + b' - E[W x] - b, the mean over data of the output's error ahead of the activation, b' - E has none
(DFQ, arXiv 1906.04721, section 4.2, with measured means; x' comes from the layers corrected before, so that what
these could not mend is mended too). Without data, the means are those of synthetic inputs.
"""

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import grouped, input_channels
from tf_requant.model.graph import Graph, Op
from tf_requant.model.quant import code_limits


def mean_output(graph: Graph, op: Op, means: NDArray[np.float64], bias: int) -> NDArray[np.float64]:
    """The mean of a layer's output ahead of its activation, in real units, float64[outputs].

    Args:
        graph: the graph around the op.
        op: CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED.
        means: its mean input, code minus zero point, float64[groups, taps * inputs a group].
        bias: the bias's position among the op's inputs; the op may have none.
    """
    x, weights = (graph.tensors[op.inputs[i]] for i in (0, 1))
    assert x.quant is not None and weights.quant is not None and weights.data is not None
    scale, zero_point = weights.quant.along(len(weights.shape))
    real = grouped(op, (weights.data - zero_point) * scale, input_channels(graph, op))
    sums = np.einsum("gok,gk->go", real, means).reshape(-1) * float(x.quant.scale[0])
    if not has_bias(op, bias):
        return np.asarray(sums)
    return np.asarray(sums + bias_codes(graph, op, bias) * accumulator_unit(graph, op))


def has_bias(op: Op, position: int) -> bool:
    """Whether the op reads a bias."""
    return 0 < position < len(op.inputs) and op.inputs[position] >= 0


def accumulator_unit(graph: Graph, op: Op) -> NDArray[np.float64]:
    """s_in * s_w of a layer, float64[1 or outputs]."""
    x, weights = (graph.tensors[op.inputs[i]].quant for i in (0, 1))
    assert x is not None and weights is not None
    return np.asarray(float(x.scale[0]) * weights.scale.astype(np.float64))


def bias_codes(graph: Graph, op: Op, position: int) -> NDArray[np.float64]:
    """The bias's codes as float64[outputs], which holds every int32."""
    data = graph.tensors[op.inputs[position]].data
    assert data is not None
    return data.reshape(-1).astype(np.float64)


def wanted_bias(
    graph: Graph, op: Op, position: int, wanted: NDArray[np.float64], found: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The bias that moves a layer's mean output from `found` to `wanted`, in codes that are not yet integers.

    Args:
        graph: the graph around the op.
        op: the layer.
        position: of the bias.
        wanted: mean output in real units, float64[outputs].
        found: the layer's own.
    """
    low, high = code_limits(graph.tensors[op.inputs[position]].dtype)
    moved = bias_codes(graph, op, position) + (wanted - found) / accumulator_unit(graph, op)
    return np.asarray(moved.clip(float(low), float(high)))
