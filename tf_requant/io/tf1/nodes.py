"""A GraphDef as a graph: who reads what, what data reaches, where it enters and leaves.

Works on the protobuf that it is given and imports no TensorFlow itself.
"""

from collections.abc import Iterable
from functools import cached_property
from math import prod
from typing import Any

LAYERS = {"Conv2D": 1, "DepthwiseConv2dNative": 1, "Conv2DBackpropInput": 1, "MatMul": 1}
"""Ops with a filter, and the filter's input position."""
FAKE_QUANT = ("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVarsPerChannel")
COPIES = ("Identity", "StopGradient", "CheckNumerics", "Snapshot", "PreventGradient")
"""Ops that hand on their input as it is."""
MOVES = (
    "Reshape", "Squeeze", "ExpandDims", "Transpose", "Slice", "StridedSlice", "Split", "SplitV", "Unpack", "MaxPool",
    "Pad", "PadV2", "MirrorPad", "SpaceToBatchND", "BatchToSpaceND", "SpaceToDepth", "DepthToSpace", "Tile", "GatherV2",
    "Gather", "ReverseV2", "ResizeNearestNeighbor",
)  # fmt: skip
"""Ops that move values and compute none."""
AVERAGES = ("AvgPool", "Mean", "ResizeBilinear", "ConcatV2", "Concat", "Pack")
"""Ops whose values stay in the range of their inputs, though a code may be rounded."""
RECTIFIERS = ("Relu", "Relu6")
FIXED = ("Softmax", "Sigmoid", "Tanh", "LogSoftmax")
"""Ops whose range is known whatever they read."""
DECISIONS = ("ArgMax", "ArgMin", "Shape", "Size", "Rank")
"""Ops that read values and write none."""
SUMS = ("BiasAdd", "Add", "AddV2")


def plain(name: str) -> str:
    """A node's name from an input's or a tensor's: without `^` and the output's number."""
    return name.lstrip("^").split(":")[0]


def attribute(node: Any, key: str, kind: str, default: Any) -> Any:
    """An attribute of a node; asking the protobuf for one that is missing would add it.

    Args:
        node: the node.
        key: the attribute's name.
        kind: the field of AttrValue that holds it: `b`, `i`, `f` or `s`.
        default: the op's own.
    """
    return getattr(node.attr[key], kind) if key in node.attr else default


class Nodes:
    """The nodes of one GraphDef by name.

    Args:
        graph: the GraphDef; it is not copied.
        fed: nodes that are fed, whatever they are: nothing is looked for behind them. Placeholders always are.
    """

    def __init__(self, graph: Any, fed: Iterable[str] = ()) -> None:
        self.graph = graph
        self.fed = set(fed)
        self.by_name: dict[str, Any] = {n.name: n for n in graph.node}

    def __contains__(self, name: str) -> bool:
        return name in self.by_name

    def __getitem__(self, name: str) -> Any:
        return self.by_name[plain(name)]

    def inputs(self, node: Any) -> list[str]:
        """The names of the nodes whose values a node reads, in order."""
        return [plain(i) for i in node.input if not i.startswith("^")]

    @cached_property
    def readers(self) -> dict[str, list[Any]]:
        """The nodes that read a node's values, by its name."""
        found: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in dict.fromkeys(self.inputs(node)):
                found.setdefault(name, []).append(node)
        return found

    def behind(self, names: Iterable[str], stop: Iterable[str] = ()) -> list[str]:
        """What the named nodes' values are computed from, themselves included: inputs before readers.

        Args:
            names: where to start.
            stop: nodes that are not looked behind.
        """
        order: dict[str, None] = {}
        ends, begun = set(stop), set()
        stack = [(plain(n), False) for n in reversed(list(names))]
        while stack:
            name, done = stack.pop()
            if done:
                order[name] = None
            elif name in self.by_name and name not in begun:
                begun.add(name)
                stack.append((name, True))
                if name not in ends:
                    stack.extend((i, False) for i in reversed(self.inputs(self.by_name[name])))
        return list(order)

    def ahead(self, names: Iterable[str]) -> set[str]:
        """What the named nodes' values reach, themselves included."""
        found: set[str] = set()
        stack = list(names)
        while stack:
            name = stack.pop()
            if name not in found:
                found.add(name)
                stack.extend(n.name for n in self.readers.get(name, ()))
        return found

    def root(self, name: str) -> Any:
        """The node that a value comes from, behind every op that only hands it on."""
        return self._behind_ops(name, COPIES)

    def _behind_ops(self, name: str, ops: tuple[str, ...]) -> Any:
        node = self[name]
        while node.op in ops and node.name not in self.fed and node.input and plain(node.input[0]) in self:
            node = self[node.input[0]]
        return node

    def ranged(self, name: str) -> Any | None:
        """The FakeQuant that a value comes out of, or None."""
        node = self._behind_ops(name, (*COPIES, "Reshape")) if plain(name) in self else None
        return node if node is not None and node.op in FAKE_QUANT else None

    def filter_range(self, layer: Any) -> Any | None:
        """The FakeQuant that a layer's filter comes out of, or None."""
        position, inputs = LAYERS[layer.op], self.inputs(layer)
        return self.ranged(inputs[position]) if position < len(inputs) else None

    def is_constant(self, name: str) -> bool:
        """Whether nothing fed reaches a value."""
        return plain(name) not in self._varying

    @cached_property
    def _varying(self) -> set[str]:
        return self.ahead([*self.fed, *(n.name for n in self.graph.node if n.op.startswith("Placeholder"))])


