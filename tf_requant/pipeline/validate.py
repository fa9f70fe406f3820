"""The validate verb: quality in the real interpreters, layer by layer, and legality against a target."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.statistics import digest
from tf_requant.errors import CalibrationError, UsageError
from tf_requant.io.data import Samples, load_samples
from tf_requant.io.tf1 import GraphOptions, is_graph
from tf_requant.model.graph import Model
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.record import read_record
from tf_requant.pipeline.requantize import TargetSource
from tf_requant.pipeline.runners import EXACT, exactness_of, interpreted, layer_table, simulated
from tf_requant.pipeline.source import NO_OPTIONS, load_source
from tf_requant.runtime import BACKENDS
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.targets import load_target
from tf_requant.validation.exactness import Exactness
from tf_requant.validation.legality import Legality, check_legality
from tf_requant.validation.quality import Metric, Quality, measure
from tf_requant.validation.tensors import TensorQuality

_BATCH = 32
SIMULATOR = "sim"
"""The backend's name that stands for the simulator: the candidate under its target's arithmetic, or tflite_ref."""
LAYER_SAMPLES = 8
"""Samples that the layer table looks at: every tensor of every layer is compared."""


@dataclass(frozen=True)
class Check:
    """What a validation found.

    Attributes:
        quality: by backend, in the order asked for.
        tensors: the layer table, in the candidate's order.
        legality: the verdict against the target; None when no target was given.
        exactness: the simulator against LiteRT's reference kernels, where `sim` was asked for.
        failures: one sentence for each threshold missed; empty is a pass.
    """

    quality: dict[str, Quality]
    tensors: tuple[TensorQuality, ...] = ()
    legality: Legality | None = None
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    exactness: Exactness | None = None

    @property
    def agreement(self) -> float:
        """Top-1 agreement in the first backend."""
        return next(iter(self.quality.values())).agreement

    @property
    def top1(self) -> float | None:
        """The candidate's top-1 in the first backend."""
        return next(iter(self.quality.values())).top1

    @property
    def reference_top1(self) -> float | None:
        """The source's top-1 in the first backend."""
        return next(iter(self.quality.values())).reference_top1

    @property
    def passed(self) -> bool:
        """Whether no threshold was missed and the target, if any, is obeyed."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready values; an infinite SQNR becomes null."""
        document = {
            "passed": self.passed,
            "quality": {name: asdict(q) for name, q in self.quality.items()},
            "tensors": [asdict(t) for t in self.tensors],
            "legality": None if self.legality is None else self.legality.to_dict(),
            "exactness": None if self.exactness is None else self.exactness.to_dict(),
            "failures": list(self.failures),
            "notes": list(self.notes),
        }
        result: dict[str, Any] = json.loads(json.dumps(document), parse_constant=lambda _: None)
        return result

    def __str__(self) -> str:
        """The verdict first, then quality, legality and the worst layers."""
        lines = ["PASS" if self.passed else "FAIL", *(f"  {f}" for f in self.failures)]
        for name, q in self.quality.items():
            low, high = q.agreement_interval
            lines.append(f"{name}: agreement {q.agreement:.2%} (95 %: {low:.2%} to {high:.2%}) on {q.samples} samples")
            if q.top1 is not None and q.reference_top1 is not None and q.top1_drop_interval is not None:
                low, high = q.top1_drop_interval
                lines.append(
                    f"  top-1 {q.top1:.2%}, source {q.reference_top1:.2%}, drop {q.top1_drop:.2%} (95 %: {low:.2%} to {high:.2%})"
                )
            lines.append(f"  outputs: SQNR {q.sqnr:.1f} dB, largest difference {q.largest:.4g}")
            if q.metric is not None:
                lines.append(f"  metric: {q.metric:.6g}")
        if self.legality is not None:
            verdict = "obeyed" if self.legality.legal else f"broken {len(self.legality.violations)} times"
            lines.append(
                f"target {self.legality.target}: {verdict}; {self.legality.accelerated} ops on the accelerator, "
                f"{len(self.legality.host_ops)} on the host"
            )
            lines += [f"  host: {h.where}: {h.reason}" for h in self.legality.host_ops]
        if self.exactness is not None:
            lines.append(str(self.exactness))
        for row in sorted(self.tensors, key=lambda t: t.sqnr)[:3]:
            lines.append(f"worst layers: {row.sqnr:.1f} dB, largest difference {row.largest:.1f} steps: {row.name}")
        return "\n".join([*lines, *(f"note: {n}" for n in self.notes)])


