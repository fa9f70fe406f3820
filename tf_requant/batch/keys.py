"""Content hashes: what a job's result depends on. Equal keys, equal results, wherever the files lie and whenever it runs."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tf_requant.version import __version__

_REMEMBERED = 256
_CHUNK = 1 << 20


def conversion_key(model: str, calibration: str, target: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """SHA-256 of what the bytes of a conversion depend on.

    Args:
        model: the model's content hash.
        calibration: the calibration data's; empty without.
        target: the target's document.
        options: everything else that `requantize` is told.
    """
    return _hashed({"model": model, "calibration": calibration, "target": target, "options": options, "version": __version__})


def job_key(conversion: str, data: str, judged: Mapping[str, Any]) -> str:
    """SHA-256 of what a job's record depends on.

    Args:
        conversion: the conversion's key.
        data: the validation data's content hash; empty without.
        judged: thresholds, and how much of the data is looked at.
    """
    return _hashed({"conversion": conversion, "data": data, "judged": judged})


def content(path: str | None) -> str:
    """SHA-256 of a file, or of a folder's names and files; empty for None. Computed anew where size or time changed."""
    return "" if path is None else _content(path, state(path))


def state(path: str) -> str:
    """SHA-256 of name, size and time of each file that belongs to a path: it changes where the content does.

    Raises:
        OSError: a file cannot be looked at.
    """
    return _hashed(_files(Path(path)))


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of each file that belongs to a path: of a checkpoint's `.meta`, its neighbours too."""
    if path.is_dir():
        files = sorted(Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    elif path.suffix == ".meta":
        files = sorted(path.parent.glob(f"{path.stem}.*"))
    else:
        files = [path]
    root = path if path.is_dir() else path.parent
    stats = ((file, file.stat()) for file in files)
    return [(str(file.relative_to(root)), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


@functools.lru_cache(maxsize=_REMEMBERED)
def _content(path: str, state: str) -> str:
    found = _files(Path(path))
    if not Path(path).is_dir() and len(found) == 1:
        return _file(Path(path))
    root = Path(path) if Path(path).is_dir() else Path(path).parent
    return _hashed([(name, _file(root / name)) for name, _, _ in found])


def _file(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
