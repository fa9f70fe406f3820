"""program.json: a program without its bulk data, for people and scripts."""

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from tf_requant.export.program import Program


def listing(program: Program, keys: Sequence[str], golden: dict[str, Any]) -> str:
    """A JSON document: formats of tensors, ops with their parameters, and what golden vectors there are.

    Args:
        program: the program.
        keys: what the golden vectors call each tensor.
        golden: what to say of them.
    """
    tensors = [
        {"index": i, "golden": key, **_plain(t), "constant": t.buffer != 0}
        for i, (t, key) in enumerate(zip(program.tensors, keys))
    ]
    ops = [
        {
            "index": i, "code": op.code, "runs": "host" if op.host_reason else "device", "host_reason": op.host_reason,
            "inputs": list(op.inputs), "outputs": list(op.outputs), "kind": type(op.kind).__name__,
            "parameters": _plain(op.kind),
        }
        for i, op in enumerate(program.ops)
    ]  # fmt: skip
    document = {
        "version": program.version, "producer": program.producer, "target": program.target,
        "inputs": list(program.inputs), "outputs": list(program.outputs), "golden": golden,
        "tensors": tensors, "ops": ops,
    }  # fmt: skip
    return json.dumps(document, indent=1) + "\n"


_LONG = 4096
"""Numbers that are still listed: parameters per channel are, the elements of a move are not."""


def _plain(value: Any) -> Any:
    """A noun as JSON values; of bulk data only how much there is."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple) and len(value) > _LONG:
        return f"{len(value)} entries"
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Enum):
        return value.name
    return f"{len(value)} bytes" if isinstance(value, bytes) else value
