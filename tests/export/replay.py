"""Compiles the C99 runner and replays programs with it."""

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tf_requant.export.flatbuffer import to_bytes
from tf_requant.export.kinds import Host
from tf_requant.export.program import Program

HERE = Path(__file__).parent
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-O2")


def compiled(source: Path, *flags: str) -> Path:
    """The program of a C file, in a folder that lives as long as the tests."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: nothing compiles the C99 runner")
    output = _folder() / source.stem
    done = subprocess.run(["gcc", *STRICT, *flags, "-o", output, source, "-lm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


@functools.cache
def runner() -> Path:
    return compiled(HERE / "runner.c")


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _folder() -> Path:
    return Path(_scratch().name)


def run(program: Program, inputs: Sequence[NDArray[Any]]) -> subprocess.CompletedProcess[str]:
    """The runner's process; its results lie in `_folder() / "out"`."""
    (_folder() / "program.nna").write_bytes(to_bytes(program))
    (_folder() / "in").write_bytes(b"".join(np.ascontiguousarray(codes).tobytes() for codes in inputs))
    command = [runner(), *(_folder() / name for name in ("program.nna", "in", "out"))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def replay(program: Program, inputs: Sequence[NDArray[Any]]) -> dict[int, NDArray[Any]]:
    """Every tensor that the runner computes, by index."""
    done = run(program, inputs)
    assert done.returncode == 0, done.stderr
    content, at, found = (_folder() / "out").read_bytes(), 0, {}
    while at < len(content):
        index, size = np.frombuffer(content, "<i4", 2, at).tolist()
        tensor = program.tensors[index]
        raw = np.frombuffer(content, np.dtype(tensor.type.value).newbyteorder("<"), size // np.dtype(tensor.type.value).itemsize, at + 8)
        found[index] = raw.reshape(tensor.shape)
        at += 8 + size
    return found


def behind_the_host(program: Program) -> set[int]:
    """The tensors that ops of kind Host write, and all that is computed from them."""
    behind: set[int] = set()
    for op in program.ops:
        if isinstance(op.kind, Host) or behind & set(op.inputs):
            behind |= set(op.outputs)
    return behind
