"""Model to TFLite bytes: every changed noun becomes a new table, everything else is the file's own.

Buffers keep their index where they can. A buffer that several tensors share keeps serving those that
still agree; the others get buffers of their own. Equal models give equal bytes.
"""

import functools
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_requant.errors import UsageError
from tf_requant.io.associated_files import relocate
from tf_requant.io.flatbuffer import DATA_ALIGNMENT, Table, Writer
from tf_requant.io.int4 import pack
from tf_requant.io.schema import enum_names, options_of, table_fields, union_members
from tf_requant.io.tflite import DTYPES, IDENTIFIER, Source
from tf_requant.model.graph import Graph, Model, Op, Signature, Tensor
from tf_requant.model.quant import QuantParams

INLINE_LIMIT = 2**31 - 2**20
"""Bytes: a flatbuffer's own offsets end at 2 GiB; larger models keep their data behind it."""

_PLACEHOLDER_FOR_GREATER_OP_CODES = 127


def write(model: Model, *, inline_limit: int = INLINE_LIMIT) -> bytes:
    """The model as a TFLite file.

    Args:
        model: a model that `io.tflite.read` returned, edited or not.
        inline_limit: the size in bytes from which buffers are laid behind the flatbuffer instead of into it.
    """
    source: Source = model.opaque
    buffers = _BufferPool(model)
    opcodes = _OpCodes(model)
    graphs = [_graph(g, i, buffers, opcodes) for i, g in enumerate(model.graphs)]
    root = source.root.replace(subgraphs=graphs, operator_codes=opcodes.tables, metadata=_metadata(model, buffers))
    if model.signatures or root.get("signature_defs"):
        kept = root.get("signature_defs") or []
        root = root.replace(signature_defs=[_signature(s, t) for s, t in zip(model.signatures, kept)])
    size = buffers.size()
    out = _external(root, buffers, size) if size > inline_limit else _inline(root, buffers, size)
    if source.archive is not None:
        out += relocate(source.archive, len(out))
    return bytes(out)


