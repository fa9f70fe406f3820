"""A frozen, audited graph through TensorFlow's own TFLite converter. Runs where TensorFlow is imported.

The road for a TF1 graph is uint8: that is what its ranges were trained for, and int8 conversion of it writes weights with
zero points that no interpreter prepares. Filters with a range per channel need int8, and have to be symmetric.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import UnsupportedModelError, UsageError
from tf_requant.io.tf1.edit import PER_CHANNEL, make_constant
from tf_requant.io.tf1.fake_quant import Range, moved, range_of
from tf_requant.io.tf1.nodes import FAKE_QUANT, LAYERS, RECTIFIERS, Nodes, input_range

_ZERO_CODE = 128
"""The uint8 code that int8's zero is."""


def convert(graph: Any, inputs: list[str], outputs: list[str], ranges: dict[str, Range], stats: tuple[float, float]) -> bytes:
    """The TFLite file of a canonical graph: uint8, or int8 where filters have a range per channel.

    Args:
        graph: the GraphDef.
        inputs: its placeholders.
        outputs: its results.
        ranges: of every FakeQuant node, by name.
        stats: (mean, standard deviation): real = (code - mean) / deviation, for inputs that no FakeQuant node reads.

    Raises:
        UsageError: an input has no static size.
        UnsupportedModelError: the converter refuses the graph.
    """
    import tensorflow as tf
    from tensorflow.compat import v1

    nodes = Nodes(graph)
    _check_known(nodes)
    signed = any(n.op == PER_CHANNEL for n in graph.node)
    if signed:
        _refuse_dense_per_channel(nodes)
        _check_symmetric(nodes, ranges)
    made = v1.GraphDef()
    made.CopyFrom(graph)
    for name in inputs:
        _fix_shape(Nodes(made)[name])
        _without_shift(Nodes(made), name)
    _give_each_layer_its_filter(made, ranges)
    _settle_zero_points(made, ranges)
    _add_missing_ranges(made)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.pb"
        path.write_bytes(made.SerializeToString())
        try:
            converter = v1.lite.TFLiteConverter.from_frozen_graph(str(path), inputs, outputs)
            converter.inference_type = tf.int8 if signed else tf.uint8
            converter.quantized_input_stats = {n: _stats(nodes, n, ranges, stats, signed) for n in inputs}
            return bytes(converter.convert())
        except Exception as error:  # the converter raises whatever its layers do
            raise UnsupportedModelError(_refusal(nodes, error)) from error


def _check_known(nodes: Nodes) -> None:
    from tensorflow.python.framework import op_def_registry

    for node in nodes.graph.node:
        if op_def_registry.get(node.op) is None:
            raise UnsupportedModelError(
                f"node {node.name!r} is a {node.op}, an op that TensorFlow does not know; name as --outputs what lies before it"
            )


def _refuse_dense_per_channel(nodes: Nodes) -> None:
    for node in nodes.graph.node:
        found = nodes.filter_range(node) if node.op == "MatMul" else None
        if found is not None and found.op == PER_CHANNEL:
            raise UnsupportedModelError(
                f"node {found.name!r}: the filter of {node.name!r} (MatMul) has a range per channel, which TensorFlow's converter "
                "cannot read; give it one for the whole filter"
            )


def _check_symmetric(nodes: Nodes, ranges: dict[str, Range]) -> None:
    for node in nodes.graph.node:
        if node.op not in LAYERS:
            continue
        found = nodes.filter_range(node)
        if found is not None and np.any(ranges[found.name].grid()[1] != _ZERO_CODE):
            low, high = ranges[found.name].minimum[0], ranges[found.name].maximum[0]
            raise UnsupportedModelError(
                f"node {found.name!r}: the graph has filters with a range per channel, which TFLite holds as int8 with zero "
                f"point 0 only, and this range ({low:.6g} to {high:.6g}) is not symmetric"
            )


def _fix_shape(node: Any) -> None:
    """Gives a placeholder a batch of one; every other size has to be known."""
    dims = node.attr["shape"].shape.dim
    sizes = [d.size for d in dims]
    if node.attr["shape"].shape.unknown_rank or any(s < 0 for s in sizes[1:]) or not sizes:
        known = "x".join("?" if s < 0 else str(s) for s in sizes) or "none"
        raise UsageError(
            f"the input {node.name!r} has no static size ({known}); give it, as in --inputs={node.name}:1x224x224x3"
        )
    if sizes[0] < 0:
        dims[0].size = 1


