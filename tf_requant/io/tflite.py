"""TFLite flatbuffers: bytes to Model and back.

Reading keeps what the nouns don't carry as the file's own tables (`opaque`), so an unchanged model is
written back field for field. Buffers may lie inline or behind the flatbuffer (`Buffer.offset`); they
are written inline and 16-byte aligned while the file stays below 2 GiB, and behind it otherwise.
"""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import ModelFormatError, UnsupportedModelError
from tf_requant.io.associated_files import find_archive, promised_files
from tf_requant.io.flatbuffer import Reader, Table
from tf_requant.io.int4 import unpacked
from tf_requant.io.schema import enum_names, options_of, table_fields
from tf_requant.model.graph import Graph, Model, Op, Signature, Tensor
from tf_requant.model.quant import QUANTIZED_DTYPES, QuantParams
from tf_requant.model.shapes import RULES

IDENTIFIER = b"TFL3"
DTYPES = {
    "FLOAT32": "float32", "FLOAT16": "float16", "FLOAT64": "float64", "INT4": "int4", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "UINT8": "uint8", "UINT16": "uint16",
    "UINT32": "uint32", "UINT64": "uint64", "BOOL": "bool", "COMPLEX64": "complex64", "COMPLEX128": "complex128",
}  # fmt: skip
"""TensorType to numpy's spelling; the others keep their own name in lower case and raw bytes."""

_RAW = ("int4", "string", "resource", "variant")


def read(source: str | Path | bytes) -> Model:
    """Reads a TFLite file.

    Args:
        source: a path, or the file's bytes.

    Raises:
        ModelFormatError: the file is missing, empty, truncated, no TFLite flatbuffer or newer than the bindings.
    """
    data, name = (source, "the model") if isinstance(source, bytes) else (_file_bytes(Path(source)), str(source))
    try:
        return _read(data)
    except ModelFormatError as error:
        raise ModelFormatError(f"{name}: {error}") from error


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelFormatError(f"{path}: no such file; --model takes a .tflite file") from None
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot be read ({error.strerror})") from error


def _read(data: bytes) -> Model:
    if not data:
        raise ModelFormatError("the file is empty; expected a TFLite flatbuffer")
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise ModelFormatError(
            f"not a TFLite flatbuffer: the file identifier is {bytes(data[4:8])!r}, expected {IDENTIFIER!r}"
        )
    reader = Reader(data)
    root = reader.root("Model")
    if root.get("version") != 3:
        raise ModelFormatError(f"the schema version is {root.get('version')}, expected 3")
    if not root.get("subgraphs"):
        raise ModelFormatError("the model holds no subgraph")
    buffers, end = _buffers(root, data, reader.end)
    archive, warning = find_archive(data, end)
    opcodes = [_opcode(t) for t in root.get("operator_codes") or ()]
    graphs = tuple(_graph(t, i, opcodes, buffers) for i, t in enumerate(root.get("subgraphs")))
    _refuse_unloadable_leftovers(graphs, opcodes)
    metadata = {}
    for entry in root.get("metadata") or ():
        buffer = _element(buffers, entry.get("buffer"), "metadata")
        metadata[_text(entry.get("name"))] = b"" if buffer is None else buffer.tobytes()
    if archive is None and not warning and (lost := promised_files(metadata.get("TFLITE_METADATA", b""))):
        warning = f"the metadata names the associated files {', '.join(lost)}, but the archive behind the flatbuffer is gone"
    signatures = tuple(_signature(t, graphs) for t in root.get("signature_defs") or ())
    return Model(graphs, signatures, metadata, (warning,) if warning else (), opaque=Source(root, buffers, archive))


class Source:
    """What the writer needs of the file that a model came from: its tables, buffers and archive."""

    def __init__(self, root: Table, buffers: list[Any], archive: Any) -> None:
        """Keeps the root table, each buffer's bytes (or None), and the appended archive (or None)."""
        self.root, self.buffers, self.archive = root, buffers, archive


