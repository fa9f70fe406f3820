"""TF1.x graphs trained for quantization (FakeQuant nodes): read as TFLite models, written back with other ranges.

TensorFlow is an extra and is imported in a child process alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tf_requant import errors
from tf_requant.errors import InterpreterError, RequantError, UsageError
from tf_requant.io.tf1.edit import Edit
from tf_requant.io.tf1.survey import Survey

SUFFIXES = (".pb", ".pbtxt", ".meta")
"""Names that end so, and folders, hold graphs."""
GRAPH_SUFFIX = ".pb"
"""What a written graph's name ends in."""
_LARGEST = 1e9
_TIMEOUT = 1800.0


@dataclass(frozen=True)
class GraphOptions:
    """What a graph does not say of itself.

    Attributes:
        inputs: nodes to feed, NAME or NAME:1x224x224x3; empty to find them.
        outputs: nodes to fetch; empty to find them.
        input_stats: (mean, standard deviation): real value = (pixel - mean) / deviation; None for what the graph's own
            FakeQuant node of the input says, else 127.5 both.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    input_stats: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuses statistics that are none.

        Raises:
            UsageError: not two finite numbers, the second above zero.
        """
        if self.input_stats is None:
            return
        try:
            mean, deviation = (float(v) for v in self.input_stats)
        except (TypeError, ValueError) as error:
            raise UsageError(f"input_stats is {self.input_stats!r}: expected a mean and a deviation, two numbers") from error
        if not (abs(mean) < _LARGEST and 0 < deviation < _LARGEST):
            raise UsageError(f"input_stats is {self.input_stats!r}: expected a finite mean and a deviation above zero")
        if not -0.5 <= mean < 255.5:
            raise UsageError(f"input_stats has the mean {mean:g}: a pixel's zero lies between 0 and 255, the codes of uint8")

    def named_inputs(self) -> tuple[list[str], dict[str, list[int]]]:
        """The inputs' names, and the shapes given with them.

        Raises:
            UsageError: a shape is not numbers with `x` between them.
        """
        names, shapes = [], {}
        for entry in self.inputs:
            name, colon, shape = entry.partition(":")
            if name in names:
                raise UsageError(f"--inputs names {name!r} twice")
            names.append(name)
            if not colon or shape == "0":  # `input:0` is the tensor's name
                continue
            sizes = shape.split("x")
            if not all(s.isdecimal() and int(s) > 0 for s in sizes):
                raise UsageError(f"--inputs={entry}: expected NAME or NAME:1x224x224x3")
            shapes[name] = [int(s) for s in sizes]
        return names, shapes


@dataclass(frozen=True, eq=False)
class QatGraph:
    """A graph trained for quantization, frozen.

    Attributes:
        tflite: TensorFlow's own conversion of it, a TFLite file.
        content: the frozen GraphDef, with its nodes in one order however it was stored.
        keep: the nodes that are fetched.
        survey: its layers, ranges and trained filters.
        warnings: what was decided, one sentence each.
        record: what a graph that was written here remembers.
    """

    tflite: bytes
    content: bytes
    keep: tuple[str, ...]
    survey: Survey
    warnings: tuple[str, ...]
    record: bytes

    def edited(self, edits: list[Edit], record: bytes = b"") -> bytes:
        """The GraphDef with other ranges and constants.

        Args:
            edits: what to change.
            record: what the graph shall remember; TensorFlow does not look at it.

        Raises:
            UnsupportedModelError: GraphDef cannot say it.
            InterpreterError: TensorFlow died.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "graph.pb").write_bytes(self.content)
            arrays = {k: v for i, e in enumerate(edits) for k, v in e.arrays(i).items()}
            np.savez(folder / "edits.npz", **arrays)  # type: ignore[arg-type]
            told = {"edits": [e.to_json() for e in edits], "keep": list(self.keep), "record": record.decode()}
            _ask(folder, {"verb": "write"} | told)
            return (folder / "edited.pb").read_bytes()


def is_graph(path: Path) -> bool:
    """Whether a path is where a graph would be, rather than a .tflite file."""
    return path.is_dir() or path.suffix in SUFFIXES


def read_graph(path: Path, options: GraphOptions = GraphOptions()) -> QatGraph:
    """Reads a frozen GraphDef, a SavedModel's folder or a checkpoint's .meta file.

    Raises:
        UsageError: no such file, TensorFlow is not installed, a name is not in the graph, or several could be meant.
        ModelFormatError: it is no such file, or damaged.
        UnsupportedModelError: the graph was not trained for quantization, or not so that it can be converted.
        InterpreterError: TensorFlow died over it.
    """
    names, shapes = options.named_inputs()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = {
            "verb": "read",
            "path": str(Path(path).absolute()),
            "inputs": names,
            "shapes": shapes,
            "outputs": list(options.outputs),
            "input_stats": options.input_stats,
        }
        try:
            reply = _ask(folder, request)
        except RequantError as error:
            if str(path) in str(error):
                raise
            raise type(error)(f"{path}: {error}") from error
        with np.load(folder / "survey.npz") as arrays:
            survey = Survey.from_json(reply["survey"], dict(arrays))
        return QatGraph(
            (folder / "model.tflite").read_bytes(),
            (folder / "graph.pb").read_bytes(),
            tuple(reply["keep"]),
            survey,
            tuple(reply["warnings"]),
            reply["record"].encode(),
        )


def _ask(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The child's answer.

    Raises:
        RequantError: what the child says is wrong, in its words.
    """
    (folder / "request.json").write_text(json.dumps(request))
    root = str(Path(__file__).resolve().parents[3])
    held = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    paths = [root, *held]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-W", "ignore", "-m", "tf_requant.io.tf1.worker", str(folder)]
    try:
        # In a folder of its own: Python would import what lies in the user's.
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise InterpreterError(f"TensorFlow gave no answer in {_TIMEOUT / 60:.0f} minutes") from error
    answer = folder / "reply.json"
    if not answer.exists():
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with code {done.returncode}"
        raise InterpreterError(f"TensorFlow {how} over this graph: {lines[-1][:300] if lines else 'no message'}")
    reply: dict[str, Any] = json.loads(answer.read_text())
    if "error" in reply:
        kind: type[RequantError] = getattr(errors, reply["error"], RequantError)
        raise kind(reply["sentence"])
    return reply
