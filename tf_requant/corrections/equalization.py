"""Equalization: per channel of a tensor, a factor moves range from the filter that writes it to those that read it.

For s > 0, f(s x) = s f(x) holds of a RELU and of no activation, so a channel of the writing filter may be multiplied by
s and what reads it by 1 / s (DFQ, arXiv 1906.04721, section 4.1: s makes both ranges equal). One scale for a whole
filter then serves channels of like ranges. A clamp (RELU6, or the end of the type) does not scale: a channel takes a
factor only as far as, on data, it stays below the clamp before and after; one that reaches the clamp keeps s = 1.

Filters that lie exactly on the target's grid would lose that: a tensor is left alone unless the rounding error of the
filters around it, predicted by their weights, falls by a fifth.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import grouped, has_filter, input_channels, per_input, ungrouped
from tf_requant.model.graph import Graph, Model
from tf_requant.model.ops import Activation, fused_activation, info
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.numerics.integers import limits
from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.plan import ActivationPlan, ConstantPlan, GraphPlan, Plan

MARGIN = 1.25
"""How far beyond the largest value seen a channel may go unseen."""
_LEAST, _MOST = 0.25, 8.0
_WORTH = 0.8
_BIAS_LIMIT = 2**30


def equalize(model: Model, plan: Plan, peaks: Mapping[int, NDArray[np.int64]]) -> Plan:
    """Gives channels of tensors between filters with one scale each a factor, where that lowers the filters' error.

    Args:
        model: the source model.
        plan: a plan for it.
        peaks: the largest |code - zero point| of each channel on data, by tensor index of the main graph.
    """
    main = plan.graphs[0]
    for tensor in sorted(peaks):
        found = _equalized(model.main, main, tensor, peaks[tensor])
        main = main if found is None else found
    return Plan(plan.target, (main, *plan.graphs[1:]))


def channel_factors(
    written: NDArray[np.float64], read: NDArray[np.float64], peak: NDArray[np.float64], top: float
) -> NDArray[np.float64]:
    """The factor of each channel, float64[C]; one where nothing may or need change.

    Args:
        written: the largest |weight| of the filter that writes each channel, float64[C].
        read: the largest |weight| that reads it, each reading filter relative to its own largest, float64[C].
        peak: the largest |value| of each channel on data, in real units.
        top: the value at which the tensor is clamped, by an activation or by its type.
    """
    live = (written > 0) & (read > 0) & (peak > 0)
    wanted = np.ones(written.size)
    own, others = written[live] / written.max(initial=1e-30), read[live] / read.max(initial=1e-30)
    wanted[live] = np.sqrt(others / own)
    room = top / np.maximum(peak * MARGIN, 1e-30)
    lowest, highest = np.where(room < 1, 1.0, _LEAST), np.maximum(np.minimum(room, _MOST), 1.0)
    return np.where(live, np.clip(wanted, lowest, highest), 1.0)


@dataclass(frozen=True, eq=False)
class _Filter:
    """A filter in real units, grouped, and its plan."""

    index: int
    plan: ConstantPlan
    values: NDArray[np.float64]

    def times(self, factors: NDArray[np.float64]) -> "_Filter":
        """With its values multiplied."""
        return replace(self, values=self.values * factors)

    @property
    def high(self) -> int:
        """The highest code."""
        return (self.plan.limits or code_limits(self.plan.params.dtype))[1]

    @property
    def scale(self) -> float:
        """The one that holds its range, on the grid of the scale at hand."""
        fit = float(np.abs(self.values).max(initial=0.0)) / self.high
        return 2.0 ** float(np.ceil(np.log2(fit) - 1e-6)) if self.on_octaves else fit

    @property
    def on_octaves(self) -> bool:
        """Whether its scale is a power of two."""
        return float(np.log2(float(self.plan.params.scale[0]))).is_integer()

    def error(self, scale: float) -> float:
        """Relative squared error at a scale, averaged over output channels."""
        high = self.high
        codes = np.clip(round_real(self.values / scale, Rounding.HALF_EVEN), -high, high)
        change = ((codes * scale - self.values) ** 2).sum(axis=2)
        return float((change / np.maximum((self.values**2).sum(axis=2), 1e-30)).mean())


def _equalized(graph: Graph, plan: GraphPlan, tensor: int, peak: NDArray[np.int64]) -> GraphPlan | None:
    """The plan with a tensor's channels equalized, or None where that is not possible or does not pay."""
    writer, readers = graph.producers.get(tensor), graph.consumers.get(tensor, ())
    held, quant = plan.activations.get(tensor), graph.tensors[tensor].quant
    if writer is None or held is None or quant is None or tensor in graph.outputs or not readers:
        return None
    filters = [_filter(graph, plan, i) for i in (writer, *readers)]
    if any(f is None for f in filters) or any(graph.ops[r].inputs.count(tensor) != 1 for r in readers):
        return None
    first, *others = (f for f in filters if f is not None)
    if any(graph.ops[f.index].inputs[0] != tensor or input_channels(graph, graph.ops[f.index]) != peak.size for f in others):
        return None
    read = np.max([_by_input(graph, f) for f in others], axis=0)
    written = np.abs(first.values).max(axis=2).reshape(-1)
    top = _top(graph, plan, writer, held)
    factors = channel_factors(written, read, peak * float(quant.scale[0]) * held.gain, top)
    moved = [first.times(factors.reshape(first.values.shape[0], -1, 1))]
    moved += [f.times(1 / per_input(graph, graph.ops[f.index], factors)) for f in others]
    before = sum(f.error(float(f.plan.params.scale[0])) for f in (first, *others))
    if sum(f.error(f.scale) for f in moved) >= _WORTH * before:
        return None
    constants = dict(plan.constants)
    for new in moved:
        changed = _constants(graph, plan, new, factors, new.index == writer)
        if changed is None:
            return None
        constants.update(changed)
    span = f"channels equalized by {factors.min():.3g} to {factors.max():.3g}"
    activation = replace(held, channel_gains=factors, reason=f"{held.reason}; {span}")
    return plan.with_(constants=constants, activations={**plan.activations, tensor: activation})


