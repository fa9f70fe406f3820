"""Alignment: a coarser step that rounds where the source rounded.

A layer whose inputs and filter are the source's own has the source's accumulators. Rounded to a step of m of the
source's, each of them falls up to half such a step from where the source put it, and the source's code lies within
another half of its own step: (m^2 + 1) / 12 of its steps squared in the mean. Where the coarse step is a whole multiple,
and its thresholds are thresholds of the source, every code of the result stands for m whole codes of the source: that
leaves (m^2 - 1) / 12, which at m = 2 is 2.2 dB less. Thresholds meet by themselves where m is odd; where it is even, half a
step of the source on the bias moves them there. What that adds to the mean, the layers behind take off their own bias,
so that every reader has to be one that `bias` mends.

Derived here; only where accumulators are the source's is anything gained, so the layers behind the first coarse step
have nothing of it.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import grouped, has_filter, input_channels
from tf_requant.calibration.statistics import Calibration
from tf_requant.corrections.channels import picked_channels
from tf_requant.corrections.scale_search import scale_multiples
from tf_requant.model.graph import Graph, Model
from tf_requant.model.ops import info, only_moves
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.numerics.affine import reexpress
from tf_requant.numerics.integers import limits
from tf_requant.plan import ActivationPlan, Alignment, ConstantPlan, GraphPlan, Plan
from tf_requant.targets import Target

_WITHIN = (np.arange(8) + 0.5) / 8 - 0.5
"""Where within a step of the source an accumulator may lie."""


def align(model: Model, plan: Plan, calibration: Calibration, target: Target) -> Plan:
    """Gives tensors written from exact accumulators a whole multiple of the source's step, where that errs less.

    Args:
        model: the source model.
        plan: a plan for it, ahead of every other correction of it.
        calibration: of the model: its histograms.
        target: the accelerator.
    """
    graph, main = model.main, plan.graphs[0]
    exact = _exact_tensors(graph, main)
    if target.activation.scale == "any":
        for index, op in enumerate(graph.ops):
            if op.inputs and op.inputs[0] in exact:
                main = _aligned(graph, main, index, calibration, target) or main
    return Plan(plan.target, (main, *plan.graphs[1:]))


def offsets(held: ActivationPlan) -> float | NDArray[np.float64]:
    """By how much a result's values are meant to lie off the source's, in steps of the source: one number, or one a channel.

    A channel that equalization stretched has other thresholds, so nothing moves there.

    Args:
        held: the plan of the tensor.
    """
    if held.alignment is None or held.channel_gains is None:
        return 0.0 if held.alignment is None else held.alignment.offset
    return np.asarray(np.where(held.channel_gains == 1, held.alignment.offset, 0.0))


def snapped(factors: NDArray[np.float64], multiple: int) -> NDArray[np.float64]:
    """Factors of channels of an aligned tensor, moved to where they are worth it, float64[C].

    At a factor of m every code is the source's own, and no larger one is better. One that does not bring the noise of
    thresholds that don't meet below that of those that do is worth nothing.

    >>> snapped(np.array([1.0, 1.3, 1.5, 2.5]), 2).tolist()
    [1.0, 1.0, 1.5, 2.0]

    Args:
        factors: at least one each.
        multiple: the tensor's step over the source's, at least two.
    """
    moved = np.minimum(factors, multiple)
    return np.asarray(np.where(noise(moved, multiple) < noise(np.ones(1), multiple), moved, 1.0))


def noise(factors: NDArray[np.float64], multiple: int) -> NDArray[np.float64]:
    """The variance of an aligned tensor's error at factors of its channels, in steps of the source squared, float64[C].

    >>> noise(np.array([1.0, 2.0]), 2).tolist()
    [0.25, 0.0]

    Args:
        factors: of each channel.
        multiple: the tensor's step over the source's.
    """
    steps = multiple / factors
    meets = (factors == 1) | (factors == multiple)
    return np.asarray((steps**2 + np.where(meets, -1.0, 1.0)) / 12)


def merged(values: NDArray[np.float64], multiple: int, offset: float, highest: int) -> NDArray[np.float64]:
    """What whole codes of the source stand for once each m of them are one, in steps of the source.

    >>> merged(np.array([0.0, 1.0, 2.0, 3.0]), 2, -0.5, 127).tolist()
    [0.0, 0.0, 2.0, 2.0]
    >>> merged(np.array([0.0, 1.0, 2.0, 3.0]), 2, 0.5, 127).tolist()
    [0.0, 2.0, 2.0, 4.0]

    Args:
        values: code minus zero point, none below zero.
        multiple: m.
        offset: of the mean, 0.5 or -0.5 where m is even, else 0.
        highest: the highest code.
    """
    # Halfway between two thresholds of the source, so that nothing is tied.
    return reexpress(values + offset / 2, 1 / multiple, 0, highest) * multiple


def _aligned(graph: Graph, plan: GraphPlan, index: int, calibration: Calibration, target: Target) -> GraphPlan | None:
    """The plan with what a layer writes aligned; None where that cannot be or is not better."""
    if not (exact := _exact_share(graph, plan, index)):
        return None
    tensor = graph.ops[index].outputs[0]
    held, quant, counts = plan.activations[tensor], graph.tensors[tensor].quant, calibration.histograms.get(tensor)
    readers, picked = _readers(graph, plan, tensor)
    mended = bool(readers) and all(has_filter(graph, i) and _bias(graph, plan, i) is not None for i in (index, *readers))
    if quant is None or counts is None or not counts.any() or not mended or {tensor, *picked} & {*graph.outputs}:
        return None
    step, width = float(quant.scale[0]), held.bits
    ratio, point = float(held.params.scale[0]) / step, int(held.params.zero_point[0])
    high = (code_limits(held.params.dtype) if width is None else limits(width))[1] - point
    multiple = round(ratio)
    values = np.flatnonzero(counts) + float(code_limits(quant.dtype)[0] - int(quant.zero_point[0]))
    # The highest code may stand for fewer of the source's, or for some beyond it by less than one more would.
    if held.gain != 1 or multiple < 2 or values.min() < 0 or values.max() > multiple * high + multiple - 1:
        return None
    shares = counts[counts > 0] / counts.sum()
    error, offset = min(
        (_variance(merged(values, multiple, offset, high) - values, shares), offset)
        for offset in ((0.0,) if multiple % 2 else (-0.5, 0.5))
    )
    error = exact * error + (1 - exact) * _unaligned(values, shares, multiple, high)
    if error >= _unaligned(values, shares, ratio, high):
        return None
    params = QuantParams(held.params.dtype, np.float32(multiple * step), point)
    reason = f"{held.reason}; aligned at {multiple} times the source's"
    new = replace(held, params=params, error=error, alignment=Alignment(multiple, offset), reason=reason)
    constants = _with_units(graph, plan, readers, float(held.params.scale[0]) / float(params.scale[0]))
    activations = {**plan.activations, **dict.fromkeys((tensor, *picked), new)}
    moved = plan.with_(activations=activations, constants={**plan.constants, **constants})
    return moved if all(_in_range(graph, moved, i, target) for i in (index, *readers)) else None


def _exact_tensors(graph: Graph, plan: GraphPlan) -> set[int]:
    """Tensors whose values on the target are the source's, whatever the data.

    Those that only layers and moves of codes have come by: what other ops round, they round otherwise at another zero point.
    """
    found = {t for t in graph.inputs if _keeps(graph, plan, t)}
    for index, op in enumerate(graph.ops):
        read = [t for t in op.inputs if t >= 0 and graph.tensors[t].is_activation]
        if not plan.ops[index].on_accelerator or not read or not found.issuperset(read):
            continue
        layer = _exact_share(graph, plan, index) == 1 and all(np.all(np.equal(c.step, 1.0)) for c in _constants(plan, index))
        moves = only_moves(op.code) and not _constants(plan, index)
        if layer or moves:
            found.update(t for t in op.outputs if _keeps(graph, plan, t, written=layer))
    return found


def _keeps(graph: Graph, plan: GraphPlan, tensor: int, written: bool = False) -> bool:
    """Whether a tensor's values in the source are values on the target, at the source's step.

    Args:
        graph: the source's.
        plan: of it.
        tensor: an activation.
        written: whether an op computes it, so that it also has to saturate where it does in the source.
    """
    held, quant = plan.activations.get(tensor), graph.tensors[tensor].quant
    if held is None or quant is None or held.error or held.gain != 1 or held.channel_gains is not None:
        return False
    low, high = (end - int(quant.zero_point[0]) for end in graph.tensors[tensor].limits)
    bottom, top = code_limits(held.params.dtype) if held.bits is None else limits(held.bits)
    bottom, top = bottom - int(held.params.zero_point[0]), top - int(held.params.zero_point[0])
    alike = (bottom, top) == (low, high) if written else bottom <= low and high <= top
    return alike and bool(held.params.scale[0] == quant.scale[0])


def _constants(plan: GraphPlan, index: int) -> list[ConstantPlan]:
    return [c for (i, _), c in plan.constants.items() if i == index]


def _exact_share(graph: Graph, plan: GraphPlan, index: int) -> float:
    """The share of the output channels of a layer with exact inputs whose accumulators are the source's."""
    filter_ = plan.constants.get((index, 1))
    if filter_ is None or not has_filter(graph, index) or filter_.codes is not None:
        return 0.0
    op = graph.ops[index]
    values, (low, high) = graph.tensors[op.inputs[1]].steps(), filter_.limits or code_limits(filter_.params.dtype)
    point, channels = int(filter_.params.zero_point[0]), grouped(op, values, input_channels(graph, op))
    fits = (channels.min(axis=2) >= low - point) & (channels.max(axis=2) <= high - point)
    return float((fits.reshape(-1) & np.equal(filter_.step, 1.0)).mean())


