"""What re-quantization does not explain: constants and ranges that are wrong rather than rounded.

A layer is suspected only where its constants, its output when run alone and its output in the running model all tell the
same: a bias that a correction moved leaves the running model's mean right, a filter that was rounded stays within a step of
the source's, and a weight that was clipped stands at the end of its type.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.ops import info
from tf_requant.model.quant import code_limits
from tf_requant.validation.correspondence import Correspondence, Gain
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
_HALF = 0.5
"""Steps from which on a clipped weight lost something."""
_MOST = 0.5
"""The share of a move that is left as error, or of a channel's weights that is wrong, from which on it is suspicious."""
_EXCEPTIONS = 0.1
"""Share of tensors with a zero point up to which a model counts as symmetric."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Suspicion:
    """What is wrong with one layer, the worst channel of it.

    Attributes:
        steps: how many steps of the output only a wrong constant explains, where no clamp hides them.
        weight: the same by the root of the share of the channel's elements that no clamp hides.
        why: one sentence.
    """

    steps: float
    weight: float
    why: str


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
        worst = max((case for case in cases if case is not None), key=lambda case: case.weight, default=None)
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
    weights = np.zeros(max(layers, len(suspected), 1))
    weights[: len(suspected)] = [case.weight for case in suspected.values()]
    middle = float(np.median(weights))
    spread = float(np.median(np.abs(weights - middle))) * _NORMAL + _LEAST
    return {
        index
        for index, case in suspected.items()
        if case.steps >= FAULT and (case.weight >= _GROSS or (case.weight - middle) / spread >= _OUTLYING)
    }


def _constants(meet: Correspondence, index: int, seen: LayerStatistics) -> list[Suspicion | None]:
    """What speaks against a layer's filter and bias."""
    op, own = meet.result.ops[index], meet.source.ops[meet.ops[index]]
    row = info(op)
    if row is None or row.filter is None:
        return []
    cases: list[Suspicion | None] = []
    found = filters(meet, index)
    if found is not None:
        cases.append(_filter(meet.result.tensors[op.inputs[row.filter]], found[0], row.channel_axis, seen))
    out_gain = meet.gains[op.outputs[0]]
    if row.bias is not None and min(len(op.inputs), len(own.inputs)) > row.bias and op.inputs[row.bias] >= 0:
        bias, other = meet.result.tensors[op.inputs[row.bias]], meet.source.tensors[own.inputs[row.bias]]
        if bias.data is not None and other.data is not None and bias.quant is not None and other.quant is not None:
            cases.append(_bias(_reals(bias) - _reals(other) * np.broadcast_to(out_gain, other.shape), seen))
    return cases


def filters(meet: Correspondence, index: int) -> tuple[Array, Array] | None:
    """The real values of a layer's filter, (the source's with the gains around it, the candidate's); None where one is unread.

    Args:
        meet: the candidate held against its source.
        index: the candidate's op.
    """
    if index not in meet.ops:
        return None
    op, own = meet.result.ops[index], meet.source.ops[meet.ops[index]]
    row = info(op)
    if row is None or row.filter is None or min(len(op.inputs), len(own.inputs)) <= row.filter:
        return None
    weights, others = meet.result.tensors[op.inputs[row.filter]], meet.source.tensors[own.inputs[row.filter]]
    if not (_readable(weights) and _readable(others) and weights.shape == others.shape and op.outputs[0] in meet.gains):
        return None
    out_gain, in_gain = meet.gains[op.outputs[0]], meet.gains.get(op.inputs[row.data], np.asarray(1.0))
    last = len(weights.shape) - 1
    if out_gain.size not in (1, weights.shape[row.channel_axis]) or in_gain.size not in (1, weights.shape[last]):
        return None
    factor = _along(out_gain, row.channel_axis, weights) / _along(in_gain, last, weights)
    return _reals(others) * factor, _reals(weights)


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
    low, high = code_limits(weights.dtype)
    # What stands at the end of its type and belongs there, or beyond, was clipped.
    clipped = ((got >= high - point - 1) & (goal >= got)) | ((got <= low - point + 1) & (goal <= got))
    rest = tuple(a for a in range(goal.ndim) if a != axis)
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
    steps = np.where((spread > _ROUNDED) & (share >= _MOST), np.minimum(alone, running) * share, 0.0)
    channel = int((steps * seen.running.shares).argmax())
    if steps[channel] == 0:
        return None
    return Suspicion(
        float(steps[channel]), float(steps[channel] * seen.running.shares[channel]),
        f"filter channel {channel} is {slope[channel]:.2f} times the source's, {spread[channel]:.1f} steps off where rounding "
        f"explains {_ROUNDED:g}: its output is off by {running[channel]:.1f} steps",
    )


def _bias(moved: Array, seen: LayerStatistics) -> Suspicion | None:
    """A bias that was moved, and an output whose mean is wrong by as much.

    Args:
        moved: the candidate's bias less the source's, real units, float64[C].
        seen: what the output does wrong.
    """
    assert seen.result.quant is not None
    steps = moved.reshape(-1) / float(seen.result.quant.scale[0])
    alone, running = seen.isolated.means, seen.running.means
    if steps.size != running.size:
        return None
    agree = (np.sign(steps) == np.sign(running)) & (np.sign(alone) == np.sign(running))
    least = np.minimum(np.minimum(np.abs(steps), np.abs(running)), np.abs(alone))
    # A correction that overshoots by a little is no fault: what counts is the share of the move that is left as error.
    left = np.minimum(1.0, np.abs(running) / np.maximum(np.abs(steps), 1e-12))
    found = np.where(agree & (left >= _MOST), least * left, 0.0)
    channel = int((found * seen.running.shares).argmax())
    if found[channel] == 0:
        return None
    return Suspicion(
        float(found[channel]), float(found[channel] * seen.running.shares[channel]),
        f"bias {channel} was moved by {steps[channel]:+.1f} steps of the output, whose mean is off by {running[channel]:+.1f}",
    )


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


def _readable(weights: Tensor) -> bool:
    return weights.data is not None and weights.quant is not None and weights.data.shape == weights.shape


def _reals(constant: Tensor) -> Array:
    """A constant's real values, float64 of its shape."""
    assert constant.quant is not None and constant.data is not None
    scale, point = constant.quant.along(len(constant.shape))
    return np.asarray((constant.data.astype(np.float64) - point) * scale)


def _along(gain: Gain, axis: int, weights: Tensor) -> Array:
    shape = [1] * len(weights.shape)
    if gain.size > 1:
        shape[axis] = gain.size
    return gain.reshape(shape)
