"""What keeps a graph from being converted, in sentences, before any converter sees it."""

from collections.abc import Iterable
from typing import Any

from tf_requant.errors import ModelFormatError, UnsupportedModelError
from tf_requant.io.tf1.nodes import (
    AVERAGES,
    COPIES,
    DECISIONS,
    FAKE_QUANT,
    FIXED,
    LAYERS,
    MOVES,
    RECTIFIERS,
    SUMS,
    Nodes,
    attribute,
)

_UPDATES = (
    "Assign", "AssignAdd", "AssignSub", "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp",
)  # fmt: skip
_RANDOM = ("RandomUniform", "RandomStandardNormal", "RandomUniformInt", "Multinomial", "StatelessRandomUniform")
_CONTROL = ("Switch", "Merge", "Enter", "Exit", "NextIteration", "If", "While", "StatelessIf", "StatelessWhile")
_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "BatchNormWithGlobalNormalization")
_NAMED = 5
"""How many nodes a sentence names."""


def check_graph(nodes: Nodes, inputs: list[str], outputs: list[str]) -> None:
    """Refuses a graph that no converter makes a sound quantized model of.

    Raises:
        ModelFormatError: it is damaged: a node reads one that is not there.
        UnsupportedModelError: it was not trained for quantization, trains still, has batch norm left in it, or lacks ranges.
    """
    nodes = Nodes(nodes.graph, inputs)
    used = [nodes[n] for n in nodes.behind(outputs, stop=inputs)]
    for node in used:
        missing = [i for i in nodes.inputs(node) if i not in nodes]
        if missing and node.name not in inputs:
            raise ModelFormatError(f"node {node.name!r} ({node.op}) reads {missing[0]!r}, which the graph does not hold")
        _check_inputs(nodes, node)
    data = nodes.ahead(inputs)
    if not data & set(outputs):
        raise UnsupportedModelError(
            f"no output of {_some(outputs)} depends on an input of {_some(inputs)}; name others with --inputs and --outputs"
        )
    _check_training(used)
    if not any(n.op in FAKE_QUANT for n in used):
        raise UnsupportedModelError(
            "the graph holds no FakeQuant node between its inputs and outputs, so it was not trained for quantization; "
            "quantize it with a representative dataset (tf.lite.TFLiteConverter) and re-express the .tflite file"
        )
    _check_norms([n for n in used if n.name in data])
    _check_bits(nodes, used)
    _check_filters(nodes, [n for n in used if n.name in data])
    _check_ranges(nodes, [n for n in used if n.name in data and n.name not in inputs], outputs)


def _check_inputs(nodes: Nodes, node: Any) -> None:
    """Refuses a layer without a filter, and a FakeQuant node without a constant range."""
    ranged = node.op in FAKE_QUANT and node.op != "FakeQuantWithMinMaxArgs"
    inputs, least = nodes.inputs(node), 3 if ranged else 2 if node.op in LAYERS else 0
    if len(inputs) < least:
        raise ModelFormatError(f"node {node.name!r} ({node.op}) reads {len(inputs)} values, expected {least}")
    if ranged and not all(nodes.is_constant(end) for end in inputs[1:3]):
        raise UnsupportedModelError(
            f"node {node.name!r}: its range depends on what the graph is fed, expected constants; a training graph measures them"
        )


def _check_training(used: Iterable[Any]) -> None:
    for node in used:
        training = node.op in _NORMS and attribute(node, "is_training", "b", True)
        why = (
            "updates a variable, as moving averages do" if node.op in _UPDATES
            else "draws random numbers, as dropout does" if node.op in _RANDOM
            else "normalizes by the batch's own statistics" if training
            else "decides at run time which branch runs" if node.op in _CONTROL
            else ""
        )  # fmt: skip
        if why:
            raise UnsupportedModelError(
                f"this is a training graph: node {node.name!r} ({node.op}) {why}; build the graph for evaluation "
                "(tf.contrib.quantize.create_eval_graph, is_training=False), restore the checkpoint and freeze that"
            )


def _check_norms(data: Iterable[Any]) -> None:
    left = [n for n in data if n.op in _NORMS]
    if left:
        raise UnsupportedModelError(
            f"batch norm was left unfolded at {_some([n.name for n in left])}: its layer was trained without a range, so no "
            "integer model equals the graph; let contrib.quantize see the layer followed by its batch norm and an op of its own "
            "(an Identity will do) and train again"
        )


