"""Golden vectors and parameters as C99 headers, one for each op, that a firmware test includes.

Names: `op0003_` and, for tensors, `input0`, `filter`, `bias`, `output0`; for parameters the field's path in the schema,
`op0003_layer_output_rescale_shift`. Enumerations are the schema's numbers, with the name in a comment.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.export.flatbuffer import number
from tf_requant.export.golden import Sample
from tf_requant.export.kinds import Host
from tf_requant.export.program import ElementType, Op, Program, Tensor

LIMIT = 1 << 16
"""Elements of all arrays of an op, above which its header is left out unless every header is asked for."""

_C_TYPES = {
    "uint8": "uint8_t", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t", "float32": "float",
    "float64": "double",
}  # fmt: skip
_WIDTH = 110
_SHORT = 8
_INT32 = 1 << 31


def headers(program: Program, sample: Sample, limit: int | None) -> tuple[dict[str, str], tuple[str, ...]]:
    """The headers by file name, `golden.h` that includes all others among them, and a sentence for each one left out.

    Args:
        program: the program.
        sample: the run to show.
        limit: the most elements of an op's arrays; None: all ops.
    """
    files, left_out = {}, []
    for index, op in enumerate(program.ops):
        arrays = dict(_arrays(program, op, sample))
        size = sum(a.size for _, a in arrays.values())
        if limit is not None and size > limit:
            left_out.append(f"op {index} ({op.code}): {size} elements")
            continue
        files[f"op_{index:04d}_{_identifier(op.code)}.h"] = _header(program, index, arrays)
    lines = [f'#include "{name}"' for name in files] + [f"/* left out: {sentence} */" for sentence in left_out]
    files["golden.h"] = _guarded("GOLDEN_H", f"every op of {program.target}'s program", lines)
    return files, tuple(left_out)


def _arrays(program: Program, op: Op, sample: Sample) -> Iterator[tuple[str, tuple[Tensor, NDArray[Any]]]]:
    """(name, (tensor, elements)) of what an op reads and writes; other types than C's are left out."""
    layer = getattr(op.kind, "layer", None)
    named = {} if layer is None else {layer.filter: "filter", layer.bias: "bias"}
    both = [(f"input{i}", t) for i, t in enumerate(op.inputs)] + [(f"output{i}", t) for i, t in enumerate(op.outputs)]
    for name, index in both:
        if index < 0 or program.tensors[index].type is ElementType.OTHER:
            continue
        tensor = program.tensors[index]
        if tensor.buffer:
            content = program.buffers[tensor.buffer].data
            elements = np.frombuffer(content, np.dtype(tensor.type.value).newbyteorder("<"))
            yield named.get(index, name), (tensor, elements.reshape(tensor.shape))
        elif index in sample:
            yield name, (tensor, sample[index])


def _header(program: Program, index: int, arrays: dict[str, tuple[Tensor, NDArray[Any]]]) -> str:
    """One op's header."""
    op, prefix, lines = program.ops[index], f"op{index:04d}", []
    for name, (tensor, elements) in arrays.items():
        lines += [f"/* {_comment(tensor)} */", *_array(f"{prefix}_{name}", elements, _C_TYPES[tensor.type.value])]
        lines += _values(f"{prefix}_{name}_shape", elements.shape)
        lines += _values(f"{prefix}_{name}_zero_point", tensor.zero_point)
    if not isinstance(op.kind, Host):
        lines += [f"/* {type(op.kind).__name__}; schemas/nna_program.fbs says what each parameter means */"]
        lines += _parameters(prefix, op.kind)
    runs = f"the host's: {op.host_reason}" if op.host_reason else "the accelerator's"
    return _guarded(f"GOLDEN_OP_{index:04d}_H", f"op {index}, {op.code}, {runs}; {program.target}, sample 0", lines)


