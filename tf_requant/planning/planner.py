"""(model, target, wishes) -> Plan: places, then classes, gains and activations, then constants."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.statistics import Calibration
from tf_requant.errors import UsageError
from tf_requant.model.graph import Graph, Model, Tensor
from tf_requant.model.ops import OPS, Activation, fused_activation, info
from tf_requant.model.partition import Partition
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.model.shares import follows, is_mean, rounded
from tf_requant.plan import ActivationPlan, ConstantPlan, GraphPlan, OpPlan, Plan, View
from tf_requant.planning.activations import choose
from tf_requant.planning.classes import gain_classes, parameter_classes, pinned_classes, target_tensors
from tf_requant.planning.constants import accumulator_scale, least_filter_scale, plan_bias, plan_operand
from tf_requant.planning.gains import Link, choose_gains
from tf_requant.planning.noise import link_weight, noise_of_classes
from tf_requant.planning.places import place_ops
from tf_requant.planning.ranges import UNSEEN, ValueRange, implied_activation, is_compared, unseen_share, value_range
from tf_requant.planning.schemes import activation_dtype, expressible, is_narrow, narrowed, per_channel, stored_in
from tf_requant.planning.weights import Histogram, by_channel, histogram, plan_filter
from tf_requant.planning.wishes import Wishes
from tf_requant.targets import Target

_SUBGRAPH_ATTRS = tuple(
    f"{name}_subgraph_index" for name in ("then", "else", "cond", "body", "init", "decomposition", "subgraph")
) + ("subgraph", "subgraph_index")


def plan_model(
    model: Model,
    target: Target,
    wishes: Wishes | None = None,
    calibration: Calibration | None = None,
    thresholds: bool = True,
) -> Plan:
    """Decides everything that will be edited; the model is not touched.

    Args:
        model: a verified source model.
        target: the accelerator.
        wishes: the user's overrides.
        calibration: what the main graph does on data; without it, scales and gains go by what is known beforehand.
        thresholds: whether the data's histograms choose scales; otherwise the data only weigh gains.

    Raises:
        UsageError: a pinned tensor does not exist.
    """
    wishes = wishes or Wishes()
    names = {t.name for g in model.graphs for t in g.tensors if t.is_activation}
    for name, _, _ in wishes.pinned:
        if name not in names:
            raise UsageError(f"--pin_range names {name!r}, which is no quantized activation of the model")
    called = _called_graphs(model)
    return Plan(
        target.name,
        tuple(
            _plan_graph(
                g,
                target,
                replace(wishes, widths={}, activation_widths={}) if i else wishes,
                i in called,
                None if i else calibration,
                thresholds,
            )
            for i, g in enumerate(model.graphs)
        ),
    )


def _called_graphs(model: Model) -> set[int]:
    """The subgraphs that an op calls: their interface is the caller's, so it stays as it is."""
    return {
        int(op.attrs[name]) for g in model.graphs for op in g.ops for name in _SUBGRAPH_ATTRS if name in op.attrs
    }


def _plan_graph(
    graph: Graph, target: Target, wishes: Wishes, called: bool, calibration: Calibration | None, thresholds: bool
) -> GraphPlan:
    ops = place_ops(graph, target, wishes.keep)
    inputs, outputs = _interface(graph, ops, "source" if called else wishes.io)
    io_views = [*zip(graph.inputs, inputs), *zip(graph.outputs, outputs)]
    tensors = target_tensors(graph, ops, io_views)
    widths = wishes.widths
    targets = tuple(narrowed(target, widths[i]) if i in widths else target for i in range(len(graph.ops)))
    histograms = _histograms(graph, targets, ops)
    activations = _plan_activations(
        graph, target, ops, tensors, io_views, wishes, histograms, calibration, thresholds
    )
    ops = _write_clamps(graph, target, ops, activations)
    fixed = _fixed_params(graph, target, ops)
    constants = _plan_constants(graph, targets, ops, activations, histograms)
    return GraphPlan(ops, activations, fixed, constants, inputs, outputs)