def input_range(nodes: Nodes, name: str) -> Any | None:
    """The FakeQuant node that alone reads an input, with or without a constant added before, or None."""
    readers, shifted = nodes.readers.get(name, []), False
    while len(readers) == 1:
        reader = readers[0]
        if reader.op in FAKE_QUANT:
            return reader
        if not shifted and _is_shift(nodes, reader):
            shifted = True
        elif reader.op != "Identity":
            break
        readers = nodes.readers.get(reader.name, [])
    return None


def _is_shift(nodes: Nodes, node: Any) -> bool:
    """Whether a node adds a constant to what is fed, or takes one off it."""
    inputs = nodes.inputs(node)
    if len(inputs) != 2 or node.op not in ("Sub", *SUMS):
        return False
    varying = [p for p, i in enumerate(inputs) if not nodes.is_constant(i)]
    if len(varying) != 1 or (node.op == "Sub" and varying != [0]):
        return False
    return _elements(nodes.root(inputs[1 - varying[0]])) == 1


def _elements(constant: Any) -> int:
    """How many numbers a constant holds; 0 for what has to be computed."""
    if constant.op != "Const":
        return 0
    shape = constant.attr["value"].tensor.tensor_shape if "value" in constant.attr else None
    return prod(d.size for d in shape.dim) if shape is not None else 1


def find_inputs(nodes: Nodes) -> list[str]:
    """The placeholders of numbers that layers or ranges depend on."""
    numeric = {1, 4, 6, 19}  # DT_FLOAT, DT_UINT8, DT_INT8, DT_HALF
    candidates = [n.name for n in nodes.graph.node if n.op == "Placeholder" and n.attr["dtype"].type in numeric]
    working = [n for n in candidates if any(nodes[r].op in (*LAYERS, *FAKE_QUANT) for r in nodes.ahead([n]))]
    return working or candidates


def find_outputs(nodes: Nodes, inputs: Iterable[str]) -> tuple[list[str], list[str]]:
    """Where a graph's results leave it.

    An output is a node that data reaches, nothing reads, and whose last layer reads a quantized filter (training leaves
    branches behind whose don't). One that only hands on a value from which another output is computed, a view into
    the graph, is no result of its own.

    Returns:
        The outputs, and the views.
    """
    reached = nodes.ahead(inputs)
    no_results = ("Assign", "NoOp", "SaveV2", "MergeSummary", "ScalarSummary", "HistogramSummary", "Print", "Assert")
    ends = [n for n in nodes.graph.node if n.name in reached and n.name not in nodes.readers and n.op not in no_results]
    trained = [n for n in ends if _reads_quantized_layer(nodes, n.name)]
    names = [n.name for n in trained or ends if n.op != "Placeholder"]
    views = [n for n in names if _is_view(nodes, n, names)]
    return [n for n in names if n not in views], views


def without_views(nodes: Nodes, names: list[str]) -> tuple[list[str], list[str]]:
    """Splits declared outputs into results and views of what another one is computed from."""
    views = [n for n in names if _is_view(nodes, n, names)]
    return [n for n in names if n not in views], views


def _is_view(nodes: Nodes, name: str, names: list[str]) -> bool:
    if nodes[name].op not in COPIES:
        return False
    root = nodes.root(name).name
    return any(other != name and root in nodes.behind([other]) and nodes.root(other).name != root for other in names)


def _reads_quantized_layer(nodes: Nodes, name: str) -> bool:
    """Whether every layer that is first met on the ways back from a node reads a filter out of a FakeQuant."""
    layers, seen, stack = [], set(), [name]
    while stack:
        node = nodes[stack.pop()]
        if node.name in seen:
            continue
        seen.add(node.name)
        if node.op in LAYERS:
            layers.append(node)
        elif node.op not in FAKE_QUANT or node.name == name:
            stack.extend(i for i in nodes.inputs(node) if i in nodes)
        else:
            stack.extend(i for i in nodes.inputs(node)[:1] if i in nodes)
    return bool(layers) and all(nodes.filter_range(n) is not None for n in layers)
