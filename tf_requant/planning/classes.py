"""Which tensors must share parameters, and which must share a gain."""

from collections.abc import Iterable

from tf_requant.model.graph import Graph, Op
from tf_requant.model.ops import Activation, fused_activation, info
from tf_requant.model.partition import Partition, activations_around
from tf_requant.plan import OpPlan, View
from tf_requant.planning.schemes import activation_dtype
from tf_requant.targets import Target


def target_tensors(graph: Graph, ops: tuple[OpPlan, ...], io_views: Iterable[tuple[int, View | None]]) -> list[int]:
    """The activations that someone sees in the TARGET view, ascending."""
    seen = {t for t, view in io_views if view is View.TARGET}
    for op, plan in zip(graph.ops, ops):
        if plan.reads is View.TARGET:
            seen.update(t for t in op.inputs if t >= 0 and graph.tensors[t].is_activation)
        if plan.writes is View.TARGET:
            seen.update(t for t in op.outputs if t >= 0 and graph.tensors[t].is_activation)
    return sorted(seen)


def parameter_classes(graph: Graph, ops: tuple[OpPlan, ...], tensors: list[int], target: Target) -> Partition:
    """Joins the tensors that an accelerated op ties together, because its kernel or the target's rule copies codes.

    Args:
        graph: the graph.
        ops: where its ops run.
        tensors: the activations with a TARGET view.
        target: the accelerator; in uint8, CONCATENATION rescales and ties nothing.
    """
    partition, dtype = Partition(tensors), activation_dtype(target)
    for op, plan in zip(graph.ops, ops):
        row, rule = info(op), target.rule(op.code)
        if row is None or not plan.on_accelerator:
            continue
        if (row.rule == "same" and dtype not in row.rescales) or (rule is not None and rule.scale == "same"):
            partition.join(activations_around(graph, op))
    return partition


def gain_classes(graph: Graph, ops: tuple[OpPlan, ...], tensors: list[int]) -> Partition:
    """Joins the tensors between which a gain must pass unchanged (ADD, pools, reshapes, RELU, ...)."""
    partition = Partition(tensors)
    for op, plan in zip(graph.ops, ops):
        if plan.on_accelerator and passes_gain(graph, op):
            partition.join(activations_around(graph, op))
    return partition


def passes_gain(graph: Graph, op: Op) -> bool:
    """Whether f(a x) = a f(x) in the op's activations, leaving a RELU6 clamp aside."""
    row = info(op)
    if row is None or row.filter is not None:
        return False
    if op.code == "MUL":
        return len([t for t in op.inputs if graph.tensors[t].is_activation]) == 1
    return row.homogeneous


def pinned_classes(
    graph: Graph, ops: tuple[OpPlan, ...], gains: Partition, io_views: Iterable[tuple[int, View | None]]
) -> dict[int, str]:
    """The gain classes whose gain must be one, by representative, with the reason."""
    pinned: dict[int, str] = {}

    def pin(tensor: int, reason: str) -> None:
        if tensor in gains:
            pinned.setdefault(gains.find(tensor), reason)

    for tensor, _ in io_views:
        pin(tensor, "a graph input or output")
    for index, (op, plan) in enumerate(zip(graph.ops, ops)):
        row = info(op)
        multiplies = row is not None and row.filter is not None and plan.on_accelerator
        if multiplies or (plan.on_accelerator and passes_gain(graph, op)):
            if fused_activation(op) in (Activation.RELU_N1_TO_1, Activation.TANH, Activation.SIGN_BIT):
                pin(op.outputs[0], f"{graph.where(index)} clamps at fixed values")
            continue
        if row is not None and row.scale_free and plan.reads is View.TARGET:
            continue
        for tensor in (*op.inputs, *op.outputs):
            pin(tensor, f"{graph.where(index)} works on real values")
    return pinned
