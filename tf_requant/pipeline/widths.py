"""How many bits each layer's weights, or each activation, need: measured without labels, chosen exactly, then refined.

HMQ (arXiv 2007.09952) learns a width for each tensor while it trains; here the start is a model that works. Each layer, or
in a choice of their own each activation, is put to each width alone, behind and ahead of everything at its widest, and what
that does to the scores is measured on calibration samples. Any change also lets the codes behind it round otherwise; that part
is as large for one bit as for four and does not add up, so it is told apart: what grows with the error of what is written is
the width's. Those errors add up, so the widths of least error within a budget are a knapsack, solved exactly; then exchanges
between two are tried, on other samples and against the source.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.statistics import Calibration
from tf_requant.errors import UsageError
from tf_requant.pipeline.activation_errors import ActivationErrors, activations_of, codes_of
from tf_requant.pipeline.calibrate import products
from tf_requant.pipeline.correct import HELD_BACK, Corrector, decibels
from tf_requant.pipeline.lanes import is_clear
from tf_requant.pipeline.reconstruct import Progress
from tf_requant.pipeline.trials import Trials
from tf_requant.pipeline.width_errors import WidthErrors, layers_of
from tf_requant.pipeline.width_training import TrainedWidths
from tf_requant.plan import ACTIVATIONS, WEIGHTS, WidthFrontier, WidthPlan, stored_bits
from tf_requant.planning.allocation import Item, allocate
from tf_requant.planning.widths import Asked, asked_widths

__all__ = ["Search", "asked_widths", "choose_widths"]

NOUNS = {ACTIVATIONS: "activations"}
"""What is chosen for, by what a budget limits; layers elsewhere."""
EXCHANGES = 24
"""Exchanges of bits between two layers that are tried at most."""
_STEPS = 46
"""Budgets of the frontier, in hundredths of the widest down from 100."""


def choose_widths(
    corrector: Corrector,
    asked: Asked,
    calibration: Calibration | None,
    state: Path | None = None,
    progress: Progress | None = None,
    trained: bool = False,
) -> WidthPlan:
    """The widths that were asked for: one everywhere, or those of least error within a budget.

    Args:
        corrector: the source, the target, and how plans are made and applied.
        asked: the widths and the budget, of weights or of activations.
        calibration: samples; widths are chosen by what they measure.
        state: a file that keeps what was measured.
        progress: called with (steps done, steps in all) of each part.
        trained: whether weights' widths are learned by gradient (extra `tensorflow`) instead of measured one by one.

    Raises:
        UsageError: nothing to choose for, nothing to choose by, or a budget that no width meets.
    """
    elements, widest = _elements(corrector, asked.kind)
    _refuse_nothing(asked, elements)
    if asked.budget is None:
        coded = _coded(corrector, asked.kind)
        return WidthPlan(dict.fromkeys(elements, asked.widths[0]), elements, widest, kind=asked.kind, codebook=coded)
    if calibration is None:
        raise UsageError("--budget measures what each width loses: give calibration data (--calibration)")
    if len(calibration) < HELD_BACK:
        raise UsageError(
            f"--budget measures on some samples and judges by others: {len(calibration)} are too few, give at least {HELD_BACK}"
        )
    if trained and asked.kind != ACTIVATIONS:
        costs = costs_of(corrector, elements, asked.kind, (*asked.widths, widest))
        blocks = TrainedWidths(corrector, asked.widths, calibration, asked.budget, costs, progress)
        return Search(blocks, progress, asked.kind).run(asked.budget)
    measure = ActivationErrors if asked.kind == ACTIVATIONS else WidthErrors
    candidates = measure(corrector, asked.widths, calibration, state, progress)
    _refuse_nothing(asked, candidates.elements)  # what the rewrite dropped is none
    return Search(candidates, progress, asked.kind).run(asked.budget)


def _refuse_nothing(asked: Asked, elements: Mapping[int, int]) -> None:
    what = "int8 activation between layers, with zero point 0 and a name of its own," if asked.kind == ACTIVATIONS else ""
    if not elements:
        raise UsageError(f"{asked.flag} has nothing to choose for: no {what or 'layer with weights'} is on the accelerator")


def _elements(corrector: Corrector, kind: str) -> tuple[dict[int, int], int]:
    """What can be chosen for, with how many elements each has, and the target's widest width."""
    graph, target = corrector.source.main, corrector.target
    if kind == ACTIVATIONS:
        return codes_of(graph, activations_of(graph, corrector.planned(None, False).graphs[0], target)), max(target.activation.bits)
    return layers_of(corrector.source, corrector), max(target.weight.widths)


