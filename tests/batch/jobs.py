"""Job files and data for the tests of `batch`."""

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders import small_net
from tf_requant.batch import shards, steps
from tf_requant.batch.driver import _write_jobs
from tf_requant.batch.jobs import Job, read_jobs
from tf_requant.batch.work import Work


def written(folder: Path, *lines: dict[str, Any] | str) -> Path:
    """A job file."""
    path = folder / "jobs.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def nets(folder: Path, count: int) -> list[str]:
    """Small models that differ in their weights."""
    names = [f"net{n}.tflite" for n in range(count)]
    for n, name in enumerate(names):
        (folder / name).write_bytes(small_net("uint8", seed=n))
    return names


def images(folder: Path, name: str, count: int, seed: int, labels: bool = True) -> str:
    """Random pixels for the small models."""
    random = np.random.default_rng(seed)
    arrays = {"images": random.integers(0, 256, (count, 8, 8, 3), np.uint8)}
    if labels:
        arrays["labels"] = random.integers(0, 4, count)
    np.savez(folder / name, **arrays)
    return name


def prepared(folder: Path, jobs: Path, run: str = "one", shard: int = 32) -> tuple[Work, tuple[Job, ...], list[int]]:
    """The state of a batch whose steps are then called one by one."""
    work = Work(str(folder), run, shard)
    work.make()
    found = read_jobs(jobs, folder)
    return work, found, _write_jobs(work, found)


def grouped(pairs: Iterable[tuple[int, Any]]) -> list[tuple[int, list[Any]]]:
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return [(key, [value for _, value in group]) for key, group in groupby(ordered, key=lambda pair: pair[0])]


def by_hand(work: Work, jobs: tuple[Job, ...], offsets: list[int]) -> list[dict[str, Any]]:
    """What the pipeline does, without Beam; the records."""
    todo = [pair for group in grouped((job.group, at) for job, at in zip(jobs, offsets)) for pair in steps.calibrate_once(group, work)]
    parts = [pair for item in grouped(todo) for pair in steps.convert(item, work)]
    measured = [pair for item in grouped(parts) for pair in steps.validate_shard(item, work)]
    for offset, found in grouped(measured):
        steps.finish((offset, shards.merge(found)), work)
    return [record for job in jobs if (record := work.record(job)) is not None]
