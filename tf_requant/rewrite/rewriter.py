"""Applies a Plan: constants on their new grids, tensors in their new types, QUANTIZE ops between views."""

import numpy as np

from tf_requant.model.graph import NO_TENSOR, Graph, Model, Op, Signature, Tensor, unused
from tf_requant.model.ops import info
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.plan import ConstantPlan, GraphPlan, Plan, View
from tf_requant.rewrite.constants import is_unchanged, requantized, zeros
from tf_requant.rewrite.versions import versioned, with_runtime


def apply(model: Model, plan: Plan) -> Model:
    """The re-expressed model; the source is not touched.

    Args:
        model: the source model.
        plan: what `planning` decided for exactly this model.
    """
    graphs, moves = [], []
    for graph, graph_plan in zip(model.graphs, plan.graphs):
        rewriter = _GraphRewriter(graph, graph_plan)
        graphs.append(rewriter.run())
        moves.append(rewriter.moved)
    signatures = tuple(
        Signature(
            s.key,
            s.graph,
            tuple((name, moves[s.graph].get(t, t)) for name, t in s.inputs),
            tuple((name, moves[s.graph].get(t, t)) for name, t in s.outputs),
        )
        for s in model.signatures
    )
    return with_runtime(model, model.with_(graphs=tuple(graphs), signatures=signatures))


