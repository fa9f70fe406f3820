"""One line of a job file: its keys, their types, and the files that they name."""

import difflib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from tf_requant.corrections import chosen
from tf_requant.errors import TargetError, UsageError
from tf_requant.io.tf1 import GraphOptions, is_graph
from tf_requant.pipeline.widths import asked_widths
from tf_requant.targets import load_target

THRESHOLDS = ("min_agreement", "max_top1_drop", "max_layer_error")
GRAPH_OPTIONS = ("inputs", "outputs", "input_stats", "weights")
OPTIONS = ("corrections", "io", "keep", "pin_range", "bits", "activation_bits", "budget", *GRAPH_OPTIONS)
"""Keys that are arguments of `requantize`."""
KEYS = ("model", "targets", "calibration", "data", "thresholds", "output", "samples", "layers", "exactness", *OPTIONS)
_BOUNDS = {
    "min_agreement": (0.0, 1.0, "a share from 0 to 1"),
    "max_top1_drop": (0.0, 100.0, "points from 0 to 100"),
    "max_layer_error": (-math.inf, 0.0, "dB below the signal, a number below 0"),
}
_CHOICES = {"io": ("target", "source", "float"), "weights": ("codes", "trained")}


@dataclass(frozen=True)
class Line:
    """What a line says, paths resolved.

    Attributes:
        model: path of the source.
        targets: names or paths.
        calibration: path of calibration data, or None.
        data: path of validation data, or None.
        thresholds: as of `validate`.
        output: a file, a folder or a template; None where the line leaves it open.
        options: arguments of `requantize` that were given.
        samples: how many samples of the data are run; None for all.
        layers: samples for the layer table.
        exactness: whether the simulator is proved on the result.
    """

    model: str
    targets: tuple[str, ...]
    calibration: str | None = None
    data: str | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    output: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    samples: int | None = None
    layers: int = 8
    exactness: bool = False


def read_line(text: bytes, folder: Path) -> tuple[Line | None, list[str]]:
    """What a line says, or what is wrong with it, one sentence a problem.

    Args:
        text: the line.
        folder: what relative paths are relative to.
    """
    problems: list[str] = []
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except UsageError as error:
        return None, [str(error)]
    except json.JSONDecodeError as error:
        return None, [f"no JSON ({error.msg} at column {error.colno}): expected one object a line"]
    except (ValueError, RecursionError) as error:
        return None, [f"no JSON ({error}): expected one object a line"]
    if not isinstance(document, dict):
        return None, [f"expected a JSON object, got {type(document).__name__}"]
    document = {key: value for key, value in document.items() if value is not None}
    problems += [_unknown(key, KEYS) for key in document if key not in KEYS]
    for key, check in _CHECKS.items():
        if key in document:
            problems += [f"{key}: {problem}" for problem in check(document[key])]
    problems += [f"{key} is missing" for key in ("model", "targets") if key not in document]
    if problems:
        return None, problems
    targets = document["targets"]
    paths: dict[str, str | None] = {}
    for key in ("model", "calibration", "data"):
        try:
            paths[key] = None if key not in document else resolved(document[key], folder)
            if paths[key] is not None and not Path(str(paths[key])).exists():
                problems.append(f"{key}: there is nothing at {paths[key]}")
        except (UsageError, OSError) as error:
            problems.append(f"{key}: {error if isinstance(error, UsageError) else error.strerror}")
    problems += [] if problems else _unsound(document, paths)
    if problems:
        return None, problems
    names = (targets,) if isinstance(targets, str) else tuple(targets)
    told = {key: document[key] for key in ("output", "samples", "layers", "exactness") if key in document}
    thresholds = {key: float(value) for key, value in document.get("thresholds", {}).items()}
    options = {key: document[key] for key in OPTIONS if key in document}
    aims = tuple(resolved(name, folder) if name.lower().endswith(".json") else name for name in names)
    problems = _widths(aims, document)
    if problems:
        return None, problems
    return Line(str(paths["model"]), aims, paths["calibration"], paths["data"], thresholds, options=options, **told), []


def _unsound(document: dict[str, Any], paths: dict[str, str | None]) -> list[str]:
    """What each key by itself allows and another forbids."""
    problems = []
    if document.get("thresholds") and not document.get("data"):
        problems.append("thresholds ask for figures, and there is no `data` to measure them on")
    if document.get("exactness") and not document.get("data"):
        problems.append("exactness is proved on samples, and there is no `data`")
    if document.get("layers") == 0 and "max_layer_error" in document.get("thresholds", {}):
        problems.append("max_layer_error needs layers, and `layers` is 0")
    given = [key for key in GRAPH_OPTIONS if key in document]
    if given and not is_graph(Path(str(paths["model"]))):
        problems.append(f"{', '.join(given)} is for TF1 graphs, and the model is none")
    for check in (
        lambda: chosen(document.get("corrections", "auto"), bool(document.get("calibration"))),
        lambda: graph_options(document).named_inputs(),
    ):
        try:
            check()
        except UsageError as error:
            problems.append(str(error))
    return problems