def _text(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", "surrogateescape")


def _element(items: Any, index: int, what: str) -> Any:
    if not 0 <= index < len(items):
        raise ModelFormatError(f"{what} refers to buffer {index}, but the file holds {len(items)}")
    return items[index]


def _buffers(root: Table, data: bytes, end: int) -> tuple[list[NDArray[np.uint8] | None], int]:
    """Every buffer's bytes, and the first byte behind the flatbuffer and its external buffers."""
    buffers: list[NDArray[np.uint8] | None] = []
    for i, table in enumerate(root.get("buffers") or ()):
        content, offset, size = table.get("data"), table.get("offset"), table.get("size")
        if offset > 1 and not size:
            raise ModelFormatError(f"buffer {i} lies at byte {offset} but has no size: the file is damaged")
        if offset > 1:
            if offset + size > len(data):
                raise ModelFormatError(
                    f"the file is truncated: buffer {i} spans bytes {offset} to {offset + size}, the file has {len(data)}"
                )
            content, end = np.frombuffer(data, np.uint8, size, offset), max(end, offset + size)
        buffers.append(None if content is None or not content.size else content)
    return buffers, end


def _opcode(table: Table) -> tuple[str, int, str | None]:
    number = max(table.get("builtin_code"), table.get("deprecated_builtin_code"))
    names = enum_names("BuiltinOperator")
    if number not in names:
        raise ModelFormatError(
            f"the file's schema is newer than the installed bindings: builtin op {number} is unknown (known are up to "
            f"{max(names)}); install a newer ai-edge-litert"
        )
    custom = table.get("custom_code")
    return names[number], table.get("version"), None if custom is None else _text(custom)


def _refuse_unloadable_leftovers(graphs: tuple[Graph, ...], opcodes: list[tuple[str, int, str | None]]) -> None:
    """An interpreter resolves every operator code of the file, those that no op uses included."""
    used = {op.opaque.get("opcode_index") for graph in graphs for op in graph.ops}
    for i, (code, version, _) in enumerate(opcodes):
        row = RULES.get(code)
        if i not in used and row is not None and not 1 <= version <= row.newest:
            raise ModelFormatError(f"operator code {i} ({code}) has version {version}, expected 1 to {row.newest}")


def _graph(table: Table, index: int, opcodes: list[tuple[str, int, str | None]], buffers: list[Any]) -> Graph:
    tensors = tuple(_tensor(t, i, buffers) for i, t in enumerate(table.get("tensors") or ()))
    ops = tuple(_op(t, i, opcodes) for i, t in enumerate(table.get("operators") or ()))
    graph = Graph(
        _text(table.get("name")) or f"subgraph {index}",
        tensors,
        ops,
        _indices(table.get("inputs")),
        _indices(table.get("outputs")),
        opaque=table,
    )
    return unpacked(graph)


def _indices(vector: NDArray[np.int32] | None) -> tuple[int, ...]:
    return () if vector is None else tuple(vector.tolist())


def _tensor(table: Table, index: int, buffers: list[Any]) -> Tensor:
    name = _text(table.get("name"))
    number, names = table.get("type"), enum_names("TensorType")
    if number not in names:
        raise ModelFormatError(
            f"the file's schema is newer than the installed bindings: tensor {index} ({name!r}) has the unknown type "
            f"{number}; install a newer ai-edge-litert"
        )
    dtype = DTYPES.get(names[number], names[number].lower())
    shape = _indices(table.get("shape"))
    where = f"tensor {index} ({name!r})"
    if any(d < 0 for d in shape):
        raise ModelFormatError(f"{where} has the impossible shape {list(shape)}")
    raw = _element(buffers, table.get("buffer"), where) if buffers or table.get("buffer") else None
    data = None if raw is None else _constant(raw, dtype, shape, table.get("sparsity") is not None, where)
    if table.get("external_buffer"):
        raise UnsupportedModelError(f"{where} lies in a file of its own, which is not read; convert with inline weights")
    quant = _quant(table.get("quantization"), dtype, shape, where)
    return Tensor(name, dtype, shape, quant, data, bool(table.get("is_variable")), opaque=table)


def _constant(raw: NDArray[np.uint8], dtype: str, shape: tuple[int, ...], sparse: bool, where: str) -> NDArray[Any]:
    if sparse or dtype in _RAW or dtype not in DTYPES.values():
        return raw
    kind, count = np.dtype(dtype), prod(shape)
    if raw.size != count * kind.itemsize:
        raise ModelFormatError(
            f"{where} of shape {list(shape)} and type {dtype} needs {count * kind.itemsize} bytes, its buffer holds {raw.size}"
        )
    return raw.view(kind).reshape(shape)


def _quant(table: Table | None, dtype: str, shape: tuple[int, ...], where: str) -> QuantParams | None:
    if table is None:
        return None
    if table.get("details_type"):
        raise UnsupportedModelError(f"{where} is quantized neither per tensor nor per channel (quantization details)")
    scale, zero_point, axis = table.get("scale"), table.get("zero_point"), int(table.get("quantized_dimension"))
    if scale is None or not scale.size:
        return None
    count = 0 if zero_point is None else zero_point.size
    if dtype not in (*QUANTIZED_DTYPES, "int32", "int64"):
        placed = not shape or 0 <= axis < len(shape) and scale.size in (1, shape[axis])
        if count != scale.size or not placed:
            raise ModelFormatError(f"{where} of type {dtype} has parameters of codes that fit neither type nor shape")
        return None
    if count not in (0, 1, scale.size):
        raise ModelFormatError(f"{where} has {scale.size} scales but {count} zero points")
    # An interpreter wants a zero point for each scale: what is filled in here must be written (extra is None).
    stored = table if count == scale.size else None
    return QuantParams(dtype, scale, zero_point if count else np.zeros(1, np.int64), axis, extra=stored)


def _op(table: Table, index: int, opcodes: list[tuple[str, int, str | None]]) -> Op:
    number = table.get("opcode_index")
    if number >= len(opcodes):
        raise ModelFormatError(f"op {index} refers to operator code {number}, but the file holds {len(opcodes)}")
    code, version, custom = opcodes[number]
    options: Table | None = table.get("builtin_options")
    if options is None:
        options = table.get("builtin_options2")
    else:
        _check_options(code, options, index)
    attrs = {} if options is None else {f.name: options.fields.get(f.name, f.default) for f in table_fields(options.kind)}
    tensors = [_indices(table.get(side)) for side in ("inputs", "outputs", "intermediates")]
    return Op(code, tensors[0], tensors[1], attrs, version, custom, tensors[2], opaque=table)


def _check_options(code: str, options: Table | None, index: int) -> None:
    """An interpreter reads an op's options as its own kind, whatever the file says they are."""
    if options is None or code == "CUSTOM":
        return
    expected = options_of(code)
    if expected is not None and options.kind != expected:
        raise ModelFormatError(f"op {index} ({code}) carries {options.kind}, expected {expected}: the file is damaged")


def _signature(table: Table, graphs: tuple[Graph, ...]) -> Signature:
    graph = table.get("subgraph_index")
    key = _text(table.get("signature_key"))
    if graph >= len(graphs):
        raise ModelFormatError(f"signature {key!r} refers to subgraph {graph}, but the file holds {len(graphs)}")
    maps = []
    for side in ("inputs", "outputs"):
        entries = tuple((_text(t.get("name")), int(t.get("tensor_index"))) for t in table.get(side) or ())
        for name, tensor in entries:
            if tensor >= len(graphs[graph].tensors):
                raise ModelFormatError(f"signature {key!r} maps {name!r} to tensor {tensor}, which does not exist")
        maps.append(entries)
    return Signature(key, graph, maps[0], maps[1])
