"""How large the sums of a layer can become, whatever its input: what an accelerator's register has to hold."""

from dataclasses import dataclass

import numpy as np

from tf_requant.model.graph import Graph, Op
from tf_requant.model.ops import info
from tf_requant.numerics.integers import signed_bits


@dataclass(frozen=True)
class AccumulatorRow:
    """The bound of one layer.

    Attributes:
        graph: the subgraph's index in the result.
        name: the tensor that the layer writes.
        bound: the largest |sum of products + bias|.
        bits: the register that holds it, sign included.
    """

    graph: int
    name: str
    bound: int
    bits: int


def accumulator_bounds(index: int, graph: Graph) -> list[AccumulatorRow]:
    """The bounds of every layer with a quantized constant filter: max |acc| <= sum |w| * max |x| + |b|."""
    rows = []
    for op in graph.ops:
        bound = _bound(graph, op)
        if bound is not None:
            rows.append(AccumulatorRow(index, graph.tensors[op.outputs[0]].name, bound, signed_bits(-bound, bound)))
    return rows


def _bound(graph: Graph, op: Op) -> int | None:
    row = info(op)
    if row is None or row.filter is None or len(op.inputs) <= row.filter:
        return None
    x, weights = graph.tensors[op.inputs[row.data]], graph.tensors[op.inputs[row.filter]]
    if x.quant is None or weights.quant is None or weights.data is None or not x.is_activation:
        return None
    # A device that stores fewer bits than the type has saturates what it reads.
    reach = max(abs(limit - int(x.quant.zero_point[0])) for limit in x.limits)
    values = np.abs(weights.data.astype(np.int64) - weights.quant.along(len(weights.shape))[1])
    axes = tuple(a for a in range(len(weights.shape)) if a != row.channel_axis)
    sums = values.sum(axis=axes) * reach
    if row.bias is not None and len(op.inputs) > row.bias and op.inputs[row.bias] >= 0:
        bias = graph.tensors[op.inputs[row.bias]].data
        if bias is not None:
            sums = sums + np.abs(bias.astype(np.int64).reshape(-1))
    return int(sums.max(initial=0))
