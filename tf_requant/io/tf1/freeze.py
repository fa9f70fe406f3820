"""Frozen graphs, SavedModels and checkpoints as one frozen GraphDef. Runs where TensorFlow is imported."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_requant.errors import ModelFormatError, UnsupportedModelError, UsageError
from tf_requant.io.tf1.nodes import FAKE_QUANT, Nodes, find_inputs, find_outputs, plain, without_views

_PRODUCER = 134
"""TF 1.15's GraphDef version: checkpoints of it state none."""
_VARIABLES = ("VariableV2", "Variable", "VarHandleOp")


@dataclass(frozen=True)
class Source:
    """A graph as its file holds it.

    Attributes:
        graph: the GraphDef.
        inputs: names of the nodes that are fed, as a signature declares them; empty where none does.
        outputs: names of the nodes that are fetched, likewise.
        variables: the checkpoint's name before `.index`; empty where the graph is frozen.
    """

    graph: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    variables: str

    def frozen(self, outputs: list[str]) -> Any:
        """The GraphDef with a constant for every variable that the outputs need.

        Raises:
            ModelFormatError: the checkpoint cannot be read, or lacks a variable.
        """
        import tensorflow as tf

        if not self.variables:
            return self.graph
        try:
            values = tf.train.load_checkpoint(self.variables)
            known = values.get_variable_to_shape_map()
            needed = set(Nodes(self.graph).behind(outputs))
            return _with_values(self.graph, needed, lambda name: values.get_tensor(name) if name in known else None, self.variables)
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            raise ModelFormatError(f"{self.variables}: the checkpoint cannot be read ({_first_line(error)})") from error


@dataclass(frozen=True)
class Interface:
    """Where a graph is fed and fetched.

    Attributes:
        inputs: node names.
        outputs: node names.
        views: nodes that were fetched too, but only hand on a value from which an output is computed.
        warnings: what was decided, one sentence each.
    """

    inputs: list[str]
    outputs: list[str]
    views: list[str]
    warnings: list[str]


def open_source(path: Path) -> Source:
    """Reads a file or folder.

    Raises:
        UsageError: there is no such file.
        ModelFormatError: it is no GraphDef, MetaGraphDef or SavedModel.
        UnsupportedModelError: it is one that holds no TF1 graph.
    """
    if not path.exists():
        raise UsageError(f"--model={path} does not exist")
    if path.is_dir():
        return _saved_model(path)
    if path.name in ("saved_model.pb", "saved_model.pbtxt"):
        return _saved_model(path.parent)
    return _checkpoint(path) if path.suffix == ".meta" else _frozen(path)


def _frozen(path: Path) -> Source:
    from tensorflow.compat import v1

    graph = _parsed(path, v1.GraphDef(), "GraphDef")
    if not graph.node:
        raise ModelFormatError(f"{path} is no GraphDef: it holds no node")
    variables = [n.name for n in graph.node if n.op in _VARIABLES]
    used = _used(graph) if variables else set()
    held = [name for name in variables if name in used]
    if held:
        raise UnsupportedModelError(
            f"{path} is not frozen: node {held[0]!r} is a variable, whose value is in a checkpoint; pass the checkpoint's .meta"
        )
    return Source(graph, (), (), "")


def _used(graph: Any) -> set[str]:
    nodes = Nodes(graph)
    inputs = find_inputs(nodes)
    return set(nodes.behind(find_outputs(nodes, inputs)[0]))