def costs_of(corrector: Corrector, elements: Mapping[int, int], kind: str, widths: Iterable[int]) -> dict[int, dict[int, float]]:
    """What each takes at each width: bits, or a layer's products at their cost in the target's table."""
    if kind in (WEIGHTS, ACTIVATIONS):
        coded = _coded(corrector, kind)
        return {i: {b: float(stored_bits(size, b, coded)) for b in widths} for i, size in elements.items()}
    table, graph = corrector.target.weight.costs[kind], corrector.source.main
    return {i: {b: products(graph, i) * table[str(b)] for b in widths} for i in elements}


def _coded(corrector: Corrector, kind: str) -> bool:
    """Whether widths are those of indices into a table of each layer's own."""
    return kind != ACTIVATIONS and corrector.target.weight.codebook is not None


class Candidates(Protocol):
    """What layers, or activations, do to the scores at each width.

    Attributes:
        errors: by candidate and width, what the width adds to the scores' squared error, over their squared value.
        elements: weights, or codes, of each.
        widths: those that are measured.
        widest: the target's widest width.
        how: they were found, in a few words.
        predicts: whether the errors of a plan's parts predict its own; otherwise they only say what is likely.
    """

    corrector: Corrector
    trials: Trials
    errors: dict[int, dict[int, float]]
    elements: dict[int, int]
    widths: tuple[int, ...]
    widest: int
    predicts: ClassVar[bool]

    @property
    def how(self) -> str:
        """In a few words."""

    def measure(self) -> None:
        """Fills `errors`, once."""

    def measured(self, chosen: Mapping[int, int]) -> NDArray[np.float64]:
        """The error of the scores against the source's, everything at its width: each judging sample's part."""


