"""Where a batch keeps its state: files under one folder, each written by rename, so that nothing is half there.

`results/ID.json` is the record of a job, `prepared/ID.json` its hashes, `converted/ID.json` what its conversion gave,
`shards/ID/START.json` what one shard of its data gave, `calibrations/HASH.npz` what one model did on its calibration data,
`tries/ID.json` how often a piece of work was begun that is not ended.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_requant.batch.jobs import Job
from tf_requant.errors import InterpreterError
from tf_requant.io.tflite_writer import save

FOLDER = ".work"
"""The state's folder within the output folder."""
KINDS = ("results", "prepared", "converted", "shards", "calibrations", "tries")
TRIES = 3
"""Attempts of one run at a piece of work, each of which a worker did not survive, before its job has failed."""


@dataclass(frozen=True)
class Work:
    """The state of one batch, and what every step has to know of the run; small, so that it travels with the steps.

    Attributes:
        output: the folder that the batch writes.
        run: names this run: a record of another run is stale.
        shard: samples that one shard of validation holds.
    """

    output: str
    run: str
    shard: int

    @property
    def folder(self) -> Path:
        """Where the state is."""
        return Path(self.output) / FOLDER

    @property
    def jobs(self) -> Path:
        """The jobs, one a line."""
        return self.folder / f"jobs.{self.run}.jsonl"

    def make(self) -> None:
        """Makes the folders."""
        for kind in KINDS:
            (self.folder / kind).mkdir(parents=True, exist_ok=True)

    def job(self, offset: int) -> Job:
        """The job whose line starts at that byte."""
        with self.jobs.open("rb") as file:
            file.seek(offset)
            return Job.from_dict(json.loads(file.readline()))

    def path(self, kind: str, name: str, suffix: str = ".json") -> Path:
        """A file of the state."""
        return self.folder / kind / f"{name}{suffix}"

    def read(self, kind: str, name: str) -> dict[str, Any] | None:
        """A document; None where there is none that can be read."""
        try:
            document = json.loads(self.path(kind, name).read_bytes())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def write(self, kind: str, name: str, document: dict[str, Any]) -> None:
        """Writes a document by rename."""
        path = self.path(kind, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, json.dumps(document).encode())

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Surrounds what may take the worker process with it, so that one job cannot end every pass of a run.

        Raises:
            InterpreterError: it was begun too often in this run, and never ended.
        """
        before = self.read("tries", name) or {}
        count = int(before.get("count", 0)) if before.get("run") == self.run else 0
        if count >= TRIES:
            raise InterpreterError(f"the worker process died {count} times over this job; did it run out of memory?")
        self.write("tries", name, {"run": self.run, "count": count + 1})
        try:
            yield
        finally:
            self.path("tries", name).unlink(missing_ok=True)

    def record(self, job: Job) -> dict[str, Any] | None:
        """The record of a job in this run; None as long as it has none."""
        found = self.read("results", job.id)
        return found if found is not None and found.get("run") == self.run else None
