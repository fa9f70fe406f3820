"""Where a model comes from: a TFLite file, its bytes, a Model, or a TF1 graph trained for quantization."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tf_requant.errors import UnsupportedModelError, UsageError
from tf_requant.io import tflite, tflite_writer
from tf_requant.io.tf1 import GraphOptions, QatGraph, is_graph, read_graph
from tf_requant.model.graph import Model
from tf_requant.model.verify import check
from tf_requant.pipeline.graphs import matched, with_trained_filters
from tf_requant.pipeline.record import METADATA, with_recorded_widths

ModelSource = str | os.PathLike[str] | bytes | Model
Weights = Literal["codes", "trained"]
"""What new filter codes are rounded from: the source's codes, which is what it computes with, or the floats behind them."""
NO_OPTIONS = GraphOptions()


@dataclass(frozen=True, eq=False)
class Source:
    """A model as it came.

    Attributes:
        model: it, verified.
        content: its TFLite file, repaired where checking had to; empty for a Model.
        size: of the file that was read, in bytes; 0 where none was.
        graph: the TF1 graph that it was converted from, or None.
    """

    model: Model
    content: bytes = b""
    size: int = 0
    graph: QatGraph | None = None

    def tflite(self) -> bytes:
        """A file that an interpreter loads."""
        return self.content or tflite_writer.write(self.model)


def load_model(source: ModelSource) -> Model:
    """A model as nouns, verified: a path, a TFLite file's bytes, or a TF1 graph.

    Raises:
        RequantError: it cannot be read, or no interpreter could run it.
    """
    return load_source(source).model


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Writes a model as a TFLite file, atomically, after checking it.

    Raises:
        RequantError: the model breaks a rule of TFLite's, or the file cannot be written.
    """
    tflite_writer.save(Path(path), tflite_writer.write(check(model)))


def load_source(source: ModelSource, options: GraphOptions = NO_OPTIONS, weights: Weights = "codes") -> Source:
    """Reads and verifies a model.

    Args:
        source: a path, a TFLite file's bytes or a Model.
        options: for TF1 graphs, what they don't say of themselves.
        weights: for TF1 graphs, `trained` to keep the float filters behind the codes.

    Raises:
        UsageError: a path that is none, or an option that the model has no use for.
        ModelFormatError: no model, or one that no interpreter could run.
        UnsupportedModelError: a TF1 graph that was not trained for quantization.
    """
    if weights not in ("codes", "trained"):
        raise UsageError(f"weights is {weights!r}; expected codes or trained")
    if isinstance(source, str | os.PathLike) and is_graph(Path(source)):
        return _load_graph(Path(source), options, weights)
    if options != NO_OPTIONS or weights != "codes":
        raise UsageError("inputs, outputs, input_stats and trained weights are for TF1 graphs, and the model is none")
    if isinstance(source, Model):
        return Source(check(with_recorded_widths(source)))
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
    elif isinstance(source, str | os.PathLike):
        model = check(with_recorded_widths(tflite.read(Path(source))))
        return Source(model, _sound(model, Path(source).read_bytes()), Path(source).stat().st_size)
    else:
        raise UsageError(f"a model is a path, bytes or a tf_requant.Model, got {type(source).__name__}")
    model = check(with_recorded_widths(tflite.read(content)))
    return Source(model, _sound(model, content), len(content))


def _sound(model: Model, content: bytes) -> bytes:
    return tflite_writer.write(model) if model.warnings else content


def _load_graph(path: Path, options: GraphOptions, weights: Weights) -> Source:
    graph = read_graph(path, options)
    model = check(tflite.read(graph.tflite))
    left = [t.name for op in model.main.ops for t in (model.main.tensors[i] for i in op.outputs) if t.dtype == "float32"]
    if left:
        raise UnsupportedModelError(
            f"the converter left {', '.join(map(repr, left[:5]))}{f' and {len(left) - 5} more' if len(left) > 5 else ''} in float: "
            "no FakeQuant node gives a range there; add one in training, or name as --outputs what lies before"
        )
    matched(model.main, graph.survey)  # what the converter left out would otherwise be left out silently
    model = model.with_(warnings=(*model.warnings, *graph.warnings))
    if graph.record:
        model = with_recorded_widths(model.with_(metadata={**model.metadata, METADATA: graph.record}))
    if weights == "trained":
        model = with_trained_filters(model, graph.survey)
    return Source(model, graph.tflite, path.stat().st_size if path.is_file() else len(graph.content), graph)
