"""Which tensors of a class are rounded on their own: each of them counts alike when the class's scale is chosen.

Tensors that share parameters are seldom of one size. Counted by elements, the map ahead of a global average would decide
alone, although its rounding averages out and that of the mean stays whole. What a clip cuts off does not average out: a
channel that is large is large all over the map, so the map counts no less than its mean. A copy is not rounded again.
"""

from collections.abc import Sequence

from tf_requant.model.graph import Graph
from tf_requant.model.ops import info

_AVERAGES = ("AVERAGE_POOL_2D", "MEAN")


def rounded(graph: Graph, members: Sequence[int]) -> list[int]:
    """The members whose codes are rounded when they are written, not moved or picked from another's.

    Args:
        graph: the graph.
        members: the tensors of one parameter class.
    """
    return [t for t in members if not _is_copy(graph, t, members)]


def is_mean(graph: Graph, tensor: int, members: Sequence[int]) -> bool:
    """Whether a tensor is the mean of values of its own class, whose range it cannot leave."""
    producer = graph.producers.get(tensor)
    return producer is not None and graph.ops[producer].code in _AVERAGES and graph.ops[producer].inputs[0] in members


def _is_copy(graph: Graph, tensor: int, members: Sequence[int]) -> bool:
    producer = graph.producers.get(tensor)
    if producer is None:
        return False
    op = graph.ops[producer]
    row = info(op)
    moves = row is not None and row.homogeneous and not row.additive and op.code not in _AVERAGES
    return moves and any(t in members for t in op.inputs)
