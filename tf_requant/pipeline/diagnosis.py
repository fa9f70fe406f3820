"""Where a candidate loses what it loses: every layer alone, every layer restored, ranked, with what the page draws."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.io.data import Samples
from tf_requant.model.graph import Graph, Model
from tf_requant.numerics.arithmetic import Arithmetic
from tf_requant.pipeline.check import Isolation
from tf_requant.pipeline.isolation import Measurement, Pair, Race, Values, reals
from tf_requant.pipeline.runners import first
from tf_requant.report.accumulators import accumulator_bounds
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.validation.constants import filters
from tf_requant.validation.correspondence import Correspondence
from tf_requant.validation.culprits import Culprit, rank
from tf_requant.validation.faults import suspicions
from tf_requant.validation.layers import LayerStatistics
from tf_requant.validation.legality import Legality
from tf_requant.validation.metrics import decibels
from tf_requant.validation.rows import cause, layer_rows

_PICTURED = 8
"""Worst layers whose histograms are drawn."""
_POINTS = 2000
"""Pairs of scores that are drawn."""


def diagnose(
    source: Model,
    result: Model,
    samples: Samples,
    count: int,
    arithmetic: Arithmetic = TFLITE_REF,
    unlisted: Mapping[int, str] | None = None,
    legality: Legality | None = None,
    reasons: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Isolation:
    """Runs source and candidate in the simulator, layer by layer. Memory holds one sample and the counts.

    Args:
        source: the source.
        result: the candidate.
        samples: the source's input codes.
        count: the first so many are run.
        arithmetic: what the candidate runs in.
        unlisted: ops that its target leaves to the host, with the reason.
        legality: the verdict on the candidate, where there is a target.
        reasons: why tensors were given their parameters, by name.
        progress: called with (samples done, in all).
    """
    pair = Pair(source, result, arithmetic, unlisted)
    count = min(count, len(samples))
    measurement, race, points = Measurement(pair), Race(pair), ScorePairs(pair, count)
    try:
        for done, batch in enumerate(first(samples.codes(1), count), 1):
            values = pair.run(batch)
            for observer in (measurement, race, points):
                observer.add(*values)
            if progress is not None:
                progress(done, count)
    finally:
        pair.close()
    graph, statistics = pair.meet.result, measurement.found
    host = None if legality is None else {h.index: h.reason for h in legality.host_ops if h.where == graph.where(h.index)}
    bits = {row.name: row.bits for row in accumulator_bounds(0, graph)}
    rows = layer_rows(pair.meet, statistics, host, reasons or {}, bits)
    causes = {row.index: cause(row) for row in rows}
    culprits = rank(graph, race.found, suspicions(pair.meet, statistics), causes)
    drawn = [_picture(pair.meet, graph, c, statistics) for c in culprits[:_PICTURED]]
    pictures = {"layers": [p for p in drawn if p is not None], "scatter": points.to_dict()}
    names = tuple(graph.tensors[t].name for t in pair.scores)
    sqnr = decibels(race.power, race.error) if pair.scores else None
    return Isolation(rows, culprits, count, arithmetic.name, names, sqnr, pictures)


class ScorePairs:
    """Scores of both models, evenly taken.

    Args:
        pair: the models.
        samples: how many there will be.
    """

    def __init__(self, pair: Pair, samples: int) -> None:
        self._pair, self._samples = pair, samples
        self._kept: list[NDArray[np.float64]] = []
        self._of = self._done = 0

    def add(self, source: Values, running: Values) -> None:
        """Takes some scores of one sample."""
        meet = self._pair.meet
        for t in self._pair.scores:
            x = reals(source[meet.tensors[t]], meet.source.tensors[meet.tensors[t]]).reshape(-1)
            y = (reals(running[t], meet.result.tensors[t]) / meet.gains[t]).reshape(-1)
            step = max(1, -(-x.size * self._samples * len(self._pair.scores) // _POINTS))
            # Another offset for each sample, so that not the same classes are drawn every time.
            start = self._done % step
            self._kept.append(np.stack([x[start::step], y[start::step]]))
            self._of += x.size
        self._done += 1

    def to_dict(self) -> dict[str, Any]:
        """As the schema of the report has them."""
        kept = np.concatenate(self._kept, axis=1)[:, :_POINTS] if self._kept else np.zeros((2, 0))
        return {"reference": kept[0].tolist(), "result": kept[1].tolist(), "of": self._of}


def _picture(
    meet: Correspondence, graph: Graph, culprit: Culprit, statistics: Mapping[int, LayerStatistics]
) -> dict[str, Any] | None:
    """Histograms of a layer's output and of its filter, before and after, in the source's real units."""
    op = graph.ops[culprit.index]
    seen = next((statistics[t] for t in op.outputs if t in statistics), None)
    if seen is None:
        return None
    gain = float(np.mean(seen.gain))
    activation = {
        "source": _histogram(seen.edges(of_result=False), seen.source_counts),
        "result": _histogram(seen.edges(of_result=True) / gain, seen.result_counts),
    }
    return {"index": culprit.index, "name": culprit.name, "activation": activation, "weights": _weights(meet, culprit.index)}


def _weights(meet: Correspondence, index: int) -> dict[str, Any] | None:
    found = filters(meet, index)
    if found is None:
        return None
    wanted, got = found
    low, high = min(float(wanted.min()), float(got.min())), max(float(wanted.max()), float(got.max()))
    edges = np.linspace(low, high if high > low else low + 1, 129)
    return {
        "source": _histogram(edges, np.histogram(wanted, edges)[0]),
        "result": _histogram(edges, np.histogram(got, edges)[0]),
    }


def _histogram(edges: NDArray[np.float64], counts: NDArray[np.int64]) -> dict[str, Any]:
    """The bins from the first to the last that holds anything."""
    used = np.flatnonzero(counts)
    start, stop = (int(used[0]), int(used[-1]) + 1) if used.size else (0, counts.size)
    return {"edges": edges[start : stop + 1].tolist(), "counts": counts[start:stop].tolist()}


def reasons_of(conversion: Mapping[str, Any] | None) -> dict[str, str]:
    """Why each tensor was given its parameters, from the document of a requantization."""
    rows: Sequence[Mapping[str, Any]] = [] if conversion is None else conversion.get("tensors", [])
    return {str(row["name"]): str(row["reason"]) for row in rows if row.get("role") == "activation" and row.get("graph") == 0}