def _filter(graph: Graph, plan: GraphPlan, index: int) -> _Filter | None:
    """A layer's filter as planned, where it has one symmetric scale."""
    constant = plan.constants.get((index, 1))
    if constant is None or not has_filter(graph, index) or constant.params.per_channel or constant.params.zero_point.any():
        return None
    return _Filter(index, constant, wanted_codes(graph, index, constant) * float(constant.params.scale[0]))


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


def _by_input(graph: Graph, filter_: _Filter) -> NDArray[np.float64]:
    """The largest |weight| that reads each input channel, relative to the filter's largest, float64[C]."""
    op = graph.ops[filter_.index]
    size = input_channels(graph, op)
    largest = np.abs(filter_.values).max(axis=1)  # [groups, K]
    return np.asarray(largest.reshape(largest.shape[0], -1, size // largest.shape[0]).max(axis=1).reshape(-1)) / max(
        float(largest.max(initial=0.0)), 1e-30
    )


def _top(graph: Graph, plan: GraphPlan, writer: int, held: ActivationPlan) -> float:
    """The largest value that the planned tensor takes, in its own real units."""
    ends = code_limits(held.params.dtype) if held.bits is None else limits(held.bits)
    low, high = (limit - int(held.params.zero_point[0]) for limit in ends)
    fused = plan.ops[writer].activation or fused_activation(graph.ops[writer])
    rectified = fused in (Activation.RELU, Activation.RELU6)
    top = float(held.params.scale[0]) * (high if rectified else min(high, -low))
    limit = {Activation.RELU6: 6.0, Activation.RELU_N1_TO_1: 1.0}.get(fused, top)
    return min(top, limit)


def _constants(
    graph: Graph, plan: GraphPlan, new: _Filter, factors: NDArray[np.float64], writes: bool
) -> dict[tuple[int, int], ConstantPlan] | None:
    """The plans of a moved filter and of its bias; None where the bias would leave its type."""
    op, row, scale = graph.ops[new.index], info(graph.ops[new.index]), new.scale
    assert row is not None and row.bias is not None
    shrunk = float(new.plan.params.scale[0]) / scale
    codes = np.clip(round_real(new.values / scale, Rounding.HALF_EVEN), -new.high, new.high)
    params = QuantParams(new.plan.params.dtype, np.float32(scale), new.plan.params.zero_point)
    inputs = new.plan.input_gains
    changed = new.plan.with_(
        params=params,
        step=np.asarray(new.plan.step) * shrunk * (factors if writes else 1.0),
        codes=ungrouped(op, codes, graph.tensors[op.inputs[1]].shape).astype(params.dtype),
        input_gains=inputs if writes else factors if inputs is None else inputs * factors,
        reason=f"{new.plan.reason}; channels equalized",
    )
    result = {(new.index, 1): changed}
    bias = plan.constants.get((new.index, row.bias))
    if bias is None:
        return result
    held = graph.tensors[op.inputs[row.bias]].data if len(op.inputs) > row.bias and op.inputs[row.bias] >= 0 else None
    step = np.asarray(bias.step) * shrunk * (factors if writes else 1.0)
    if bias.codes is not None or (held is not None and np.abs(held * step).max(initial=0.0) > _BIAS_LIMIT):
        return None
    unit = QuantParams(bias.params.dtype, np.float32(bias.params.scale / shrunk), bias.params.zero_point, bias.params.axis)
    result[new.index, row.bias] = bias.with_(params=unit, step=step)
    return result