def _readers(graph: Graph, plan: GraphPlan, tensor: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ops that read a tensor, or read it as a GATHER of the target picks its channels, and what those GATHERs write."""
    readers, picked = [], []
    for index in graph.consumers.get(tensor, ()):
        op = graph.ops[index]
        if plan.ops[index].on_accelerator and picked_channels(graph, op) is not None:
            picked.append(op.outputs[0])
            readers += graph.consumers.get(op.outputs[0], ())
        else:
            readers.append(index)
    return tuple(readers), tuple(picked)


def _bias(graph: Graph, plan: GraphPlan, index: int) -> tuple[int, ConstantPlan] | None:
    row = info(graph.ops[index])
    assert row is not None and row.bias is not None
    constant = plan.constants.get((index, row.bias))
    return None if constant is None or constant.codes is not None else (row.bias, constant)


def _variance(errors: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    return float(errors**2 @ shares - (errors @ shares) ** 2)


def _unaligned(values: NDArray[np.float64], shares: NDArray[np.float64], ratio: float, high: int) -> float:
    """The variance of the error where accumulators are rounded to any other step, in steps of the source squared.

    Args:
        values: the source's, whole steps.
        shares: how often each occurs.
        ratio: that step over the source's.
        high: the highest code.
    """
    # At its lowest and highest value the source may have clamped: there it is exact.
    inside = (values > 0) & (values < values.max())
    held = reexpress(values[:, None] + _WITHIN * inside[:, None], 1 / ratio, 0, high) * ratio
    errors = held - values[:, None]
    return float((errors**2).mean(axis=1) @ shares - (errors.mean(axis=1) @ shares) ** 2)


def _with_units(
    graph: Graph, plan: GraphPlan, readers: tuple[int, ...], shrunk: float
) -> dict[tuple[int, int], ConstantPlan]:
    """The readers' biases once a step of their input is another."""
    found = {}
    for index in readers:
        if (bias := _bias(graph, plan, index)) is not None:
            old = bias[1].params
            params = QuantParams(old.dtype, np.float32(old.scale.astype(np.float64) / shrunk), old.zero_point, old.axis)
            found[index, bias[0]] = bias[1].with_(params=params, step=np.asarray(bias[1].step) * shrunk)
    return found


def _in_range(graph: Graph, plan: GraphPlan, index: int, target: Target) -> bool:
    """Whether a layer's rescale stays in the target's range."""
    op = graph.ops[index]
    x, y = (plan.activations[t].params for t in (op.inputs[0], op.outputs[0]))
    ratios = float(x.scale[0]) * plan.constants[index, 1].params.scale.astype(np.float64) / float(y.scale[0])
    least, most = scale_multiples(ratios, target.arithmetic.requantizer_of(op.code).shift_range)
    return least <= 1 <= most
