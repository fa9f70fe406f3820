"""Which tensors of a class are rounded on their own: each of them counts alike when the class's scale is chosen.

Tensors that share parameters are seldom of one size. Counted by elements, the map ahead of a global average would decide
alone, although its rounding averages out and that of the mean stays whole. What a clip cuts off does not average out: a
channel that is large is large all over the map, so the map counts no less than its mean. A copy is not rounded again.
"""

from collections.abc import Sequence

from tf_requant.model.graph import Graph
from tf_requant.model.ops import info

AVERAGES = ("AVERAGE_POOL_2D", "MEAN")


def rounded(graph: Graph, members: Sequence[int]) -> list[int]:
    """The members whose codes are rounded when they are written, not moved or picked from another's.

    Args:
        graph: the graph.
        members: the tensors of one parameter class.
    """
    return [t for t in members if is_mean(graph, t, members) or not follows(graph, t, members)]


def is_mean(graph: Graph, tensor: int, members: Sequence[int]) -> bool:
    """Whether a tensor is the mean of values of its own class, whose range it cannot leave."""
    return follows(graph, tensor, members) and graph.ops[graph.producers[tensor]].code in AVERAGES


def follows(graph: Graph, tensor: int, members: Sequence[int]) -> bool:
    """Whether the op that writes a tensor moves, picks among or averages codes of the tensor's own class."""
    producer = graph.producers.get(tensor)
    if producer is None:
        return False
    op = graph.ops[producer]
    row = info(op)
    return row is not None and row.homogeneous and not row.additive and any(t in members for t in op.inputs)
