"""What weights take on the accelerator: counted from the codes in the file, whatever was planned."""

from dataclasses import dataclass

from tf_requant.model.graph import Graph
from tf_requant.model.ops import info


@dataclass(frozen=True)
class StoredWeights:
    """The filter of one layer.

    Attributes:
        graph: the subgraph's index.
        name: the tensor that the layer writes.
        elements: weights.
        bits: of the largest code: what each code has to be stored in.
    """

    graph: int
    name: str
    elements: int
    bits: int

    @property
    def bytes(self) -> float:
        """Bytes at that width."""
        return self.elements * self.bits / 8


def stored_weights(index: int, graph: Graph) -> list[StoredWeights]:
    """The filters of a graph's layers.

    A code with a zero point takes its type's width. One without takes the bits of its magnitude and a sign.

    Args:
        index: the subgraph's.
        graph: the graph.
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
        bits = 8 * weights.data.dtype.itemsize
        if weights.data.dtype.kind == "i" and not weights.quant.zero_point.any():
            bits = max(high, -low).bit_length() + 1
        found.append(StoredWeights(index, graph.tensors[op.outputs[0]].name, weights.data.size, bits))
    return found
