"""The job file: one JSON object a line, each a model and its targets; everything that can be told beforehand is checked."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from string import Formatter
from typing import Any

from tf_requant.batch.job_line import Line, graph_options, read_line, resolved
from tf_requant.errors import RequantError, UsageError
from tf_requant.io.tf1 import GraphOptions
from tf_requant.targets import load_target

SUFFIX = ".tflite"
_LONGEST = 244
"""Bytes of a name: of the 255 that file systems take, what is written aside before it is renamed has some more."""
_TOLD = 20
"""Problems that are listed before the rest is only counted."""


@dataclass(frozen=True)
class Job:
    """One model for one target.

    Attributes:
        number: its place among all jobs, from 0.
        line: the line of the job file.
        id: names its state; the same for the same output.
        model: path of the source.
        target: name of the target.
        target_source: the name or path that gives it.
        output: path of the result.
        calibration: path of calibration data, or None.
        data: path of validation data, or None.
        thresholds: as of `validate`.
        options: arguments of `requantize` that were given.
        samples: how many samples of the data are run; None for all.
        layers: samples for the layer table.
        exactness: whether the simulator is proved on the result.
        group: jobs of one number share model and calibration data.
    """

    number: int
    line: int
    id: str
    model: str
    target: str
    target_source: str
    output: str
    calibration: str | None = None
    data: str | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    samples: int | None = None
    layers: int = 8
    exactness: bool = False
    group: int = 0

    @property
    def graph_options(self) -> GraphOptions:
        """What a TF1 graph does not say of itself."""
        return graph_options(self.options)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> "Job":
        """What `to_dict` gave."""
        return cls(**document)


def read_jobs(path: Path, output: Path) -> tuple[Job, ...]:
    """The jobs of a file, lines in order, targets in the order of their line.

    Args:
        path: the job file; relative paths in it are relative to its folder.
        output: the folder that results go to.

    Raises:
        UsageError: the file cannot be read, or lines cannot be done; one sentence each, with the line's number.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"--jobs={path} cannot be read ({error.strerror})") from error
    jobs: list[Job] = []
    problems: list[str] = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        line, found = read_line(text, path.resolve().parent)
        problems += [f"line {number}: {problem}" for problem in found]
        if line is not None:
            made, found = _jobs_of(line, number, output)
            jobs += made
            problems += [f"line {number}: {problem}" for problem in found]
    problems += _clashes(jobs, output)
    if problems:
        left = f"\nand {len(problems) - _TOLD} more problems" if len(problems) > _TOLD else ""
        raise UsageError(f"--jobs={path}:\n" + "\n".join(problems[:_TOLD]) + left)
    if not jobs:
        raise UsageError(f"--jobs={path} holds no job: expected one JSON object a line")
    return _grouped(jobs)


def _jobs_of(line: Line, number: int, output: Path) -> tuple[list[Job], list[str]]:
    jobs, problems = [], []
    for source in line.targets:
        try:
            name = load_target(source).name
            path = _output(line, name, output)
        except RequantError as error:
            problems.append(str(error))
            continue
        jobs.append(
            Job(
                0, number, _id(path, output), line.model, name, source, str(path), line.calibration, line.data,
                line.thresholds, line.options, line.samples, line.layers, line.exactness,
            )
        )  # fmt: skip
    return jobs, problems


def _output(line: Line, target: str, folder: Path) -> Path:
    """Where a job's result goes.

    Raises:
        UsageError: a template that is none, or a name that is no .tflite file.
    """
    asked = "{model}/" if line.output is None else line.output
    try:
        # Plain fields only: a format could ask for an attribute, or for a gigabyte of padding.
        fields = [(field, form or conversion) for _, field, form, conversion in Formatter().parse(asked) if field is not None]
        if any(field not in ("target", "model") or more for field, more in fields):
            raise ValueError
    except ValueError as error:
        raise UsageError(f"output {asked!r} cannot be filled in: only {{target}} and {{model}} may stand in braces") from error
    name = asked.format(model=Path(line.model).stem, target=target)
    if not name.endswith(SUFFIX):
        name = os.path.join(name, f"{target}{SUFFIX}")
    elif len(line.targets) > 1 and "{target}" not in asked:
        raise UsageError(f"output {asked!r} is one file for {len(line.targets)} targets: name a folder, or write {{target}} in it")
    path = Path(resolved(name, folder))
    if not path.is_relative_to(folder.resolve()):
        raise UsageError(f"the output {path} of target {target} lies outside of --output={folder}")
    return path


def _id(path: Path, folder: Path) -> str:
    return hashlib.sha256(str(path.relative_to(folder.resolve())).encode()).hexdigest()[:16]


def _clashes(jobs: list[Job], folder: Path) -> list[str]:
    """Outputs that two jobs would write, or that must not be written at all."""
    problems = []
    first: dict[str, Job] = {}
    state = folder.resolve() / ".work"
    read = {os.path.realpath(path): job.line for job in jobs for path in (job.model, job.calibration, job.data) if path}
    for job in jobs:
        before = first.setdefault(job.output, job)
        if before is not job:
            problems.append(
                f"line {job.line}: the output {job.output} of target {job.target} is also that of line {before.line}, target "
                f"{before.target}: give each its own `output`"
            )
        if job.output in read:
            problems.append(f"line {job.line}: the output {job.output} is an input of line {read[job.output]}")
        if Path(job.output).is_relative_to(state):
            problems.append(f"line {job.line}: the output {job.output} lies in the folder of the batch's own state")
        problems += [f"line {job.line}: the output {job.output} {why}" for why in _unwritable(Path(job.output), folder.resolve())]
    for job in jobs:
        above = next((first[str(p)] for p in Path(job.output).parents if str(p) in first), None)
        if above is not None:
            problems.append(f"line {job.line}: the output {job.output} would lie in that of line {above.line}, which is a file")
    return problems


def _unwritable(path: Path, folder: Path) -> list[str]:
    """What stands where a file shall be."""
    if any(len(os.fsencode(part)) > _LONGEST for part in path.parts):
        return ["has a name that is too long for a file"]
    try:
        if path.is_dir():
            return ["is a folder"]
        blocked = next((p for p in path.parents if p.is_relative_to(folder) and p.exists() and not p.is_dir()), None)
    except OSError as error:
        return [f"cannot be a file's name ({error.strerror})"]
    return [] if blocked is None else [f"would lie in {blocked}, which is a file"]


def _grouped(jobs: list[Job]) -> tuple[Job, ...]:
    """The jobs numbered, with one group for those that share model and calibration."""
    groups: dict[Any, int] = {}
    made = []
    for number, job in enumerate(jobs):
        graph = json.dumps({name: job.options.get(name) for name in ("inputs", "outputs", "input_stats")})
        # Without calibration data there is nothing to share, and a job of its own can go to any worker.
        key: Any = (job.model, job.calibration, graph) if job.calibration else number
        made.append(replace(job, number=number, group=groups.setdefault(key, len(groups))))
    return tuple(made)
