"""What a canonical graph holds, for who re-expresses it: layers, ranges, trained filters. Runs where TensorFlow is imported."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import UnsupportedModelError
from tf_requant.io.tf1.convert import shift_of
from tf_requant.io.tf1.fake_quant import Range, range_from
from tf_requant.io.tf1.nodes import (
    AVERAGES,
    COPIES,
    FAKE_QUANT,
    FIXED,
    LAYERS,
    MOVES,
    RECTIFIERS,
    SUMS,
    Nodes,
    attribute,
    input_range,
)


@dataclass(frozen=True)
class LayerSite:
    """One layer of a graph, by the names of its nodes.

    Attributes:
        name: the op with the filter.
        op: its type.
        filter: the FakeQuant node of its filter.
        sum: the node that adds its bias; empty without one.
        bias: the constant that is added.
        rectifier: the Relu or Relu6 that follows; empty without one.
        transposed: whether MatMul reads its filter transposed.
    """

    name: str
    op: str
    filter: str
    sum: str = ""
    bias: str = ""
    rectifier: str = ""
    transposed: bool = False


@dataclass(frozen=True)
class RangeSite:
    """One FakeQuant node of an activation.

    Attributes:
        name: its name.
        values: the nodes whose value it quantizes, itself first, then nearest first.
        rectifier: the Relu or Relu6 among them; empty without one.
    """

    name: str
    values: tuple[str, ...]
    rectifier: str = ""


@dataclass(frozen=True)
class Survey:
    """Everything that is there to be re-expressed.

    Attributes:
        layers: in an order in which they can run.
        activations: the FakeQuant nodes of activations.
        shifts: what each input is more in the graph than in the converted model, by its name.
        averages: nodes whose values a TFLite kernel rounds anew, though no FakeQuant follows: averages, inputs, and ops with
            a fixed range that are no output.
        ranges: of every FakeQuant node, by name.
        filters: what each filter's FakeQuant node reads: the trained floats, in the graph's layout, by that node's name.
    """

    layers: tuple[LayerSite, ...]
    activations: tuple[RangeSite, ...]
    averages: tuple[str, ...]
    shifts: dict[str, float]
    ranges: dict[str, Range]
    filters: dict[str, NDArray[np.float32]]

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays."""
        return {
            "layers": [asdict(s) for s in self.layers],
            "activations": [asdict(s) for s in self.activations],
            "averages": list(self.averages),
            "shifts": self.shifts,
            "ranges": {name: {"bits": r.bits, "narrow": r.narrow} for name, r in self.ranges.items()},
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays, by a name each."""
        made = {f"filter:{name}": values for name, values in self.filters.items()}
        for name, held in self.ranges.items():
            made |= {f"minimum:{name}": held.minimum, f"maximum:{name}": held.maximum}
        return made

    @classmethod
    def from_json(cls, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> "Survey":
        """The inverse of both."""
        ranges = {
            name: Range(arrays[f"minimum:{name}"], arrays[f"maximum:{name}"], r["bits"], r["narrow"])
            for name, r in document["ranges"].items()
        }
        return cls(
            tuple(LayerSite(**s) for s in document["layers"]),
            tuple(RangeSite(s["name"], tuple(s["values"]), s["rectifier"]) for s in document["activations"]),
            tuple(document["averages"]),
            document["shifts"],
            ranges,
            {name.removeprefix("filter:"): a for name, a in arrays.items() if name.startswith("filter:")},
        )


def survey(graph: Any, inputs: list[str], stats: tuple[float, float]) -> Survey:
    """Looks a canonical graph over and evaluates its constants."""
    nodes = Nodes(graph)
    data = nodes.ahead(inputs)
    layers = tuple(
        _layer(nodes, n)
        for n in graph.node
        if n.op in LAYERS and n.name in data and nodes.filter_range(n) is not None
    )
    quantizers = [n for n in graph.node if n.op in FAKE_QUANT]
    filters = {site.filter for site in layers}
    activations = tuple(_range_site(nodes, n) for n in quantizers if n.name in data and n.name not in filters)
    wanted = {n.name: n.input[0] for n in quantizers if n.name in filters}
    ends = {(n.name, e): n.input[e] for n in quantizers if n.op != "FakeQuantWithMinMaxArgs" for e in (1, 2)}
    found = _evaluated(graph, [*wanted.values(), *ends.values()])
    values, limits = found[: len(wanted)], dict(zip(ends, found[len(wanted) :]))
    ranges = {}
    for node in quantizers:
        if node.op == "FakeQuantWithMinMaxArgs":
            low, high = attribute(node, "min", "f", -6.0), attribute(node, "max", "f", 6.0)
        else:
            low, high = limits[node.name, 1], limits[node.name, 2]
        ranges[node.name] = range_from(node, np.float32(low), np.float32(high))
        if not _is_sound(np.float32(low), np.float32(high)):
            raise UnsupportedModelError(
                f"node {node.name!r}: its range is {np.min(low):.6g} to {np.max(high):.6g}, expected a minimum below a maximum"
            )
    for name, floats in zip(wanted, values):
        if not np.isfinite(floats).all():
            raise UnsupportedModelError(f"the filter that node {name!r} quantizes holds NaN or infinity")
    shifts = {name: shift_of(nodes, name, stats) for name in inputs}
    return Survey(layers, activations, _averages(nodes, inputs, data), shifts, ranges, dict(zip(wanted, values)))


def _is_sound(low: NDArray[np.float32], high: NDArray[np.float32]) -> bool:
    """Whether a range has an extent; of a range per channel, a channel of zeros need not."""
    dead = (low == 0) & (high == 0) & (np.size(low) > 1)
    return bool(np.all(np.isfinite(low) & np.isfinite(high) & ((low < high) | dead)))


def _layer(nodes: Nodes, node: Any) -> LayerSite:
    held = nodes.filter_range(node)
    assert held is not None
    added, bias, rectifier, value = "", "", "", node.name
    while True:
        readers = nodes.readers.get(value, [])
        if len(readers) != 1:
            break
        reader = readers[0]
        if reader.op in SUMS and not added:
            other = next((i for i in reader.input if i.split(":")[0] != value), value)
            if not nodes.is_constant(other):
                break
            added, bias = reader.name, other
        elif reader.op in RECTIFIERS and not rectifier:
            rectifier = reader.name
        elif reader.op not in (*COPIES, "BatchToSpaceND"):
            break
        value = reader.name
    transposed = bool(node.op == "MatMul" and attribute(node, "transpose_b", "b", False))
    return LayerSite(node.name, node.op, held.name, added, bias, rectifier, transposed)


def _range_site(nodes: Nodes, quantizer: Any) -> RangeSite:
    values = _values(nodes, quantizer)
    return RangeSite(quantizer.name, values, next((v for v in values if nodes[v].op in RECTIFIERS), ""))


def _values(nodes: Nodes, quantizer: Any) -> tuple[str, ...]:
    """The nodes whose value a FakeQuant node quantizes, back to the op that computes it."""
    names, node = [quantizer.name], nodes[quantizer.input[0]]
    while True:
        names.append(node.name)
        if node.op in (*COPIES, *RECTIFIERS, "BatchToSpaceND") or (node.op in SUMS and _constant_operand(nodes, node)):
            inner = [i for i in nodes.inputs(node) if not nodes.is_constant(i)]
            if inner:
                node = nodes[inner[0]]
                continue
        return tuple(names)


def _constant_operand(nodes: Nodes, node: Any) -> bool:
    return any(nodes.is_constant(i) for i in nodes.inputs(node))


def _averages(nodes: Nodes, inputs: list[str], data: set[str]) -> tuple[str, ...]:
    found = []
    for node in nodes.graph.node:
        known = (*AVERAGES, *FIXED)
        if node.name not in data or not (node.op in known or node.name in inputs):
            continue
        if node.name in inputs and input_range(nodes, node.name) is not None:
            continue
        readers, seen = list(nodes.readers.get(node.name, ())), []
        while readers:
            reader = readers.pop()
            seen.append(reader)
            if reader.op in COPIES or (reader.op in MOVES and node.name not in inputs):
                readers.extend(nodes.readers.get(reader.name, ()))
        if seen and not any(r.op in FAKE_QUANT for r in seen):
            found.append(node.name)
    return tuple(found)


def _evaluated(graph: Any, names: list[str]) -> list[NDArray[np.float32]]:
    from tensorflow.compat import v1

    if not names:
        return []
    made = v1.Graph()
    with made.as_default():
        v1.import_graph_def(graph, name="")
        with v1.Session(graph=made) as session:
            return [np.asarray(v) for v in session.run([n if ":" in n else f"{n}:0" for n in names])]
