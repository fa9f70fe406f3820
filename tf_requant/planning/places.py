"""Which op runs where, and in which view it sees its tensors."""

import re
from collections.abc import Iterable

import numpy as np

from tf_requant.errors import UnsupportedOpError
from tf_requant.model.graph import Graph, Op
from tf_requant.model.ops import OpInfo, info
from tf_requant.model.quant import QuantParams
from tf_requant.plan import OpPlan, View
from tf_requant.planning.schemes import activation_dtype, expressible
from tf_requant.targets import Target

_INTERFACE_OPS = ("QUANTIZE", "DEQUANTIZE")


def place_ops(graph: Graph, target: Target, keep: tuple[str, ...]) -> tuple[OpPlan, ...]:
    """Decides for every op of a graph.

    Args:
        graph: the source graph.
        target: the accelerator.
        keep: patterns of ops that the user wants at the source's precision.

    Raises:
        UnsupportedOpError: an op would stay on the host, and the target refuses that.
    """
    patterns = [re.compile(p) for p in keep]
    places = tuple(_place(graph, op, target, patterns) for op in graph.ops)
    if target.unlisted_ops == "refuse":
        left = [f"{graph.where(i)}: {p.reason}" for i, p in enumerate(places) if not p.on_accelerator]
        if left:
            listed = "; ".join(left[:10])
            raise UnsupportedOpError(f"target {target.name} refuses what it cannot run itself: {listed}")
    return places


def unmatched(graphs: Iterable[Graph], keep: tuple[str, ...]) -> list[str]:
    """The patterns that name no op of a model."""
    names = [name for graph in graphs for op in graph.ops for name in _names(graph, op)]
    return [pattern for pattern in keep if not any(re.search(pattern, name) for name in names)]


def _names(graph: Graph, op: Op) -> list[str]:
    """What a pattern may call an op: its code, and the tensors that it writes."""
    return [op.name, *(graph.tensors[t].name for t in op.outputs if t >= 0)]


def _place(graph: Graph, op: Op, target: Target, patterns: list[re.Pattern[str]]) -> OpPlan:
    kept = OpPlan(False, View.SOURCE, View.SOURCE)
    if not any(graph.tensors[t].is_activation for t in (*op.inputs, *op.outputs) if t >= 0):
        return kept.with_(reason="works on float or index tensors")
    if any(p.search(n) for p in patterns for n in _names(graph, op)):
        return kept.with_(reason="kept at the source's precision by the user")
    row, dtype = info(op), activation_dtype(target)
    if row is None:
        return kept.with_(reason="custom op" if op.code == "CUSTOM" else "no rule re-expresses this op")
    if not row.runs(dtype):
        return kept.with_(reason=f"TFLite has no {dtype} kernel of it")
    obstacle = _obstacle(graph, op, row)
    if obstacle:
        return kept.with_(reason=obstacle)
    if row.rule == "fixed":
        return _place_fixed(op, row, target)
    if op.code in _INTERFACE_OPS and not _quantized_both_ways(graph, op):
        return OpPlan(False, View.TARGET, View.TARGET, "converts to or from float")
    if row.scale_free:
        listed = target.rule(op.code) is not None
        return OpPlan(listed, View.TARGET, View.SOURCE, "" if listed else "the target does not list it")
    if target.rule(op.code) is None:
        return kept.with_(reason="the target does not list it")
    beyond = _beyond_limits(graph, op, row, target)
    if beyond:
        return kept.with_(reason=beyond)
    return OpPlan(True, View.TARGET, View.TARGET)


def _beyond_limits(graph: Graph, op: Op, row: OpInfo, target: Target) -> str:
    """Which limit of the target an op exceeds, or an empty string."""
    rule, attrs = target.rule(op.code), op.attrs
    assert rule is not None
    window = [int(attrs[n]) for n in ("filter_height", "filter_width") if n in attrs]
    if row.filter is not None and op.code != "FULLY_CONNECTED":
        window = list(graph.tensors[op.inputs[row.filter]].shape[1:3])
    stride = max((int(attrs[n]) for n in ("stride_h", "stride_w") if n in attrs), default=1)
    dilation = max((int(attrs[n]) for n in ("dilation_h_factor", "dilation_w_factor") if n in attrs), default=1)
    if rule.kernel_max is not None and max(window, default=1) > rule.kernel_max:
        return f"its kernel is {max(window)} wide, the target allows {rule.kernel_max}"
    if rule.stride_max is not None and stride > rule.stride_max:
        return f"its stride is {stride}, the target allows {rule.stride_max}"
    if not rule.dilation and dilation > 1:
        return f"its dilation is {dilation}, the target allows none"
    return ""


def _place_fixed(op: Op, row: OpInfo, target: Target) -> OpPlan:
    dtype = activation_dtype(target)
    fixed = row.fixed_params(dtype)
    assert fixed is not None  # every row of rule `fixed` lists the types that it runs
    if not expressible(target, QuantParams(dtype, np.float32(fixed[0]), fixed[1])):
        return OpPlan(False, View.TARGET, View.FIXED, "the target cannot express its fixed output parameters")
    if target.rule(op.code) is None:
        return OpPlan(False, View.TARGET, View.FIXED, "the target does not list it")
    return OpPlan(True, View.TARGET, View.FIXED)


def _quantized_both_ways(graph: Graph, op: Op) -> bool:
    return graph.tensors[op.inputs[0]].is_quantized and graph.tensors[op.outputs[0]].is_quantized


def _obstacle(graph: Graph, op: Op, row: OpInfo) -> str:
    """Why the rule of an op cannot be applied to this one, or an empty string."""
    tensors = [graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
    activations = [t for t in tensors if t.is_activation]
    if any(t.quant is not None and t.quant.per_channel for t in activations):
        return "an activation has more than one scale"
    if any(t.is_variable for t in activations):
        return "it reads or writes a variable tensor"
    if row.filter is not None:
        return _filter_obstacle(graph, op, row)
    floats = [t for t in tensors if t.dtype.startswith("float") and op.code not in _INTERFACE_OPS]
    if floats:
        return f"{floats[0].name!r} is a float tensor"
    if any(t.dtype != activations[0].dtype for t in activations) and op.code != "QUANTIZE":
        return "it mixes integer types"
    if row.rule == "same" and activations[0].dtype not in row.rescales:
        first = activations[0].quant
        if any(not t.quant.identical(first) for t in activations if t.quant is not None):
            return "it reads and writes different parameters, and its kernel copies raw codes"
    return ""


def _filter_obstacle(graph: Graph, op: Op, row: OpInfo) -> str:
    weights = graph.tensors[op.inputs[row.filter or 0]]
    if not graph.tensors[op.inputs[row.data]].is_activation or not graph.tensors[op.outputs[0]].is_activation:
        return "it computes in float"
    if not weights.is_constant:
        return "its weights are computed while it runs"
    if weights.quant is None or weights.dtype not in ("uint8", "int8", "int4"):
        return f"its weights are {weights.dtype}"
    if weights.data is not None and weights.data.shape != weights.shape:
        return "its weights are stored sparse or packed"
    bias = op.inputs[row.bias] if row.bias is not None and len(op.inputs) > row.bias else -1
    if bias >= 0 and not graph.tensors[bias].is_constant:
        return "its bias is computed while it runs"
    return ""