def _parsed(path: Path, message: Any, what: str) -> Any:
    from google.protobuf import message as protobuf
    from google.protobuf import text_format

    data = path.read_bytes()
    try:
        if path.suffix == ".pbtxt":
            return text_format.Parse(data.decode(), message)
        message.ParseFromString(data)
    except (protobuf.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise ModelFormatError(f"{path} is no {what}: it cannot be read as a protobuf ({error})") from error
    return message


def _checkpoint(path: Path) -> Source:
    from tensorflow.compat import v1

    meta = _parsed(path, v1.MetaGraphDef(), "MetaGraphDef")
    if not meta.graph_def.node:
        raise ModelFormatError(f"{path} is no MetaGraphDef: it holds no node")
    prefix = str(path.with_suffix(""))
    if not path.with_suffix(".index").exists():
        raise UsageError(f"--model={path}: the checkpoint's values are missing; {prefix}.index and .data-* belong beside it")
    inputs, outputs = _signature(meta, path, required=False)

    return Source(meta.graph_def, inputs, outputs, prefix)


def _saved_model(folder: Path) -> Source:
    from tensorflow.core.protobuf import saved_model_pb2

    path = next((p for p in (folder / "saved_model.pb", folder / "saved_model.pbtxt") if p.exists()), None)
    if path is None:
        hint = "; pass its .meta file" if (folder / "checkpoint").exists() else ""
        raise UsageError(f"--model={folder} is a folder without saved_model.pb{hint}")
    saved = _parsed(path, saved_model_pb2.SavedModel(), "SavedModel")
    if not saved.meta_graphs:
        raise ModelFormatError(f"{path} is no SavedModel: it holds no graph")
    meta = next((m for m in saved.meta_graphs if "serve" in m.meta_info_def.tags), saved.meta_graphs[0])
    if any(n.op in ("StatefulPartitionedCall", "PartitionedCall") for n in meta.graph_def.node):
        raise UnsupportedModelError(
            f"{folder} is a TF2 SavedModel; convert it with tf.lite.TFLiteConverter.from_saved_model and pass the .tflite file"
        )
    inputs, outputs = _signature(meta, path, required=True)
    prefix = str(folder / "variables" / "variables")
    if not Path(f"{prefix}.index").exists():
        if any(n.op in _VARIABLES for n in meta.graph_def.node):
            raise UsageError(f"--model={folder}: the variables are missing; variables/variables.index and .data-* belong there")
        prefix = ""

    return Source(meta.graph_def, inputs, outputs, prefix)


def _signature(meta: Any, path: Path, required: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    held = dict(meta.signature_def)
    key = "serving_default" if "serving_default" in held else next((k for k in sorted(held) if not k.startswith("__")), None)
    if key is None:
        if required:
            raise UnsupportedModelError(f"{path} has no signature; pass the .meta file of its checkpoint")
        return (), ()
    ends = held[key].inputs, held[key].outputs
    inputs, outputs = (tuple(dict.fromkeys(plain(e[k].name) for k in sorted(e))) for e in ends)
    return inputs, outputs


def _with_values(graph: Any, needed: set[str], value_of: Callable[[str], Any], checkpoint: str) -> Any:
    """The graph with a constant for every variable that it reads."""
    import tensorflow as tf
    from tensorflow.compat import v1

    result = v1.GraphDef()
    result.versions.CopyFrom(graph.versions)
    handles = {n.name for n in graph.node if n.op == "VarHandleOp"}
    for node in (n for n in graph.node if n.name in needed):
        made = result.node.add()
        if node.op in _VARIABLES:
            name = node.attr["shared_name"].s.decode() or node.name if node.op == "VarHandleOp" else node.name
            value = value_of(name)
            if value is None:
                raise ModelFormatError(f"{checkpoint}: the checkpoint holds no value of the variable {name!r}")
            made.name, made.op = node.name, "Const"
            dtype = tf.as_dtype(value.dtype)
            made.attr["dtype"].type = dtype.as_datatype_enum
            made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype))
        elif node.op == "ReadVariableOp" and plain(node.input[0]) in handles:
            made.name, made.op = node.name, "Identity"
            made.input.append(node.input[0])
            made.attr["T"].CopyFrom(node.attr["dtype"])
        else:
            made.CopyFrom(node)
    return result


