"""Op versions, and the runtime version that a model declares it needs."""

from collections.abc import Mapping

from tf_requant.model.graph import Graph, Model, Op
from tf_requant.model.ops import info, required_runtime, required_version

KEY = "min_runtime_version"
_FIELD = 16  # bytes: converters store the string in a zero-padded field


def versioned(graph: Graph, op: Op) -> Op:
    """The op with the version that its new types ask for; options that int16 sums need are set too."""
    dtype = activation_type(graph, op)
    if dtype == "int16" and op.code in ("ADD", "SUB"):
        op = op.with_(attrs={**op.attrs, "pot_scale_int16": False})
    version = required_version(op, dtype)
    return op if version == op.version else op.with_(version=version)


def activation_type(graph: Graph, op: Op) -> str:
    """The type of the op's codes: that of its main input, or of its output when that is wider."""
    row = info(op)
    if row is None or not op.inputs:
        return ""
    tensors = [graph.tensors[t] for t in (op.inputs[row.data], *op.outputs) if t >= 0]
    dtypes = [t.dtype for t in tensors if t.quant is not None and t.dtype in ("uint8", "int8", "int16")]
    return "int16" if "int16" in dtypes else (dtypes[0] if dtypes else "")


def with_runtime(source: Model, model: Model) -> Model:
    """Raises the declared minimum runtime to what risen op versions need; a model without one stays without."""
    if KEY not in source.metadata:
        return model
    known = {(op.code, op.version) for g in source.graphs for op in g.ops}
    risen = [
        required_runtime(op, activation_type(g, op)) for g in model.graphs for op in g.ops if (op.code, op.version) not in known
    ]
    stored = source.metadata[KEY]
    own = stored.rstrip(b"\0").decode("ascii", "replace")
    needed = max([own, *risen], key=_order)
    if needed == own:
        return model
    metadata: Mapping[str, bytes] = {**model.metadata, KEY: needed.encode().ljust(max(_FIELD, len(stored)), b"\0")}
    return model.with_(metadata=metadata)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
