"""Tensors that belong together, whatever it is that ties them."""

from collections.abc import Hashable, Iterable

from tf_requant.model.graph import Graph, Op


class Partition:
    """Disjoint sets of tensor indices (union-find with path halving)."""

    def __init__(self, members: Iterable[int]) -> None:
        """Starts with every member in a class of its own."""
        self._parent = {m: m for m in members}

    def find(self, member: int) -> int:
        """The representative of a member's class."""
        parent = self._parent
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    def join(self, members: list[int]) -> None:
        """Makes one class of the classes of all these members; the smallest index represents it."""
        roots = sorted({self.find(m) for m in members})
        for root in roots[1:]:
            self._parent[root] = roots[0]

    def classes(self) -> dict[int, list[int]]:
        """The members of each class by its representative, ascending."""
        result: dict[int, list[int]] = {}
        for member in sorted(self._parent):
            result.setdefault(self.find(member), []).append(member)
        return result

    def __contains__(self, member: Hashable) -> bool:
        """Whether this is a member at all."""
        return member in self._parent


def activations_around(graph: Graph, op: Op) -> list[int]:
    """The activations that an op reads and writes."""
    return [t for t in (*op.inputs, *op.outputs) if t >= 0 and graph.tensors[t].is_activation]