class _GraphRewriter:
    """The rewrite of one graph: tensors keep their index until the last step drops the unused ones."""

    def __init__(self, graph: Graph, plan: GraphPlan) -> None:
        self._graph, self._plan = graph, plan
        self._tensors: list[Tensor] = list(graph.tensors)
        self._ops: list[Op] = []
        self._native: dict[int, int] = {}  # source tensor -> new tensor in the view that its producer writes
        self._converted: dict[tuple[int, str], int] = {}
        self._constant: dict[tuple[int, int], int] = {}
        self._names = {t.name for t in graph.tensors}
        self.moved: dict[int, int] = {}

    def run(self) -> Graph:
        """Rewrites constants, then ops in order, then the interface."""
        graph, plan = self._graph, self._plan
        self._rewrite_constants()
        for tensor, view in zip(graph.inputs, plan.inputs):
            self._native[tensor] = tensor
            if view is not None:
                self._tensors[tensor] = self._seen(tensor, view)
        for index in range(len(graph.ops)):
            self._rewrite_op(index)
        outputs = tuple(self._output(t, v) for t, v in zip(graph.outputs, plan.outputs))
        self.moved.update(zip(graph.outputs, outputs))
        rewritten = graph.with_(tensors=tuple(self._tensors), ops=tuple(self._ops), outputs=outputs)
        rewritten = rewritten.with_(ops=tuple(versioned(rewritten, op) for op in rewritten.ops))
        return self._without_orphans(rewritten)

    def _rewrite_op(self, index: int) -> None:
        op, plan = self._graph.ops[index], self._plan.ops[index]
        inputs = [self._input(index, p, t) for p, t in enumerate(op.inputs)]
        row = info(op)
        if row is not None and row.bias is not None and (index, row.bias) in self._constant:
            inputs += [NO_TENSOR] * (row.bias + 1 - len(inputs))
            inputs[row.bias] = self._constant[index, row.bias]
        for t in op.outputs:
            if t >= 0 and self._graph.tensors[t].is_activation:
                self._native[t] = t
                self._tensors[t] = self._seen(t, plan.writes)
        if op.code == "QUANTIZE" and self._became_identity(op, inputs[0]):
            self._bypass(op.outputs[0], inputs[0])
            return
        attrs = op.attrs
        if plan.activation is not None:
            attrs = {**attrs, "fused_activation_function": int(plan.activation)}
        self._ops.append(op.with_(inputs=tuple(inputs), attrs=attrs))

    def _input(self, index: int, position: int, tensor: int) -> int:
        if (index, position) in self._constant:
            return self._constant[index, position]
        if tensor < 0 or not self._graph.tensors[tensor].is_activation:
            return tensor
        return self._in_view(tensor, self._plan.ops[index].reads)

    def _seen(self, tensor: int, view: View) -> Tensor:
        """A tensor in one view: its type and parameters."""
        own = self._graph.tensors[tensor]
        if view is View.FLOAT:
            return own.with_(dtype="float32", quant=None, bits=None)
        params, bits = self._params(tensor, view), self._plan.activations[tensor].bits if view is View.TARGET else None
        if params is own.quant and bits == own.bits:
            return own
        return own.with_(dtype=params.dtype, quant=params, bits=bits)

    def _params(self, tensor: int, view: View) -> QuantParams:
        own = self._graph.tensors[tensor].quant
        assert own is not None
        if view is View.TARGET:
            return self._plan.activations[tensor].params
        return self._plan.fixed[tensor] if view is View.FIXED else own

    def _in_view(self, tensor: int, view: View) -> int:
        """The index of a tensor as an op wants to see it; a QUANTIZE op is inserted where that differs."""
        native = self._native.get(tensor, tensor)
        held = self._tensors[native]
        wanted = self._seen(tensor, view)
        if held.dtype == wanted.dtype and (wanted.quant is None or wanted.quant.identical(held.quant)):
            return native
        key = (native, str(wanted.quant) if wanted.quant is not None else "float")
        if key not in self._converted:
            self._converted[key] = self._convert(native, wanted, f"{held.name}_{view.value}")
        return self._converted[key]

    def _convert(self, tensor: int, wanted: Tensor, name: str) -> int:
        held = self._tensors[tensor]
        if {held.dtype, wanted.dtype} == {"int16", "uint8"}:  # not every kernel converts these directly
            narrow = wanted.quant if wanted.dtype == "uint8" else held.quant
            assert narrow is not None
            halfway = QuantParams("int8", narrow.scale, narrow.zero_point + code_limits("int8")[0])
            tensor = self._convert(tensor, wanted.with_(dtype="int8", quant=halfway), f"{name}_int8")
        code = "DEQUANTIZE" if wanted.dtype == "float32" else "QUANTIZE"
        new = self._append(wanted.with_(name=name, is_variable=False))
        self._ops.append(Op(code, (tensor,), (new,)))
        return new

    def _append(self, tensor: Tensor) -> int:
        name = unused(tensor.name, self._names)
        self._names.add(name)
        self._tensors.append(tensor.with_(name=name))
        return len(self._tensors) - 1

    def _became_identity(self, op: Op, source: int) -> bool:
        before = self._graph.tensors[op.inputs[0]], self._graph.tensors[op.outputs[0]]
        after = self._tensors[source], self._tensors[op.outputs[0]]
        if any(t.quant is None for t in (*before, *after)):
            return False
        identical = after[0].quant is not None and after[0].quant.identical(after[1].quant) and after[0].bits == after[1].bits
        was = before[0].quant is not None and before[0].quant.identical(before[1].quant)
        # Two ends of the interface keep a tensor and a name each.
        ends = {*self._graph.inputs, *(self._native.get(t, t) for t in self._graph.outputs)}
        both_interface = op.outputs[0] in self._graph.outputs and source in ends
        return identical and not was and not both_interface

    def _bypass(self, output: int, source: int) -> None:
        """Readers of a QUANTIZE that no longer does anything read its input; a graph output keeps its name."""
        self._native[output] = source
        if output in self._graph.outputs:
            self._tensors[source] = self._tensors[source].with_(name=self._tensors[output].name)

    def _output(self, tensor: int, view: View | None) -> int:
        native = self._native.get(tensor, tensor)
        if view is None:
            return native
        index = self._in_view(tensor, view)
        if index != native and native not in self._graph.inputs:
            name = self._tensors[native].name
            self._tensors[native] = self._tensors[native].with_(name=self._tensors[index].name)
            self._tensors[index] = self._tensors[index].with_(name=name)
        return index

    def _rewrite_constants(self) -> None:
        """Gives every distinct plan of a constant a tensor: its own index where all its readers agree."""
        readers: dict[int, list[tuple[int, int]]] = {}
        for i, op in enumerate(self._graph.ops):
            for p, t in enumerate(op.inputs):
                if t >= 0 and self._graph.tensors[t].is_constant:
                    readers.setdefault(t, []).append((i, p))
        made: dict[int, list[tuple[ConstantPlan, int]]] = {}
        for (i, p), plan in self._plan.constants.items():
            op, row = self._graph.ops[i], info(self._graph.ops[i])
            t = op.inputs[p] if p < len(op.inputs) else NO_TENSOR
            if t < 0:
                assert row is not None and row.filter is not None
                channels = self._graph.tensors[op.inputs[row.filter]].shape[row.channel_axis]
                name = f"{self._graph.tensors[op.outputs[0]].name}_bias"
                self._constant[i, p] = self._append(zeros(name, (channels,), plan))
                continue
            tensor = self._graph.tensors[t]
            if is_unchanged(tensor, plan):
                continue
            alike = next((index for other, index in made.get(t, ()) if _agree(other, plan)), None)
            if alike is None:
                axis = row.channel_axis if row is not None and p == row.filter else 0
                new = requantized(tensor, plan, axis)
                everyone = all(_agree(self._plan.constants.get(r), plan) for r in readers[t])
                if everyone:
                    alike, self._tensors[t] = t, new
                else:
                    alike = self._append(new.with_(name=f"{tensor.name}_requantized"))
                made.setdefault(t, []).append((plan, alike))
            self._constant[i, p] = alike

    def _without_orphans(self, graph: Graph) -> Graph:
        """Drops the tensors that only this rewrite has left without a reader or writer."""
        used = _referenced(graph)
        orphans = _referenced(self._graph) - used
        if not orphans:
            return graph
        kept = [i for i in range(len(graph.tensors)) if i not in orphans]
        index = {old: new for new, old in enumerate(kept)} | {NO_TENSOR: NO_TENSOR}
        ops = tuple(
            op.with_(**{side: tuple(index[t] for t in getattr(op, side)) for side in ("inputs", "outputs", "intermediates")})
            for op in graph.ops
        )
        self.moved = {t: index[self.moved.get(t, t)] for t in range(len(self._graph.tensors)) if self.moved.get(t, t) in index}
        return graph.with_(
            tensors=tuple(graph.tensors[i] for i in kept),
            ops=ops,
            inputs=tuple(index[t] for t in graph.inputs),
            outputs=tuple(index[t] for t in graph.outputs),
        )


def _referenced(graph: Graph) -> set[int]:
    """The tensors that an op or the interface refers to."""
    tensors = {t for op in graph.ops for t in (*op.inputs, *op.outputs, *op.intermediates) if t >= 0}
    return tensors | {*graph.inputs, *graph.outputs}


def _agree(one: ConstantPlan | None, other: ConstantPlan) -> bool:
    """Whether two plans of the same constant give the same tensor."""
    if one is other:
        return True
    if one is None or not one.params.identical(other.params) or (one.codes is None) != (other.codes is None):
        return False
    if one.codes is not None and other.codes is not None:
        return np.array_equal(one.codes, other.codes)
    return np.array_equal(one.step, other.step) and one.limits == other.limits
