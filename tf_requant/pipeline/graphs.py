"""A TF1 graph beside the TFLite model that it was converted to: which node became which tensor, and a plan as edits.

Filters are told by what they hold, activations by the grid of their range; names only choose among equals, since
converters join and number them as they like.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import UnsupportedModelError
from tf_requant.io.tf1.edit import Edit
from tf_requant.io.tf1.fake_quant import Range, quantized, range_of
from tf_requant.io.tf1.survey import LayerSite, RangeSite, Survey
from tf_requant.model.graph import Graph, Model, Tensor
from tf_requant.model.ops import Activation, info
from tf_requant.model.quant import INT_BITS, QuantParams, code_limits
from tf_requant.plan import ConstantPlan, GraphPlan, Plan, View
from tf_requant.planning.schemes import weight_limits
from tf_requant.rewrite.constants import is_unchanged, requantized
from tf_requant.targets import Target

_MISROUNDED = 0.01
"""The share of a filter's codes that converters may round otherwise than the graph, each by one."""
_SURE = 0.499
"""How near to its code, in steps, a trained weight has to be to stand for it in a graph."""
_RECTIFIERS = {Activation.NONE: "Identity", Activation.RELU: "Relu", Activation.RELU6: "Relu6"}


def with_trained_filters(model: Model, survey: Survey) -> Model:
    """The model with the trained floats behind each filter's codes.

    Raises:
        UnsupportedModelError: a filter that cannot be told apart.
    """
    graph = model.main
    tensors = list(graph.tensors)
    for index, site in layers(graph, survey).items():
        position = _filter(graph, index)
        held = tensors[graph.ops[index].inputs[position]]
        tensors[graph.ops[index].inputs[position]] = held.with_(trained=_steps(held, site, survey))
    return model.with_(graphs=(graph.with_(tensors=tuple(tensors)), *model.graphs[1:]))


def _steps(held: Tensor, site: LayerSite, survey: Survey) -> NDArray[np.float32]:
    """Trained floats in the codes' own steps, clipped as training clipped them."""
    assert held.quant is not None
    scale, zero_point = held.quant.along(len(held.shape))
    narrow = survey.ranges[site.filter].narrow
    low, high = code_limits(held.dtype, narrow)
    floats = _file_layout(site, survey.filters[site.filter], held.shape)
    return np.asarray(np.clip(floats / scale, low - zero_point, high - zero_point), np.float32)


def layers(graph: Graph, survey: Survey) -> dict[int, LayerSite]:
    """Op index -> the layer of the graph that it was.

    Raises:
        UnsupportedModelError: a filter that no layer of the graph, or more than its share, could have become.
    """
    free, found = list(survey.layers), {}
    for index, op in enumerate(graph.ops):
        position = _filter(graph, index)
        if position < 0:
            continue
        held = graph.tensors[op.inputs[position]]
        names = _names(held) | _names(graph.tensors[op.outputs[0]])
        alike = [s for s in free if _holds(held, s, survey)]
        site = next((s for s in alike if {s.name, s.filter} & names), alike[0] if alike else None)
        if site is None:
            raise UnsupportedModelError(f"{graph.where(index)}: no layer of the graph holds its filter's values")
        free.remove(site)
        found[index] = site
    return found


def _filter(graph: Graph, index: int) -> int:
    """The position of an op's constant, quantized filter; -1 without one."""
    row = info(graph.ops[index])
    if row is None or row.filter is None:
        return -1
    held = graph.tensors[graph.ops[index].inputs[row.filter]]
    return row.filter if held.data is not None and held.quant is not None else -1


def _holds(held: Tensor, site: LayerSite, survey: Survey) -> bool:
    assert held.data is not None
    floats = survey.filters[site.filter]
    if _file_layout(site, floats, held.shape) is None:
        return False
    # A range per channel runs along the last dimension, whatever that means to the layer.
    codes = _file_layout(site, quantized(floats, survey.ranges[site.filter], floats.ndim - 1), held.shape)
    off = np.abs(codes + code_limits(held.dtype)[0] - held.data.astype(np.int64))
    return bool(off.max(initial=0) <= 1 and np.count_nonzero(off) <= max(1, _MISROUNDED * off.size))


