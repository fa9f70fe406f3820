"""What re-quantization does not explain: constants and ranges that are wrong rather than rounded.

A layer is suspected only where its constants, its output when run alone and its output in the running model all tell the
same: a bias that a correction moved leaves the running model's mean right, a filter that was rounded stays within a step of
the source's, and a weight that was clipped stands at the end of its type.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.ops import info
from tf_requant.model.quant import code_limits
from tf_requant.numerics.codebook import nearest
from tf_requant.validation.constants import bias_moves, filters
from tf_requant.validation.correspondence import Correspondence
from tf_requant.validation.layers import LayerStatistics

FAULT = 1.0
"""Steps of the output from which on a suspicion may be called a fault."""
_NORMAL = 1.4826
"""The standard deviation of normal values over the median of their deviations."""
_GROSS = 5.0
"""Steps that are wrong by themselves, whatever the other layers are."""
_OUTLYING, _LEAST = 5.0, 0.05
"""Standard deviations from which on a layer is an outlier, and the least of them, in steps."""
_ROUNDED = 1.0
"""Root mean square deviation of a filter's codes that rounding, upward or downward, explains."""
_SHARED = 4
"""Weights a code from which on a filter's codes are all that it may have, and not just those that it happens to need."""
_SPARSE = 2
"""Whole steps a code from which on there are others between a filter's codes that it does without."""
_FOLLOWS = 0.25
"""How far from one the slope of weights may be that follow the source's."""
_HALF = 0.5
"""Steps from which on a clipped weight lost something."""
_MOST = 0.5
"""The share of a move that is left as error, or of a channel's weights that is wrong, from which on it is suspicious."""
_EXCEPTIONS = 0.1
"""Share of tensors with a zero point up to which a model counts as symmetric."""
Array = NDArray[np.float64]


class Evidence(str, Enum):
    """What a suspicion rests on."""

    RECORD = "record"  # the constant is not the one that the conversion wrote
    MEASURED = "measured"  # nobody says how it should be, and outputs are off by as much
    MEANT = "meant"  # a correction moved it on purpose, and outputs are off: coarse judgment, but no fault


@dataclass(frozen=True)
class Suspicion:
    """What is wrong with one layer, the worst channel of it.

    Attributes:
        steps: how many steps of the output only a wrong constant explains, where no clamp hides them.
        weight: the same by the root of the share of the channel's elements that no clamp hides.
        why: one sentence.
        evidence: what it rests on.
    """

    steps: float
    weight: float
    why: str
    evidence: Evidence = Evidence.MEASURED


def suspicions(meet: Correspondence, statistics: dict[int, LayerStatistics]) -> dict[int, Suspicion]:
    """The worst suspicion of each op of the candidate, by op index; ops that nothing speaks against are left out.

    Args:
        meet: the candidate held against its source.
        statistics: what each tensor of the candidate does wrong, by tensor index.
    """
    found: dict[int, Suspicion] = {}
    symmetric = _symmetric(meet)
    for index, op in enumerate(meet.result.ops):
        cases = [_range(meet, t, symmetric) for t in op.outputs if meet.comparable(t)]
        output = op.outputs[0] if op.outputs else -1
        if index in meet.ops and output in statistics and statistics[output].isolated.count:
            cases += _constants(meet, index, statistics[output])
        # What may be a fault comes before what a correction did on purpose, however far.
        worst = max((c for c in cases if c is not None), key=lambda c: (c.evidence is not Evidence.MEANT, c.weight), default=None)
        if worst is not None and worst.steps > 0:
            found[index] = worst
    return found


def faulty(suspected: Mapping[int, Suspicion], layers: int) -> set[int]:
    """The ops whose suspicion is beyond what re-quantization does, by index: outliers among their kin.

    A correction without data guesses means, and so moves many biases too far: none of those is a fault.

    Args:
        suspected: by op index.
        layers: how many layers there are, those that nothing speaks against included.
    """
    measured = [case.weight for case in suspected.values() if case.evidence is Evidence.MEASURED]
    weights = np.zeros(max(layers, len(measured), 1))
    weights[: len(measured)] = measured
    middle = float(np.median(weights))
    spread = float(np.median(np.abs(weights - middle))) * _NORMAL + _LEAST

    def stands_out(case: Suspicion) -> bool:
        return case.weight >= _GROSS or (case.weight - middle) / spread >= _OUTLYING

    return {
        index
        for index, case in suspected.items()
        if case.steps >= FAULT
        and (case.evidence is Evidence.RECORD or (case.evidence is Evidence.MEASURED and stands_out(case)))
    }


