"""A user's target document against `schemas/target.schema.json`: one sentence a problem."""

import json
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import resources
from typing import Any

SCHEMA_VERSION = 1
LONGEST_CHOICE = 16
"""The longest list of allowed values that a sentence spells out."""


def schema() -> dict[str, Any]:
    """The JSON Schema of a target file."""
    file = resources.files("tf_requant") / "schemas" / "target.schema.json"
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def check_document(document: Any) -> list[str]:
    """What keeps a document from being a target: where (JSON path), got, expected; empty if nothing does.

    >>> check_document({"schema_version": 2})
    ['schema_version is 2, but this tf_requant reads version 1; update tf_requant or write the older format']

    Args:
        document: what `json.load` made of a file, or a dict of the same shape.

    Returns:
        One sentence a problem, in the order of the document's keys.
    """
    if isinstance(document, Mapping):
        version = document.get("schema_version", SCHEMA_VERSION)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            return [
                f"schema_version is {version}, but this tf_requant reads version {SCHEMA_VERSION}; "
                "update tf_requant or write the older format"
            ]
    # jsonschema takes longer to import than the rest of the package; only a user's own document needs it.
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped,unused-ignore]

    errors = sorted(Draft202012Validator(schema()).iter_errors(document), key=lambda error: list(map(str, error.path)))
    sentences = (sentence for error in errors for sentence in _sentences(error))
    return list(dict.fromkeys(sentences))


def closest(name: Any, known: Iterable[str]) -> str:
    """The end of a sentence that offers the nearest known name; empty if none is near."""
    by_fold = {item.lower(): item for item in known}
    found = get_close_matches(name.lower(), by_fold, n=1, cutoff=0.6) if isinstance(name, str) else []
    return f"; did you mean {json.dumps(by_fold[found[0]])}?" if found else ""


def _sentences(error: Any) -> list[str]:
    where = _path(error.path)
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return [f"{where or 'the target'} lacks {json.dumps(key)}; expected {_about(error, key)}" for key in missing]
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        return [
            f"{_join(where, key)} is not a key of {where or 'a target'}; "
            f"expected one of {', '.join(known)}{closest(key, known)}"
            for key in error.instance
            if key not in known
        ]
    got = _show(error.instance)
    # propertyNames reports a bad key as the instance, at the path of the object that holds it.
    verb = "has the key" if "propertyNames" in error.absolute_schema_path else "is"
    if error.validator == "enum":
        return [f"{where} {verb} {got}, expected {_choice(error)}{closest(error.instance, error.validator_value)}"]
    return [f"{where or 'the target'} {verb} {got}, expected {_expected(error)}"]


_TYPES = {
    "object": "an object",
    "array": "a list",
    "integer": "an integer",
    "string": "a string",
    "boolean": "true or false",
}


def _expected(error: Any) -> str:
    value = error.validator_value
    if "title" in error.schema and error.validator != "type":
        return str(error.schema["title"])
    plain_words: dict[str, Callable[[], str]] = {
        "const": lambda: json.dumps(value),
        "type": lambda: _TYPES.get(value, str(value)),
        "minimum": lambda: f"{value} or more",
        "maximum": lambda: f"{value} or less",
        "minItems": lambda: f"at least {value} item",
        "minLength": lambda: "some text",
        "uniqueItems": lambda: "each item once",
    }
    words = plain_words.get(error.validator)
    return words() if words else str(error.message)


def _choice(error: Any) -> str:
    allowed = error.validator_value
    if len(allowed) > LONGEST_CHOICE:
        return str(error.schema.get("title", "a known value"))
    return "one of " + ", ".join(map(json.dumps, allowed)) if len(allowed) > 1 else json.dumps(allowed[0])


def _about(error: Any, key: str) -> str:
    description = str(error.schema["properties"][key]["description"])
    return description[0].lower() + description[1:].rstrip(".")


def _show(value: Any, longest: int = 80) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _path(parts: Iterable[Any]) -> str:
    path = ""
    for part in parts:
        path = f"{path}[{part}]" if isinstance(part, int) else _join(path, part)
    return path


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
