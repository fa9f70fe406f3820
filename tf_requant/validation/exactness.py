"""Exactness: the simulator's tensors against a real interpreter's, element by element, with no tolerance."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Graph


@dataclass
class TensorExactness:
    """One tensor over all samples.

    Attributes:
        op_index: the op that writes it.
        name: its name.
        elements: compared.
        mismatches: that differ.
        largest: the largest absolute difference, in codes.
    """

    op_index: int
    name: str
    elements: int = 0
    mismatches: int = 0
    largest: float = 0.0


@dataclass(frozen=True)
class Mismatch:
    """The first difference in execution order.

    Attributes:
        op_index: the op.
        op: its name.
        tensor: the tensor that it writes.
        element: the element's index in the tensor.
        sample: which sample, from 0.
        simulated: the simulator's value there.
        expected: the interpreter's.
    """

    op_index: int
    op: str
    tensor: str
    element: tuple[int, ...]
    sample: int
    simulated: float
    expected: float

    def __str__(self) -> str:
        """Where and what, in one line."""
        return (
            f"op {self.op_index} ({self.op}), tensor {self.tensor!r}, element {list(self.element)}, sample {self.sample}: "
            f"simulated {self.simulated:g}, expected {self.expected:g}"
        )


@dataclass
class Exactness:
    """A simulator against an interpreter.

    Attributes:
        arithmetic: what the simulator ran.
        resolver: what it is compared with.
        graph: the graph of both.
        tensors: by tensor index, in execution order.
        first: the first mismatch of the first sample that has one.
        samples: compared so far.
        unseen: tensors that the interpreter does not show.
        simulated_ops: how many of the graph's ops the simulator computed; the others ran in the interpreter itself.
    """

    arithmetic: str
    resolver: str
    graph: Graph
    tensors: dict[int, TensorExactness] = field(default_factory=dict)
    first: Mismatch | None = None
    samples: int = 0
    unseen: list[str] = field(default_factory=list)
    simulated_ops: int | None = None

    def add(self, simulated: Iterable[tuple[int, NDArray[Any]]], expected: Mapping[int, NDArray[Any]]) -> None:
        """Compares one sample.

        Args:
            simulated: (tensor index, values) in execution order.
            expected: the interpreter's values by tensor index; a tensor that it does not show is left out.
        """
        before = self.first
        for index, ours in simulated:
            producer = self.graph.producers.get(index)
            if producer is None:
                continue
            if index in expected:
                self._compare(index, producer, ours, np.asarray(expected[index]), before is None)
            elif self.graph.tensors[index].name not in self.unseen:
                self.unseen.append(self.graph.tensors[index].name)
        self.samples += 1

    def _compare(self, index: int, producer: int, ours: NDArray[Any], theirs: NDArray[Any], searching: bool) -> None:
        name = self.graph.tensors[index].name
        row = self.tensors.setdefault(index, TensorExactness(producer, name))
        row.elements += ours.size
        if theirs.shape != ours.shape:
            # Nothing corresponds: every element is wrong, the first one first.
            row.mismatches, row.largest = row.mismatches + ours.size, float("inf")
            if searching and self.first is None:
                where = (
                    producer,
                    self.graph.ops[producer].name,
                    f"{name} of shape {list(ours.shape)}, not {list(theirs.shape)}",
                )
                self.first = Mismatch(*where, (), self.samples, float("nan"), float("nan"))
            return
        # NaN is NaN wherever it stands.
        unequal = (ours != theirs) & ~((ours != ours) & (theirs != theirs))
        count = int(np.count_nonzero(unequal))
        if not count:
            return
        row.mismatches += count
        difference = np.abs(ours[unequal].astype(np.float64) - theirs[unequal].astype(np.float64))
        row.largest = max(row.largest, float(np.nanmax(difference, initial=0)))
        if searching and self.first is None:
            element = tuple(int(i) for i in np.argwhere(unequal)[0])
            values = float(ours[element]), float(theirs[element])
            self.first = Mismatch(producer, self.graph.ops[producer].name, name, element, self.samples, *values)

    @property
    def mismatches(self) -> int:
        """Elements that differ, in all tensors."""
        return sum(row.mismatches for row in self.tensors.values())

    @property
    def elements(self) -> int:
        """Elements compared."""
        return sum(row.elements for row in self.tensors.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "arithmetic": self.arithmetic,
            "resolver": self.resolver,
            "samples": self.samples,
            "elements": self.elements,
            "mismatches": self.mismatches,
            "unseen": self.unseen,
            "simulated_ops": self.simulated_ops,
            "first": None if self.first is None else asdict(self.first),
            "tensors": [asdict(row) for row in self.tensors.values()],
        }

    def __str__(self) -> str:
        """The verdict, and the first mismatch if there is one."""
        verdict = f"{self.mismatches} of {self.elements} elements differ in {self.samples} samples"
        if self.simulated_ops is not None:
            verdict += f", {self.simulated_ops} of {len(self.graph.ops)} ops simulated"
        line = f"exactness, simulator {self.arithmetic} against {self.resolver}: {verdict}"
        if self.first is None:
            return line
        rows = [r for r in self.tensors.values() if r.mismatches]
        worst = [
            f"  op {r.op_index} {r.name!r}: {r.mismatches} of {r.elements}, largest {r.largest:g}" for r in rows[:5]
        ]
        return "\n".join([line, f"  first: {self.first}", *worst])
