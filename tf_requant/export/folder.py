"""An export's folder, written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tf_requant.errors import UsageError

PROGRAM, LISTING, GOLDEN = "program.nna", "program.json", "golden"
_OWN = {PROGRAM, LISTING, GOLDEN}


def checked(folder: Path, overwrite: bool) -> Path:
    """A folder that can be written.

    Raises:
        UsageError: it is a file, holds something that an export did not write, exists and may not be replaced, or its
            own folder cannot be written.
    """
    if folder.is_symlink() or folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder; an export takes a folder of its own")
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{folder}: the folder {parent} does not exist")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{folder}: the folder {parent} cannot be written")
    held = sorted(os.listdir(folder)) if folder.is_dir() else []
    if held and not overwrite:
        raise UsageError(f"{folder} exists and is not empty; pass --overwrite to replace an earlier export")
    foreign = [name for name in held if name not in _OWN]
    if foreign:
        raise UsageError(f"{folder} holds {foreign[0]!r}, which no export wrote; choose another folder, this one is left as it is")
    return folder


def write(folder: Path, files: Mapping[str, bytes], *, overwrite: bool = False) -> None:
    """Writes files by their path in the folder: beside it first, then all at once in its place.

    Raises:
        UsageError: see `checked`; or the disk refused it.
    """
    folder = checked(folder, overwrite)
    try:
        fresh = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise UsageError(f"{folder}: its folder cannot be written ({error.strerror})") from error
    try:
        for name, content in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(fresh, 0o777 & ~umask)
        _replace(fresh, folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _replace(fresh: Path, folder: Path) -> None:
    """Puts the new folder in the place of an earlier export, which comes back if that fails."""
    if not folder.is_dir():
        os.rename(fresh, folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}."))
    os.rename(folder, old)
    try:
        os.rename(fresh, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
