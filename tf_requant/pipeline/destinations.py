"""Where several models of one source go: a folder, a template with {target} in it, or a file for one."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tf_requant.errors import UsageError

PLACEHOLDER = "{target}"
_FILES = (".tflite", ".pb", ".h5", ".keras")
"""A name that ends so is meant as a file; in any other case a dot belongs to a folder's name."""


def destinations(
    output: str | os.PathLike[str], targets: Sequence[str], suffixes: Sequence[str], source: object = None, overwrite: bool = True
) -> dict[str, Path]:
    """Each target's file.

    Args:
        output: a folder, which gets `TARGET.tflite`; a name with `{target}` in it; or a file, for one target.
        targets: their names.
        suffixes: what a file's name may end in, the one of a folder's files first.
        source: the path that must not be written, if it is one.
        overwrite: whether a file that exists may be replaced.

    Raises:
        UsageError: two targets would share a file, or a file cannot or must not be written.
    """
    text = os.fspath(output)
    if not text:
        raise UsageError("output is empty: name a folder, or a file with {target} in its name")
    if PLACEHOLDER not in text:
        if Path(text).suffix not in (*suffixes, *_FILES):
            text = os.path.join(text, f"{PLACEHOLDER}{suffixes[0]}")
        elif len(targets) > 1:
            several = f"output is one file, {text}, for {len(targets)} targets"
            raise UsageError(f"{several}: put {PLACEHOLDER} in its name, or name a folder")
    files = {name: Path(text.replace(PLACEHOLDER, name)) for name in targets}
    for path in files.values():
        _refuse(path, suffixes, source, overwrite)
    return files


def folders(report: str | os.PathLike[str], targets: Sequence[str]) -> dict[str, Path]:
    """Each target's folder for its report: below `report`, or where its `{target}` says.

    Raises:
        UsageError: a file is in the way.
    """
    text = os.fspath(report)
    text = text if PLACEHOLDER in text else os.path.join(text, PLACEHOLDER)
    found = {name: Path(text.replace(PLACEHOLDER, name)) for name in targets}
    for path in found.values():
        _refuse_folder(path, "report")
    return found


def made(files: Mapping[str, Path]) -> None:
    """Makes the folders that files go to.

    Raises:
        UsageError: one cannot be made.
    """
    for path in files.values():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"output {path}: its folder cannot be made ({error.strerror})") from error


def _refuse(path: Path, suffixes: Sequence[str], source: object, overwrite: bool) -> None:
    if path.suffix not in suffixes:
        raise UsageError(f"output {path}: expected a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise UsageError(f"output {path} is a folder, expected a file")
    if isinstance(source, str | os.PathLike) and path.resolve() == Path(source).resolve():
        raise UsageError(f"output {path} is the source itself; choose another name")
    if path.exists() and not overwrite:
        raise UsageError(f"output {path} exists; pass overwrite to replace it")
    _refuse_folder(path.parent, "output")


def _refuse_folder(path: Path, what: str) -> None:
    """Refuses a folder that could not be made or written: a file in the way, or no permission."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise UsageError(f"{what} {path}: {there} is a file, expected a folder")
    if not os.access(there, os.W_OK):
        raise UsageError(f"{what} {path}: the folder {there} cannot be written")
