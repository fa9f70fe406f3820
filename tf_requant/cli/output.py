"""What every verb asks of the file that it is to write, before it starts to work."""

import os
from pathlib import Path

from tf_requant.errors import UsageError


def checked_output(output: str, suffix: str | tuple[str, ...], overwrite: bool, source: str | None = None) -> Path:
    """The path of a file that can be written.

    Args:
        output: the value of --output.
        suffix: what its name has to end in, or several such.
        overwrite: whether an existing file may be replaced.
        source: a file that must not be.

    Raises:
        UsageError: it cannot, or must not, be written.
    """
    path = Path(output)
    allowed = (suffix,) if isinstance(suffix, str) else suffix
    if path.suffix not in allowed:
        raise UsageError(f"--output={output} has to end in {' or '.join(allowed)}")
    if source is not None and path.exists() and Path(source).exists() and os.path.samefile(path, source):
        raise UsageError(f"--output={output} is the source itself; choose another file")
    if source is not None and Path(source).is_dir() and Path(source).resolve() in path.resolve().parents:
        raise UsageError(f"--output={output} lies in the source's own folder; choose another one")
    if path.is_dir():
        raise UsageError(f"--output={output} is a folder; name a file")
    if path.exists() and not overwrite:
        raise UsageError(f"--output={output} exists; pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise UsageError(f"--output={output}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"--output={output}: the folder {path.parent} cannot be written")
    return path