def _check_bits(nodes: Nodes, used: Iterable[Any]) -> None:
    for node in used:
        if node.op in FAKE_QUANT:
            bits = attribute(node, "num_bits", "i", 8)
            if bits != 8:
                raise UnsupportedModelError(
                    f"node {node.name!r} quantizes to {bits} bits; the converter that reads TF1 graphs knows 8 only"
                )


def _check_filters(nodes: Nodes, data: Iterable[Any]) -> None:
    bare = [
        n.name
        for n in data
        if n.op in LAYERS and nodes.filter_range(n) is None and not _is_computed(nodes, n)
    ]
    if bare:
        raise UnsupportedModelError(
            f"the filter of {_some(bare)} has no FakeQuant node, so its range was not trained; a converter would make one up"
        )


def _is_computed(nodes: Nodes, layer: Any) -> bool:
    """Whether a layer's second operand is an activation too (a product of two)."""
    return not nodes.is_constant(layer.input[LAYERS[layer.op]])


def _check_ranges(nodes: Nodes, data: list[Any], outputs: list[str]) -> None:
    known = (*FAKE_QUANT, *COPIES, *MOVES, *AVERAGES, *RECTIFIERS, *FIXED, *DECISIONS)
    inside = {n.name for n in data}
    lacking = []
    for node in data:
        if node.op in known or _is_bias(nodes, node):
            continue
        if not _is_ranged(nodes, node, inside, set(outputs)):
            lacking.append(node.name)
    if lacking:
        raise UnsupportedModelError(
            f"no FakeQuant node gives the range of {_some(lacking)}; add one in training, or name as --outputs what lies before"
        )
    _check_single_ranges(nodes, data, inside)


def _check_single_ranges(nodes: Nodes, data: list[Any], inside: set[str]) -> None:
    """Refuses values with two ranges: a tensor of TFLite has one, and the converter drops the other silently."""
    for node in data:
        readers = [r for r in nodes.readers.get(node.name, ()) if r.name in inside]
        ranged = [r for r in readers if r.op in FAKE_QUANT]
        if node.op in (*MOVES, *AVERAGES) and ranged and len(ranged) < len(readers):
            raise UnsupportedModelError(
                f"node {node.name!r} is read out of {ranged[0].name!r} and bare as well, and a tensor of TFLite has one range"
            )
        if node.op in FAKE_QUANT and (nested := nodes.ranged(node.input[0])) is not None:
            raise UnsupportedModelError(
                f"node {node.name!r} quantizes what {nested.name!r} did already, with nothing computed between"
            )


def _is_bias(nodes: Nodes, node: Any) -> bool:
    """Whether a sum only adds a constant to a layer's own."""
    return node.op in SUMS and layer_of(nodes, node.name) is not None


def layer_of(nodes: Nodes, name: str) -> Any | None:
    """The layer whose sum a node is, with or without its bias and what dilation wraps around it, or None."""
    node = nodes.root(name)
    if node.op in LAYERS:
        return node
    if node.op == "BatchToSpaceND":
        return layer_of(nodes, node.input[0])
    if node.op in SUMS:
        for one, other in ((0, 1), (1, 0)):
            if nodes.is_constant(node.input[other]):
                inner = nodes.root(node.input[one])
                return layer_of(nodes, inner.name) if inner.op in (*LAYERS, "BatchToSpaceND") else None
    return None


def _is_ranged(nodes: Nodes, node: Any, inside: set[str], outputs: set[str]) -> bool:
    """Whether every way from a computed value meets a FakeQuant before anything needs its range."""
    stack, seen = [node], set()
    while stack:
        one = stack.pop()
        if one.name in seen:
            continue
        seen.add(one.name)
        readers = [r for r in nodes.readers.get(one.name, ()) if r.name in inside]
        if one.name in outputs or not readers:
            return False
        for reader in readers:
            if reader.op in FAKE_QUANT:
                continue
            if reader.op in (*COPIES, *MOVES, *RECTIFIERS) or (reader.op in SUMS and _is_bias(nodes, reader)):
                stack.append(reader)
            else:
                return False
    return True


def _some(names: list[str]) -> str:
    listed = ", ".join(repr(n) for n in names[:_NAMED])
    return listed + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