def _file_layout(site: LayerSite, values: NDArray[Any], shape: tuple[int, ...]) -> Any:
    """A filter as TFLite lays it out, or None where it cannot have this shape."""
    if site.op != "DepthwiseConv2dNative" and values.ndim != len(shape):
        return None
    if site.op == "Conv2D":
        values = values.transpose(3, 0, 1, 2)
    elif site.op == "DepthwiseConv2dNative":
        values = values.reshape(1, *values.shape[:2], -1) if values.ndim == 4 else values
    elif site.op == "Conv2DBackpropInput":
        values = values.transpose(2, 0, 1, 3)
    elif not site.transposed:
        values = values.T
    return values if values.shape == shape else None


def _graph_layout(site: LayerSite, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse."""
    if site.op == "Conv2D":
        return values.transpose(1, 2, 3, 0)
    if site.op == "DepthwiseConv2dNative":
        return values.reshape(shape)
    if site.op == "Conv2DBackpropInput":
        return values.transpose(1, 2, 0, 3)
    return values if site.transposed else values.T


def _names(tensor: Tensor, exact: bool = False) -> set[str]:
    """The nodes that a converter may have meant by a tensor's name: it joins them, and may add a number."""
    parts = tensor.name.split(";")
    return set(parts) if exact else {*parts, *(re.sub(r"\d+$", "", p) for p in parts)}


def matched(graph: Graph, survey: Survey) -> tuple[dict[int, LayerSite], dict[str, int]]:
    """What became of a graph: op index -> layer, and the tensor of each FakeQuant node, average and fixed range.

    Raises:
        UnsupportedModelError: something of the graph that the converted model does not hold.
    """
    tensors: dict[str, int] = {}
    for exact in (True, False):
        for site in survey.activations:
            if site.name not in tensors:
                found = _tensor_of(graph, site, survey.ranges[site.name], set(tensors.values()), exact)
                tensors |= {} if found is None else {site.name: found}
        for name in survey.averages:
            if name not in tensors:
                named = [i for i in _activations(graph) if name in _names(graph.tensors[i], exact) and i not in tensors.values()]
                tensors |= {name: named[0]} if named else {}
    lost = [n for n in (*(s.name for s in survey.activations), *survey.averages) if n not in tensors]
    if lost:
        raise UnsupportedModelError(f"node {lost[0]!r}: the converted model holds no tensor with its range, so it is another model")
    return layers(graph, survey), tensors


def graph_edits(source: Model, plan: Plan, target: Target, survey: Survey) -> list[Edit]:
    """What a plan changes in the graph that its source was converted from.

    Args:
        source: the source model, converted from the graph.
        plan: what the target makes of it.
        target: the accelerator.
        survey: the graph.

    Raises:
        UnsupportedModelError: a change that a graph of FakeQuant nodes cannot say.
    """
    graph, main = source.main, plan.graphs[0]
    sites, tensors = matched(graph, survey)
    _refuse_other_views(graph, main)
    _refuse_other_constants(graph, main, sites)
    owns, edits = [], []
    taken: set[str] = set()
    for index, site in sites.items():
        constant = main.constants.get((index, _filter(graph, index)))
        name = site.filter
        if name in taken:  # one filter of several layers, each of which has its own on the target
            name = f"{site.name}/own_{name.rsplit('/', 1)[-1]}"
            owns.append(Edit("own", site.name, op=name))
        taken.add(name)
        edits += _layer_edits(graph, main, index, site, name, constant, target, survey)
    return [*owns, *edits, *_rectifier_edits(graph, main, survey, sites, tensors), *_range_edits(graph, main, survey, tensors)]


def _refuse_other_views(graph: Graph, plan: GraphPlan) -> None:
    """Refuses a plan that puts a QUANTIZE op inside the graph: a FakeQuant node is one range for all who read it."""
    for index, op in enumerate(graph.ops):
        for t in op.inputs:
            if t < 0 or not graph.tensors[t].is_activation or t in graph.inputs:
                continue
            seen, written = _params(graph, plan, t, plan.ops[index].reads), _written(graph, plan, t)
            if seen is None or written is None or not seen.identical(written):
                raise UnsupportedModelError(
                    f"{graph.where(index)} sees {graph.tensors[t].name!r} at another precision than the op that writes it, which "
                    "no range of a graph says; write a .tflite file"
                )


def _rectifier_edits(
    graph: Graph, plan: GraphPlan, survey: Survey, found: dict[int, LayerSite], tensors: dict[str, int]
) -> list[Edit]:
    """Fused activations that the plan changes, or writes down where saturation at zero was one."""
    edits, sites = [], {tensors[s.name]: s for s in survey.activations}
    for index, op in enumerate(graph.ops):
        fused = plan.ops[index].activation
        if fused is None:
            continue
        site, layer = sites.get(op.outputs[0]), found.get(index)
        rectifier = (site.rectifier if site is not None else "") or (layer.rectifier if layer is not None else "")
        if fused not in _RECTIFIERS or (site is None and not rectifier):
            raise UnsupportedModelError(f"{graph.where(index)}: its fused activation changes, and no FakeQuant node follows it")
        if rectifier:
            edits.append(Edit("op", rectifier, op=_RECTIFIERS[Activation(fused)]))
        elif site is not None and fused == Activation.RELU:
            edits.append(Edit("rectify", site.name))
    return edits


def _layer_edits(
    graph: Graph,
    plan: GraphPlan,
    index: int,
    site: LayerSite,
    name: str,
    constant: ConstantPlan | None,
    target: Target,
    survey: Survey,
) -> list[Edit]:
    op, row, edits = graph.ops[index], info(graph.ops[index]), []
    assert row is not None and row.filter is not None
    held = graph.tensors[op.inputs[row.filter]]
    if constant is not None and not is_unchanged(held, constant):
        low, high = constant.limits or weight_limits(target)
        lowest = code_limits(constant.params.dtype)[0]
        narrow = low > lowest
        zero_point = int(constant.params.zero_point[0]) - lowest
        new = range_of(constant.params.scale, zero_point, INT_BITS[constant.params.dtype], narrow)
        values = _new_floats(held, constant, row.channel_axis, site, survey)
        shape = survey.filters[site.filter].shape
        edits.append(Edit("filter", name, values=_graph_layout(site, values, shape)))
        edits.append(Edit("range", name, range=new))
    if row.bias is not None and (index, row.bias) in plan.constants:
        bias = plan.constants[index, row.bias]
        present = len(op.inputs) > row.bias and op.inputs[row.bias] >= 0
        old = graph.tensors[op.inputs[row.bias]] if present else None
        if old is not None and not is_unchanged(old, bias):
            new_bias = requantized(old, bias, 0)
            assert new_bias.data is not None
            unit = _accumulator_unit(graph, plan, index, constant)
            edits.append(Edit("bias", site.name, values=np.float32(new_bias.data * unit), op=site.sum))
        elif old is None and bias.codes is not None and bias.codes.any():
            unit = _accumulator_unit(graph, plan, index, constant)
            edits.append(Edit("bias", site.name, values=np.float32(bias.codes * unit), op=site.sum))
    return edits


def _new_floats(
    held: Tensor, constant: ConstantPlan, axis: int, site: LayerSite, survey: Survey
) -> NDArray[np.float32]:
    """Floats that the new range rounds to the planned codes: the trained ones, times gains, wherever those do already."""
    new = requantized(held, constant, axis)
    assert new.data is not None and new.quant is not None
    scale, zero_point = new.quant.along(new.data.ndim)
    codes = (new.data.astype(np.int64) - zero_point).astype(np.float64)
    step = np.atleast_1d(np.asarray(constant.step, np.float64))
    shape = [1] * new.data.ndim
    shape[axis] = step.size
    wanted = _steps(held, site, survey) * step.reshape(shape)
    if constant.input_gains is not None:  # equalized along the input: only the codes tell
        wanted = codes
    return np.asarray(np.where(np.abs(wanted - codes) < _SURE, wanted, codes) * scale, np.float32)


def _accumulator_unit(graph: Graph, plan: GraphPlan, index: int, constant: ConstantPlan | None) -> NDArray[np.float64]:
    op, row = graph.ops[index], info(graph.ops[index])
    assert row is not None and row.filter is not None
    seen = _params(graph, plan, op.inputs[row.data], plan.ops[index].reads)
    held = graph.tensors[op.inputs[row.filter]].quant if constant is None else constant.params
    assert seen is not None and held is not None
    return seen.scale[0].astype(np.float64) * held.scale.astype(np.float64)


def _refuse_other_constants(graph: Graph, plan: GraphPlan, sites: dict[int, LayerSite]) -> None:
    for (index, position), constant in plan.constants.items():
        op = graph.ops[index]
        row = info(op)
        if row is not None and position in (row.filter, row.bias):
            continue
        held = graph.tensors[op.inputs[position]]
        output = plan.activations.get(op.outputs[0])
        gain = 1.0 if output is None else output.gain
        if not is_unchanged(held, constant) and (gain != 1.0 or index in sites):
            raise UnsupportedModelError(
                f"{graph.where(index)}: its constant {held.name!r} takes another real value on this target, which no FakeQuant "
                "range says; write a .tflite file"
            )


def _range_edits(graph: Graph, plan: GraphPlan, survey: Survey, tensors: dict[str, int]) -> list[Edit]:
    edits = []
    for site in survey.activations:
        params = _written(graph, plan, tensors[site.name])
        if params is not None and params is not graph.tensors[tensors[site.name]].quant:
            edits.append(Edit("range", site.name, range=_range(params)))
    for name in survey.averages:
        params = _written(graph, plan, tensors[name])
        if params is not None:
            shift = survey.shifts.get(name, 0.0)
            edits.append(Edit("insert", name, _range(params), np.float32(shift) if shift else None))
    return edits


def _activations(graph: Graph) -> Iterable[int]:
    written = [t for op in graph.ops for t in op.outputs]
    return [t for t in (*graph.inputs, *written) if t >= 0 and graph.tensors[t].is_activation]


def _tensor_of(graph: Graph, site: RangeSite, held: Range, taken: set[int], exact: bool) -> int | None:
    """The tensor that a FakeQuant node's values became: of those on its grid the one with a name of its."""
    scale, zero_point = held.grid()

    def fits(tensor: Tensor) -> bool:
        assert tensor.quant is not None
        same = np.isclose(tensor.quant.scale[0], scale[0], rtol=1e-6, atol=0)
        return bool(same and int(tensor.quant.zero_point[0]) - code_limits(tensor.dtype)[0] == int(zero_point[0]))

    candidates = [i for i in _activations(graph) if i not in taken and fits(graph.tensors[i])]
    named = [i for i in candidates if _names(graph.tensors[i], exact) & set(site.values)]
    if named or exact:
        return named[0] if named else None
    return candidates[0] if len(candidates) == 1 else None


def _written(graph: Graph, plan: GraphPlan, tensor: int) -> QuantParams | None:
    """The parameters in which the re-expressed model holds a tensor; of an input, those in which it is read."""
    if tensor in graph.inputs:
        readers = graph.consumers.get(tensor, ())
        return _params(graph, plan, tensor, plan.ops[readers[0]].reads) if readers else None
    return _params(graph, plan, tensor, plan.ops[graph.producers[tensor]].writes)


def _params(graph: Graph, plan: GraphPlan, tensor: int, view: View) -> QuantParams | None:
    if view is View.TARGET:
        return plan.activations[tensor].params
    return plan.fixed.get(tensor) if view is View.FIXED else graph.tensors[tensor].quant if view is View.SOURCE else None


def _range(params: QuantParams) -> Range:
    return range_of(params.scale, int(params.zero_point[0]) - code_limits(params.dtype)[0], INT_BITS[params.dtype], False)
