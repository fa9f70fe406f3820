"""Equalization: factors per channel between filters, so that each channel makes better use of the codes it has.

A channel that is multiplied by s and divided by s again behind (`corrections.channels` says where that changes nothing)
keeps only 1 / s^2 of the noise of its rounding. So each channel is stretched as far as its values on data allow, or as
far as it pays: dividing a filter's inputs by s re-rounds weights that may have been on the target's grid. Candidates are
judged by the predicted error of the scores, activations and filters together. No channel is made coarser, as DFQ (arXiv
1906.04721, section 4.1) would for the filters' ranges: what follows mends rounded filters, and nothing mends that.

A clamp (RELU6, or the end of the type) does not scale: a channel takes a factor only as far as it stays below the result's
clamps, a margin for unseen data included; beyond the source's own clamp there is nothing. Tensors that all keep the
source's own step are left alone: the same roundings happen there at the same places, and a factor would undo that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import grouped, has_filter, input_channels, per_input
from tf_requant.calibration.sensitivity import LEFT_OVER
from tf_requant.calibration.statistics import Calibration, reach
from tf_requant.corrections.alignment import noise as aligned_noise
from tf_requant.corrections.alignment import snapped
from tf_requant.corrections.channels import ChannelClass, channel_classes, channel_powers, sensitivities
from tf_requant.corrections.refit import Refit, refitted
from tf_requant.model.graph import Graph, Model
from tf_requant.model.ops import Activation, fused_activation, info
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.model.shares import rounded
from tf_requant.numerics.integers import limits
from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.plan import ActivationPlan, ConstantPlan, GraphPlan, Plan
from tf_requant.targets import Target

_MOST = 64.0
_SHARES = (1.0, 0.75, 0.5, 0.25)
"""Powers of the room that a channel has, as candidates for its factor."""
_LEVELS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 8.0)
"""Multiples of the factors that balance a channel's own noise with that of the weights that read it."""
_WORTH = 0.95
"""A class is equalized where its predicted error falls below this share of what it was."""
_ALIGNED = 1e-5


def equalize(model: Model, plan: Plan, calibration: Calibration, target: Target) -> Plan:
    """Gives the channels of tensors between filters factors, where that lowers the predicted error of the scores.

    Args:
        model: the source model.
        plan: a plan for it.
        calibration: of the model: peaks, histograms and, where they were measured, what noise does to the scores.
        target: the accelerator, for what its rescale can hold.
    """
    graph, main = model.main, plan.graphs[0]
    found = _Prediction(graph, calibration, sensitivities(graph, calibration))
    for members in channel_classes(graph, main):
        main = _equalized(found, main, members, target) or main
    return Plan(plan.target, (main, *plan.graphs[1:]))