def save(path: str | Path, content: bytes, *, overwrite: bool = True) -> None:
    """Writes a file atomically: a reader sees the old file or the whole new one.

    Raises:
        UsageError: the folder cannot be written, or the file exists and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; pass --overwrite to replace it")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UsageError(f"{path}: the folder cannot be written ({error.strerror}); choose another path") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error


def _inline(root: Table, buffers: "_BufferPool", size: int) -> bytearray:
    return Writer(IDENTIFIER).finish(root.replace(buffers=buffers.tables()))


def _external(root: Table, buffers: "_BufferPool", size: int) -> bytearray:
    """Lays the data behind the flatbuffer; a first pass tells where that is."""
    behind = len(Writer(IDENTIFIER).finish(root.replace(buffers=buffers.external_tables(0)[0])))
    start = -(-behind // DATA_ALIGNMENT) * DATA_ALIGNMENT
    tables, chunks = buffers.external_tables(start)
    out = Writer(IDENTIFIER).finish(root.replace(buffers=tables))
    for place, content in chunks:
        out += bytes(place - len(out))
        out += memoryview(content)
    return out


class _BufferPool:
    """Gives each content a buffer: the file's own index where it is still free, a new one elsewhere."""

    def __init__(self, model: Model) -> None:
        self._source: Source = model.opaque
        self._own: list[Table] = list(self._source.root.get("buffers") or ())
        self._content: list[Any] = list(self._source.buffers)
        self._claimed: dict[int, Any] = {}
        self._split: dict[int, list[int]] = {}
        users: dict[int, int] = {}
        for graph in model.graphs:
            for t in graph.tensors:
                if t.opaque is not None and t.data is not None:
                    users[t.opaque.get("buffer")] = users.get(t.opaque.get("buffer"), 0) + 1
        for entry in self._source.root.get("metadata") or ():
            users[entry.get("buffer")] = users.get(entry.get("buffer"), 0) + 1
        self._shared = {i for i, n in users.items() if n > 1}

    def place(self, content: np.ndarray, origin: int | None) -> int:
        """The index of a buffer with this content (raw bytes), `origin` if that can be."""
        if origin is None:
            return self._append(content)
        held = self._claimed.get(origin)
        if held is None and (origin not in self._shared or content is self._content[origin]):
            self._claimed[origin] = self._content[origin] = content
            return origin
        for index in self._split.setdefault(origin, []):
            if np.array_equal(self._content[index], content):
                return index
        if held is not None and np.array_equal(held, content):
            return origin
        self._split[origin].append(self._append(content))
        return self._split[origin][-1]

    def known(self, content: np.ndarray, origin: int | None) -> np.ndarray:
        """The file's own object where its buffer holds the same bytes."""
        own = None if origin is None or origin >= len(self._content) else self._content[origin]
        return own if own is not None and np.array_equal(own, content) else content

    def keep(self, origin: int) -> int:
        """The index of a buffer whose content does not change."""
        if origin < len(self._content):
            self._claimed.setdefault(origin, self._content[origin])
        return origin

    def _append(self, content: np.ndarray) -> int:
        if not self._own:  # buffer 0 is the empty one by convention
            self._own.append(Table("Buffer"))
            self._content.append(None)
        self._own.append(Table("Buffer"))
        self._content.append(content)
        return len(self._own) - 1

    def size(self) -> int:
        return sum(c.size for c in self._content if c is not None)

    def tables(self) -> list[Table]:
        """All buffers with their data inline."""
        return [
            t if c is None or t.fields.get("data") is c else t.replace(data=c, offset=None, size=None)
            for t, c in zip(self._own, self._content)
        ]

    def external_tables(self, start: int) -> tuple[list[Table], list[tuple[int, Any]]]:
        """All buffers with their data behind the flatbuffer, and where each chunk of data goes."""
        tables, chunks, place = [], [], start
        for table, content in zip(self._own, self._content):
            if content is None:
                tables.append(table)
                continue
            place = -(-place // DATA_ALIGNMENT) * DATA_ALIGNMENT
            tables.append(table.replace(data=None, offset=place, size=content.size))
            chunks.append((place, content))
            place += content.size
        return tables, chunks


class _OpCodes:
    """The operator code table: the file's own if it still serves, a new one where a version rose."""

    def __init__(self, model: Model) -> None:
        names = {name: number for number, name in enum_names("BuiltinOperator").items()}
        own: list[Table] = list(model.opaque.root.get("operator_codes") or ())
        unchanged = all(
            op.opaque is not None
            and _key(own[op.opaque.get("opcode_index")], names) == (names[op.code], op.version, op.custom_code)
            for g in model.graphs
            for op in g.ops
        )
        self.unchanged, self._names = unchanged, names
        self.tables: list[Table] = own if unchanged else []
        self._index: dict[tuple[int, int, str | None], int] = {}
        self._like = own

    def index(self, op: Op) -> int:
        """The operator code of an op."""
        if self.unchanged:
            return int(op.opaque.get("opcode_index"))
        key = (self._names[op.code], op.version, op.custom_code)
        if key not in self._index:
            self._index[key] = len(self.tables)
            self.tables.append(self._table(*key))
        return self._index[key]

    def _table(self, number: int, version: int, custom: str | None) -> Table:
        own = next((t for t in self._like if _key(t, self._names)[::2] == (number, custom)), None)
        if own is not None:
            return own.replace(version=version)
        deprecated = min(number, _PLACEHOLDER_FOR_GREATER_OP_CODES)
        return Table("OperatorCode", {"deprecated_builtin_code": deprecated, "version": version, "builtin_code": number})


def _key(table: Table, names: Mapping[str, int]) -> tuple[int, int, str | None]:
    custom = table.get("custom_code")
    number = max(table.get("builtin_code"), table.get("deprecated_builtin_code"))
    return number, table.get("version"), None if custom is None else custom.decode("utf-8", "surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _graph(graph: Graph, index: int, buffers: _BufferPool, opcodes: _OpCodes) -> Table:
    own: Table = graph.opaque
    changes: dict[str, Any] = {}
    if graph.tensors or own.get("tensors") is not None:
        changes["tensors"] = [_tensor(t, buffers) for t in graph.tensors]
    if graph.ops or own.get("operators") is not None:
        changes["operators"] = [_op(op, opcodes) for op in graph.ops]
    for side in ("inputs", "outputs"):
        value = np.array(getattr(graph, side), np.int32)
        if own.get(side) is not None or value.size:
            changes[side] = value
    return own.replace(**changes)


@functools.lru_cache(maxsize=1)
def _type_numbers() -> dict[str, int]:
    return {DTYPES.get(name, name.lower()): number for number, name in enum_names("TensorType").items()}


def _tensor(tensor: Tensor, buffers: _BufferPool) -> Table:
    own: Table = tensor.opaque if tensor.opaque is not None else Table("Tensor")
    numbers = _type_numbers()
    changes: dict[str, Any] = {}
    if _encode(tensor.name) != (own.get("name") or b""):
        changes["name"] = _encode(tensor.name)
    number = numbers["int4" if tensor.packed else tensor.dtype]
    if number != own.get("type"):
        changes["type"] = number
    shape = own.get("shape")
    if tensor.shape != (() if shape is None else tuple(shape.tolist())) or tensor.opaque is None:
        changes["shape"] = np.array(tensor.shape, np.int32)
    if tensor.quant is not None and (tensor.quant.extra is None or tensor.quant.extra is not own.get("quantization")):
        changes["quantization"] = _quant(tensor.quant, own.get("quantization"))
    origin = int(own.get("buffer")) if tensor.opaque is not None else None
    if tensor.data is None:
        index = buffers.keep(origin) if origin is not None else 0
    else:
        index = buffers.place(buffers.known(pack(tensor.data), origin) if tensor.packed else _raw(tensor.data), origin)
    if index != own.get("buffer"):
        changes["buffer"] = index
    if tensor.is_variable != bool(own.get("is_variable")):
        changes["is_variable"] = tensor.is_variable
    result = own.replace(**changes) if changes else own
    if tensor.quant is None and tensor.dtype.startswith("float") and own.get("quantization") is not None and "type" in changes:
        result = result.replace(quantization=None)
    return result


def _raw(data: np.ndarray) -> np.ndarray:
    """The bytes of a constant; the very object that was read when it is unchanged."""
    base = data = np.ascontiguousarray(data) if data.ndim else data
    while isinstance(base.base, np.ndarray) and base.base.size * base.base.itemsize == base.size * base.itemsize:
        base = base.base
    if base.dtype == np.uint8 and base.ndim == 1 and base.size == data.size * data.itemsize:
        return base
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8)


def _quant(quant: QuantParams, own: Table | None) -> Table:
    """New parameters; the file's min and max described the old ones and go."""
    table = own if own is not None else Table("QuantizationParameters")
    return table.replace(
        min=None, max=None, scale=quant.scale, zero_point=quant.zero_point, quantized_dimension=quant.axis or None
    )


def _op(op: Op, opcodes: _OpCodes) -> Table:
    own: Table = op.opaque if op.opaque is not None else Table("Operator")
    changes: dict[str, Any] = {}
    index = opcodes.index(op)
    if index != own.get("opcode_index"):
        changes["opcode_index"] = index
    for side in ("inputs", "outputs", "intermediates"):
        value, stored = getattr(op, side), own.get(side)
        if value != (() if stored is None else tuple(stored.tolist())):
            changes[side] = np.array(value, np.int32)
    slot = "builtin_options" if own.get("builtin_options2") is None else "builtin_options2"
    options: Table | None = own.get(slot)
    if options is not None:
        changed = {
            f.name: op.attrs[f.name]
            for f in table_fields(options.kind)
            if f.kind == "scalar" and op.attrs.get(f.name) != options.get(f.name)
        }
        if changed:
            changes[slot] = options.replace(**changed)
    elif op.attrs:
        kind = options_of(op.code)
        if kind is None:
            raise ValueError(f"{op.code} is new and cannot carry options: build it from an op that has them")
        number = next(n for n, name in union_members("BuiltinOptions").items() if name == kind)
        changes.update(builtin_options_type=number, builtin_options=Table(kind, dict(op.attrs)))
    return own.replace(**changes) if changes else own


def _metadata(model: Model, buffers: _BufferPool) -> list[Table] | None:
    own: list[Table] = list(model.opaque.root.get("metadata") or ())
    tables, seen = [], set()
    for entry in own:
        name, origin = (entry.get("name") or b"").decode("utf-8", "surrogateescape"), entry.get("buffer")
        seen.add(name)
        held = model.opaque.buffers[origin]
        content = model.metadata.get(name, b"")
        if content == (b"" if held is None else held.tobytes()):
            tables.append(entry.replace(buffer=buffers.keep(origin)) if origin != entry.get("buffer") else entry)
            buffers.keep(origin)
        else:
            tables.append(entry.replace(buffer=buffers.place(np.frombuffer(content, np.uint8), origin)))
    for name, content in model.metadata.items():
        if name not in seen:
            index = buffers.place(np.frombuffer(content, np.uint8), None)
            tables.append(Table("Metadata", {"name": _encode(name), "buffer": index}))
    return tables or model.opaque.root.get("metadata")


def _signature(signature: Signature, own: Table) -> Table:
    changes: dict[str, Any] = {}
    for side in ("inputs", "outputs"):
        stored: list[Table] = own.get(side) or []
        wanted = getattr(signature, side)
        if [(_encode(n), i) for n, i in wanted] != [(t.get("name") or b"", t.get("tensor_index")) for t in stored]:
            changes[side] = [t.replace(tensor_index=i) for t, (_, i) in zip(stored, wanted)]
    return own.replace(**changes) if changes else own
