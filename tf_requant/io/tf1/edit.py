"""Writes new ranges and constants into a GraphDef. Runs where TensorFlow is imported, and needs only its protobufs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import UnsupportedModelError
from tf_requant.io.tf1.fake_quant import Range
from tf_requant.io.tf1.nodes import COPIES, LAYERS, Nodes, attribute, plain

PER_CHANNEL = "FakeQuantWithMinMaxVarsPerChannel"
PER_TENSOR = "FakeQuantWithMinMaxVars"


@dataclass(frozen=True, eq=False)
class Edit:
    """One change.

    Attributes:
        kind: `range` (of a FakeQuant node), `filter` (what a FakeQuant node reads), `bias` (of a layer), `op` (another type
            for a node), `rectify` (a Relu ahead of a FakeQuant node), `insert` (a FakeQuant behind a node), or `own` (a copy
            of its filter's FakeQuant for a layer).
        node: the node's name; for a bias, the layer's.
        range: the new range.
        values: the new constant, in the graph's layout; of an insert, what is taken off first.
        op: the new type; for a bias, the node that adds it; for `own`, the copy's name.
    """

    kind: str
    node: str
    range: Range | None = None
    values: NDArray[np.float32] | None = None
    op: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays."""
        held = None if self.range is None else {"bits": self.range.bits, "narrow": self.range.narrow}
        return {"kind": self.kind, "node": self.node, "op": self.op, "range": held, "values": self.values is not None}

    def arrays(self, index: int) -> dict[str, NDArray[Any]]:
        """The arrays, by names that hold the edit's number."""
        made = {} if self.values is None else {f"{index}:values": self.values}
        if self.range is not None:
            made |= {f"{index}:minimum": self.range.minimum, f"{index}:maximum": self.range.maximum}
        return made

    @classmethod
    def from_json(cls, index: int, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> "Edit":
        """The inverse of both."""
        held = document["range"]
        made = held and Range(arrays[f"{index}:minimum"], arrays[f"{index}:maximum"], held["bits"], held["narrow"])
        return cls(document["kind"], document["node"], made, arrays.get(f"{index}:values"), document["op"])


def edited(graph: Any, edits: list[Edit], keep: list[str]) -> Any:
    """The graph with every edit, and without what then no output needs.

    Args:
        graph: a canonical GraphDef; it is not changed.
        edits: in order; a layer gets its own range before any is moved, and a filter its values before its range.
        keep: the nodes that are fetched.
    """
    made = type(graph)()
    made.CopyFrom(graph)
    writer = _Writer(made)
    for edit in edits:
        getattr(writer, edit.kind)(edit)
    nodes, result = Nodes(made), type(graph)()
    result.versions.CopyFrom(graph.versions)
    result.node.extend(nodes[name] for name in nodes.behind(keep))
    return result


class _Writer:
    """The edits, one method a kind."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._index: Nodes | None = None

    @property
    def _nodes(self) -> Nodes:
        """The graph by name, built anew after what adds or rewires nodes."""
        if self._index is None:
            self._index = Nodes(self._graph)
        return self._index

    def range(self, edit: Edit) -> None:
        """Moves a FakeQuant node's range, one number or one a channel."""
        assert edit.range is not None
        node = self._nodes[edit.node]
        self._set_range(node, edit.range)

    def filter(self, edit: Edit) -> None:
        """Replaces what a filter's FakeQuant node reads, folded batch norm included."""
        assert edit.values is not None
        self._set_input(self._nodes[edit.node], 0, edit.values)

    def bias(self, edit: Edit) -> None:
        """Replaces the constant that a layer's sum gets, or adds one where there is none."""
        assert edit.values is not None
        nodes = self._nodes
        layer = nodes[edit.node]
        added = nodes[edit.op] if edit.op else None
        if added is not None:
            position = next(p for p, i in enumerate(added.input) if not _leads_to(nodes, i, layer.name))
            self._set_input(added, position, edit.values)
            return
        made = self._graph.node.add(name=self._free(f"{layer.name}/bias_add"), op="BiasAdd")
        made.attr["T"].type = 1
        if layer.op != "MatMul":
            made.attr["data_format"].s = attribute(layer, "data_format", "s", b"NHWC")
        for reader in nodes.readers.get(layer.name, ()):
            _rewire(reader, layer.name, made.name)
        made.input.extend([layer.name, self._constant(f"{made.name}/bias", edit.values)])

    def op(self, edit: Edit) -> None:
        """Gives a node another type, with the same input."""
        self._nodes[edit.node].op = edit.op

    def rectify(self, edit: Edit) -> None:
        """Puts a Relu ahead of a FakeQuant node."""
        node = self._nodes[edit.node]
        made = self._graph.node.add(name=self._free(f"{edit.node}/Relu"), op="Relu")
        made.attr["T"].type = 1
        made.input.append(node.input[0])
        node.input[0] = made.name
        self._index = None

    def own(self, edit: Edit) -> None:
        """Gives a layer a FakeQuant node of its own for a filter that it shares with others."""
        nodes = self._nodes
        layer = nodes[edit.node]
        shared = nodes.filter_range(layer)
        assert shared is not None
        if nodes.root(layer.input[LAYERS[layer.op]]) is not shared:
            raise UnsupportedModelError(
                f"node {shared.name!r}: several layers share it, one of them reshaped, and the target gives each its own; "
                "write a .tflite file"
            )
        made = self._graph.node.add()
        made.CopyFrom(shared)
        made.name = edit.op
        layer.input[LAYERS[layer.op]] = edit.op
        self._index = None

    def insert(self, edit: Edit) -> None:
        """Puts a FakeQuant node between a node and all its readers."""
        assert edit.range is not None
        nodes = self._nodes
        name = self._free(f"{edit.node}/act_quant/{PER_TENSOR}")
        made = self._graph.node.add(name=name, op=PER_TENSOR)
        stem = name.rsplit("/", 1)[0]
        for reader in nodes.readers.get(edit.node, ()):
            _rewire(reader, edit.node, name)
        source = edit.node
        if edit.values is not None:
            taken = self._graph.node.add(name=self._free(f"{edit.node}/act_quant/shift"), op="Sub")
            taken.attr["T"].type = 1
            taken.input.extend([source, self._constant(f"{taken.name}/y", edit.values)])
            source = taken.name
        ends = [
            self._constant(f"{stem}/{end}", value.reshape(()))
            for end, value in (("min", edit.range.minimum), ("max", edit.range.maximum))
        ]
        made.input.extend([source, *ends])
        _describe(made, edit.range)

    def _set_range(self, node: Any, held: Range) -> None:
        wide = held.minimum.size > 1
        if node.op == "FakeQuantWithMinMaxArgs":
            for key in ("min", "max"):
                if key in node.attr:
                    del node.attr[key]
            stem = node.name.rsplit("/", 1)[0]
            node.input.extend(self._constant(self._free(f"{stem}/{end}"), np.zeros((), np.float32)) for end in ("min", "max"))
        node.op = PER_CHANNEL if wide else PER_TENSOR
        for position, value in ((1, held.minimum), (2, held.maximum)):
            self._set_input(node, position, value.reshape(-1) if wide else value.reshape(()))
        _describe(node, held)
        if wide:
            self._let_channels_be_last(node)

    def _let_channels_be_last(self, node: Any) -> None:
        """Reshapes a depthwise filter around its FakeQuant node, which quantizes along the last dimension only."""
        nodes = self._nodes
        layers = [r for r in nodes.readers.get(node.name, ()) if r.op in LAYERS]
        for layer in layers:
            if layer.op == "Conv2DBackpropInput" or (layer.op == "MatMul" and attribute(layer, "transpose_b", "b", False)):
                raise UnsupportedModelError(
                    f"node {node.name!r}: a range per channel runs along the last dimension, where the filter of "
                    f"{layer.name!r} ({layer.op}) has its inputs; write a .tflite file, or choose a target per tensor"
                )
        source = nodes.root(node.input[0])
        shape = list(_shape(source)) if source.op == "Const" else []
        if not any(r.op == "DepthwiseConv2dNative" for r in layers) or len(shape) != 4 or shape[2] == 1:
            return
        flat = self._reshape(f"{node.name}/flat", node.input[0], [*shape[:2], 1, shape[2] * shape[3]])
        for reader in layers:
            _rewire(reader, node.name, f"{node.name}/shaped")
        node.input[0] = flat
        self._reshape(f"{node.name}/shaped", node.name, shape)
        self._index = None

    def _reshape(self, name: str, source: str, shape: list[int]) -> str:
        made = self._graph.node.add(name=name, op="Reshape")
        made.attr["T"].type, made.attr["Tshape"].type = 1, 3
        made.input.extend([source, self._constant(f"{name}/shape", np.array(shape, np.int32))])
        return name

    def _set_input(self, reader: Any, position: int, value: NDArray[Any]) -> None:
        """Makes one input of a node a constant: in place where no other node reads what stands there."""
        nodes = self._nodes
        root = nodes[reader.input[position]]
        alone = len(nodes.readers.get(root.name, ())) == 1
        while alone and root.op in COPIES and root.input:
            root = nodes[root.input[0]]
            alone = len(nodes.readers.get(root.name, ())) == 1
        if not alone:
            reader.input[position] = self._constant(self._free(f"{reader.name}/constant_{position}"), value)
            return
        make_constant(root, value)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        made = self._graph.node.add(name=self._free(name))
        make_constant(made, value)
        return str(made.name)

    def _free(self, name: str) -> str:
        n, free = 1, name
        while free in self._nodes:
            free, n = f"{name}_{n}", n + 1
        self._index = None  # a node of that name is about to be added
        return free


def _leads_to(nodes: Nodes, name: str, layer: str) -> bool:
    return layer in nodes.behind([name])


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(d.size for d in node.attr["value"].tensor.tensor_shape.dim)


def _rewire(reader: Any, old: str, new: str) -> None:
    for position, name in enumerate(reader.input):
        if plain(name) == old and not name.startswith("^"):
            reader.input[position] = new


def _describe(node: Any, held: Range) -> None:
    node.attr["num_bits"].i = held.bits
    node.attr["narrow_range"].b = held.narrow


def make_constant(node: Any, value: NDArray[Any]) -> None:
    """Turns a node into a constant."""
    import tensorflow as tf

    node.op = "Const"
    del node.input[:]
    for key in list(node.attr):
        del node.attr[key]
    array = np.ascontiguousarray(value)
    node.attr["dtype"].type = tf.as_dtype(array.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array.reshape(np.shape(value))))


