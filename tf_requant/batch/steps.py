"""The steps of a batch: pure of the runner, idempotent, each leaving what it did in a file written by rename.

A step may run twice, in two places at once, or again after a worker died: it finds what is done, and what it does anew
comes out the same. Between steps travel numbers only: where a job stands in the file of jobs, and which shard of its data.
A job that cannot be done ends as a record with one sentence, whatever went wrong; no step raises for it.
"""

import hashlib
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tf_requant.batch.conclusions import conclude, failed, finished
from tf_requant.batch.job_line import GRAPH_OPTIONS
from tf_requant.batch.jobs import Job
from tf_requant.batch.keys import content, conversion_key, job_key
from tf_requant.batch.opened import open_samples, open_source, release
from tf_requant.batch.shards import Shard, measure_shard
from tf_requant.batch.work import Work
from tf_requant.calibration.statistics import Calibration
from tf_requant.corrections import chosen, wants_noise
from tf_requant.errors import RequantError
from tf_requant.io.tflite_writer import save
from tf_requant.pipeline.calibrate import calibrate
from tf_requant.pipeline.requantize import prove, requantize
from tf_requant.pipeline.source import load_source
from tf_requant.targets import Target, load_target
from tf_requant.validation.legality import check_legality

SHARD_BITS = 20
"""A shard's key: the job's number, then this many bits of its own number. Whole numbers hash alike in every process."""