def _widths(targets: Sequence[str], document: dict[str, Any]) -> list[str]:
    """What a target has not of the widths that are asked for."""
    problems = []
    for name in targets if document.keys() & {"bits", "activation_bits", "budget"} else ():
        try:
            asked = asked_widths(load_target(name), document.get("bits"), document.get("budget"), document.get("activation_bits"))
        except TargetError:
            continue  # told where targets are read
        except UsageError as error:
            problems.append(str(error))
            continue
        if any(one.budget is not None for one in asked) and not document.get("calibration"):
            problems.append("a budget is measured on samples, and there is no `calibration`")
    return problems


def graph_options(told: Mapping[str, Any]) -> GraphOptions:
    """What a line tells of a TF1 graph.

    Raises:
        UsageError: statistics of the input that are none.
    """
    names = [told.get(key, ()) for key in ("inputs", "outputs")]
    inputs, outputs = ((n,) if isinstance(n, str) else tuple(n) for n in names)
    stats = told.get("input_stats")
    return GraphOptions(inputs, outputs, None if stats is None else (float(stats[0]), float(stats[1])))


def resolved(path: str, folder: Path) -> str:
    """The path, absolute, links followed.

    Raises:
        UsageError: it leads nowhere: links in a circle, a user who is unknown.
    """
    try:
        return str((folder / Path(path).expanduser()).resolve())
    except (OSError, RuntimeError) as error:  # a RuntimeError is what pathlib raises for both
        raise UsageError(f"{path!r} is no path ({getattr(error, 'strerror', None) or error})") from error


def _unknown(key: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {key[:60]!r}" + (f": did you mean {near[0]}?" if near else f"; known are: {', '.join(known)}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)} stands there twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise UsageError(f"{constant} is no number of JSON")


def _text(value: Any) -> list[str]:
    return [] if _told(value) else [f"expected a text, got {json.dumps(value)}"]


def _told(value: Any) -> bool:
    """Whether it is a text that a file could be named by."""
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value and not re.search("[\ud800-\udfff]", value)


def _texts(value: Any) -> list[str]:
    several = value if isinstance(value, list) else [value]
    good = bool(several) and all(map(_told, several))
    return [] if good else [f"expected a text or a list of them, got {json.dumps(value)}"]


def _choice(key: str) -> Callable[[Any], list[str]]:
    known = _CHOICES[key]
    return lambda value: [] if value in known else [f"expected one of {', '.join(known)}, got {json.dumps(value)}"]


def _whole(least: int) -> Callable[[Any], list[str]]:
    def check(value: Any) -> list[str]:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return [] if good else [f"expected a whole number from {least} up, got {json.dumps(value)}"]

    return check


def _flag(value: Any) -> list[str]:
    return [] if isinstance(value, bool) else [f"expected true or false, got {json.dumps(value)}"]


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _thresholds(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return [f"expected an object, got {json.dumps(value)}"]
    problems = [_unknown(key, THRESHOLDS) for key in value if key not in THRESHOLDS]
    problems += [f"{key}: expected a number, got {json.dumps(v)}" for key, v in value.items() if not _number(v)]
    told = {key: number for key, number in value.items() if key in THRESHOLDS and _number(number)}
    for key, (low, high, what) in _BOUNDS.items():
        if key in told and not low <= told[key] <= high:
            problems.append(f"{key}: expected {what}, got {told[key]}")
    return problems


def _keep(value: Any) -> list[str]:
    problems = _texts(value)
    for pattern in [] if problems else value if isinstance(value, list) else [value]:
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append(f"{pattern!r} is no regular expression ({error})")
    return problems


def _pins(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return [f"expected an object, tensor name to [minimum, maximum], got {json.dumps(value)}"]
    wrong = {name: pair for name, pair in value.items() if not (_pair(pair) and pair[0] <= pair[1])}
    return [f"{name}: expected [minimum, maximum], got {json.dumps(pair)}" for name, pair in wrong.items()]


def _bits(value: Any) -> list[str]:
    found = value if isinstance(value, list) else [value]
    whole = all(isinstance(b, int) and not isinstance(b, bool) for b in found)
    return [] if whole and found else [f"expected a whole number of bits or a list of them, got {json.dumps(value)}"]


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_number, value))


def _stats(value: Any) -> list[str]:
    return [] if _pair(value) and value[1] > 0 else [f"expected [mean, deviation], got {json.dumps(value)}"]


_CHECKS: dict[str, Callable[[Any], list[str]]] = {
    "model": _text, "targets": _texts, "calibration": _text, "data": _text, "thresholds": _thresholds, "output": _text,
    "samples": _whole(1), "layers": _whole(0), "exactness": _flag, "corrections": _texts, "io": _choice("io"), "keep": _keep,
    "pin_range": _pins, "bits": _bits, "activation_bits": _bits, "budget": _text,
    "inputs": _texts, "outputs": _texts, "input_stats": _stats, "weights": _choice("weights"),
}  # fmt: skip
