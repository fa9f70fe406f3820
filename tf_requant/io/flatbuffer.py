"""Reads a flatbuffer into plain tables, with every bound checked, and lays tables out again.

A `Table` holds exactly the fields that the file stores, so that reading and writing keep even an
explicitly stored default. The reader trusts nothing: offsets, vector lengths and vtables are checked
before they are followed (layout: https://flatbuffers.dev/internals), and a field, union member or
table that the schema bindings don't know is refused, since a rewrite would lose it. The writer lays
parents before children and aligns data vectors to 16 bytes, as the TFLite schema's `force_align`
asks and Python's own builder does not.
"""

import functools
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tf_requant.errors import ModelFormatError
from tf_requant.io.schema import Field, table_fields, union_members

DATA_ALIGNMENT = 16
_MAX_DEPTH = 64
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_NUMPY = {"?": np.bool_, "b": np.int8, "B": np.uint8, "h": np.int16, "H": np.uint16, "i": np.int32,
          "I": np.uint32, "q": np.int64, "Q": np.uint64, "f": np.float32, "d": np.float64}  # fmt: skip
_STRUCT = {code: struct.Struct("<" + code) for code in _NUMPY}
_SIZE = {code: s.size for code, s in _STRUCT.items()}


@dataclass(eq=False)
class Table:
    """One table: its name in the schema and the fields that the file stores, by name."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The stored value of a field, or the schema's default for it."""
        if name in self.fields:
            return self.fields[name]
        return _defaults(self.kind)[name]

    def replace(self, **changes: Any) -> "Table":
        """A copy with some fields changed; None removes a field."""
        merged = {**self.fields, **changes}
        return Table(self.kind, {k: v for k, v in merged.items() if v is not None})


@functools.cache
def _defaults(kind: str) -> dict[str, Any]:
    return {f.name: f.default for f in table_fields(kind)}


@functools.lru_cache(maxsize=4096)
def _layout(kind: str, names: tuple[str, ...]) -> tuple[list[tuple[Field, int]], int, bytes]:
    """Where each stored field of a table goes, the table's size in bytes, and its vtable."""
    stored = [f for f in table_fields(kind) if f.name in names]
    sizes = [_SIZE[f.code] if f.kind == "scalar" else 4 for f in stored]
    slots, places, inline = [0] * (stored[-1].slot + 1 if stored else 0), [0] * len(stored), 4
    for i in sorted(range(len(stored)), key=lambda i: (-sizes[i], i)):
        # Tables start at 4 modulo 8, so that a field of eight bytes can sit right behind the vtable's offset.
        inline += -(inline + 4) % 8 if sizes[i] == 8 else -inline % sizes[i]
        places[i], slots[stored[i].slot] = inline, inline
        inline += sizes[i]
    vtable = struct.pack(f"<{len(slots) + 2}H", 4 + 2 * len(slots), inline, *slots)
    return list(zip(stored, places)), inline, vtable


