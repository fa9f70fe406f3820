"""Composes the corrections: plans with what they ask for, runs the layer pass, keeps what helps on samples held back."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.statistics import Calibration
from tf_requant.calibration.synthetic import synthetic_codes
from tf_requant.corrections import ALIGNMENT, CORRECTIONS, EQUALIZATION, LAYERWISE, MOMENTS
from tf_requant.corrections.alignment import align
from tf_requant.corrections.equalization import equalize
from tf_requant.corrections.moments import preserve_power
from tf_requant.errors import UsageError
from tf_requant.io.data import feed
from tf_requant.model.graph import Graph, Model
from tf_requant.model.verify import check
from tf_requant.numerics.arithmetic import Arithmetic
from tf_requant.pipeline.calibrate import macs
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.lanes import is_clear
from tf_requant.pipeline.reconstruct import Outcome, Pass, Progress, Samples, floors
from tf_requant.plan import Plan
from tf_requant.planning.planner import plan_model
from tf_requant.planning.wishes import Wishes
from tf_requant.rewrite.rewriter import apply
from tf_requant.simulator.ops import KERNELS
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.targets import Target

HELD_BACK = 5
"""One sample in this many judges the corrections and takes no part in them."""
CLEAR = 0.5
"""An error below this share of what it was is a clear gain; a smaller one is held against that of bias correction alone."""
SYNTHETIC = 6
"""Samples of noise that stand in for data; two of them judge."""
_SYNTHETIC_MACS = 4e9
"""What synthetic samples may cost in multiplications, so that a conversion without data takes seconds."""


@dataclass(frozen=True)
class Corrected:
    """A corrected plan.

    Attributes:
        plan: the plan.
        applied: the corrections that are in it, by name.
        note: one sentence on what was measured; empty where nothing was.
        learned: whether the calibration data shaped it, so that evaluating on them would flatter.
        errors: of the scores on each sample that judged, over the squared value of all, float64[samples]; empty where none did.
    """

    plan: Plan
    applied: tuple[str, ...]
    note: str = ""
    learned: bool = False
    errors: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Corrector:
    """What every step of the composition needs.

    Attributes:
        source: the source model.
        target: the accelerator.
        asked: corrections by name.
        named: whether the user named them, so that they are kept whatever is measured.
        wishes: the user's overrides, the widths that were chosen among them.
        progress: called with (steps done, steps in all).
    """

    source: Model
    target: Target
    asked: tuple[str, ...]
    named: bool
    wishes: Wishes = Wishes()
    progress: Progress | None = None

    def planned(self, calibration: Calibration | None, thresholds: bool) -> Plan:
        """The plan ahead of every correction.

        Args:
            calibration: of the source, or None.
            thresholds: whether its histograms choose thresholds.
        """
        return plan_model(self.source, self.target, self.wishes, calibration, thresholds)

    def rewrite(self, source: Model, plan: Plan) -> Model:
        """What a plan makes of the source (under whatever names), verified."""
        return check(apply(source, plan))

    def correct(self, calibration: Calibration | None) -> Corrected:
        """The plan with every correction that was asked for and, unless it was named, helps."""
        plain, before = self._plan(None)
        layerwise = tuple(n for n in self.asked if n in LAYERWISE)
        if not moves(plain) and not floors(self.target.arithmetic):
            return Corrected(plain, before, "every value is exact: there is nothing to correct" if calibration else "")
        if calibration is None:
            return self._without_data(plain, before) if layerwise else Corrected(plain, before)
        if not self.named and len(calibration) < HELD_BACK:
            count = f"{len(calibration)} different calibration samples"
            few = f"{count} are too few to learn from and to judge by: nothing was learned from them"
            alone = self._without_data(plain, before)
            return replace(alone, note="; ".join(filter(None, (few, alone.note))))
        if not set(self.asked) - set(before):
            return Corrected(plain, before, "the corrections that were asked for use no data")
        plan, useless = self._plan(calibration)[0], []
        if self.target.activation.scale != "power_of_two":
            useless.append("folding")
        activations = plan.graphs[0].activations.values()
        if all(a.alignment is None for a in activations):
            useless.append(ALIGNMENT)
        if all(a.channel_gains is None for a in activations) and not self.named:
            useless.append(EQUALIZATION)
        applied = tuple(n for n in self.asked if n not in useless)
        return self._judged(plain, before, plan, applied, self.samples(calibration))

    def _plan(self, calibration: Calibration | None) -> tuple[Plan, tuple[str, ...]]:
        observed = calibration
        if calibration is not None and "folding" not in self.asked:
            observed = replace(calibration, noise={})
        plan, applied = self.planned(observed, "thresholds" in self.asked), []
        if EQUALIZATION in self.asked and self.named and self.target.weight.codebook is not None:
            raise UsageError(f"equalization would leave the codebooks of target {self.target.name}: leave it out")
        if ALIGNMENT in self.asked and calibration is not None:
            plan = align(self.source, plan, calibration, self.target)
            applied.append(ALIGNMENT)
        if EQUALIZATION in self.asked and calibration is not None:
            plan = equalize(self.source, plan, calibration, self.target)
            applied.append(EQUALIZATION)
        for name in self.asked:
            if name in CORRECTIONS:
                plan = CORRECTIONS[name](self.source, plan)
                applied.append(name)
        if MOMENTS in self.asked:
            fitted = preserve_power(self.source, plan, self.target)
            if self.named or fitted is not plan:
                applied.append(MOMENTS)
            plan = fitted
        return plan, tuple(applied)

    def _without_data(self, plan: Plan, before: tuple[str, ...]) -> Corrected:
        graph = self.source.main
        count = min(SYNTHETIC, int(_SYNTHETIC_MACS / max(1, macs(graph))))
        if count < 2 or not _runs_here(graph):
            why = "is too large to be run in seconds" if count < 2 else "takes floats or single numbers, or has ops for a host"
            return Corrected(plan, before, f"bias: left out without calibration data, since the model {why}")
        judges = max(1, count // 3)
        made = {
            t: synthetic_codes((1, *graph.tensors[t].shape[1:]), graph.tensors[t].dtype, count, t) for t in graph.inputs
        }
        calibration = Calibration("", {graph.tensors[t].name: np.concatenate(made[t]) for t in graph.inputs})
        try:
            return self._judged(plan, before, plan, (*before, "bias"), self.samples(calibration, judges), "synthetic ")
        except UsageError as error:
            return Corrected(plan, before, f"bias: left out, since the model cannot be run one sample at a time ({error})")

    def _judged(
        self,
        plain: Plan,
        before: tuple[str, ...],
        plan: Plan,
        applied: tuple[str, ...],
        samples: Callable[[Model], Samples],
        kind: str = "",
        known: tuple[Outcome, Plan] | None = None,
    ) -> Corrected:
        """Runs the pass, and the plan without it (unless that is known) on the samples that judge; the better one."""
        layerwise = frozenset(applied) & frozenset(LAYERWISE)
        after, corrected, judges = self._run(plan, layerwise, samples, False)
        what = ", ".join(n for n in applied if n not in before) or "nothing"
        if not judges:
            note = f"{what}: kept unjudged, since fewer than {HELD_BACK} samples leave none to hold back"
            return Corrected(corrected, applied, note, not kind)
        unchanged, base = known or self._run(plain, frozenset(), samples, True)[:2]
        better, alone = after.error < unchanged.error, None
        if not self.named and layerwise != {"bias"} and after.error > CLEAR * unchanged.error:
            # All of it together gains little or nothing: its most robust part alone may gain more. Few samples judge, so
            # what is better on average elsewhere stays unless it clearly loses, to the model without it or to that part.
            alone = self._judged(plain, before, plain, (*before, "bias"), samples, kind, (unchanged, base))
        beaten = alone is not None and (not better or is_clear(after.errors - alone.errors, after.errors))
        keep = (self.named or better) and not beaten
        outcome, result, names = (after, corrected, applied) if keep else (unchanged, base, before)
        kept, left = ("kept", "left out, since bias alone gains more") if better else ("kept as asked", "left out")
        word = kept if keep else left
        note = (
            f"{what}: {word}; the scores' squared error on {judges} {kind}samples held back goes from "
            f"{decibels(unchanged.error)} to {decibels(after.error)} dB of their own"
        )
        if alone is not None and beaten:
            return replace(alone, note=f"{note}. Then {alone.note}")
        return Corrected(_with_measured(result, outcome), names, note, keep and not kind, outcome.errors)

    @property
    def arithmetic(self) -> Arithmetic:
        """In what the result runs while it is corrected."""
        return arithmetic_of(self.target)

    def judged_errors(self, plan: Plan, samples: Callable[[Model], Samples]) -> NDArray[np.float64]:
        """Of the scores on each sample that judges, over the squared value of all, float64[samples]."""
        return self._run(plan, frozenset(), samples, True)[0].errors

    def _run(
        self, plan: Plan, methods: frozenset[str], samples: Callable[[Model], Samples], judging: bool
    ) -> tuple[Outcome, Plan, int]:
        # Names tell tensors apart in the pass, and a file's may repeat.
        source = with_indices_for_names(self.source)
        result = self.rewrite(source, plan)
        found = samples(result)
        run = Pass(source, result, plan.graphs[0], self.target, methods, arithmetic_of(self.target), self.named)
        outcome = run.run(found.only_judges() if judging else found, self.progress)
        constants = {**plan.graphs[0].constants, **outcome.constants}
        refined = Plan(plan.target, (plan.graphs[0].with_(constants=constants), *plan.graphs[1:]))
        return outcome, refined, found.judges

    def samples(self, calibration: Calibration, judges: int | None = None) -> Callable[[Model], Samples]:
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


def arithmetic_of(target: Target) -> Arithmetic:
    """In what the result runs while it is corrected: TFLite's, or the device's own where that floors or clips at fewer bits."""
    return target.arithmetic if floors(target.arithmetic) or min(target.activation.bits) < 8 else TFLITE_REF


def moves(plan: Plan) -> bool:
    """Whether the plan moves any value at all."""
    graph = plan.graphs[0]
    moved = any(a.error for a in graph.activations.values())
    return moved or any(c.codes is not None or c.error or not np.all(np.equal(c.step, 1.0)) for c in graph.constants.values())


def _runs_here(graph: Graph) -> bool:
    inputs = [graph.tensors[t] for t in graph.inputs]
    fed = all(t.is_activation and t.shape for t in inputs)
    return fed and all(op.code in KERNELS for op in graph.ops)


def with_indices_for_names(model: Model) -> Model:
    """The model with each tensor of the main graph named by its index: names in a file may repeat."""
    tensors = tuple(t.with_(name=str(i)) for i, t in enumerate(model.main.tensors))
    return model.with_(graphs=(model.main.with_(tensors=tensors), *model.graphs[1:]))


def _with_measured(plan: Plan, outcome: Outcome) -> Plan:
    """The plan with what each tensor's error was on the samples that judged."""
    main = plan.graphs[0]
    activations = {
        t: replace(a, measured=outcome.tensors.get(str(t))) for t, a in main.activations.items()
    }
    return Plan(plan.target, (main.with_(activations=activations), *plan.graphs[1:]))


def decibels(error: float) -> str:
    """A relative squared error in dB, to a tenth."""
    return f"{10 * np.log10(error):.1f}" if error > 0 else "-inf"

