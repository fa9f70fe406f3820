"""A target file as plain JSON data: normalizing values, merging changes, filling in what depends on a choice."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from numbers import Integral
from typing import Any

FILTER_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
"""The ops whose filter may have one scale an output channel."""

STAGES_BY_KIND: dict[str, list[dict[str, Any]]] = {
    "multiplier_shift": [{"drop": 31, "rounding": "HALF_UP"}, {"drop": "rest", "rounding": "HALF_AWAY"}],
    "shift": [{"drop": "rest", "rounding": "HALF_UP"}],
    "float32": [{"drop": "rest", "rounding": "HALF_EVEN"}],
    "float64": [{"drop": "rest", "rounding": "HALF_AWAY"}],
}

VOID_AFTER = {
    ("weight", "granularity"): "per_channel_ops",
    ("requantizer", "kind"): "multiplier_bits",
    ("add", "style"): "rounding",
    ("average_pool", "style"): "multiplier_bits",
}
"""(section, choice) -> the key whose old value no other choice can keep."""

ADD_ROUNDING = {"shift_align": "HALF_UP", "float32": "HALF_EVEN"}
"""add.style -> the rounding that it takes where none is given; the style `tflite` takes the requantizer's stages."""


def plain(value: Any) -> Any:
    """A value as JSON would hold it: dataclasses to dicts without their Nones, tuples to lists, enums to values.

    >>> from tf_requant.numerics.arithmetic import AddStyle, Stage
    >>> plain({"add": AddStyle(), "stages": (Stage("rest", "HALF_UP"),), "bits": 8.0})["add"]
    {'style': 'tflite', 'left_shift': 20, 'intermediate_bits': 32}
    """
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {name: plain(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bool):
        return value
    # JSON Schema takes 8.0 for an integer; a shift by 8.0 fails later.
    if isinstance(value, Integral) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value


def merge(base: Any, changes: Any) -> Any:
    """`changes` laid over `base`: objects merge key by key, None deletes, anything else replaces (RFC 7386).

    >>> merge({"a": {"x": 1, "y": 2}, "b": [1, 2]}, {"a": {"y": None, "z": 3}, "b": [4]})
    {'a': {'x': 1, 'z': 3}, 'b': [4]}
    """
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping):
        return changes
    merged = {key: value for key, value in base.items() if key not in changes or changes[key] is not None}
    merged.update({key: merge(base.get(key), value) for key, value in changes.items() if value is not None})
    return merged


def vary(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`merge`, where a changed choice also drops what depended on it, and sources of changed facts go stale."""
    document: dict[str, Any] = merge(base, changes)
    for (section, choice), dependent in VOID_AFTER.items():
        old, new, asked = base.get(section), document.get(section), changes.get(section)
        if isinstance(old, Mapping) and isinstance(new, dict) and isinstance(asked, Mapping):
            if new.get(choice) != old.get(choice) and dependent not in asked:
                new.pop(dependent, None)
    if isinstance(document.get("sources"), dict):
        document["sources"] = _fresh_sources(base, changes, document)
    return document


def complete(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with every default filled in that depends on another key; the schema has checked it."""
    filled = dict(document)
    weight = dict(filled["weight"])
    listed = FILTER_OPS if weight["granularity"] == "channel" else ()
    weight.setdefault("per_channel_ops", [op for op in listed if op in filled["ops"]])
    if isinstance(weight.get("codebook"), int):
        weight["codebook"] = [weight["codebook"]]
    add, pool = dict(filled.get("add", {})), dict(filled.get("average_pool", {}))
    if add.get("style") in ADD_ROUNDING:
        add.setdefault("rounding", ADD_ROUNDING[add["style"]])
    pool.setdefault("multiplier_bits", 15 if pool.get("style") == "multiply_shift" else 0)
    own = filled.get("requantizer_by_op", {})
    return {
        **filled,
        "weight": weight,
        "add": add,
        "average_pool": pool,
        "requantizer": _requantizer(filled.get("requantizer", {})),
        "requantizer_by_op": {op: _requantizer(section) for op, section in own.items()},
    }


def _requantizer(section: Mapping[str, Any]) -> dict[str, Any]:
    kind = section.get("kind", "multiplier_shift")
    bits = 31 if kind == "multiplier_shift" else 0
    return {"kind": kind, "multiplier_bits": bits, "stages": STAGES_BY_KIND[kind], **section}


def _fresh_sources(base: Mapping[str, Any], changes: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """The sources without those of facts that the changes replaced, which get the base's name instead."""
    sources = dict(document["sources"])
    given = changes.get("sources") or {}
    for path in _changed(base, {key: value for key, value in changes.items() if key not in _PROSE}):
        stale = [key for key in sources if (key == path or key.startswith(f"{path}.")) and key not in given]
        for key in stale:
            del sources[key]
        if resolves(document, path) and path not in sources:
            sources[path] = f"changed from {base['name']}"
    return sources


_PROSE = ("schema_version", "name", "description", "sources")


def _changed(base: Any, changes: Mapping[str, Any], at: str = "") -> list[str]:
    """The dotted paths of the leaves where the changes differ from the base."""
    paths: list[str] = []
    for key, value in changes.items():
        old = base.get(key) if isinstance(base, Mapping) else None
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            paths += _changed(old, value, f"{at}{key}.")
        elif value != old:
            paths.append(f"{at}{key}")
    return paths


def resolves(document: Any, path: str) -> bool:
    """Whether a dotted path names something in the document.

    >>> resolves({"add": {"style": "tflite"}}, "add.style"), resolves({"add": {}}, "add.style")
    (True, False)
    """
    for key in path.split("."):
        if not isinstance(document, Mapping) or key not in document:
            return False
        document = document[key]
    return True
