"""The layers that cost most, worst first: what is wrong ahead of what is merely coarse."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from tf_requant.model.graph import Graph, Op
from tf_requant.model.ops import info
from tf_requant.validation.faults import FAULT, Suspicion, faulty
from tf_requant.validation.metrics import decibels

_FAULTS_FIRST = 2
"""Faults that stand ahead of every other layer, so that the costliest one is among the first three in any case."""


@dataclass
class Restoration:
    """The scores' error with one layer restored to the source's precision, over samples.

    Attributes:
        noise: squared error of the scores with the layer restored.
        before: the same without.
        power: the scores' squared value.
        samples: over so many samples.
    """

    noise: float = 0.0
    before: float = 0.0
    power: float = 0.0
    samples: int = 0

    def add(self, noise: float, before: float, power: float) -> None:
        """Counts one sample."""
        self.noise, self.before, self.power = self.noise + noise, self.before + before, self.power + power
        self.samples += 1

    @property
    def gain(self) -> float:
        """What restoring the layer adds to the scores' SQNR, dB; infinite where it removes every error."""
        if self.noise == self.before:
            return 0.0
        return decibels(self.before, self.noise)

    @property
    def sqnr(self) -> float:
        """The scores' SQNR with the layer restored, dB."""
        return decibels(self.power, self.noise)


@dataclass(frozen=True)
class Culprit:
    """One layer of the ranking.

    Attributes:
        index: the op's index in the candidate.
        op: its code.
        name: the tensor that it writes.
        gain: what restoring it adds to the scores' SQNR, dB; None where the source has no such op.
        restored_sqnr: the scores' SQNR then, dB.
        samples: samples that it was restored on.
        suspicion: steps of its output that only a wrong constant explains.
        fault: whether that is beyond what re-quantization does.
        why: one sentence.
    """

    index: int
    op: str
    name: str
    gain: float | None
    restored_sqnr: float | None
    samples: int
    suspicion: float
    fault: bool
    why: str


def rank(
    graph: Graph, restorations: Mapping[int, Restoration], suspected: Mapping[int, Suspicion], causes: Mapping[int, str]
) -> tuple[Culprit, ...]:
    """Every layer that costs something or is suspected, the worst first.

    Args:
        graph: the candidate's.
        restorations: by op index.
        suspected: by op index.
        causes: by op index, what makes up the layer's own error, in words.

    Returns:
        At most two faults, then layers by what restoring them gains, measured on more samples ahead of on fewer.
    """
    rows, wrong = [], faulty(suspected, sum(has_filter(op) for op in graph.ops))
    for index in sorted({*restorations, *suspected}):
        row = _culprit(graph, index, restorations.get(index), suspected.get(index), index in wrong, causes.get(index, ""))
        if row.fault or row.suspicion >= FAULT or (row.gain is not None and row.gain > 0):
            rows.append(row)
    faults = sorted((r for r in rows if r.fault), key=lambda r: -suspected[r.index].weight)[:_FAULTS_FIRST]
    # A layer that was dropped from the race early was measured on fewer samples, and stands behind those that stayed.
    others = [r for r in rows if r not in faults]
    others.sort(key=lambda r: (-r.samples, -(r.gain if r.gain is not None else -inf)))
    rest = [r for r in others if r.suspicion >= FAULT]
    if len(faults) < _FAULTS_FIRST and rest and others:
        # Of what is no outlier, the most suspicious layer is looked at third at the latest, behind the costliest.
        suspect = max(rest, key=lambda r: r.suspicion)
        others.remove(suspect)
        others.insert(min(1, len(others)), suspect)
    return (*faults, *others)


def has_filter(op: Op) -> bool:
    """Whether an op is a layer with weights."""
    row = info(op)
    return row is not None and row.filter is not None


def _culprit(
    graph: Graph, index: int, restored: Restoration | None, suspicion: Suspicion | None, fault: bool, cause: str
) -> Culprit:
    op = graph.ops[index]
    steps = 0.0 if suspicion is None else suspicion.steps
    gain = None if restored is None else restored.gain
    parts = [suspicion.why] if suspicion is not None and (fault or steps >= FAULT) else []
    if gain is not None:
        moved = f"adds {gain:.2f} dB to" if gain >= 0 else f"takes {-gain:.2f} dB off"
        bought = "makes the scores exact" if gain == inf else f"{moved} the scores"
        parts.append(f"restoring it {bought}")
    if cause and not fault:
        parts.append(cause)
    return Culprit(
        index, op.name, graph.tensors[op.outputs[0]].name, gain, None if restored is None else restored.sqnr,
        0 if restored is None else restored.samples, steps, fault, "; ".join(parts),
    )  # fmt: skip
