"""The validate verb: quality in the real interpreters, layer by layer, and legality against a target."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.statistics import digest
from tf_requant.errors import CalibrationError, UsageError
from tf_requant.io.data import Samples, load_samples
from tf_requant.io.tf1 import GraphOptions, is_graph
from tf_requant.model.graph import Model
from tf_requant.pipeline.check import Check, FileFacts, Isolation, Thresholds
from tf_requant.pipeline.diagnosis import diagnose, reasons_of
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.record import read_record
from tf_requant.pipeline.requantize import Result, TargetSource
from tf_requant.pipeline.runners import EXACT, exactness_of, interpreted, layer_table, simulated
from tf_requant.pipeline.simulate import unlisted
from tf_requant.pipeline.source import NO_OPTIONS, ModelSource, load_source
from tf_requant.runtime import BACKENDS
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.targets import load_target
from tf_requant.validation.legality import Legality, check_legality
from tf_requant.validation.quality import Metric, Outputs, Quality, measure
from tf_requant.validation.tensors import TensorQuality

BATCH = 32
"""Samples that an interpreter is given at a time, and that a part of a `Quality` covers."""
SIMULATOR = "sim"
"""The backend's name that stands for the simulator: the candidate under its target's arithmetic, or tflite_ref."""
LAYER_SAMPLES = 8
"""Samples that the layer table looks at: every tensor of every layer is compared."""
ISOLATED_SAMPLES = 16
"""Samples on which every layer is run alone and restored."""
_KEPT = 1 << 26
"""Elements of outputs that a check keeps, 256 MB of float32."""


def validate(
    model: ModelSource | Result,
    *,
    reference: ModelSource,
    data: Any,
    labels: NDArray[Any] | None = None,
    target: TargetSource | None = None,
    against: Sequence[str] = ("litert",),
    metric: Metric | None = None,
    layers: int | None = None,
    min_agreement: float | None = None,
    max_top1_drop: float | None = None,
    max_layer_error: float | None = None,
    isolate: bool = False,
    conversion: Mapping[str, Any] | None = None,
    options: GraphOptions = NO_OPTIONS,
    progress: Callable[[int, int], None] | None = None,
) -> Check:
    """Compares a candidate with the model that it came from.

    Args:
        model: the candidate: a path (of a TF1 graph too), bytes, a `Model` or a requantization's `Result`.
        reference: its source.
        data: a folder, file, array, dataset or callable; see `interface.md` on what a pixel means.
        labels: the right class of each sample, where the data carries none.
        target: what the candidate has to obey.
        against: backends, each runs both models: litert, litert_ref, litert_opt, tflite_runtime, tf; `sim` runs the
            source in the simulator as `tflite_ref` and the candidate under its target's arithmetic, and proves the
            simulator against litert_ref on the candidate, tensor by tensor.
        metric: (source's outputs, candidate's outputs) -> a number, for detection, segmentation or regression.
        layers: samples for the layer table; 0 leaves it out, None takes 8, or 16 where layers are isolated.
        min_agreement: the least share of equal top-1 answers, 0 to 1.
        max_top1_drop: the largest loss of top-1, in points (percent).
        max_layer_error: the least SQNR in dB that any layer may have, as a negative number of dB of error.
        isolate: also run every layer alone on the source's own values and restored to the source's precision, in the
            simulator (under the target's arithmetic where `sim` is asked for), rank what costs most, and keep the outputs.
        conversion: the report of the requantization (`result.report.to_dict()`), whose reasons the layer table then tells.
        options: what a TF1 graph among the two does not say of itself.
        progress: called with (samples done, samples in all).

    Raises:
        RequantError: a model, the data or an argument cannot be used, or an interpreter failed.
    """
    _check_backends(against)
    model = model.model_bytes if isinstance(model, Result) else model
    loaded, original = (load_source(m, options if _is_graph(m) else NO_OPTIONS) for m in (model, reference))
    (candidate_bytes, candidate), (reference_bytes, source) = ((s.tflite(), s.model) for s in (loaded, original))
    if options != NO_OPTIONS and loaded.graph is None and original.graph is None:
        raise UsageError("inputs, outputs and input_stats are for TF1 graphs, and neither model is one")
    if target is not None and loaded.graph is not None:
        raise UsageError("a graph's own conversion obeys no target: write a .tflite file and validate that against the target")
    samples = load_samples(data, input_specs(source))
    refuse_overlap(candidate, samples)
    truth = samples.labels if labels is None else np.asarray(labels)
    kept = _Kept(isolate, source)
    quality = {}
    for n, backend in enumerate(against):
        done = None if progress is None else _progress(progress, n, len(samples), len(against))
        with ExitStack() as stack:
            if backend == SIMULATOR:
                kinds = (TFLITE_REF, TFLITE_REF if target is None else load_target(target))
                runners = [simulated(stack, m, source, a) for m, a in zip((source, candidate), kinds)]
            else:
                pairs = ((reference_bytes, source), (candidate_bytes, candidate))
                runners = [interpreted(stack, backend, b, m, source) for b, m in pairs]
            quality[backend] = measure(
                runners[0], runners[1], samples.codes(BATCH), truth, metric, done, kept.add if n == 0 else None
            )
    legality = None if target is None else check_legality(candidate, load_target(target))
    count = layers if layers is not None else ISOLATED_SAMPLES if isolate else LAYER_SAMPLES
    isolation = None
    if isolate and count:
        judge = None if target is None or SIMULATOR not in against else load_target(target)
        isolation = diagnose(
            source, candidate, samples, count, TFLITE_REF if judge is None else judge.arithmetic,
            None if judge is None else unlisted(candidate.main, judge), legality, reasons_of(conversion), progress,
        )  # fmt: skip
        tensors = _tensors(isolation)
    elif count:
        observer = next((name for name in against if name != SIMULATOR), EXACT)
        tensors = layer_table(reference_bytes, candidate_bytes, source, candidate, samples, count, observer).rows()
    else:
        tensors = ()
    exactness = exactness_of(candidate_bytes, candidate, source, samples, layers or LAYER_SAMPLES) if SIMULATOR in against else None
    thresholds = Thresholds(min_agreement, max_top1_drop, max_layer_error)
    failures = failures_of(quality, tensors, legality, thresholds)
    if exactness is not None and not (exactness.elements and exactness.simulated_ops):
        failures += ("the simulator could not be proved: it computes no tensor that the interpreter shows",)
    if exactness is not None and exactness.first is not None:
        failures += (f"the simulator is not exact: {exactness.mismatches} elements differ, the first at {exactness.first}",)
    notes = tuple(f"input {name!r} was not in the data and was held at zero" for name in samples.zero_filled)
    return Check(
        quality, tensors, legality, failures, (*notes, *kept.notes), exactness, isolation,
        _facts(model, candidate_bytes, candidate), _facts(reference, reference_bytes, source), thresholds,
        kept.outputs(truth),
    )  # fmt: skip


class _Kept:
    """The outputs of both models, as long as there is room for them.

    Args:
        wanted: whether to keep any.
        source: whose outputs' names they get.
    """

    def __init__(self, wanted: bool, source: Model) -> None:
        self._names = [source.main.tensors[t].name for t in source.main.outputs]
        self._parts: dict[str, list[NDArray[np.float32]]] = {}
        self._room = _KEPT if wanted else 0
        self._wanted = wanted

    def add(self, reference: Outputs, candidate: Outputs) -> None:
        """Keeps a batch."""
        self._room -= sum(a.size for a in (*reference, *candidate))
        if self._room < 0:
            self._parts = {}
            return
        for side, outputs in (("reference", reference), ("candidate", candidate)):
            for name, values in zip(self._names, outputs):
                self._parts.setdefault(f"{side}/{name}", []).append(np.asarray(values, np.float32))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out."""
        return ("the outputs are too large to be kept in outputs.npz",) if self._wanted and self._room < 0 else ()

    def outputs(self, labels: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
        """What was kept, with the labels."""
        found: dict[str, NDArray[Any]] = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return found | ({"labels": np.asarray(labels)} if found and labels is not None else {})


def _facts(source: object, data: bytes, model: Model) -> FileFacts:
    name = Path(source).name if isinstance(source, str | os.PathLike) else "given in memory"
    return FileFacts(name, len(data), hashlib.sha256(data).hexdigest(), sum(len(g.ops) for g in model.graphs))


def _tensors(isolation: Isolation) -> tuple[TensorQuality, ...]:
    """The rows of the layer table that both models have."""
    return tuple(
        TensorQuality(row.name, row.sqnr, row.largest)
        for row in isolation.layers
        if row.sqnr is not None and row.largest is not None
    )


def refuse_overlap(candidate: Model, samples: Samples) -> None:
    """Refuses to judge a model on samples that shaped it: its own record tells their hashes.

    Raises:
        CalibrationError: a sample is among them.
    """
    shaped = set(read_record(candidate).calibration)
    if not shaped:
        return
    found = [n for n, sample in enumerate(samples.codes(1)) if digest(sample) in shaped]
    if found:
        raise CalibrationError(
            f"{len(found)} of {len(samples)} samples (the first is number {found[0]}) are among those that the model was "
            "calibrated on, so that figures on them would flatter it: validate on others"
        )


def _check_backends(against: Sequence[str]) -> None:
    if not against:
        raise UsageError("against names no backend; expected one or more of: " + ", ".join((*BACKENDS, SIMULATOR)))
    for name in against:
        if name not in (*BACKENDS, SIMULATOR):
            raise UsageError(f"against names {name!r}; known are: {', '.join((*BACKENDS, SIMULATOR))}")


def _is_graph(source: ModelSource) -> bool:
    return isinstance(source, str | os.PathLike) and is_graph(Path(source))


def _progress(progress: Callable[[int, int], None], n: int, size: int, backends: int) -> Callable[[int], None]:
    return lambda done: progress(n * size + done, backends * size)


def failures_of(
    quality: dict[str, Quality],
    tensors: tuple[TensorQuality, ...],
    legality: Legality | None,
    thresholds: Thresholds,
) -> tuple[str, ...]:
    """One sentence for each threshold missed and each rule of the target broken.

    Raises:
        UsageError: a loss of top-1 was limited, and the data carries no labels.
    """
    min_agreement, max_top1_drop, max_layer_error = (
        thresholds.min_agreement, thresholds.max_top1_drop, thresholds.max_layer_error
    )  # fmt: skip
    found = []
    for name, q in quality.items():
        if min_agreement is not None and q.agreement < min_agreement:
            found.append(f"{name}: agreement is {q.agreement:.4f}, expected at least {min_agreement}")
        if max_top1_drop is not None:
            if q.top1_drop is None:
                raise UsageError("max_top1_drop needs labels, and the data carries none")
            if 100 * q.top1_drop > max_top1_drop:
                found.append(f"{name}: top-1 drops by {100 * q.top1_drop:.2f} points, expected at most {max_top1_drop}")
    if max_layer_error is not None:
        for t in tensors:
            if -t.sqnr > max_layer_error:
                found.append(f"layer {t.name!r}: its error is {-t.sqnr:.1f} dB, expected at most {max_layer_error}")
    if legality is not None:
        found += [f"target {legality.target}: {v}" for v in legality.violations]
    return tuple(found)