def validate(
    model: str | os.PathLike[str] | bytes,
    *,
    reference: str | os.PathLike[str] | bytes,
    data: Any,
    labels: NDArray[Any] | None = None,
    target: TargetSource | None = None,
    against: Sequence[str] = ("litert",),
    metric: Metric | None = None,
    layers: int = LAYER_SAMPLES,
    min_agreement: float | None = None,
    max_top1_drop: float | None = None,
    max_layer_error: float | None = None,
    options: GraphOptions = NO_OPTIONS,
    progress: Callable[[int, int], None] | None = None,
) -> Check:
    """Compares a candidate with the model that it came from.

    Args:
        model: the candidate, a path (of a TF1 graph too) or bytes.
        reference: its source.
        data: a folder, file, array, dataset or callable; see `interface.md` on what a pixel means.
        labels: the right class of each sample, where the data carries none.
        target: what the candidate has to obey.
        against: backends, each runs both models: litert, litert_ref, litert_opt, tflite_runtime, tf; `sim` runs the
            source in the simulator as `tflite_ref` and the candidate under its target's arithmetic, and proves the
            simulator against litert_ref on the candidate, tensor by tensor.
        metric: (source's outputs, candidate's outputs) -> a number, for detection, segmentation or regression.
        layers: samples for the layer table; 0 leaves it out.
        min_agreement: the least share of equal top-1 answers, 0 to 1.
        max_top1_drop: the largest loss of top-1, in points (percent).
        max_layer_error: the least SQNR in dB that any layer may have, as a negative number of dB of error.
        options: what a TF1 graph among the two does not say of itself.
        progress: called with (samples done, samples in all).

    Raises:
        RequantError: a model, the data or an argument cannot be used, or an interpreter failed.
    """
    _check_backends(against)
    loaded, original = (load_source(m, options if _is_graph(m) else NO_OPTIONS) for m in (model, reference))
    (candidate_bytes, candidate), (reference_bytes, source) = ((s.tflite(), s.model) for s in (loaded, original))
    if options != NO_OPTIONS and loaded.graph is None and original.graph is None:
        raise UsageError("inputs, outputs and input_stats are for TF1 graphs, and neither model is one")
    if target is not None and loaded.graph is not None:
        raise UsageError("a graph's own conversion obeys no target: write a .tflite file and validate that against the target")
    samples = load_samples(data, input_specs(source))
    _refuse_overlap(candidate, samples)
    truth = samples.labels if labels is None else np.asarray(labels)
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
            quality[backend] = measure(runners[0], runners[1], samples.codes(_BATCH), truth, metric, done)
    observer = next((name for name in against if name != SIMULATOR), EXACT)
    tensors = layer_table(reference_bytes, candidate_bytes, source, candidate, samples, layers, observer) if layers else ()
    exactness = exactness_of(candidate_bytes, candidate, source, samples, layers or LAYER_SAMPLES) if SIMULATOR in against else None
    legality = None if target is None else check_legality(candidate, load_target(target))
    failures = _failures(quality, tensors, legality, (min_agreement, max_top1_drop, max_layer_error))
    if exactness is not None and not (exactness.elements and exactness.simulated_ops):
        failures += ("the simulator could not be proved: it computes no tensor that the interpreter shows",)
    if exactness is not None and exactness.first is not None:
        failures += (f"the simulator is not exact: {exactness.mismatches} elements differ, the first at {exactness.first}",)
    notes = tuple(f"input {name!r} was not in the data and was held at zero" for name in samples.zero_filled)
    return Check(quality, tensors, legality, failures, notes, exactness)


def _refuse_overlap(candidate: Model, samples: Samples) -> None:
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


def _is_graph(source: str | os.PathLike[str] | bytes) -> bool:
    return isinstance(source, str | os.PathLike) and is_graph(Path(source))


def _progress(progress: Callable[[int, int], None], n: int, size: int, backends: int) -> Callable[[int], None]:
    return lambda done: progress(n * size + done, backends * size)


def _failures(
    quality: dict[str, Quality],
    tensors: tuple[TensorQuality, ...],
    legality: Legality | None,
    thresholds: tuple[float | None, float | None, float | None],
) -> tuple[str, ...]:
    min_agreement, max_top1_drop, max_layer_error = thresholds
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
