"""Which tensors of a class are rounded on their own, and how much of that rounding goes on behind it.

Tensors that share parameters are seldom worth the same. Behind a global average the rounding of 64 values is one value's
in 64, and the rounding of their mean stays whole; a copy is not rounded again at all. Counted by its elements, the map ahead of
the average would decide alone.
"""

from collections.abc import Sequence

from tf_requant.model.graph import Graph, Op
from tf_requant.model.ops import info

_AVERAGES = ("AVERAGE_POOL_2D", "MEAN")


def rounding_shares(graph: Graph, members: Sequence[int]) -> dict[int, float]:
    """By tensor, what unit noise on its codes comes to outside the class, in power; zero for one that is a copy.

    Whatever reads a member and writes none is taken to pass noise on alike; independent errors add up.

    Args:
        graph: the graph.
        members: the tensors of one parameter class.
    """
    inside, reached = set(members), {}
    for t in sorted(members, key=lambda t: -graph.producers.get(t, -1)):  # readers first: ops stand in the order they run
        readers = [graph.ops[i] for i in graph.consumers.get(t, ())]
        reached[t] = float(t in graph.outputs or not readers)
        for op in readers:
            tied = [o for o in op.outputs if o in inside]
            reached[t] += sum(reached[o] for o in tied) / averaged(graph, op) if tied else 1.0
    return {t: 0.0 if _is_copy(graph, t, inside) else reached[t] for t in members}


def averaged(graph: Graph, op: Op) -> int:
    """How many values of its first input make one of its output, as their mean; one where an op is no average."""
    if op.code == "AVERAGE_POOL_2D":
        return int(op.attrs["filter_height"]) * int(op.attrs["filter_width"])
    if op.code == "MEAN":
        return max(1, graph.tensors[op.inputs[0]].size // max(1, graph.tensors[op.outputs[0]].size))
    return 1


def is_mean(graph: Graph, tensor: int, members: Sequence[int]) -> bool:
    """Whether a tensor is the mean of values of its own class, whose range it cannot leave."""
    producer = graph.producers.get(tensor)
    return producer is not None and graph.ops[producer].code in _AVERAGES and graph.ops[producer].inputs[0] in members


def _is_copy(graph: Graph, tensor: int, inside: set[int]) -> bool:
    """Whether the op that writes a tensor moves codes of its class, or picks among them."""
    producer = graph.producers.get(tensor)
    if producer is None:
        return False
    op = graph.ops[producer]
    row = info(op)
    moves = row is not None and row.homogeneous and not row.additive and op.code not in _AVERAGES
    return moves and any(t in inside for t in op.inputs)