def _constants(meet: Correspondence, index: int, seen: LayerStatistics) -> list[Suspicion | None]:
    """What speaks against a layer's filter and bias."""
    op = meet.result.ops[index]
    row = info(op)
    if row is None or row.filter is None:
        return []
    cases: list[Suspicion | None] = []
    found = filters(meet, index)
    if found is not None:
        cases.append(_filter(meet.result.tensors[op.inputs[row.filter]], found[0], row.channel_axis, seen))
    moved = bias_moves(meet, index)
    if moved is not None and moved.size == seen.running.channels:
        meant = meet.meant(index, moved.size)
        cases.append(_bias(moved, seen, Evidence.MEASURED if meant is None else Evidence.MEANT))
        if meant is not None:
            cases.append(_unrecorded(moved - meant, seen))
    return cases


def _filter(weights: Tensor, wanted: Array, axis: int, seen: LayerStatistics) -> Suspicion | None:
    """A channel whose weights follow the source's at another slope, farther off than rounding puts them.

    Args:
        weights: the candidate's filter.
        wanted: the source's in the candidate's real units, of its shape.
        axis: the channels'.
        seen: what the output does wrong.
    """
    assert weights.quant is not None and weights.data is not None
    scale, point = weights.quant.along(len(weights.shape))
    goal, got = wanted / scale, weights.data.astype(np.float64) - point
    rest = tuple(a for a in range(goal.ndim) if a != axis)
    clipped = _clipped(goal, got, code_limits(weights.dtype), point, rest)
    kept, off = np.where(clipped, 0.0, goal), np.where(clipped, 0.0, got - goal)
    power, error = np.maximum(np.square(kept).sum(rest), 1e-12), np.square(off).sum(rest)
    slope = 1 + (off * kept).sum(rest) / power
    spread = np.sqrt(error / np.maximum((~clipped).sum(rest), 1))
    if slope.size != seen.running.channels:
        return None
    alone, running = np.sqrt(seen.isolated.squares), np.sqrt(seen.running.squares)
    # What is left of a clipped channel was moved to make up for what it lost.
    lost = (clipped & (np.abs(goal - got) > _HALF)).any(rest)
    share = np.where(lost, 0.0, np.minimum(1.0, np.sqrt(error / power)))
    explained = np.maximum(_ROUNDED, _coarseness(np.where(clipped, got, goal), got, rest))
    steps = np.where((spread > explained) & (share >= _MOST), np.minimum(alone, running) * share, 0.0)
    channel = int((steps * seen.running.shares).argmax())
    if steps[channel] == 0:
        return None
    return Suspicion(
        float(steps[channel]), float(steps[channel] * seen.running.shares[channel]),
        f"filter channel {channel} is {slope[channel]:.2f} times the source's, {spread[channel]:.1f} steps off where rounding "
        f"explains {explained[channel]:.3g}: its output is off by {running[channel]:.1f} steps",
    )