def _without_shift(nodes: Nodes, name: str) -> None:
    """Lets an input's FakeQuant node read the input itself: a constant taken off before is part of what a code means."""
    held = input_range(nodes, name)
    if held is not None:
        held.input[0] = name


def _give_each_layer_its_filter(graph: Any, ranges: dict[str, Range]) -> None:
    """Copies a FakeQuant node that several layers read: the converter would make up scales for a filter that they share.

    It merges copies that are alike, so each one's range ends the least float32 further, which moves no code.
    """
    nodes = Nodes(graph)
    seen: dict[str, int] = {}
    for layer in [n for n in graph.node if n.op in LAYERS]:
        node, position = nodes.filter_range(layer), LAYERS[layer.op]
        if node is None:
            continue
        number = seen[node.name] = seen.get(node.name, -1) + 1
        if number and nodes.root(layer.input[position]) is node:
            made = graph.node.add()
            made.CopyFrom(node)
            made.name = layer.input[position] = f"{node.name}/copy_{number}"
            held = ranges[node.name]
            shape = () if held.maximum.size == 1 else (-1,)
            _set_range(graph, made, held.minimum.reshape(shape), moved(held.maximum, number).reshape(shape))


def _settle_zero_points(graph: Any, ranges: dict[str, Range]) -> None:
    """Writes the nudged range where a zero point lies between two codes: the kernel and the converter round it to other ones."""
    for node in graph.node:
        held = ranges.get(node.name)
        if held is None or node.op == PER_CHANNEL or not held.is_between_codes():
            continue
        scale, zero_point = held.grid()
        settled = range_of(scale, int(zero_point[0]), held.bits, held.narrow)
        _set_range(graph, node, settled.minimum.reshape(()), settled.maximum.reshape(()))


def _set_range(graph: Any, node: Any, minimum: NDArray[np.float32], maximum: NDArray[np.float32]) -> None:
    node.op = node.op.replace("Args", "Vars")
    for key in ("min", "max"):
        if key in node.attr:
            del node.attr[key]
    del node.input[1:]
    for end, value in (("min", minimum), ("max", maximum)):
        made = graph.node.add(name=f"{node.name}/of_converter_{end}")
        make_constant(made, value)
        node.input.append(made.name)


def _add_missing_ranges(graph: Any) -> None:
    """Gives a rectifier that stands behind a FakeQuant that node's range: the converter would run it in float."""
    nodes = Nodes(graph)
    for node in list(graph.node):
        if node.op not in RECTIFIERS:
            continue
        held, readers = nodes.ranged(node.input[0]), nodes.readers.get(node.name, [])
        if held is None or any(r.op in FAKE_QUANT for r in readers):
            continue
        made = graph.node.add()
        made.CopyFrom(held)
        made.name = f"{node.name}/range"
        made.input[0] = node.name
        for reader in readers:
            for position, name in enumerate(reader.input):
                if name == node.name:
                    reader.input[position] = made.name


def _stats(
    nodes: Nodes, name: str, ranges: dict[str, Range], stats: tuple[float, float], signed: bool
) -> tuple[float, float]:
    held = input_range(nodes, name)
    offset = _ZERO_CODE if signed else 0
    if held is None:
        # int8 has to mean the same real values, so that its mean is a whole number already.
        return (_zero_point(stats) - offset, stats[1]) if signed else stats
    scale, zero_point = ranges[held.name].grid()
    return float(zero_point[0]) - offset, 1.0 / float(scale[0])


def shift_of(nodes: Nodes, name: str, stats: tuple[float, float]) -> float:
    """What an input is more in the graph than in the converted model, which has to round the mean to a code."""
    return 0.0 if input_range(nodes, name) is not None else (_zero_point(stats) - stats[0]) / stats[1]


def _zero_point(stats: tuple[float, float]) -> float:
    """The code that the converter makes of a mean: 128 of 127.5."""
    return float(np.clip(np.floor(stats[0] + 0.5), 0, 2 * _ZERO_CODE - 1))


def _refusal(nodes: Nodes, error: Exception) -> str:
    text = str(error)
    ops = dict.fromkeys(re.findall(r"'tf\.(\w+)' op", text) + re.findall(r"[Cc]ustom ops?: (\w+)", text))
    named = [f"{n.name!r} ({n.op})" for n in nodes.graph.node if n.op in ops]
    if named:
        return (
            f"TFLite has no kernel for {', '.join(named[:5])}{f' and {len(named) - 5} more' if len(named) > 5 else ''}; "
            "name as --outputs what lies before"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = next((line for line in lines if "error:" in line), lines[0] if lines else type(error).__name__)
    return f"TensorFlow's converter refuses the graph: {first[:300]}"


