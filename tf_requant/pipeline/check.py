"""Check: what a validation found, the one object that terminal, JSON and page print."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import UsageError
from tf_requant.report.names import short_name
from tf_requant.validation.culprits import Culprit
from tf_requant.validation.exactness import Exactness
from tf_requant.validation.legality import Legality
from tf_requant.validation.quality import Quality
from tf_requant.validation.rows import LayerRow
from tf_requant.validation.tensors import TensorQuality
from tf_requant.version import __version__

SCHEMA_VERSION = 1
_WORST = 3


@dataclass(frozen=True)
class FileFacts:
    """A model as it was given.

    Attributes:
        name: its file's name; `given in memory` for a model that had none.
        bytes: size of the TFLite flatbuffer.
        sha256: of it.
        ops: in all graphs.
    """

    name: str
    bytes: int
    sha256: str
    ops: int


@dataclass(frozen=True)
class Thresholds:
    """What was asked for; None where nothing was.

    Attributes:
        min_agreement: least share of equal answers, 0 to 1.
        max_top1_drop: largest loss of top-1, points.
        max_layer_error: largest error of a layer, dB.
    """

    min_agreement: float | None = None
    max_top1_drop: float | None = None
    max_layer_error: float | None = None


@dataclass(frozen=True)
class Isolation:
    """What running each layer alone, and restoring it, told.

    Attributes:
        layers: one row an op.
        culprits: the worst first.
        samples: how many were run.
        arithmetic: what ran the candidate.
        scores: names of the tensors whose error ranks layers.
        scores_sqnr: their SQNR as the candidate is, dB; None where it has no scores that can be compared.
        pictures: histograms and score pairs, as the schema of the report has them.
    """

    layers: tuple[LayerRow, ...]
    culprits: tuple[Culprit, ...]
    samples: int
    arithmetic: str
    scores: tuple[str, ...]
    scores_sqnr: float | None
    pictures: dict[str, Any] | None = None


@dataclass(frozen=True)
class Check:
    """What a validation found.

    Attributes:
        quality: by backend, in the order asked for.
        tensors: every tensor that both models have, in the candidate's order.
        legality: the verdict against the target; None when no target was given.
        failures: one sentence for each threshold missed; empty is a pass.
        notes: what has to be known to read the figures.
        exactness: the simulator against LiteRT's reference kernels, where `sim` was asked for.
        isolation: layers alone and restored, where that was asked for.
        model: the candidate's file.
        reference: its source's.
        thresholds: what was asked for.
        outputs: of the first backend, `reference/NAME` and `candidate/NAME` -> float32[N, ...], and `labels`.
    """

    quality: dict[str, Quality]
    tensors: tuple[TensorQuality, ...] = ()
    legality: Legality | None = None
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    exactness: Exactness | None = None
    isolation: Isolation | None = None
    model: FileFacts = FileFacts("", 0, "0" * 64, 0)
    reference: FileFacts = FileFacts("", 0, "0" * 64, 0)
    thresholds: Thresholds = Thresholds()
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)

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

    @property
    def culprits(self) -> tuple[Culprit, ...]:
        """The layers that cost most, the worst first; empty where layers were not isolated."""
        return () if self.isolation is None else self.isolation.culprits

    @property
    def layers(self) -> tuple[LayerRow, ...]:
        """The layer table; empty where layers were not isolated."""
        return () if self.isolation is None else self.isolation.layers

    @property
    def verdict(self) -> str:
        """Whether it passed, and what was judged, in one sentence."""
        name, q = next(iter(self.quality.items()))
        parts = [f"agreement {q.agreement:.2%} on {q.samples} samples ({name})"]
        if self.legality is not None:
            parts.append(f"target {self.legality.target} {'obeyed' if self.legality.legal else 'broken'}")
        if self.failures:
            return f"FAIL: {len(self.failures)} of what was asked for missed; " + ", ".join(parts)
        if self.thresholds == Thresholds():
            parts.append("no threshold was given")
        return "PASS: " + ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready values (`schemas/report.schema.json`); an infinite SQNR becomes null."""
        found = self.isolation
        document = {
            "schema_version": SCHEMA_VERSION,
            "generator": f"tf_requant {__version__}",
            "passed": self.passed,
            "verdict": self.verdict,
            "failures": list(self.failures),
            "notes": list(self.notes),
            "model": asdict(self.model),
            "reference": asdict(self.reference),
            "thresholds": asdict(self.thresholds),
            "quality": {name: asdict(q) for name, q in self.quality.items()},
            "exactness": None if self.exactness is None else self.exactness.to_dict(),
            "legality": None if self.legality is None else self.legality.to_dict(),
            "layer_samples": 0 if found is None else found.samples,
            "layer_arithmetic": "" if found is None else found.arithmetic,
            "scores": {"names": [] if found is None else list(found.scores), "sqnr": None if found is None else found.scores_sqnr},
            "layers": [asdict(row) for row in self.layers],
            "culprits": [asdict(row) for row in self.culprits],
            "tensors": [asdict(t) for t in self.tensors],
            "pictures": None if found is None else found.pictures,
        }
        result: dict[str, Any] = json.loads(json.dumps(document), parse_constant=lambda _: None)
        return result

    def save(self, folder: str | Path) -> Path:
        """Writes report.json, report.html, junit.xml, model_explorer/*.json and outputs.npz; returns the folder.

        Raises:
            UsageError: the folder cannot be made.
        """
        from tf_requant.pipeline.reporting import write

        return write(self, Path(folder))

    def __str__(self) -> str:
        """The verdict first, then quality, legality and the worst layers."""
        lines = [self.verdict, *(f"  {f}" for f in self.failures)]
        for name, q in self.quality.items():
            lines += _quality_lines(name, q)
        if self.legality is not None:
            verdict = "obeyed" if self.legality.legal else f"broken {len(self.legality.violations)} times"
            lines.append(
                f"target {self.legality.target}: {verdict}; {self.legality.accelerated} ops on the accelerator, "
                f"{len(self.legality.host_ops)} on the host"
            )
            lines += [f"  host: {h.where}: {h.reason}" for h in self.legality.host_ops]
        if self.exactness is not None:
            lines.append(str(self.exactness))
        if self.isolation is not None:
            lines += _culprit_lines(self.isolation)
        else:
            for row in sorted(self.tensors, key=lambda t: t.sqnr)[:_WORST]:
                figures = f"{_sqnr(row.sqnr)}, largest difference {row.largest:.1f} steps"
                lines.append(f"worst layers: {figures}: {short_name(row.name)}")
        return "\n".join([*lines, *(f"note: {n}" for n in self.notes)])

    def bisection(self) -> str:
        """What restoring each layer to the source's precision buys, a line each.

        Raises:
            UsageError: layers were not isolated.
        """
        if self.isolation is None:
            raise UsageError("layers were not restored: validate with isolate=True")
        lines = [f"{'restored layer':<52} {'gain dB':>8} {'SQNR dB':>8} {'samples':>7}"]
        for c in self.isolation.culprits:
            figures = f"{_figure(c.gain, 2):>8} {_figure(c.restored_sqnr, 1):>8} {c.samples:>7}"
            lines.append(f"{f'{c.index} {c.op} {short_name(c.name)}'[:52]:<52} {figures}{'  FAULT' if c.fault else ''}")
        return "\n".join(lines)


