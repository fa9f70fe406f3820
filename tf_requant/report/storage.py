"""What weights and activations take on the accelerator.

Weights are counted from the codes in the file, whatever was planned. Of activations a file holds no codes: they take the width
that was planned for them, or the target's.
"""

from dataclasses import dataclass

import numpy as np

from tf_requant.model.graph import Graph
from tf_requant.model.ops import info
from tf_requant.numerics.codebook import index_width
from tf_requant.numerics.integers import signed_width
from tf_requant.plan import GraphPlan


@dataclass(frozen=True)
class StoredWeights:
    """The filter of one layer.

    Attributes:
        graph: the subgraph's index.
        name: the tensor that the layer writes.
        elements: weights.
        bits: of the largest code: what each code has to be stored in; of an index, where codes come from a codebook.
        levels: codes in the codebook; 0 without one.
    """

    graph: int
    name: str
    elements: int
    bits: int
    levels: int = 0

    @property
    def bytes(self) -> float:
        """Bytes at that width, the codebook's own included."""
        return self.elements * self.bits / 8 + self.levels


def stored_weights(index: int, graph: Graph, codebook: tuple[int, ...] | None = None) -> list[StoredWeights]:
    """The filters of a graph's layers.

    A code with a zero point takes its type's width. One without takes the bits of its magnitude and a sign.

    Args:
        index: the subgraph's.
        graph: the graph.
        codebook: the widths of an index, where the target stores indices into a table of each filter's different codes.
    """
    found = []
    for op in graph.ops:
        row = info(op)
        if row is None or row.filter is None or len(op.inputs) <= row.filter:
            continue
        weights = graph.tensors[op.inputs[row.filter]]
        if weights.data is None or weights.quant is None or weights.data.dtype.kind not in "iu":
            continue
        low, high = int(weights.data.min(initial=0)), int(weights.data.max(initial=0))
        bits, levels = 8 * weights.data.dtype.itemsize, 0
        if codebook is not None:
            levels = int(np.unique(weights.data).size)
            bits = index_width(levels, codebook)
        elif weights.data.dtype.kind == "i" and not weights.quant.zero_point.any():
            bits = signed_width(low, high)
        found.append(StoredWeights(index, graph.tensors[op.outputs[0]].name, weights.data.size, bits, levels))
    return found


@dataclass(frozen=True)
class StoredActivations:
    """The activations of one width.

    Attributes:
        bits: that width.
        tensors: how many.
        elements: codes of all of them in one run.
    """

    bits: int
    tensors: int
    elements: int

    @property
    def bytes(self) -> float:
        """Bytes at that width."""
        return self.elements * self.bits / 8


def stored_activations(graph: Graph, result: Graph, plan: GraphPlan, bits: int) -> tuple[StoredActivations, ...]:
    """The activations of the accelerator, by width, the narrowest first.

    Args:
        graph: the source's main graph.
        result: what became of it: a QUANTIZE that does nothing there is gone, and its output with it.
        plan: of it.
        bits: of an activation that no width was chosen for.
    """
    sizes: dict[int, list[int]] = {}
    names = {tensor.name for tensor in result.tensors}
    for t, activation in plan.activations.items():
        if graph.tensors[t].name not in names:
            continue
        sizes.setdefault(activation.bits or bits, []).append(graph.tensors[t].size)
    return tuple(StoredActivations(b, len(found), sum(found)) for b, found in sorted(sizes.items()))
