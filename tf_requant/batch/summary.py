"""The summary of a batch: one row a job, models x targets, as JSON and CSV; every job of the file is in it."""

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_requant.batch.conclusions import DONE, FAILED, LOST, SKIPPED, base
from tf_requant.batch.jobs import Job
from tf_requant.batch.work import Work
from tf_requant.io.tflite_writer import save
from tf_requant.version import __version__

SCHEMA_VERSION = 1
COLUMNS = (
    "model", "target", "status", "verdict", "agreement", "agreement_low", "agreement_high", "top1", "reference_top1",
    "top1_drop", "samples", "sqnr", "worst_layer", "worst_layer_sqnr", "bytes", "source_bytes", "exactness", "legal",
    "host_ops", "sentence", "line", "id", "output", "sha256", "seconds_convert", "seconds_validate",
)  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """What became of a batch.

    Attributes:
        rows: one a job, in the order of the job file; `COLUMNS` name what is in them, None where there is nothing.
        seconds: how long the run took.
    """

    rows: tuple[dict[str, Any], ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every job was done, legal and within its thresholds."""
        return all(row["verdict"] == "pass" for row in self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs, by status and verdict."""
        statuses = Counter(row["status"] for row in self.rows)
        named = {status: statuses[status] for status in (DONE, SKIPPED, FAILED, LOST)}
        return {"jobs": len(self.rows), **named, "missed": sum(row["verdict"] == "missed" for row in self.rows)}

    @property
    def problems(self) -> list[str]:
        """One sentence for each job that did not pass."""
        return [
            f"line {row['line']}, {row['model']} for {row['target']}: {row['sentence']}"
            for row in self.rows
            if row["verdict"] != "pass"
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        head = {"schema_version": SCHEMA_VERSION, "generator": f"tf_requant {__version__}", "passed": self.passed}
        return {**head, "counts": self.counts, "seconds": self.seconds, "jobs": list(self.rows)}

    def to_csv(self) -> str:
        """The rows, with a head."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def save(self, folder: Path) -> None:
        """Writes summary.json, summary.csv, summary.html and dead_letters.jsonl."""
        from tf_requant.batch.summary_page import render

        dead = [row for row in self.rows if row["status"] in (FAILED, LOST)]
        save(folder / "summary.json", json.dumps(self.to_dict(), indent=1, allow_nan=False).encode())
        save(folder / "summary.csv", self.to_csv().encode())
        save(folder / "dead_letters.jsonl", "".join(json.dumps(_letter(row)) + "\n" for row in dead).encode())
        save(folder / "summary.html", render(self.to_dict()).encode())

    def __str__(self) -> str:
        """The counts in one line."""
        told = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count and name != "jobs")
        return f"{len(self.rows)} jobs in {self.seconds:.0f} s: {told}"


def summarize(work: Work, jobs: Sequence[Job], seconds: float) -> Summary:
    """The rows of all jobs, from their records; a job without one is there as lost."""
    names = _named({job.model for job in jobs})
    return Summary(tuple(_row(job, work.record(job) or base(job, work.run, LOST), names[job.model]) for job in jobs), seconds)


def _row(job: Job, record: Mapping[str, Any], name: str) -> dict[str, Any]:
    quality, seconds = record.get("quality") or {}, record.get("seconds") or {}
    interval = quality.get("agreement_interval") or (None, None)
    worst = min(record.get("layers") or (), key=lambda layer: layer[1], default=(None, None))
    verdict = record["status"] if record["status"] in (FAILED, LOST) else "pass" if record["passed"] else "missed"
    proof = record.get("exactness")
    row = {
        "model": name, "target": job.target, "status": record["status"], "verdict": verdict, "line": job.line, "id": job.id,
        "agreement_low": interval[0], "agreement_high": interval[1], "worst_layer": worst[0], "worst_layer_sqnr": worst[1],
        "exactness": None if proof is None else f"{proof['mismatches']} of {proof['elements']} elements differ",
        "seconds_convert": seconds.get("convert"), "seconds_validate": seconds.get("validate"), "sentence": record["sentence"],
        **{key: quality.get(key) for key in ("agreement", "top1", "reference_top1", "top1_drop", "samples", "sqnr")},
        **{key: record.get(key) for key in ("bytes", "source_bytes", "legal", "host_ops", "output", "sha256")},
    }  # fmt: skip
    return {key: _finite(row[key]) for key in COLUMNS}


def _letter(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("id", "line", "model", "target", "status", "sentence")}


def _finite(value: Any) -> Any:
    """JSON has no infinity: the SQNR of what is exact is none."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _named(paths: set[str]) -> dict[str, str]:
    """Each model's file name, with as many folders in front as tell it from the others."""
    names = {}
    ends = Counter(end for path in paths for end in _ends(path))
    for path in paths:
        names[path] = next((end for end in _ends(path) if ends[end] == 1), path)
    return names


def _ends(path: str) -> list[str]:
    parts = path.split(os.sep)
    return [os.sep.join(parts[-n:]) for n in range(1, len(parts) + 1)]