def sentence(error: BaseException) -> str:
    """One sentence for a record."""
    if isinstance(error, RequantError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    return f"a bug, please report it: {type(error).__name__}: {error}{where}"


def calibrate_once(group: tuple[int, Iterable[int]], work: Work) -> Iterator[tuple[int, int]]:
    """Hashes what the jobs of one model and calibration depend on, and runs the model on its calibration data once.

    Args:
        group: the group's number, and where its jobs stand.
        work: the batch.

    Yields:
        (job's number, where it stands) of every job that is not finished.
    """
    jobs = {offset: work.job(offset) for offset in sorted(set(group[1]))}
    left = []
    for offset, job in jobs.items():
        try:
            prepared = _keys(job)
            if not finished(work, job, prepared["key"]):
                left.append((offset, job, prepared))
        except Exception as error:
            failed(work, job, sentence(error))
    todo = [(job, prepared) for _, job, prepared in left if _converted(work, job, prepared["conversion"]) is None]
    problem, saved, seconds = "", "", 0.0
    if todo and todo[0][0].calibration:
        try:
            with work.attempt(f"calibration-{todo[0][0].id}"):
                saved, seconds = _calibrated(work, [job for job, _ in todo], todo[0][1])
        except Exception as error:
            problem = sentence(error)
    waiting = {job.id for job, _ in todo}
    for offset, job, prepared in left:
        if problem and job.id in waiting:
            failed(work, job, problem)
            continue
        work.write("prepared", job.id, {**prepared, "calibration": saved, "calibrated": seconds, "group": len(todo)})
        yield job.number, offset


def _keys(job: Job) -> dict[str, Any]:
    """The hashes of a job, and of what they are made."""
    model, calibration, data = (content(path) for path in (job.model, job.calibration, job.data))
    document = load_target(job.target_source).to_dict()
    conversion = conversion_key(model, calibration, document, job.options)
    judged = {
        "thresholds": job.thresholds, "samples": job.samples, "layers": job.layers, "exactness": job.exactness,
        "labelled_by_name": bool(job.data and Path(job.data).is_dir()),
    }  # fmt: skip
    return {"key": job_key(conversion, data, judged), "conversion": conversion, "model": model, "data": calibration}


def _calibrated(work: Work, jobs: list[Job], prepared: dict[str, Any]) -> tuple[str, float]:
    """The name of what the model did on the calibration data, computed where it is not there yet, and what that took."""
    noise = any(_wants_noise(job, load_target(job.target_source)) for job in jobs)
    options = conversion_key(prepared["model"], prepared["data"], {}, {"noise": noise, "graph": repr(jobs[0].graph_options)})
    path = work.path("calibrations", options, ".npz")
    start = time.monotonic()
    if not path.exists():
        found = calibrate(open_source(jobs[0]).model, jobs[0].calibration, noise=noise)
        save(path, found.to_bytes())
    return path.name, time.monotonic() - start


def _wants_noise(job: Job, target: Target) -> bool:
    """Whether `requantize` would measure noise for this job."""
    return wants_noise(chosen(job.options.get("corrections", "auto"), True), target)


def convert(item: tuple[int, Iterable[int]], work: Work) -> Iterator[tuple[int, tuple[int, int]]]:
    """Re-expresses one model for one target, unless the result is there already.

    Args:
        item: the job's number, and where it stands.
        work: the batch.

    Yields:
        (a shard's key, (where the job stands, its first sample)) of every shard of its data; one without samples, where
        there is nothing to measure.
    """
    offset = min(item[1])
    job = work.job(offset)
    try:
        prepared = work.read("prepared", job.id) or _keys(job)
        if _converted(work, job, prepared["conversion"]) is None:
            with work.attempt(job.id):
                _convert(work, job, prepared)
        starts = range(0, len(open_samples(job)) if job.data else 1, work.shard)
    except Exception as error:
        failed(work, job, sentence(error))
        return
    for number, start in enumerate(starts):
        yield (job.number << SHARD_BITS) + number, (offset, start)


def _converted(work: Work, job: Job, key: str) -> dict[str, Any] | None:
    """What an earlier conversion gave, as long as its result is still what it wrote."""
    found = work.read("converted", job.id)
    if found is None or found.get("conversion") != key or not Path(job.output).is_file():
        return None
    return found if content(job.output) == found["sha256"] else None


def _convert(work: Work, job: Job, prepared: dict[str, Any]) -> None:
    start = time.monotonic()
    target, source = load_target(job.target_source), open_source(job)
    calibration: Any = job.calibration
    saved = prepared.get("calibration")
    if saved:
        path = work.folder / "calibrations" / saved
        calibration = calibrate(source.model, path, noise=False)
        if not _wants_noise(job, target):
            calibration = _without_noise(calibration)
    pins = {name: (float(low), float(high)) for name, (low, high) in job.options.get("pin_range", {}).items()}
    # What a graph was told is in the model that was opened, for all its targets.
    told = {name: value for name, value in job.options.items() if name not in GRAPH_OPTIONS}
    result = requantize(source.model, target, calibration=calibration, **told | {"pin_range": pins})
    warning = prove(result)
    Path(job.output).parent.mkdir(parents=True, exist_ok=True)
    save(job.output, result.model_bytes)
    # The share of what all jobs of the group waited for together.
    seconds = time.monotonic() - start + prepared.get("calibrated", 0.0) / max(1, prepared.get("group", 1))
    legality = check_legality(load_source(job.output).model, target)
    facts = {
        "conversion": prepared["conversion"], "bytes": len(result.model_bytes), "seconds": seconds,
        "sha256": hashlib.sha256(result.model_bytes).hexdigest(), "source_bytes": source.size,
        "legal": legality.legal, "violations": list(legality.violations), "accelerated": legality.accelerated,
        "host_ops": len(legality.host_ops), "notes": [*result.report.warnings, *filter(None, [warning])],
    }  # fmt: skip
    work.write("converted", job.id, facts)


def _without_noise(calibration: Calibration) -> Calibration:
    """The statistics as `requantize` would have collected them for this job alone."""
    return replace(calibration, noise={})


def validate_shard(item: tuple[int, Iterable[tuple[int, int]]], work: Work) -> Iterator[tuple[int, list[Shard]]]:
    """Measures one shard of a job's data.

    Args:
        item: the shard's key; where the job stands and the shard's first sample.
        work: the batch.

    Yields:
        (where the job stands, [what was measured]).
    """
    offset, start = min(item[1])
    job = work.job(offset)
    name = f"{job.id}/{start}"
    key = (work.read("prepared", job.id) or {}).get("key")
    shard = work.read("shards", name)
    if shard is None or shard.get("key") != key or shard.get("size") != work.shard or key is None:
        begun = time.monotonic()
        try:
            shard = measure_shard(job, start, work.shard)
        except Exception as error:
            shard = {"start": start, "sentence": sentence(error)}
        shard |= {"key": key, "size": work.shard, "seconds": time.monotonic() - begun}
        if not shard.get("sentence"):
            work.write("shards", name, shard)
    yield offset, [shard]


def finish(item: tuple[int, list[Shard]], work: Work) -> int:
    """Writes the record of one job from all its shards, and returns the job's number."""
    offset, shards = item
    job = work.job(offset)
    try:
        conclude(work, job, shards)
    except Exception as error:
        failed(work, job, sentence(error))
    release()  # nothing is measured any more once jobs are finished
    return job.number