class Reader:
    """Follows the tables of one buffer; `end` is the first byte behind everything that was reached."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Wraps a buffer; nothing is read yet."""
        self.data = data
        self.size = len(data)
        self.end = 8
        self._vtables: dict[int, tuple[int, ...]] = {}
        self._budget = max(1024, self.size // 4)  # tables may be shared: bounds the work on a hostile file

    def root(self, kind: str) -> Table:
        """Reads the root table and everything below it.

        Raises:
            ModelFormatError: an offset, length or vtable leaves the file, or the schema is too new.
        """
        return self.table(kind, self._offset(0, kind), 0)

    def table(self, kind: str, at: int, depth: int) -> Table:
        """Reads the table at byte `at`."""
        self._budget -= 1
        if depth > _MAX_DEPTH or self._budget < 0:
            raise ModelFormatError(f"the flatbuffer's tables refer to each other without end (in a {kind} at byte {at})")
        slots, fields = self._vtable(kind, at), table_fields(kind)
        known = fields[-1].slot + 1 if fields else 0
        if any(slots[known:]):
            raise ModelFormatError(
                f"the file's schema is newer than the installed bindings: a {kind} at byte {at} holds a field in slot "
                f"{next(i for i in range(known, len(slots)) if slots[i])}, which a rewrite would lose; "
                "install a newer ai-edge-litert"
            )
        result = Table(kind)
        stored = len(slots)
        for f in fields:
            if f.slot < stored and slots[f.slot]:
                result.fields[f.name] = self._value(f, at + slots[f.slot], result, depth)
        return result

    def _vtable(self, kind: str, at: int) -> tuple[int, ...]:
        self._check(at, 4, kind)
        vtable = at - _I32.unpack_from(self.data, at)[0]
        slots = self._vtables.get(vtable)
        if slots is None:
            self._check(vtable, 4, f"vtable of {kind}")
            size = int.from_bytes(self.data[vtable : vtable + 2], "little")
            if size < 4 or size % 2:
                raise ModelFormatError(f"the vtable of a {kind} at byte {vtable} has an impossible size of {size} bytes")
            self._check(vtable, size, f"vtable of {kind}")
            slots = struct.unpack_from(f"<{size // 2}H", self.data, vtable)
            self._vtables[vtable] = slots
        inline = slots[1]
        self._check(at, max(4, inline), kind)
        if any(s and not 4 <= s < inline for s in slots[2:]):
            raise ModelFormatError(f"the vtable of a {kind} at byte {at} points outside the table")
        return slots[2:]

    def _value(self, f: Field, at: int, owner: Table, depth: int) -> Any:
        if f.kind == "scalar":
            self._check(at, _SIZE[f.code], f.name)
            return _STRUCT[f.code].unpack_from(self.data, at)[0]
        target = self._offset(at, f.name)
        if f.kind == "scalars":
            return self._scalars(f, target)
        if f.kind == "string":
            return self._string(target, f.name)
        if f.kind == "table":
            return self.table(f.table, target, depth + 1)
        if f.kind == "union":
            return self._union(f, target, owner, depth)
        count = self._count(target, 4, f.name)
        places = [self._offset(target + 4 + 4 * i, f.name) for i in range(count)]
        if f.kind == "strings":
            return [self._string(place, f.name) for place in places]
        return [self.table(f.table, place, depth + 1) for place in places]

    def _union(self, f: Field, at: int, owner: Table, depth: int) -> Table:
        number = owner.fields.get(f.name + "_type", 0)
        kind = union_members(f.table).get(number)
        if kind is None:
            raise ModelFormatError(
                f"the file's schema is newer than the installed bindings: {owner.kind}.{f.name} holds union member "
                f"{number}, known are up to {max(union_members(f.table))}; install a newer ai-edge-litert"
            )
        return self.table(kind, at, depth + 1)

    def _scalars(self, f: Field, at: int) -> np.ndarray:
        count = self._count(at, _SIZE[f.code], f.name)
        return np.frombuffer(self.data, _NUMPY[f.code], count, at + 4)

    def _string(self, at: int, what: str) -> bytes:
        count = self._count(at, 1, what)
        return bytes(self.data[at + 4 : at + 4 + count])

    def _count(self, at: int, size: int, what: str) -> int:
        self._check(at, 4, what)
        count: int = _U32.unpack_from(self.data, at)[0]
        self._check(at, 4 + count * size, f"vector {what}")
        return count

    def _offset(self, at: int, what: str) -> int:
        self._check(at, 4, what)
        return at + _U32.unpack_from(self.data, at)[0]  # type: ignore[no-any-return]

    def _check(self, at: int, size: int, what: str) -> None:
        end = at + size
        if at < 0 or end > self.size:
            raise ModelFormatError(
                f"the file is truncated or damaged: {what} spans bytes {at} to {end}, the file has {self.size}"
            )
        if end > self.end:
            self.end = end


class Writer:
    """Lays tables out front to back in one growing buffer."""

    def __init__(self, identifier: bytes, capacity: int = 1 << 16) -> None:
        """Starts a file with its 4-byte identifier; `capacity` is a size hint in bytes."""
        self.out = bytearray(8)
        self.out[4:8] = identifier
        self._vtables: dict[bytes, int] = {}
        self._pending: list[tuple[int, Field, Any]] = []

    def finish(self, root: Table) -> bytearray:
        """Writes the root table and everything below it, and returns the file."""
        _U32.pack_into(self.out, 0, self._table(root))
        # Children follow their parents in the order of discovery, so equal trees give equal bytes.
        queue, position = self._pending, 0
        while position < len(queue):
            at, f, value = queue[position]
            position += 1
            _U32.pack_into(self.out, at, self._child(f, value) - at)
        return self.out

    def _table(self, table: Table) -> int:
        stored, inline, content = _layout(table.kind, tuple(table.fields))
        vtable = self._vtable(content)
        self._align(8, 4)
        at = len(self.out)
        self.out += bytes(inline)
        _I32.pack_into(self.out, at, at - vtable)
        for f, place in stored:
            value = table.fields[f.name]
            if f.kind == "scalar":
                _STRUCT[f.code].pack_into(self.out, at + place, value)
            else:
                self._pending.append((at + place, f, value))
        return at

    def _vtable(self, content: bytes) -> int:
        at = self._vtables.get(content)
        if at is None:
            self._align(2)
            at = self._vtables[content] = len(self.out)
            self.out += content
        return at

    def _child(self, f: Field, value: Any) -> int:
        if f.kind in ("table", "union"):
            return self._table(value)
        if f.kind == "string":
            return self._bytes(value, 4, terminate=True)
        if f.kind == "scalars":
            array = np.ascontiguousarray(value, _NUMPY[f.code])
            align = DATA_ALIGNMENT if f.name == "data" else max(4, array.itemsize)
            return self._bytes(memoryview(array).cast("B") if array.size else b"", align, count=array.size)
        self._align(4)
        at = len(self.out)
        self.out += _U32.pack(len(value)) + bytes(4 * len(value))
        element = Field(f.name, 0, "string" if f.kind == "strings" else "table", table=f.table)
        self._pending.extend((at + 4 + 4 * i, element, v) for i, v in enumerate(value))
        return at

    def _bytes(self, content: bytes | memoryview, align: int, count: int | None = None, terminate: bool = False) -> int:
        self._align(align, align - 4 if align > 4 else 0)
        at = len(self.out)
        self.out += _U32.pack(len(content) if count is None else count)
        self.out += content
        if terminate:
            self.out += b"\0"
        return at

    def _align(self, size: int, phase: int = 0) -> None:
        """Pads so that the next byte sits at `phase` modulo `size`."""
        self.out += bytes((phase - len(self.out)) % size)