def find_interface(source: Source, nodes: Nodes, inputs: list[str], outputs: list[str]) -> Interface:
    """Where the graph is fed and fetched: as the user says, else as a signature does, else found.

    Raises:
        UsageError: a name that is not in the graph, or several candidates of which the user has to choose.
    """
    warnings = []
    named = {plain(n) for n in (*inputs, *outputs)}
    for name in sorted(named):
        if name not in nodes:
            raise UsageError(f"--inputs or --outputs names {name!r}, which is no node of the graph{_near(name, nodes)}")
    entries = [plain(n) for n in inputs] or list(source.inputs) or find_inputs(nodes)
    if not entries:
        raise UnsupportedModelError("the graph has no placeholder to feed; name its input with --inputs")
    views: list[str] = []
    if outputs:
        results = [plain(n) for n in outputs]
    elif source.outputs:
        results, views = without_views(nodes, list(source.outputs))
    else:
        results, views = find_outputs(nodes, entries)
        if len(results) > 1:
            raise UsageError(
                f"the graph has several outputs: {', '.join(results)}; name those that you want with --outputs, commas between them"
            )
    if not results:
        raise UnsupportedModelError("the graph has no output that its inputs reach; name it with --outputs")
    if views:
        warnings.append(f"left out as a view of what {results[0]!r} is computed from: {', '.join(views)}; --outputs would name it")
    results = list(dict.fromkeys(_behind_last_range(nodes, n, warnings) for n in results))
    needed = set(nodes.behind(results))
    idle = [n for n in entries if n not in needed] if inputs else []
    if idle:
        raise UsageError(f"--inputs names {idle[0]!r}, which no output needs")
    entries = [n for n in entries if n in needed] if not inputs else entries
    if not entries:
        raise UnsupportedModelError(f"the output {results[0]!r} depends on no placeholder; name other --inputs or --outputs")
    return Interface(entries, results, views, warnings)


def _behind_last_range(nodes: Nodes, name: str, warnings: list[str]) -> str:
    """The FakeQuant that an output's value goes into and nothing else comes after, or the output itself."""
    root = nodes.root(name)
    ranges = [n for n in nodes.readers.get(root.name, ()) if n.op in FAKE_QUANT]
    if root.op in FAKE_QUANT or len(ranges) != 1:
        return name
    behind = ranges[0].name
    warnings.append(f"the output is {behind!r}: {name!r} lies before it, where the model was not trained to be read")
    return behind


def _near(name: str, nodes: Nodes) -> str:
    import difflib

    found = difflib.get_close_matches(name, list(nodes.by_name), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def canonical(graph: Any, inputs: list[str], outputs: list[str], shapes: dict[str, tuple[int, ...]]) -> Any:
    """The graph that one model has, however it was stored: what outputs need, in one order, without leftovers.

    Args:
        graph: a frozen GraphDef.
        inputs: nodes to feed; one that is no placeholder becomes one.
        outputs: nodes to keep.
        shapes: static shapes of inputs that the user gave.
    """
    from tensorflow.compat import v1

    nodes = Nodes(graph)
    result = v1.GraphDef()
    result.versions.producer = max(graph.versions.producer, _PRODUCER)
    for name in nodes.behind(outputs, stop=inputs):
        made = result.node.add()
        node = nodes[name]
        made.CopyFrom(node)
        made.device = ""
        del made.input[:]
        if name not in inputs:
            made.input.extend(i.removesuffix(":0") for i in node.input if not i.startswith("^"))
        for key in [k for k in made.attr if k.startswith("_")]:
            del made.attr[key]
        if made.HasField("experimental_debug_info"):
            made.ClearField("experimental_debug_info")
        if name in inputs:
            _placeholder(made, shapes.get(name))
        elif node.op == "PlaceholderWithDefault":
            made.op = "Identity"
            dtype = made.attr["dtype"]
            made.attr["T"].CopyFrom(dtype)
            for key in ("dtype", "shape"):
                del made.attr[key]
    return result


def _placeholder(node: Any, shape: tuple[int, ...] | None) -> None:
    held = node.attr["shape"].shape if node.op == "Placeholder" else None
    dims = list(shape) if shape is not None else [d.size for d in held.dim] if held is not None else None
    dtype = node.attr["dtype"].type if node.op == "Placeholder" else 1
    if dims is None:
        raise UsageError(f"the input {node.name!r} has no shape of its own; give it, as in --inputs={node.name}:1x224x224x3")
    node.op = "Placeholder"
    for key in list(node.attr):
        del node.attr[key]
    node.attr["dtype"].type = dtype
    node.attr["shape"].shape.SetInParent()
    for size in dims:
        node.attr["shape"].shape.dim.add().size = size
