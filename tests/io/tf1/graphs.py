"""GraphDefs out of plain Python objects: what the readers of a graph ask of the protobuf, and no TensorFlow."""

from collections import defaultdict
from copy import deepcopy
from types import SimpleNamespace

from tf_requant.io.tf1.nodes import LAYERS, Nodes

Node = SimpleNamespace
Part = Node | list[Node]
"""One node, or several that belong together."""
FLOAT, INT32, UINT8, BOOL = 1, 3, 4, 10
"""DataType's numbers."""
QUANTIZER = "FakeQuantWithMinMaxVars"


def attribute(**fields: object) -> Node:
    """An AttrValue with one field set."""
    return Node(**({"b": False, "i": 0, "f": 0.0, "s": b"", "type": 0} | fields))


def node(name: str, op: str, *inputs: str, **attributes: bool | int | float | bytes) -> Node:
    """A NodeDef; like the protobuf's map, `attr` gets an empty entry for a key that is asked for."""
    held = defaultdict(attribute)
    for key, value in attributes.items():
        field = "type" if key == "dtype" else {bool: "b", int: "i", float: "f", bytes: "s"}[type(value)]
        held[key] = attribute(**{field: value})
    return Node(name=name, op=op, input=list(inputs), attr=held)


def nodes_of(*parts: Part) -> Nodes:
    """Copies of the nodes, in this order: reading an attribute that is not there changes a node."""
    return Nodes(Node(node=[deepcopy(n) for part in parts for n in (part if isinstance(part, list) else [part])]))


def placeholder(name: str = "x", dtype: int = FLOAT) -> Node:
    return node(name, "Placeholder", dtype=dtype)


def constant(name: str) -> Node:
    return node(name, "Const", dtype=FLOAT)


def quantizer(name: str, source: str, op: str = QUANTIZER, **attributes: bool | int | float) -> list[Node]:
    """A FakeQuant node and its ends."""
    ends = f"{name}/min", f"{name}/max"
    return [constant(ends[0]), constant(ends[1]), node(name, op, source, *ends, **attributes)]


def layer(name: str, source: str, op: str = "Conv2D", ranged: bool = True) -> list[Node]:
    """A layer and its filter, which comes out of `NAME/quant` if it is ranged."""
    weights = constant(f"{name}/weights")
    if not ranged:
        read, made = weights.name, [weights]
    else:
        read = f"{name}/quant"
        made = [weights, *quantizer(read, weights.name, narrow_range=True)]
    inputs = [source]
    inputs.insert(LAYERS[op], read)
    if op == "Conv2DBackpropInput":
        made.append(constant(f"{name}/sizes"))
        inputs = [f"{name}/sizes", read, source]
    return [*made, node(name, op, *inputs)]


def added(name: str, source: str, op: str = "BiasAdd") -> list[Node]:
    """A sum with a constant of its own."""
    return [constant(f"{name}/bias"), node(name, op, source, f"{name}/bias")]


def sound(last: str = "y") -> list[Node]:
    """Convolution, bias and RELU6 from `x` to a range."""
    return [placeholder(), *layer("conv", "x"), *added("sum", "conv"), node("relu", "Relu6", "sum"), *quantizer(last, "relu")]