@dataclass(frozen=True, eq=False)
class _Prediction:
    """What errors are predicted from.

    Attributes:
        graph: the source's.
        calibration: of it.
        noise: `channels.sensitivities`.
    """

    graph: Graph
    calibration: Calibration
    noise: Mapping[int, NDArray[np.float64]]

    def of_rounding(
        self, plan: GraphPlan, tensors: tuple[int, ...], factors: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What each channel's own rounding in tensors of as many channels does to the scores, float64[C].

        Args:
            plan: the plan of them.
            tensors: that share factors.
            factors: on top of the plan, float64[C].
        """
        found = np.zeros(factors.size)
        for t in rounded(self.graph, tensors):
            held, quant = plan.activations[t], self.graph.tensors[t].quant
            assert quant is not None
            if held.alignment is None:
                found += self.noise[t] * (float(held.params.scale[0]) / held.gain / factors) ** 2 / 12
            else:
                found += self.noise[t] * float(quant.scale[0]) ** 2 * aligned_noise(factors, held.alignment.multiple)
        return found

    def of_filter(self, plan: GraphPlan, filter_: "_Filter", written: ActivationPlan, read: ActivationPlan) -> NDArray[np.float64]:
        """What each output's rounded weights do to the scores, float64[outputs].

        Args:
            plan: the plan around it.
            filter_: the filter, factors included.
            written: what it writes, factors included.
            read: what it reads.
        """
        op = self.graph.ops[filter_.index]
        x, y = op.inputs[0], op.outputs[0]
        power = channel_powers(self.graph, self.calibration, x) * np.square(read.gains)
        seen = np.sqrt(np.broadcast_to(per_input(self.graph, op, power), (filter_.values.shape[0], 1, filter_.values.shape[2])))
        error = np.square((filter_.rounded - filter_.values) * seen).sum(axis=2).reshape(-1)
        signal = np.square(filter_.values * seen).sum(axis=2).reshape(-1)
        white = self.noise[y] * error / np.square(written.gains)
        # Unlike noise, what wrong weights do is alike at all places, so that no mean behind takes it away: the scores
        # lose at least the share that the output does.
        alike = np.divide(error, signal, out=np.zeros_like(error), where=signal > 0) / error.size
        return np.asarray(LEFT_OVER * white + alike)


@dataclass(frozen=True, eq=False)
class _Filter:
    """A filter in real units, grouped, with a scale and its plan.

    Attributes:
        index: the layer.
        plan: what was planned for it.
        values: float64[groups, outputs, K].
        scale: float64[1 or outputs].
    """

    index: int
    plan: ConstantPlan
    values: NDArray[np.float64]
    scale: NDArray[np.float64]

    @property
    def codes(self) -> NDArray[np.float64]:
        """The nearest codes."""
        return np.asarray(np.clip(round_real(self.values / self._steps, Rounding.HALF_EVEN), -self.high, self.high))

    @property
    def rounded(self) -> NDArray[np.float64]:
        """What the nearest codes stand for."""
        return np.asarray(self.codes * self._steps)

    @property
    def high(self) -> int:
        """The highest code."""
        return (self.plan.limits or code_limits(self.plan.params.dtype))[1]

    @property
    def _steps(self) -> NDArray[np.float64]:
        outputs = self.values.shape[0] * self.values.shape[1]
        return np.broadcast_to(self.scale, (outputs,)).reshape(*self.values.shape[:2], 1)

    def times(self, factors: NDArray[np.float64]) -> list["_Filter"]:
        """With its values multiplied, once at the scales that hold them, once at those that clip or leave as much as before."""
        values = self.values * factors
        before, after = (np.abs(v).max(axis=2).reshape(-1) for v in (self.values, values))
        if self.scale.size == 1:
            before, after = before.max(keepdims=True), after.max(keepdims=True)
        live = (before > 0) & (after > 0)
        tight = np.where(live, after / self.high, self.scale)
        wide = np.where(live, self.scale * np.divide(after, before, out=np.ones_like(after), where=before > 0), self.scale)
        scales = [tight, wide]
        if bool((np.log2(self.plan.params.scale) % 1 == 0).all()):
            scales = [2.0 ** np.ceil(np.log2(s) - 1e-6) for s in scales]
        # Float32 is what a file holds: rounding here keeps codes on the grid that the interpreter sees.
        return [replace(self, values=values, scale=np.float32(s).astype(np.float64)) for s in scales]

    def at(self, scale: NDArray[np.float64]) -> "_Filter":
        """With another scale."""
        return replace(self, scale=scale)


def _equalized(found: _Prediction, plan: GraphPlan, members: ChannelClass, target: Target) -> GraphPlan | None:
    """The plan with the channels of a class equalized, or None where that is not possible or does not pay."""
    graph = found.graph
    filters = [_filter(graph, plan, i) for i in sorted({*members.writers, *members.readers})]
    if any(f is None for f in filters) or _is_aligned(graph, plan, members):
        return None
    known = [f for f in filters if f is not None]
    most = _room(found, plan, members)
    if most is None:
        return None
    own = found.of_rounding(plan, members.tensors, np.ones(most.size))
    # What is aligned is read by filters alone, so it is a class of its own.
    alignment = plan.activations[members.tensors[0]].alignment
    before = float(own.sum()) + sum(_cost(found, plan, f) for f in known)
    best, chosen = _WORTH * before, None
    for factors in candidates(own, _read_power(found, members), most):
        if alignment is not None:
            factors = snapped(factors, alignment.multiple)
        moved = _with_factors(plan, members, factors)
        parts = [_moved(found, moved, f, members, factors) for f in known]
        cost = float(found.of_rounding(plan, members.tensors, factors).sum()) + sum(c for c, _ in parts)
        if cost < best:
            best, chosen = cost, (factors, moved, [f for _, f in parts])
    if chosen is None:
        return None
    factors, moved, parts_ = chosen
    constants = dict(plan.constants)
    for new in parts_:
        inputs = new.plan.input_gains
        if new.index in members.readers:
            read = members.of(graph.ops[new.index].inputs[0], factors)
            inputs = read if inputs is None else inputs * read
        written = factors if new.index in members.writers else np.ones(1)
        refit = Refit(new.index, new.scale, new.codes, written, inputs, "channels equalized")
        changed = refitted(graph, moved, refit, target)
        if changed is None:
            return None
        constants.update(changed)
    return moved.with_(constants=constants)


def candidates(
    own: NDArray[np.float64], power: NDArray[np.float64], most: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Factors worth trying, float64[C] each.

    With noise of a / s^2 from a channel's own rounding and of b s^2 from the rounding of the weights that read it, the
    best s is (a / b)^(1/4); b goes with the channel's power, up to a factor that the levels stand for.

    Args:
        own: what each channel's rounding does to the scores, float64[C].
        power: each channel's mean square.
        most: the largest factor of each channel, at least one.
    """
    found = [most**share for share in _SHARES]
    live = (own > 0) & (power > 0)
    if live.any():
        balance = np.divide(own, power, out=np.zeros_like(own), where=live) ** 0.25
        balance /= np.median(balance[live])
        found += [np.where(live, np.clip(level * balance, 1.0, most), 1.0) for level in _LEVELS]
    return found


def _is_aligned(graph: Graph, plan: GraphPlan, members: ChannelClass) -> bool:
    """Whether every tensor of the class is rounded where the source's was."""
    ratios = []
    for tensor in rounded(graph, members.tensors):
        held, quant = plan.activations[tensor], graph.tensors[tensor].quant
        assert quant is not None
        ratios.append(float(held.params.scale[0]) / held.gain / float(quant.scale[0]))
    return all(abs(r - 1) < _ALIGNED for r in ratios)


def _room(found: _Prediction, plan: GraphPlan, members: ChannelClass) -> NDArray[np.float64] | None:
    """The largest factor of each channel that no clamp feels, float64[C], at least one; None where peaks are unknown."""
    graph, peaks = found.graph, found.calibration.peaks
    channels = graph.tensors[members.tensors[0]].shape[-1]
    most, live = np.full(channels, _MOST), np.zeros(channels, bool)
    for tensor in members.tensors:
        quant, held, writer = graph.tensors[tensor].quant, plan.activations[tensor], graph.producers[tensor]
        if tensor not in peaks or len(peaks[tensor]) != channels or quant is None:
            return None
        # Whatever the data to come, no value gets beyond the source's own clamp.
        farthest = max(_ends(quant, code_limits(quant.dtype), fused_activation(graph.ops[writer])))
        reached = np.minimum(reach(peaks[tensor]) * float(quant.scale[0]), farthest) * held.gain
        most = np.minimum(most, _top(graph, plan, writer, held) / np.maximum(reached, 1e-30))
        live |= peaks[tensor][:, 0] > 0
    return np.where(live & (most > 1 + _ALIGNED), most, 1.0)


def _ends(quant: QuantParams, codes: tuple[int, int], fused: Activation) -> tuple[float, float]:
    """How far values go below and above zero before a clamp, in real units."""
    scale, point = float(quant.scale[0]), int(quant.zero_point[0])
    low, high = ((point - codes[0]) * scale, (codes[1] - point) * scale)
    if fused in (Activation.RELU, Activation.RELU6):
        low = 0.0
    limit = {Activation.RELU6: 6.0, Activation.RELU_N1_TO_1: 1.0}.get(fused, np.inf)
    return min(low, limit), min(high, limit)


def _read_power(found: _Prediction, members: ChannelClass) -> NDArray[np.float64]:
    return np.asarray(np.sum([channel_powers(found.graph, found.calibration, t) for t in members.tensors], axis=0))


def _with_factors(plan: GraphPlan, members: ChannelClass, factors: NDArray[np.float64]) -> GraphPlan:
    span = f"channels equalized by {factors.min():.3g} to {factors.max():.3g}"
    changed = {
        t: replace(held, channel_gains=members.of(t, factors), reason=f"{held.reason}; {span}")
        for t in (*members.tensors, *members.picked)
        for held in [plan.activations[t]]
    }
    return plan.with_(activations={**plan.activations, **changed})


def _moved(
    found: _Prediction, plan: GraphPlan, filter_: _Filter, members: ChannelClass, factors: NDArray[np.float64]
) -> tuple[float, _Filter]:
    """The predicted error of a filter that took factors, and the filter; of its scales the better, output by output."""
    graph, op = found.graph, found.graph.ops[filter_.index]
    by: NDArray[np.float64] = np.ones((1, 1, 1))
    if filter_.index in members.writers:
        by = by * factors.reshape(filter_.values.shape[0], -1, 1)
    if filter_.index in members.readers:
        by = by / per_input(graph, op, members.of(op.inputs[0], factors))
    tried = filter_.times(by)
    written, read = plan.activations[op.outputs[0]], plan.activations[op.inputs[0]]
    costs = np.stack([found.of_filter(plan, f, written, read) for f in tried])
    if filter_.scale.size == 1:
        best = int(costs.sum(axis=1).argmin())
        return float(costs[best].sum()), tried[best]
    chosen = costs.argmin(axis=0)
    scales = np.take_along_axis(np.stack([f.scale for f in tried]), chosen[None], 0)[0]
    return float(costs.min(axis=0).sum()), tried[0].at(scales)


def _cost(found: _Prediction, plan: GraphPlan, filter_: _Filter) -> float:
    op = found.graph.ops[filter_.index]
    return float(found.of_filter(plan, filter_, plan.activations[op.outputs[0]], plan.activations[op.inputs[0]]).sum())


def _filter(graph: Graph, plan: GraphPlan, index: int) -> _Filter | None:
    """A layer's filter as planned, where it is symmetric and not in a codebook."""
    constant = plan.constants.get((index, 1))
    if constant is None or not has_filter(graph, index) or constant.params.zero_point.any() or constant.levels is not None:
        return None
    scale, values = constant.params.scale.astype(np.float64), wanted_codes(graph, index, constant)
    outputs = values.shape[0] * values.shape[1]
    steps = np.broadcast_to(scale, (outputs,)).reshape(*values.shape[:2], 1)
    return _Filter(index, constant, values * steps, scale)


def wanted_codes(graph: Graph, index: int, constant: ConstantPlan) -> NDArray[np.float64]:
    """A source's filter in the steps of its plan, ahead of rounding, float64[groups, outputs, K].

    Args:
        graph: the source's graph.
        index: the layer.
        constant: the plan of its filter.
    """
    op, row = graph.ops[index], info(graph.ops[index])
    weights = graph.tensors[op.inputs[1]]
    assert weights.data is not None and weights.quant is not None and row is not None
    shape = [1] * len(weights.shape)
    shape[row.channel_axis] = -1
    values = weights.steps() * np.reshape(np.atleast_1d(constant.step), shape)
    result = grouped(op, np.asarray(values, np.float64), input_channels(graph, op))
    if constant.input_gains is not None:
        result = result / per_input(graph, op, constant.input_gains)
    return np.asarray(result)


def _top(graph: Graph, plan: GraphPlan, writer: int, held: ActivationPlan) -> float:
    """The largest value, of either sign where both occur, that the planned tensor takes, in its own real units."""
    codes = code_limits(held.params.dtype) if held.bits is None else limits(held.bits)
    ends = _ends(held.params, codes, plan.ops[writer].activation or fused_activation(graph.ops[writer]))
    return min(e for e in ends if e > 0)
