"""Program to the bytes of `schemas/nna_program.fbs` and back, field by field through the generated bindings.

A noun, an enum and their fields are called as in the schema (camelCase in the bindings' object API), so that one walk
over the dataclasses serves every table. The bindings are flatc's (2.0.8), never edited by hand:

    flatc --python --gen-object-api --gen-onefile -o tf_requant/export/generated schemas/nna_program.fbs
"""

import struct
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import flatbuffers
import numpy as np

from tf_requant.errors import ModelFormatError
from tf_requant.export.generated import nna_program_generated as generated
from tf_requant.export.kinds import Kind
from tf_requant.export.program import VERSION, Program

IDENTIFIER = b"TFRN"
ALIGNMENT = 16
"""Of a buffer's elements, in bytes from the start of the file."""


class _AlignedBuffer(generated.BufferT):  # type: ignore[misc]
    """A buffer whose elements start at a multiple of 16: the bindings leave `force_align` to the caller."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        """Writes vector and table."""
        content = b"" if self.data is None else bytes(self.data)
        if not content:
            return int(super().Pack(builder))
        builder.StartVector(1, len(content), ALIGNMENT)
        builder.head = builder.Head() - len(content)
        builder.Bytes[builder.Head() : builder.Head() + len(content)] = content
        vector = builder.EndVector()
        generated.BufferStart(builder)
        generated.BufferAddData(builder, vector)
        return int(generated.BufferEnd(builder))


def to_bytes(program: Program) -> bytes:
    """The flatbuffer; equal programs give equal bytes."""
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(_encoded(program).Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def from_bytes(content: bytes) -> Program:
    """The program in a flatbuffer.

    Raises:
        ModelFormatError: the bytes hold none, or one of a version that is not known here.
    """
    if content[4:8] != IDENTIFIER:
        raise ModelFormatError(f"the file is no fixed-point program: expected the identifier TFRN at byte 4, got {content[4:8]!r}")
    try:
        table = generated.ProgramT.InitFromObj(generated.Program.GetRootAs(content, 0))
        version = int(table.version)
        program = _decoded(table, Program) if version == VERSION else None
    except (struct.error, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        raise ModelFormatError(f"the fixed-point program is damaged: {error}") from error
    if not isinstance(program, Program):
        raise ModelFormatError(f"the fixed-point program is of version {version}, expected {VERSION}")
    return program


def _encoded(noun: Any) -> Any:
    """The object API's table of a noun."""
    name = type(noun).__name__
    table: Any = _AlignedBuffer() if name == "Buffer" else getattr(generated, f"{name}T")()
    for field in fields(noun):
        value = getattr(noun, field.name)
        setattr(table, _camel(field.name), _plain(value))
        if field.name == "kind" and is_dataclass(value):
            table.kindType = getattr(generated.Kind, type(value).__name__)
    return table


def _plain(value: Any) -> Any:
    """A field's value as the object API holds it; what is empty is left out of the file."""
    if isinstance(value, Enum):
        return number(value)
    if is_dataclass(value):
        return _encoded(value)
    if isinstance(value, bytes):
        return np.frombuffer(value, np.uint8) if value else None
    if isinstance(value, tuple):
        return [_plain(v) for v in value] or None
    return value if value != "" else None


def number(member: Enum) -> int:
    """The number of an enumeration's member in the schema."""
    value: int = getattr(getattr(generated, type(member).__name__), member.name)
    return value


def _decoded(table: Any, noun: type) -> Any:
    """The noun of a table."""
    hints = _hints(noun)
    return noun(**{f.name: _value(getattr(table, _camel(f.name)), hints[f.name]) for f in fields(noun)})


@cache
def _hints(noun: type) -> dict[str, Any]:
    return get_type_hints(noun)


def _value(value: Any, hint: Any) -> Any:
    """A field's value by its annotation."""
    if hint == Kind:
        return _decoded(value, next(k for k in get_args(Kind) if k.__name__ == type(value).__name__[:-1]))
    if get_origin(hint) is UnionType:
        inner = next(h for h in get_args(hint) if h is not NoneType)
        return None if value is None else _value(value, inner)
    if get_origin(hint) is tuple:
        return () if value is None else tuple(_value(v, get_args(hint)[0]) for v in value)
    if hint is bytes:
        return b"" if value is None else bytes(value)
    if hint is str:
        return "" if value is None else value.decode()
    if issubclass(hint, Enum):
        return next(m for m in hint if number(m) == value)
    return _decoded(value, hint) if hasattr(hint, "__dataclass_fields__") else hint(value)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
