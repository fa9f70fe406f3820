"""Verify: refuse a model that an interpreter would refuse, crash on, or misread, and say why.

Static: nothing runs, and no weight is read. What passes runs in the interpreter.
"""

from collections.abc import Iterator

import numpy as np

from tf_requant.errors import ModelFormatError, UnsupportedModelError
from tf_requant.model.graph import Graph, Model, Op, Tensor
from tf_requant.model.legality.params import repaired, tensor_problems
from tf_requant.model.legality.structure import index_problems, order_problems, problems_of
from tf_requant.model.ops import OPS, info
from tf_requant.model.quant import QUANTIZED_DTYPES
from tf_requant.model.shapes import check_op

_MOST_LISTED = 20
_RAW_BYTES = ("int4", "int2", "string", "resource", "variant")


def check(model: Model) -> Model:
    """The model, with harmless faults repaired and noted in its warnings.

    Args:
        model: a model as read from a file, or as rewritten.

    Raises:
        ModelFormatError: one sentence for each problem, at most 20.
    """
    mended, warnings = _repair(model)
    problems = problems_of(mended.graphs) + _signature_problems(mended)
    for graph in mended.graphs:
        problems += _graph_problems(graph)
    if problems:
        rest = len(problems) - _MOST_LISTED
        listed = problems[:_MOST_LISTED] + ([f"and {rest} more problems"] if rest > 0 else [])
        raise ModelFormatError("\n".join(listed))
    return mended.with_(warnings=(*model.warnings, *warnings)) if warnings else model


def _repair(model: Model) -> tuple[Model, list[str]]:
    warnings: list[str] = []
    graphs = []
    for graph in model.graphs:
        tensors, before = list(graph.tensors), len(warnings)
        for i in range(len(tensors)):
            while (repair := repaired(i, tensors[i])) is not None:
                tensors[i] = repair[0]
                warnings.append(repair[1])
        graphs.append(graph.with_(tensors=tuple(tensors)) if len(warnings) > before else graph)
    return (model.with_(graphs=tuple(graphs)) if warnings else model), warnings


def _graph_problems(graph: Graph) -> list[str]:
    problems = [p for i, t in enumerate(graph.tensors) for p in tensor_problems(i, t)]
    misplaced = index_problems(graph)
    if misplaced:
        return problems + misplaced
    problems += order_problems(graph)
    if problems:  # the rules of ops count on sound tensors
        return problems
    unknown: set[int] = set()
    for index in range(len(graph.ops)):
        check_op(graph, index, problems, unknown)
    return problems


def _signature_problems(model: Model) -> list[str]:
    problems = []
    for signature in model.signatures:
        graph = model.graphs[signature.graph]
        for side, entries, own in (
            ("input", signature.inputs, graph.inputs),
            ("output", signature.outputs, graph.outputs),
        ):
            problems += [
                f"signature {signature.key!r}: its {side} {name!r} is tensor {t}; expected an {side} of the graph; "
                "the file is damaged or was edited: convert the model again"
                for name, t in entries
                if t not in own
            ]
    return problems


def refuse_unsupported(model: Model) -> None:
    """Refuses a sound model that holds nothing to re-express.

    Args:
        model: a model that passed `check`.

    Raises:
        UnsupportedModelError: the model is float, has only float activations (a dynamic-range model), consists
            of custom float ops, or holds weights whose codes are not at hand.
    """
    problems = [problem for graph in model.graphs for problem in _unreadable(graph)]
    hybrid = [where for graph in model.graphs for where in _hybrid_ops(graph)]
    codes = any(t.is_activation for graph in model.graphs for t in graph.tensors)
    if not codes:
        problems.append(_why_no_codes(model, hybrid))
    elif hybrid:
        problems += [
            f"{where}: its weights are quantized but its activations are float, so they carry no ranges; "
            "quantize its activations too (full integer quantization)"
            for where in hybrid[:_MOST_LISTED]
        ]
    if problems:
        raise UnsupportedModelError("\n".join(problems))


def _why_no_codes(model: Model, hybrid: list[str]) -> str:
    ops = [op for graph in model.graphs for op in graph.ops]
    if ops and all(op.code == "CUSTOM" for op in ops):
        names = ", ".join(sorted({repr(op.name) for op in ops}))
        return f"the model's only ops are custom ({names}) on float tensors: there is nothing quantized to re-express"
    if hybrid:
        return (
            f"the model is dynamic-range quantized: its weights are quantized, but its activations are float and carry "
            f"no ranges (first at {hybrid[0]}); quantize it fully with a representative data set"
        )
    return "the model is float: no activation is quantized; quantize it first (post-training or quantization-aware)"


def _hybrid_ops(graph: Graph) -> Iterator[str]:
    for i, op in enumerate(graph.ops):
        row = info(op)
        if row is None or row.filter is None:
            continue
        data, weights = graph.tensors[op.inputs[row.data]], graph.tensors[op.inputs[row.filter]]
        if data.dtype == "float32" and weights.dtype in QUANTIZED_DTYPES:
            yield graph.where(i)


def _unreadable(graph: Graph) -> Iterator[str]:
    for i, op in enumerate(graph.ops):
        if op.code not in OPS:
            continue
        for t in _weights(graph, op):
            if _sparse(t):
                yield f"{graph.where(i)}: {t.name!r} is stored sparse; densify the model before it is re-quantized"


def _weights(graph: Graph, op: Op) -> Iterator[Tensor]:
    return (graph.tensors[t] for t in op.inputs if t >= 0 and graph.tensors[t].is_constant)


def _sparse(tensor: Tensor) -> bool:
    """Whether the bytes at hand are not the tensor's elements."""
    if tensor.data is None or tensor.dtype in _RAW_BYTES:
        return False
    return tensor.data.shape != tensor.shape or tensor.data.dtype != np.dtype(tensor.dtype)
