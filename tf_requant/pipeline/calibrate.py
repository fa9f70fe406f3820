"""The calibrate verb: runs a source model on data once and keeps what every target's corrections need."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tf_requant.calibration.sensitivity import disturbed
from tf_requant.calibration.statistics import KEY, Calibration, count_codes, larger
from tf_requant.errors import CalibrationError, UsageError
from tf_requant.io import tflite_writer
from tf_requant.io.data import load_samples
from tf_requant.io.tf1 import GraphOptions
from tf_requant.model.graph import Graph, Model
from tf_requant.pipeline.host import Host
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.lanes import scores
from tf_requant.pipeline.source import NO_OPTIONS, ModelSource, load_source
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Run, Simulator

MOST_SAMPLES = 200
"""Samples that are kept; more add time, and little else."""
MOST_BYTES = 1 << 29
"""Live codes of one model over all samples: two models run side by side within a gigabyte."""
_DISTURBED = 4
"""Samples on which noise is measured: each costs half a run a tensor."""
_NOISE_MACS = 4e10
"""What measuring noise may cost, in multiplications; fewer samples on larger models."""

_BYTES = {"uint8": 1, "int8": 1, "int4": 1, "bool": 1, "int16": 2, "float16": 2, "int32": 4, "float32": 4}
_STATEFUL = ("resource", "variant")

Progress = Callable[[int, int], None]


def fingerprint(model: Model) -> str:
    """SHA-256 of a model's file."""
    return hashlib.sha256(tflite_writer.write(model)).hexdigest()