@dataclass
class Search:
    """The choice of widths for one model and target.

    Args:
        candidates: what each does to the scores at each width; measured where that has not been done.
        progress: called with (exchanges done, in all).
        kind: what a budget limits: `weights`, `activations`, or a cost of the target's table for weights.
    """

    candidates: Candidates
    progress: Progress | None = None
    kind: str = WEIGHTS

    @cached_property
    def _costs(self) -> dict[int, dict[int, float]]:
        one = self.candidates
        return costs_of(one.corrector, one.elements, self.kind, (*one.widths, one.widest))

    @property
    def whole(self) -> float:
        """What everything takes at that width."""
        return sum(self.cost(i, self.candidates.widest) for i in self.candidates.elements)

    def cost(self, origin: int, bits: int) -> float:
        """What one takes at a width."""
        return self._costs[origin][bits]

    def run(self, budget: float) -> WidthPlan:
        """The widths of least error whose bytes are at most so large a share of the widest width's.

        Raises:
            UsageError: even the narrowest are too large.
        """
        one, chosen, whole = self.candidates, self.within(budget), self.whole
        first = one.measured(chosen)
        chosen, measured, kept = self._exchanged(chosen, first, budget * whole)
        widths, what = ", ".join(map(str, sorted(one.widths))), NOUNS.get(self.kind, "layers")
        spent = sum(self.cost(i, b) for i, b in chosen.items()) / whole
        limited, coded = "bytes" if self.kind in (WEIGHTS, ACTIVATIONS) else self.kind, _coded(one.corrector, self.kind)
        width = f"{widths} bits{' of an index' if coded else ''}"
        note = (
            f"widths: {len(one.elements)} {what} among {width}, {one.how}; "
            f"they take {spent:.3f} of the {limited} at {one.widest}; {kept} exchange{'' if kept == 1 else 's'} of bits "
            f"between them took the scores' squared error on {len(one.trials.parts()[1])} others from {decibels(first.sum())} to "
            f"{decibels(measured.sum())} dB of their own, ahead of the corrections"
        )
        error = float(measured.sum())
        known = (self.predicted(chosen), error, self._frontier(whole)) if one.predicts else (None, error, ())
        return WidthPlan(chosen, one.elements, one.widest, *known, note, self.kind, spent, coded)

    def _allocated(self, bits: float) -> dict[int, int] | None:
        order = sorted(self.candidates.elements)
        options = [sorted(self.candidates.errors[i]) for i in order]
        errors = self.candidates.errors
        items = [
            Item(np.array([self.cost(i, b) for b in widths]), np.array([errors[i][b] for b in widths]))
            for i, widths in zip(order, options)
        ]
        found = allocate(items, bits)
        return None if found is None else {i: widths[k] for i, widths, k in zip(order, options, found)}

    def _frontier(self, whole: float) -> tuple[WidthFrontier, ...]:
        found: list[WidthFrontier] = []
        elements, coded = self.candidates.elements, _coded(self.candidates.corrector, self.kind)
        least = sum(min(self.cost(i, b) for b in self.candidates.errors[i]) for i in elements)
        budgets = [step / 100 * whole for step in range(100, 100 - 2 * _STEPS, -2)]
        for budget in [*(b for b in budgets if b > least), least]:
            chosen = self._allocated(budget)
            assert chosen is not None
            spent = sum(self.cost(i, b) for i, b in chosen.items())
            stored = sum(stored_bits(elements[i], b, coded) for i, b in chosen.items()) / 8
            layers = {b: sum(c == b for c in chosen.values()) for b in sorted(set(chosen.values()))}
            point = WidthFrontier(spent / whole, stored, self.predicted(chosen), layers)
            if not found or point != found[-1]:
                found.append(point)
        return tuple(found)

    def within(self, share: float) -> dict[int, int]:
        """The widths of least predicted error within a share of the widest width's bytes.

        Raises:
            UsageError: even the narrowest are too large.
        """
        one = self.candidates
        least = sum(min(self.cost(i, b) for b in one.widths) for i in one.elements) / self.whole
        chosen = None
        if one.predicts or least <= share:  # nobody trains for minutes to be told that it was in vain
            one.measure()
            chosen = self._allocated(share * self.whole)
            least = sum(min(self.cost(i, b) for b in one.errors[i]) for i in one.elements) / self.whole
        if chosen is None:
            what = "bytes" if self.kind in (WEIGHTS, ACTIVATIONS) else self.kind
            flag = Asked((), kind=self.kind).flag
            raise UsageError(
                f"--budget={self.kind}:{share:g} cannot be met: at {min(self.candidates.widths)} bits wherever that may be, they "
                f"take {least:.4g} of the {what} at {self.candidates.widest}; give at least {self.kind}:{_ceiling(least):g}, "
                f"or narrower {flag}"
            )
        return chosen

    def predicted(self, chosen: Mapping[int, int]) -> float:
        """Squared error of the scores over their squared value, as the layers' own add up."""
        return float(sum(self.candidates.errors[i][b] for i, b in chosen.items()))

    def _exchanged(
        self, chosen: dict[int, int], error: NDArray[np.float64], most: float
    ) -> tuple[dict[int, int], NDArray[np.float64], int]:
        """Moves bits from one layer to another where the whole model is better for it."""
        kept = 0
        tried: set[tuple[tuple[int, int], ...]] = set()
        for number in range(EXCHANGES):
            best = self._most_promising(chosen, most, tried)
            if best is None:
                break
            tried.add(tuple(sorted(best.items())))
            found = self.candidates.measured(best)
            if is_clear(error - found, error):
                chosen, error, kept = best, found, kept + 1
            if self.progress is not None:
                self.progress(number + 1, EXCHANGES)
        return chosen, error, kept

    def _most_promising(
        self, chosen: dict[int, int], most: float, tried: set[tuple[tuple[int, int], ...]]
    ) -> dict[int, int] | None:
        """Of all exchanges between two layers within the budget, the untried one of least predicted error."""
        spent = sum(self.cost(i, b) for i, b in chosen.items())
        moves = [
            (self.candidates.errors[i][b] - self.candidates.errors[i][chosen[i]], self.cost(i, b) - self.cost(i, chosen[i]), i, b)
            for i in chosen
            for b in self.candidates.errors[i]
            if b != chosen[i]
        ]
        ups = [m for m in moves if m[1] > 0]
        downs = [(0.0, 0, -1, 0), *(m for m in moves if m[1] < 0)]
        pairs = sorted(
            (up[0] + down[0], up[2], up[3], down[2], down[3])
            for up in ups
            for down in downs
            if up[2] != down[2] and spent + up[1] + down[1] <= most
        )
        for _, i, more, j, fewer in pairs:
            found = {**chosen, i: more, **({j: fewer} if j >= 0 else {})}
            if tuple(sorted(found.items())) not in tried:
                return found
        return None


def _ceiling(share: float) -> float:
    return float(np.ceil(share * 1000) / 1000)