def _quality_lines(name: str, q: Quality) -> list[str]:
    low, high = q.agreement_interval
    lines = [f"{name}: agreement {q.agreement:.2%} (95 %: {low:.2%} to {high:.2%}) on {q.samples} samples"]
    if q.top1 is not None and q.reference_top1 is not None and q.top1_drop_interval is not None:
        low, high = q.top1_drop_interval
        lines.append(f"  top-1 {q.top1:.2%}, source {q.reference_top1:.2%}, drop {q.top1_drop:.2%} (95 %: {low:.2%} to {high:.2%})")
    if q.top5 is not None and q.reference_top5 is not None:
        lines.append(f"  top-5 {q.top5:.2%}, source {q.reference_top5:.2%}")
    lines.append(f"  outputs: {_sqnr(q.sqnr)}, largest difference {q.largest:.4g}")
    if q.metric is not None:
        lines.append(f"  metric: {q.metric:.6g}")
    return lines


def _culprit_lines(found: Isolation) -> list[str]:
    if found.scores_sqnr is None:
        return []
    lines = [f"scores: {_sqnr(found.scores_sqnr)} on {found.samples} samples ({found.arithmetic}); the layers that cost most:"]
    lines += [f"  {n}. op {c.index} {c.op} {short_name(c.name)}: {c.why}" for n, c in enumerate(found.culprits[:_WORST], 1)]
    return lines if found.culprits else [lines[0].replace("; the layers that cost most:", "; no layer costs anything")]


def _sqnr(value: float) -> str:
    return "exact" if np.isinf(value) else f"SQNR {value:.1f} dB"


def _figure(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return "exact" if np.isinf(value) else f"{value:.{digits}f}"