def _parameters(prefix: str, value: Any) -> list[str]:
    """A noun's numbers, field by field; tensors' indices and texts have no use here."""
    lines: list[str] = []
    for field in fields(value):
        name, held = f"{prefix}_{field.name}", getattr(value, field.name)
        if held is None or isinstance(held, str) or field.name in ("filter", "bias"):
            continue
        if is_dataclass(held):
            lines += _parameters(name, held)
        elif isinstance(held, tuple) and held and is_dataclass(held[0]):
            lines += _repeated(name, held)
        elif isinstance(held, bytes):
            lines += _array(name, np.frombuffer(held, np.uint8), "uint8_t")
        else:
            lines += _values(name, held)
    return lines


def _repeated(name: str, nouns: tuple[Any, ...]) -> list[str]:
    """Nouns of plain numbers as one array a field; others one by one."""
    columns = {f.name: [getattr(noun, f.name) for noun in nouns] for f in fields(nouns[0])}
    if all(isinstance(v, int | Enum) for column in columns.values() for v in column):
        return [line for field, column in columns.items() for line in _values(f"{name}_{field}", tuple(column))]
    return [line for i, noun in enumerate(nouns) for line in _parameters(f"{name}{i}", noun)]


def _values(name: str, held: Any) -> list[str]:
    """A number, or an array of numbers; nothing for an empty one, which C does not have."""
    members = held if isinstance(held, tuple) else (held,)
    note = " /* " + ", ".join(m.name for m in members) + " */" if members and isinstance(members[0], Enum) else ""
    numbers = [number(m) if isinstance(m, Enum) else m for m in members]
    if any(isinstance(n, float) for n in numbers):
        kind = "double"
    else:
        kind = "int32_t" if all(-_INT32 <= n < _INT32 for n in numbers) else "int64_t"
    if isinstance(held, tuple):
        lines = _array(name, np.asarray(numbers, "float64" if kind == "double" else "int64"), kind)
        return lines[:-1] + [lines[-1] + note] if lines else []
    return [f"static const {kind} {name} = {_literal(numbers[0])};{note}"]


def _array(name: str, elements: NDArray[Any], kind: str) -> list[str]:
    """The definition of an array, in lines of a bearable length."""
    flat = elements.reshape(-1)
    if not flat.size:
        return []
    literals, opening = [_literal(n) for n in flat.tolist()], f"static const {kind} {name}[{flat.size}] = {{"
    if flat.size <= _SHORT:
        return [opening + ", ".join(literals) + "};"]
    lines, line = [opening], ""
    for literal in literals:
        if len(line) + len(literal) > _WIDTH:
            lines.append(line)
            line = ""
        line += literal + ","
    return [*lines, line, "};"]


def _literal(value: int | float) -> str:
    if isinstance(value, float):
        return value.hex() if np.isfinite(value) else "NAN" if np.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
    if value == -(1 << 63):
        return "(-9223372036854775807LL-1)"
    return str(value) if -_INT32 < value < _INT32 else f"{value}LL"


def _comment(tensor: Tensor) -> str:
    """A tensor's format in a line; what could end a comment is taken out of its name."""
    scale = ""
    if len(tensor.scale) == 1:
        scale = f", scale 2^{tensor.exponent[0]}" if tensor.exponent else f", scale {tensor.scale[0]!r}"
    elif tensor.scale:
        scale = f", {len(tensor.scale)} scales along axis {tensor.axis}"
    return f"{_printable(tensor.name)}: {tensor.type.value}[{', '.join(map(str, tensor.shape))}]{scale}"


def _guarded(guard: str, title: str, lines: Sequence[str]) -> str:
    top = [f"/* {_printable(title)}. Written by tf_requant. */", f"#ifndef {guard}", f"#define {guard}"]
    # math.h for NAN and INFINITY, which a host's float tensor may hold.
    return "\n".join([*top, "#include <math.h>", "#include <stdint.h>", "", *lines, "", f"#endif /* {guard} */", ""])


def _printable(text: str) -> str:
    """Text that a C comment can hold."""
    return "".join(c if c.isprintable() and c.isascii() else "?" for c in text).replace("*/", "* /").replace("/*", "/ *")


def _identifier(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text).lower()
