"""What each activation does to the scores at each width, measured without labels.

Tensors that share their parameters are one candidate. Its codes are put on the grid of each width alone, in a model that has
everything else at its widest; what that does to the scores is measured behind it. Errors of rounding add up where they are
small, so the sum over candidates predicts a whole plan, and a whole plan is also made and run.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.statistics import Calibration
from tf_requant.model.graph import Graph
from tf_requant.model.ops import OPS
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.numerics.affine import reexpress
from tf_requant.numerics.integers import limits
from tf_requant.pipeline.correct import Corrector
from tf_requant.pipeline.reconstruct import Progress
from tf_requant.pipeline.trials import Kept, Trials, of_widths
from tf_requant.plan import ACTIVATIONS, ActivationPlan, GraphPlan, Plan
from tf_requant.planning.classes import parameter_classes
from tf_requant.targets import Target

NARROWEST = 2
"""Bits that an activation has at least."""


def activations_of(graph: Graph, plan: GraphPlan, target: Target) -> dict[int, list[int]]:
    """The tensors whose width can be chosen, by the first of those that share their parameters.

    A graph's inputs and outputs stay as the interface has them, what a kernel fixes as it is fixed, what a host op writes in the
    host's view, and a tensor whose name another has too could not be told from it in the record.
    """
    uses = Counter(t.name for t in graph.tensors)

    def free(tensor: int) -> bool:
        params, name = plan.activations[tensor].params, graph.tensors[tensor].name
        if tensor in (*graph.inputs, *graph.outputs, *plan.fixed) or not name or uses[name] > 1:
            return False
        producer = graph.producers.get(tensor)
        if producer is None or not plan.ops[producer].on_accelerator or graph.ops[producer].code not in OPS:
            return False
        return params.dtype == "int8" and not params.zero_point.any()

    classes = parameter_classes(graph, plan.ops, sorted(plan.activations), target).classes()
    return {root: members for root, members in classes.items() if all(map(free, members))}


def codes_of(graph: Graph, classes: Mapping[int, list[int]]) -> dict[int, int]:
    """How many codes each of those holds in one run."""
    return {root: sum(graph.tensors[t].size for t in members) for root, members in classes.items()}


@dataclass
class ActivationErrors:
    """The activations of one model and target at their widths.

    Args:
        corrector: the source, the target and how plans are made and applied.
        widths: the widths to measure.
        calibration: samples.
        state: a file that keeps what was measured, so that a measurement that was broken off goes on; None for none.
        progress: called with (ops done, in all).

    Attributes:
        errors: by candidate and width, what the width adds to the scores' squared error, over their squared value; empty until
            measured.
        elements: codes of each candidate in one run.
        widest: the target's widest width.
    """

    corrector: Corrector
    widths: tuple[int, ...]
    calibration: Calibration
    state: Path | None = None
    progress: Progress | None = None
    errors: dict[int, dict[int, float]] = field(default_factory=dict, init=False)
    predicts: ClassVar[bool] = True
    _found: dict[int, dict[int, float]] = field(default_factory=dict, init=False)
    _changes: dict[int, dict[int, float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Plans and makes the model at the widest width, which every measurement starts from."""
        graph, target = self.corrector.source.main, self.corrector.target
        self.widest = max(target.activation.bits)
        self.classes = activations_of(graph, self.corrector.planned(None, False).graphs[0], target)
        self.trials = Trials(self.corrector, self.calibration, self._plan(dict.fromkeys(self.classes, self.widest)))
        # A QUANTIZE between tensors that came to share parameters is gone, and one of its ends with it.
        kept = {tensor.name for tensor in self.trials.result.main.tensors}
        self.classes = {root: members for root, members in self.classes.items() if all(str(t) in kept for t in members)}
        self.elements = codes_of(graph, self.classes)

    def _plan(self, chosen: Mapping[int, int]) -> Plan:
        corrector = self.corrector
        wishes = replace(corrector.wishes, activation_widths=chosen)
        return replace(corrector, wishes=wishes).planned(self.calibration, "thresholds" in corrector.asked)

    @property
    def how(self) -> str:
        """The widths are found, in a few words."""
        return f"measured on {len(self.trials.parts()[0])} calibration samples"

    def measure(self) -> None:
        """What each candidate at each width does to the scores; what a file has is not measured again."""
        if self.errors:
            return
        trials, plans = self.trials, {b: self._plan(dict.fromkeys(self.classes, b)) for b in self._narrow()}
        kept = Kept(self.state, ACTIVATIONS, trials.key(*plans.values()))
        self._found = found = {root: {} for root in self.classes} | kept.load()
        places = {tensor.name: t for t, tensor in enumerate(trials.result.main.tensors)}
        writers = {root: [trials.result.main.producers[places[str(t)]] for t in members] for root, members in self.classes.items()}
        measuring = trials.parts()[0]
        lane, right = trials.lane(measuring), trials.scores(measuring)
        try:
            for index in range(trials.stop):
                for root in (root for root, ops in writers.items() if min(ops) == index):
                    for bits, plan in plans.items():
                        change = _Narrowing(trials.plan.graphs[0].activations[root], plan.graphs[0].activations[root], bits)
                        changed, fresh = {places[str(t)]: change for t in self.classes[root]}, bits not in found[root]
                        stop = trials.stop if fresh else min(trials.stop, max(writers[root]) + 1)
                        outputs = lane.branch(lane.graph, stop, trials.judged, changed=changed)
                        if fresh:
                            found[root][bits] = trials.relative(outputs, right)
                        self._changes.setdefault(root, {})[bits] = change.total
                    kept.save(found)
                lane.step()
                if self.progress is not None:
                    self.progress(index + 1, trials.stop)
        finally:
            lane.close()
        # One that no score needs stays as wide as it is.
        self.errors = {
            root: self._of_widths(root, found[root]) if root in self._changes else {self.widest: 0.0} for root in self.classes
        }

    def _narrow(self) -> list[int]:
        """The widths that are measured: a single one does not tell its error from what any change does, so one more is."""
        narrow = [b for b in self.widths if b != self.widest]
        return narrow if len(narrow) != 1 or narrow[0] == NARROWEST else [narrow[0] - 1, *narrow]

    def _of_widths(self, root: int, found: Mapping[int, float]) -> dict[int, float]:
        added = of_widths(self._changes[root], found, self.widths)
        return {b: added[b] for b in self.widths}

    def measured(self, chosen: Mapping[int, int]) -> NDArray[np.float64]:
        """The error of the scores against the source's, every candidate at its width, on the samples that judge."""
        plan = self._plan(chosen)
        return self.trials.against_source(self.corrector.rewrite(self.trials.source, plan), plan)


class _Narrowing:
    """Puts codes of one grid on another of fewer bits and back, and sums what that changes.

    Args:
        wide: the plan that the codes come from.
        narrow: the same tensor's at the width.
        bits: that width.
    """

    def __init__(self, wide: ActivationPlan, narrow: ActivationPlan, bits: int) -> None:
        self._step = _step(wide.params, wide.gain) / _step(narrow.params, narrow.gain)
        self._unit, self._limits, self._type = _step(wide.params, wide.gain), limits(bits), wide.params.dtype
        self.total = 0.0

    def __call__(self, codes: NDArray[Any]) -> NDArray[Any]:
        """The codes that stand for what the narrower grid would hold."""
        changed = reexpress(reexpress(codes, self._step, *self._limits), 1 / self._step, *code_limits(self._type))
        self.total += float(((changed - codes) ** 2).sum()) * self._unit**2
        return changed.astype(codes.dtype)


def _step(params: QuantParams, gain: float) -> float:
    """Of a grid, in real units of the source."""
    return float(np.float64(params.scale[0])) / gain