def _interface(
    graph: Graph, ops: tuple[OpPlan, ...], io: str
) -> tuple[tuple[View | None, ...], tuple[View | None, ...]]:
    def reads(tensor: int) -> View:
        views = {ops[i].reads for i in graph.consumers.get(tensor, ())}
        return View.SOURCE if views == {View.SOURCE} else View.TARGET

    def writes(tensor: int) -> View:
        producer = graph.producers.get(tensor)
        return reads(tensor) if producer is None else ops[producer].writes

    def side(tensors: tuple[int, ...], native: object) -> tuple[View | None, ...]:
        fixed = {"source": View.SOURCE, "float": View.FLOAT}.get(io)
        return tuple(
            (fixed or native(t)) if graph.tensors[t].is_activation else None  # type: ignore[operator]
            for t in tensors
        )

    return side(graph.inputs, reads), side(graph.outputs, writes)


def _plan_activations(
    graph: Graph,
    target: Target,
    ops: tuple[OpPlan, ...],
    tensors: list[int],
    io_views: list[tuple[int, View | None]],
    wishes: Wishes,
    histograms: dict[int, Histogram],
    calibration: Calibration | None,
    thresholds: bool,
) -> dict[int, ActivationPlan]:
    parameters = parameter_classes(graph, ops, tensors, target)
    gains = gain_classes(graph, ops, tensors)
    user = {name: (low, high) for name, low, high in wishes.pinned}
    counted = calibration.histograms if calibration is not None and thresholds else {}
    values: dict[int, tuple[QuantParams, ValueRange]] = {}
    ranged: set[int] = set()
    for root, members in parameters.classes().items():
        named = next((user[graph.tensors[m].name] for m in members if graph.tensors[m].name in user), None)
        if named is not None:
            ranged.add(root)
        values[root] = _class_values(graph, members, named, counted)
    pinned = pinned_classes(graph, ops, gains, io_views)
    for root in ranged:
        pinned.setdefault(gains.find(root), "its range is the user's")
    for root in _unclamped(graph, ops, parameters, values):
        pinned.setdefault(gains.find(root), "a RELU6 clamps inside a wider range that others share")
    widths = {parameters.find(t): b for t, b in wishes.activation_widths.items() if t in parameters}
    targets = {root: stored_in(target, widths[root]) if root in widths else target for root in values}
    links = [
        Link(
            gains.find(op.inputs[OPS[op.code].data]),
            gains.find(op.outputs[0]),
            histograms[i],
            link_weight(graph, i, histograms[i], calibration),
        )
        for i, op in enumerate(graph.ops)
        if i in histograms
    ]
    noise = noise_of_classes(graph, parameters, calibration)
    gain_of = choose_gains(targets, gains, parameters, values, pinned, links, noise)
    fixed = _fixed_params(graph, target, ops)
    plans: dict[int, ActivationPlan] = {}
    known: dict[tuple[object, ...], ActivationPlan] = {}  # networks repeat themselves: RELU6 has one range
    for root, members in parameters.classes().items():
        gain = gain_of.get(gains.find(root), 1.0)
        if len(members) == 1 and root in fixed and expressible(target, fixed[root]):
            plans[root] = ActivationPlan(fixed[root], 1.0, "fixed by the op that writes it")
            continue
        quant, range_ = values[root]
        bits = widths.get(root, target.activation.bits[0])
        told = None if bits == target.activation.bits[0] and not is_narrow(target) else bits
        key = (quant.dtype, *quant.scale, *quant.zero_point, *range_.key, gain, root in ranged, bits)
        if key not in known:
            choice = choose(targets[root], quant, range_, gain, root in ranged)
            error = choice.error / float(quant.scale[0]) ** 2
            known[key] = ActivationPlan(choice.params, gain, choice.reason, error, bits=told)
        plan = known[key]
        if plan.params.identical(quant):
            plan = replace(plan, params=quant)
        plans.update(dict.fromkeys(members, plan))
    return plans


