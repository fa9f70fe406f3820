"""The TFLite schema as data, read off the generated bindings.

The generated classes know every table of the schema, but not as data that a generic reader can walk:
a slot number sits in the body of an accessor. Here each accessor is asked once, on a stand-in table
that records the slot and answers "absent", so that the accessor also tells the field's default. What
the bindings do not know is exactly what a rewrite would lose, and so what `io.flatbuffer` refuses.
"""

import functools
import re
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from ai_edge_litert import schema_py_generated as bindings

SCALARS = {
    "BoolFlags": "?", "Int8Flags": "b", "Uint8Flags": "B", "Int16Flags": "h", "Uint16Flags": "H",
    "Int32Flags": "i", "Uint32Flags": "I", "Int64Flags": "q", "Uint64Flags": "Q",
    "Float32Flags": "f", "Float64Flags": "d",
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One slot of a table.

    Attributes:
        name: the field's name as the schema file spells it (snake case).
        slot: its index in the vtable.
        kind: `scalar`, `string`, `table`, `union`, `scalars`, `strings` or `tables` (the last three are vectors).
        code: the `struct` code of a scalar or of a scalar vector's element.
        table: the table that a `table` or `tables` field holds; for a union, the union's name.
        default: the value of an absent scalar.
    """

    name: str
    slot: int
    kind: str
    code: str = ""
    table: str = ""
    default: Any = None


class _Absent:
    """A table in which no field is present: records the slot that an accessor asks for."""

    def __init__(self) -> None:
        self.slot = -1

    def Offset(self, vtable_offset: int) -> int:  # noqa: N802 (the bindings' name)
        """Records the slot; 0 is the bindings' word for an absent field."""
        self.slot = (vtable_offset - 4) // 2
        return 0


def snake_case(name: str) -> str:
    """`DilationWFactor` -> `dilation_w_factor`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@functools.cache
def table_fields(table: str) -> tuple[Field, ...]:
    """The fields of one table of the schema, by ascending slot.

    Args:
        table: the table's name in the schema, e.g. `SubGraph`.
    """
    reader = getattr(bindings, table)
    fields: dict[int, Field] = {}
    for name, accessor in vars(reader).items():
        if not isinstance(accessor, FunctionType) or name == "Init" or name.startswith("_"):
            continue
        if re.search(r"(AsNumpy|Length|IsNone)$", name) and re.sub(r"(AsNumpy|Length|IsNone)$", "", name) in vars(reader):
            continue
        field = _field(reader, name, accessor)
        fields[field.slot] = field
    return tuple(fields[slot] for slot in sorted(fields))


def _field(reader: type, name: str, accessor: FunctionType) -> Field:
    instance, absent = reader(), _Absent()
    instance._tab = absent
    code: CodeType = accessor.__code__
    is_vector = code.co_argcount == 2
    default = accessor(instance, 0) if is_vector else accessor(instance)
    names, snake = code.co_names, snake_case(name)
    if "Union" in names:
        return Field(snake, absent.slot, "union", table=_union_name(name))
    if "Indirect" in names:
        nested = next(n for n in names if isinstance(getattr(bindings, n, None), type))
        return Field(snake, absent.slot, "tables" if is_vector else "table", table=nested)
    if "String" in names:
        return Field(snake, absent.slot, "strings" if is_vector else "string")
    scalar = next(SCALARS[n] for n in names if n in SCALARS)
    if is_vector:
        return Field(snake, absent.slot, "scalars", code=scalar)
    return Field(snake, absent.slot, "scalar", code=scalar, default=default)


def _union_name(accessor: str) -> str:
    """The union behind an accessor: its own name, or the one union that serves several fields."""
    if hasattr(bindings, accessor):
        return accessor
    return {"Details": "QuantizationDetails", "ArraySegments": "SparseIndexVector", "ArrayIndices": "SparseIndexVector"}[
        accessor
    ]


@functools.cache
def union_members(union: str) -> dict[int, str]:
    """The tables of a union by their type number; 0 (NONE) is left out."""
    return {v: k for k, v in vars(getattr(bindings, union)).items() if not k.startswith("_") and v != 0}


@functools.cache
def enum_names(enum: str) -> dict[int, str]:
    """The members of an enum of the schema by number, e.g. `BuiltinOperator` -> {3: "CONV_2D", ...}."""
    return {v: k for k, v in vars(getattr(bindings, enum)).items() if not k.startswith("_")}


_OPTIONS_OF = {
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), "Pool2DOptions"),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY"), "ReducerOptions"),
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), "MaximumMinimumOptions"),
    "L2_NORMALIZATION": "L2NormOptions",
}
"""Ops whose options are not named after them."""


@functools.cache
def options_of(code: str) -> str | None:
    """The table of an op's options, by the op's builtin code; None where none is named after it.

    >>> options_of("GATHER"), options_of("MEAN"), options_of("CUSTOM")
    ('GatherOptions', 'ReducerOptions', None)
    """
    named = (code.replace("_", "") + "Options").lower()
    return _OPTIONS_OF.get(code) or next((k for k in union_members("BuiltinOptions").values() if k.lower() == named), None)