def _clipped(goal: Array, got: Array, ends: tuple[int, int], point: Array, rest: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which weights stand at the end of their type, or of a narrower width, and belong there or beyond.

    The file does not tell a width. Where all codes fit one, its ends count for channels whose other weights follow the source's:
    in a filter that is too small as a whole, they don't either.

    Args:
        goal: the weights in steps.
        got: the codes less their zero point.
        ends: of the type.
        point: the zero point.
        rest: the axes that are no channel's.
    """
    low, high = ends
    found = ((got >= high - point - 1) & (goal >= got)) | ((got <= low - point + 1) & (goal <= got))
    most = int(np.abs(got).max(initial=0))
    end = 2 ** most.bit_length() - 1
    if low == 0 or 2 * most > high or most < end:
        return found
    narrow = ((got >= end) & (goal >= got)) | ((got <= -end) & (goal <= got))
    inside = np.where(narrow, 0.0, goal)
    power = np.maximum(np.square(inside).sum(rest, keepdims=True), 1e-12)
    slope = (inside * np.where(narrow, 0.0, got)).sum(rest, keepdims=True) / power
    return np.asarray(found | (narrow & (np.abs(slope - 1) < _FOLLOWS)))


def _coarseness(goal: Array, got: Array, rest: tuple[int, ...]) -> Array:
    """What rounding explains where a filter has few codes (a codebook's levels), by channel; zero where it has no few.

    Upward or downward, as for whole steps, which err by 1 / sqrt(12) to the nearest and by one either way; and as much power
    again for what corrections move with such steps (seen: 1.22 of the first at 3 bits).

    Args:
        goal: the weights in steps.
        got: the codes.
        rest: the axes that are no channel's.
    """
    levels = np.unique(got)
    if levels.size * _SHARED > got.size or levels.size * _SPARSE > np.ptp(levels):
        return np.zeros_like(np.square(goal).sum(rest))
    return np.asarray(np.sqrt(2 * 12 * np.square(goal - nearest(goal, levels)).mean(rest)))


def _bias(steps: Array, seen: LayerStatistics, evidence: Evidence) -> Suspicion | None:
    """A bias that was moved, and an output whose mean is wrong by as much.

    Args:
        steps: the candidate's bias less the source's, steps of the output, float64[C].
        seen: what the output does wrong.
        evidence: whether a conversion moved it on purpose.
    """
    alone, running = seen.isolated.means, seen.running.means
    agree = (np.sign(steps) == np.sign(running)) & (np.sign(alone) == np.sign(running))
    least = np.minimum(np.minimum(np.abs(steps), np.abs(running)), np.abs(alone))
    # A correction that overshoots by a little is no fault: what counts is the share of the move that is left as error.
    left = np.minimum(1.0, np.abs(running) / np.maximum(np.abs(steps), 1e-12))
    found = np.where(agree & (left >= _MOST), least * left, 0.0)
    channel = int((found * seen.running.shares).argmax())
    if found[channel] == 0:
        return None
    by = "by its conversion " if evidence is Evidence.MEANT else ""
    return Suspicion(
        float(found[channel]), float(found[channel] * seen.running.shares[channel]),
        f"bias {channel} was moved {by}by {steps[channel]:+.1f} steps of the output, whose mean is off by {running[channel]:+.1f}",
        evidence,
    )  # fmt: skip


def _unrecorded(steps: Array, seen: LayerStatistics) -> Suspicion | None:
    """A bias that is not the one its conversion wrote: no mean has to be measured for that.

    Args:
        steps: the candidate's bias less what was written, steps of the output, float64[C].
        seen: what the output does wrong.
    """
    # Smaller ones are what a record leaves out.
    reach = np.where(np.abs(steps) >= FAULT, np.abs(steps) * seen.running.shares, 0.0)
    channel = int(reach.argmax())
    if reach[channel] == 0:
        return None
    return Suspicion(
        float(abs(steps[channel])), float(reach[channel]),
        f"bias {channel} was moved by {steps[channel]:+.1f} steps of the output since its conversion: the output's mean is "
        f"off by {seen.running.means[channel]:+.1f}",
        Evidence.RECORD,
    )  # fmt: skip


def _symmetric(meet: Correspondence) -> bool:
    """Whether the candidate's zero points are 0, or the lowest code, with few exceptions."""
    tensors = [meet.result.tensors[t] for t in meet.tensors if meet.comparable(t)]
    chosen = sum(t.quant is not None and int(t.quant.zero_point[0]) not in (0, code_limits(t.dtype)[0]) for t in tensors)
    return chosen <= len(tensors) * _EXCEPTIONS


def _range(meet: Correspondence, tensor: int, symmetric: bool) -> Suspicion | None:
    """A range that stands beside the source's: codes unused at one end, values out of reach at the other.

    In a model of symmetric tensors a zero point that is not zero is odd by itself.
    """
    ours, theirs = meet.result.tensors[tensor], meet.source.tensors[meet.tensors[tensor]]
    assert ours.quant is not None and theirs.quant is not None
    low, high = code_limits(ours.dtype)
    point = int(ours.quant.zero_point[0])
    if symmetric and point in (0, low):
        return None  # or all of it above zero: its zero point was not chosen
    step = float(theirs.quant.scale[0]) * float(np.max(meet.gains[tensor])) / float(ours.quant.scale[0])
    bottom, top = ((limit - int(theirs.quant.zero_point[0])) * step + point for limit in code_limits(theirs.dtype))
    if abs(bottom - low) < 0.5 and abs(top - high) < 0.5:
        return None  # the source's own range, kept
    if symmetric:
        odd = float(abs(point))
        return Suspicion(odd, odd, f"its zero point is {point} in a model whose other tensors have none")
    above, below = min(top - high, bottom - low), min(low - bottom, high - top)
    steps = max(above, below)
    if steps < 1:
        return None
    lost, unused = ("above", "below") if above >= below else ("below", "above")
    return Suspicion(
        steps, steps, f"its range is moved by {steps:.1f} steps: values {lost} it are out of reach, codes {unused} are unused "
        f"(zero point {point})",
    )  # fmt: skip