def _histograms(graph: Graph, targets: tuple[Target, ...], ops: tuple[OpPlan, ...]) -> dict[int, Histogram]:
    """By op: the filters that one power of two has to serve as a whole, so that their error depends on gains."""
    found: dict[int, Histogram] = {}
    for i, (op, plan, target) in enumerate(zip(graph.ops, ops, targets)):
        if target.activation.scale != "power_of_two" or target.weight.scale != "power_of_two":
            continue
        row = info(op)
        if row is None or row.filter is None or not plan.on_accelerator or per_channel(target, op.code, row):
            continue
        weights = graph.tensors[op.inputs[row.filter]]
        if weights.quant is not None and not weights.quant.per_channel:
            found[i] = histogram(target, by_channel(weights, row.channel_axis, 1.0))
    return found


def _class_values(
    graph: Graph,
    members: list[int],
    named: tuple[float, float] | None,
    counted: Mapping[int, NDArray[np.int64]],
) -> tuple[QuantParams, ValueRange]:
    """The source's parameters and range of a class: those of its widest member."""
    ranges = {m: value_range(graph, m, named) for m in members}
    widest = max(members, key=lambda m: (ranges[m].span, -m))
    quant, values = graph.tensors[widest].quant, ranges[widest]
    assert quant is not None
    low = int(np.floor(min(ranges[m].low * ranges[m].scale for m in members) / values.scale))
    # Only what is written into the class from outside counts: the rest are copies of it.
    roots = [m for m in members if not follows(graph, m, members)]
    rectified = all(ranges[m].rectified for m in roots)
    clamp, high = None, values.high
    if all(ranges[m].clamp is not None for m in roots):
        top = max(ranges[m].high * ranges[m].scale for m in roots)
        clamp = high = max(1, round(top / values.scale))
    compared = any(is_compared(graph, m) for m in members)
    alike = all(m in counted and quant.identical(graph.tensors[m].quant) for m in members)
    # Scores are not clipped, however rare the best of them: they decide.
    told = rounded(graph, members) if alike and named is None and not compared else []
    told = [m for m in told if counted[m].any()]
    counts = np.sum([counted[m] / counted[m].sum() for m in told], axis=0) if told else None
    unseen = _unseen(graph, members, {m: counted[m] for m in told})
    lowest = code_limits(quant.dtype)[0] - int(quant.zero_point[0])
    edges = values.edges or rectified or compared
    return quant, ValueRange(values.scale, low, high, clamp, rectified, edges, counts, lowest, unseen)


def _unseen(graph: Graph, members: list[int], counted: Mapping[int, NDArray[np.int64]]) -> float:
    """What a class keeps for values that data never had: behind a mean no more than their probability."""
    others = [m for m in counted if not is_mean(graph, m, members)]
    if len(others) == len(counted):
        return UNSEEN
    # A mean cannot leave what it is taken of.
    counts = np.sum([counted[m] for m in others], axis=0) if others else np.zeros(1, np.int64)
    return unseen_share(counts) * len(others) / len(counted)


def _unclamped(
    graph: Graph, ops: tuple[OpPlan, ...], parameters: Partition, values: dict[int, tuple[QuantParams, ValueRange]]
) -> list[int]:
    """The tensors that a fused RELU6 writes into a class whose highest code is not that clamp."""
    return [
        op.outputs[0]
        for op, plan in zip(graph.ops, ops)
        if plan.on_accelerator
        and fused_activation(op) is Activation.RELU6
        and values[parameters.find(op.outputs[0])][1].clamp is None
    ]


