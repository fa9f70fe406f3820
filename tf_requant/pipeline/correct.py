"""Composes the corrections: plans with what they ask for, runs the layer pass, keeps what helps on samples held back."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tf_requant.calibration.statistics import Calibration
from tf_requant.calibration.synthetic import synthetic_codes
from tf_requant.corrections import CORRECTIONS, EQUALIZATION, LAYERWISE
from tf_requant.corrections.equalization import equalize
from tf_requant.io.data import feed
from tf_requant.model.graph import Graph, Model
from tf_requant.numerics.arithmetic import Arithmetic
from tf_requant.numerics.rounding import Rounding
from tf_requant.pipeline.calibrate import macs
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.reconstruct import Outcome, Pass, Progress, Samples
from tf_requant.plan import Plan
from tf_requant.simulator.ops import KERNELS
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.targets import Target

HELD_BACK = 5
"""One sample in this many judges the corrections and takes no part in them."""
SYNTHETIC = 6
"""Samples of noise that stand in for data; two of them judge."""
_SYNTHETIC_MACS = 4e9
"""What synthetic samples may cost in multiplications, so that a conversion without data takes seconds."""
_BIASED = (Rounding.FLOOR, Rounding.TRUNCATE)


@dataclass(frozen=True)
class Corrected:
    """A corrected plan.

    Attributes:
        plan: the plan.
        applied: the corrections that are in it, by name.
        note: one sentence on what was measured; empty where nothing was.
        learned: whether the calibration data shaped it, so that evaluating on them would flatter.
    """

    plan: Plan
    applied: tuple[str, ...]
    note: str = ""
    learned: bool = False


@dataclass(frozen=True)
class Corrector:
    """What every step of the composition needs.

    Attributes:
        source: the source model.
        target: the accelerator.
        asked: corrections by name.
        named: whether the user named them, so that they are kept whatever is measured.
        planned: calibration (or None) -> plan.
        rewrite: plan -> result.
        progress: called with (steps done, steps in all).
    """

    source: Model
    target: Target
    asked: tuple[str, ...]
    named: bool
    planned: Callable[[Calibration | None], Plan]
    rewrite: Callable[[Plan], Model]
    progress: Progress | None = None

    def correct(self, calibration: Calibration | None) -> Corrected:
        """The plan with every correction that was asked for and, unless it was named, helps."""
        plain, before = self._plan(None)
        layerwise = tuple(n for n in self.asked if n in LAYERWISE)
        if not _changes(plain):
            return Corrected(plain, before, "every value is exact: there is nothing to correct" if calibration else "")
        if calibration is None:
            return self._without_data(plain, before) if layerwise else Corrected(plain, before)
        if not set(self.asked) - set(before):
            return Corrected(plain, before, "the corrections that were asked for use no data")
        observed = replace(
            calibration,
            histograms=calibration.histograms if "thresholds" in self.asked else {},
            noise=calibration.noise if "folding" in self.asked else {},
        )
        if "folding" in self.asked:  # weighing by noise needs the histograms, even where thresholds do not
            observed = replace(observed, histograms=calibration.histograms)
        plan = self._plan(observed)[0]
        return self._judged(plain, before, plan, self.asked, self._samples(calibration))

    def _plan(self, calibration: Calibration | None) -> tuple[Plan, tuple[str, ...]]:
        plan, applied = self.planned(calibration), []
        if EQUALIZATION in self.asked and calibration is not None:
            plan = equalize(self.source, plan, calibration.peaks)
            applied.append(EQUALIZATION)
        for name in self.asked:
            if name in CORRECTIONS:
                plan = CORRECTIONS[name](self.source, plan)
                applied.append(name)
        return plan, tuple(applied)

    def _without_data(self, plan: Plan, before: tuple[str, ...]) -> Corrected:
        graph = self.source.main
        count = min(SYNTHETIC, int(_SYNTHETIC_MACS / max(1, macs(graph))))
        if count < 2 or not _inputs_are_codes(graph) or not _runs_here(graph):
            why = "the model is too large, or partly for a host" if count < 2 or _inputs_are_codes(graph) else "it takes floats"
            return Corrected(plan, before, f"bias: left out, since {why}: give calibration data")
        judges = max(1, count // 3)
        made = {t: synthetic_codes(graph.tensors[t].shape, graph.tensors[t].dtype, count, t) for t in graph.inputs}
        calibration = Calibration("", {graph.tensors[t].name: np.concatenate(made[t]) for t in graph.inputs})
        return self._judged(plan, before, plan, (*before, "bias"), self._samples(calibration, judges), "synthetic ")

    def _judged(
        self,
        plain: Plan,
        before: tuple[str, ...],
        plan: Plan,
        applied: tuple[str, ...],
        samples: Callable[[Model], Samples],
        kind: str = "",
    ) -> Corrected:
        """Runs the pass, and the plan without it on the samples that judge; the better one."""
        layerwise = frozenset(applied) & frozenset(LAYERWISE)
        after, corrected, judges = self._run(plan, layerwise, samples, False)
        what = ", ".join(n for n in applied if n not in before) or "nothing"
        if not judges:
            note = f"{what}: kept unjudged, since fewer than {HELD_BACK} samples leave none to hold back"
            return Corrected(corrected, applied, note, not kind)
        unchanged, base, _ = self._run(plain, frozenset(), samples, True)
        better = after.error < unchanged.error
        keep = self.named or better
        outcome, result, names = (after, corrected, applied) if keep else (unchanged, base, before)
        word = "kept" if better else "kept as asked" if self.named else "left out"
        note = (
            f"{what}: {word}; the scores' squared error on {judges} {kind}samples held back goes from "
            f"{_decibels(unchanged.error)} to {_decibels(after.error)} dB of their own"
        )
        return Corrected(_with_measured(result, self.source.main, outcome), names, note, keep and not kind)

    def _run(
        self, plan: Plan, methods: frozenset[str], samples: Callable[[Model], Samples], judging: bool
    ) -> tuple[Outcome, Plan, int]:
        result = self.rewrite(plan)
        found = samples(result)
        run = Pass(self.source, result, plan.graphs[0], self.target, methods, _arithmetic(self.target), self.named)
        outcome = run.run(found.only_judges() if judging else found, self.progress)
        constants = {**plan.graphs[0].constants, **outcome.constants}
        refined = Plan(plan.target, (plan.graphs[0].with_(constants=constants), *plan.graphs[1:]))
        return outcome, refined, found.judges

    def _samples(self, calibration: Calibration, judges: int | None = None) -> Callable[[Model], Samples]:
        """Result -> the samples for both models, those that judge first."""
        ours = input_specs(self.source)
        count = len(calibration)
        held = [n for n in range(count) if n % HELD_BACK == HELD_BACK - 1] if judges is None else list(range(judges))
        order = [*held, *(n for n in range(count) if n not in set(held))]

        def samples(result: Model) -> Samples:
            theirs = input_specs(result)
            codes = [{spec.name: calibration.inputs[spec.name][n : n + 1] for spec in ours} for n in order]
            first = [{t: c[spec.name] for t, spec in zip(self.source.main.inputs, ours)} for c in codes]
            second = [
                {t: feed(c[a.name], a, b) for t, a, b in zip(result.main.inputs, ours, theirs)} for c in codes
            ]
            return Samples(first, second, len(held))

        return samples


def _arithmetic(target: Target) -> Arithmetic:
    """In what the result runs while it is corrected: TFLite's, or the device's own where that rounds to one side.

    A floor leaves every output half a step low on average: biases measured on the device take it back.
    """
    biased = any(stage.rounding in _BIASED for stage in target.arithmetic.requantizer.stages)
    return target.arithmetic if biased else TFLITE_REF


def _changes(plan: Plan) -> bool:
    """Whether the plan moves any value at all."""
    graph = plan.graphs[0]
    moved = any(a.error for a in graph.activations.values())
    return moved or any(c.codes is not None or not np.all(np.equal(c.step, 1.0)) for c in graph.constants.values())


def _inputs_are_codes(graph: Graph) -> bool:
    return all(graph.tensors[t].is_activation for t in graph.inputs)


def _runs_here(graph: Graph) -> bool:
    return all(op.code in KERNELS for op in graph.ops)


def _with_measured(plan: Plan, graph: Graph, outcome: Outcome) -> Plan:
    """The plan with what each tensor's error was on the samples that judged."""
    main = plan.graphs[0]
    activations = {
        t: replace(a, measured=outcome.tensors.get(graph.tensors[t].name)) for t, a in main.activations.items()
    }
    return Plan(plan.target, (main.with_(activations=activations), *plan.graphs[1:]))


def _decibels(error: float) -> str:
    return f"{10 * np.log10(error):.1f}" if error > 0 else "-inf"