def calibrate(
    model: ModelSource,
    data: Any,
    *,
    noise: bool = True,
    options: GraphOptions = NO_OPTIONS,
    progress: Progress | None = None,
) -> Calibration:
    """Collects exact statistics of a source model in one pass.

    Args:
        model: the source: a path (of a TF1 graph too), a TFLite file's bytes, or a verified Model.
        data: what `load_samples` takes, or a `Calibration`, or the path of a saved one; the first 200 samples count,
            fewer where the model's tensors are so large that they would not fit in memory.
        noise: whether to measure how noise on each tensor reaches the scores.
        options: what a TF1 graph does not say of itself.
        progress: called with (steps done, steps in all).

    Raises:
        CalibrationError: the data cannot be read, does not fit the model, or is another model's saved calibration.
    """
    if not isinstance(model, Model):
        model = load_source(model, options).model
    saved = data if isinstance(data, Calibration) else _saved(data)
    if saved is not None:
        if saved.model != fingerprint(model):
            raise CalibrationError("the saved calibration is of another model: collect it from the model at hand")
        if saved.noise or not noise:
            return saved
        return _with_noise(model, saved, progress)
    _refuse_unfit(model.main)
    specs = input_specs(model)
    most = max(2, min(MOST_SAMPLES, MOST_BYTES // max(1, live_bytes(model.main))))
    batches = list(islice(load_samples(data, specs).codes(1), most))
    if not batches:
        raise CalibrationError("the calibration data holds no sample")
    inputs = {spec.name: np.concatenate([batch[spec.name] for batch in batches]) for spec in specs}
    graph, host = model.main, Host(model)
    wanted = {i for i, t in enumerate(graph.tensors) if t.is_activation and t.dtype in ("uint8", "int8")}
    histograms: dict[int, Any] = {}
    peaks: dict[int, Any] = {}
    try:
        simulator = Simulator(graph, TFLITE_REF, execute_host=host)
        for n in range(len(batches)):
            sample = {t: inputs[spec.name][n : n + 1] for t, spec in zip(graph.inputs, specs)}
            for tensor, codes in simulator.walk(sample):
                if tensor not in wanted:
                    continue
                histograms[tensor] = count_codes(histograms.get(tensor), codes)
                if codes.ndim and codes.size:
                    quant = graph.tensors[tensor].quant
                    peaks[tensor] = larger(peaks.get(tensor), codes, 0 if quant is None else int(quant.zero_point[0]))
            if progress is not None:
                progress(n + 1, len(batches))
    except UsageError as error:
        shapes = ", ".join(str(list(graph.tensors[t].shape)) for t in graph.inputs)
        raise CalibrationError(
            f"the model (inputs {shapes}) cannot be run one sample at a time: {error}; export it with a batch of 1"
        ) from error
    finally:
        host.close()
    found = Calibration(fingerprint(model), inputs, histograms, {}, peaks)
    return _with_noise(model, found, progress) if noise else found


def _refuse_unfit(graph: Graph) -> None:
    """Refuses models that cannot be run one sample at a time, op by op.

    Raises:
        CalibrationError: an input has no dimension for samples; state lives outside the tensors.
    """
    for tensor in (graph.tensors[t] for t in graph.inputs):
        if not tensor.shape:
            raise CalibrationError(
                f"input {tensor.name!r} is a single number, and calibration feeds samples along a first dimension: convert "
                "without calibration data"
            )
    if any(t.dtype in _STATEFUL for t in graph.tensors):
        raise CalibrationError(
            "the model keeps state in resource variables, which do not survive being run op by op: convert without "
            "calibration data"
        )


def _saved(data: Any) -> Calibration | None:
    """A saved calibration, where that is what a path names."""
    if not isinstance(data, str | os.PathLike) or Path(data).suffix != ".npz" or not Path(data).is_file():
        return None
    try:
        with np.load(data, allow_pickle=False) as file:
            if KEY not in file.files:
                return None
            return Calibration.from_arrays({name: file[name] for name in file.files})
    except CalibrationError:
        raise
    except Exception as error:  # zip, zlib and numpy each have errors of their own
        raise CalibrationError(f"{data} cannot be read as a .npz file: {error}") from error


def live_bytes(graph: Graph) -> int:
    """The most bytes of codes that one run holds at a time."""
    last = {t: i for i, op in enumerate(graph.ops) for t in op.inputs if t >= 0}
    sizes = {i: t.size * _BYTES.get(t.dtype, 8) for i, t in enumerate(graph.tensors) if t.data is None}
    live = {t: sizes.get(t, 0) for t in graph.inputs}
    most = sum(live.values())
    for index, op in enumerate(graph.ops):
        live.update({t: sizes.get(t, 0) for t in op.outputs if t >= 0})
        most = max(most, sum(live.values()))
        live = {t: s for t, s in live.items() if last.get(t, -1) > index}
    return most


def macs(graph: Graph) -> int:
    """Multiplications of one run, counted in the layers with a filter."""
    return sum(products(graph, index) for index in range(len(graph.ops)))


def products(graph: Graph, index: int) -> int:
    """Multiplications of one op with a filter in one run; 0 of any other."""
    op = graph.ops[index]
    if op.code not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"):
        return 0
    weights, y = graph.tensors[op.inputs[1]], graph.tensors[op.outputs[0]]
    channels = weights.shape[3] if op.code == "DEPTHWISE_CONV_2D" else weights.shape[0]
    # A transposed convolution multiplies each input by every tap; the others compute each output from as many.
    places = graph.tensors[op.inputs[2]].size // max(1, weights.shape[-1]) * channels if op.code == "TRANSPOSE_CONV" else y.size
    return places * (weights.size // max(1, channels))


def _with_noise(model: Model, found: Calibration, progress: Progress | None) -> Calibration:
    """The same with the noise of every tensor measured on the first samples."""
    graph = model.main
    judging, specs = scores(graph), input_specs(model)
    stop = max((graph.producers[t] for t in judging), default=-1)
    tensors = [t for t in sorted(found.histograms) if graph.producers.get(t, stop) < stop or t in judging]
    cost = max(1, macs(graph)) * max(1, len(tensors)) / 2
    count = max(1, min(_DISTURBED, len(found), round(_NOISE_MACS / cost)))
    host, rng = Host(model), np.random.default_rng(0)
    noise = dict.fromkeys(tensors, 0.0)
    try:
        simulator = Simulator(graph, TFLITE_REF, execute_host=host)
        for n in range(count):
            sample = {t: found.inputs[spec.name][n : n + 1] for t, spec in zip(graph.inputs, specs)}
            for tensor, share in _measured(simulator, sample, judging, set(tensors), stop, rng).items():
                noise[tensor] += share / count
            if progress is not None:
                progress(n + 1, count)
    finally:
        host.close()
    return replace(found, noise=noise)


def _measured(
    simulator: Simulator,
    sample: dict[int, Any],
    judging: tuple[int, ...],
    tensors: set[int],
    stop: int,
    rng: np.random.Generator,
) -> dict[int, float]:
    """The relative squared error of the scores for unit noise on each tensor, on one sample."""
    run = simulator.begin(sample)
    states: list[tuple[int, int, Run]] = []
    right: dict[int, Any] = {}
    for index in range(stop + 1):
        outputs = simulator.step(index, run)
        right.update({t: outputs[t] for t in judging if t in outputs})
        for t in outputs.keys() & tensors:
            if t in run.values and t not in judging:
                states.append((index, t, Run(dict(run.values), dict(run.variables))))
    # Noise on a score is its own error.
    found = {t: 1 / max(float(codes.astype(np.float64).var()), 1e-12) for t, codes in right.items() if t in tensors}
    for index, tensor, state in states:
        moved, power = disturbed(state.values[tensor], rng)
        if not power:
            continue
        branch = Run({**state.values, tensor: moved}, dict(state.variables))
        wrong: dict[int, Any] = {}
        for later in range(index + 1, stop + 1):
            outputs = simulator.step(later, branch)
            wrong.update({t: outputs[t] for t in judging if t in outputs})
        found[tensor] = sum(_relative(wrong[t], right[t]) for t in judging if t in wrong) / power
    return found


def _relative(wrong: Any, right: Any) -> float:
    value = right.astype(np.float64)
    return float(((wrong - value) ** 2).mean() / max(float(value.var()), 1e-12))