def _write_clamps(
    graph: Graph, target: Target, ops: tuple[OpPlan, ...], plans: dict[int, ActivationPlan]
) -> tuple[OpPlan, ...]:
    """Fused activations that have to change for the function to stay.

    RELU6 becomes RELU where a gain has put its clamp on the type's highest code; a RELU that the source leaves
    to saturation at its lowest code is written down where codes below zero exist, or where unsigned codes need it.
    """
    result = list(ops)
    for i, op in enumerate(graph.ops):
        plan = plans.get(op.outputs[0]) if op.outputs else None
        if plan is None or not ops[i].on_accelerator or "fused_activation_function" not in op.attrs:
            continue
        fused = fused_activation(op)
        if fused is Activation.RELU6 and plan.gain != 1.0:
            result[i] = ops[i].with_(activation=Activation.RELU)
        elif fused is Activation.NONE and target.activation.symmetric:
            if implied_activation(graph, op.outputs[0]) is Activation.RELU:
                result[i] = ops[i].with_(activation=Activation.RELU)
    return tuple(result)


def _fixed_params(graph: Graph, target: Target, ops: tuple[OpPlan, ...]) -> dict[int, QuantParams]:
    dtype, result = activation_dtype(target), {}
    for op, plan in zip(graph.ops, ops):
        row = info(op)
        if row is not None and plan.writes is View.FIXED:
            fixed = row.fixed_params(dtype)
            assert fixed is not None
            own = graph.tensors[op.outputs[0]].quant
            params = QuantParams(dtype, np.float32(fixed[0]), fixed[1])
            result[op.outputs[0]] = own if own is not None and params.identical(own) else params
    return result


def _plan_constants(
    graph: Graph,
    targets: tuple[Target, ...],
    ops: tuple[OpPlan, ...],
    plans: dict[int, ActivationPlan],
    histograms: dict[int, Histogram],
) -> dict[tuple[int, int], ConstantPlan]:
    constants: dict[tuple[int, int], ConstantPlan] = {}
    for i, op in enumerate(graph.ops):
        row = info(op)
        if row is None or ops[i].reads is not View.TARGET:
            continue
        if row.filter is not None:
            constants.update(plan_layer(graph, targets[i], i, plans, histograms.get(i)))
            continue
        for position, t in enumerate(op.inputs):
            tensor = graph.tensors[t] if t >= 0 else None
            if tensor is None or not tensor.is_constant or tensor.quant is None or not _is_operand(tensor):
                continue
            other = next((plans[x] for x in (*op.outputs, *op.inputs) if x in plans), None)
            gain = other.gain if other is not None and (row.additive or row.rule == "same") else 1.0
            tied = other if row.rule == "same" else None
            constants[i, position] = plan_operand(targets[i], tensor, gain, tied)
    return constants


def _is_operand(tensor: Tensor) -> bool:
    return tensor.dtype in ("uint8", "int8", "int16")


def plan_layer(
    graph: Graph, target: Target, index: int, plans: Mapping[int, ActivationPlan], known: Histogram | None = None
) -> dict[tuple[int, int], ConstantPlan]:
    """The filter and the bias of one op, by (op, input position).

    Args:
        graph: the source's graph.
        target: the accelerator as the op sees it.
        index: the op.
        plans: of the activations around it.
        known: the filter's histogram where it was already taken.
    """
    op, row = graph.ops[index], info(graph.ops[index])
    assert row is not None and row.filter is not None and row.bias is not None
    source, weights = graph.tensors[op.inputs[row.data]].quant, graph.tensors[op.inputs[row.filter]]
    assert source is not None and weights.quant is not None
    x, y = plans[op.inputs[row.data]], plans[op.outputs[0]]
    has_bias = len(op.inputs) > row.bias and op.inputs[row.bias] >= 0
    bias = graph.tensors[op.inputs[row.bias]] if has_bias else None
    unit, channels = accumulator_scale(source, weights.quant), weights.shape[row.channel_axis]
    least = least_filter_scale(bias, unit, y.gain, x.params, channels)
    channelwise = per_channel(target, op.code, row)
    filter_plan = plan_filter(target, weights, row.channel_axis, y.gain / x.gain, channelwise, least, known)
    result = {(index, row.filter): filter_plan}
    if bias is not None or row.needs_bias:
        result[index, row.bias] = plan_bias(target, bias, unit, y.gain, x.params, filter_plan.params)
    return result

