"""What waits for the pipeline: passes over the jobs until each has its record, or none comes any more.

A pass is a process group of its own. It is ended when it is done, when a worker of Beam's own runner died (that runner then
waits forever), or when nothing was written for a long time (a client of Dask waits forever for a cluster that is gone). What
it left undone is the next pass's; what no pass brings is lost, and is told.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from absl import logging

from tf_requant.batch.conclusions import LOST, base
from tf_requant.batch.job_line import resolved
from tf_requant.batch.jobs import Job, read_jobs
from tf_requant.batch.pipeline import DASK, DIRECT, beam_flags
from tf_requant.batch.summary import Summary, summarize
from tf_requant.batch.work import KINDS, Work
from tf_requant.errors import UsageError
from tf_requant.io.tflite_writer import save
from tf_requant.pipeline.validate import BATCH

SHARD = 8 * BATCH
"""Samples of one shard of validation."""
MOST_PARTITIONS = 32
"""Of a Dask bag: each grouping makes tasks for every pair of partitions."""
MOST_WORKERS = 1024
"""Processes of Beam's own runner on this machine."""
PASSES = 4
STALLED = 3600.0
"""Seconds without a single file written after which a pass is given up."""
_POLL = 0.5
_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

Progress = Callable[[int, int], None]


def run_batch(
    jobs_file: Path,
    output: Path,
    *,
    runner: str = DIRECT,
    flags: Sequence[str] = (),
    own: Sequence[str] = (),
    shard: int = SHARD,
    overwrite: bool = False,
    stalled: float = STALLED,
    progress: Progress | None = None,
) -> Summary:
    """Runs the jobs of a file and writes their summary.

    Args:
        jobs_file: one JSON object a line.
        output: the folder of results, state and summary.
        runner: Beam's name of a runner.
        flags: further flags for Beam.
        own: names of the verb's flags, for a hint where a flag is unknown.
        shard: samples of one shard of validation, rounded up to a multiple of 32.
        overwrite: whether files may be replaced that no earlier run of this batch wrote.
        stalled: seconds without a file written after which a pass is given up.
        progress: called with (jobs done, jobs in all).

    Raises:
        UsageError: the jobs, the runner or a flag cannot be used; nothing has run then.
    """
    checked = beam_flags(runner, flags, own)
    output = Path(resolved(str(output), Path()))
    jobs = read_jobs(jobs_file, output)
    work = Work(str(output), secrets.token_hex(8), -(-shard // BATCH) * BATCH)
    checked, workers = _with_workers(runner, checked, len(jobs))
    _refuse_foreign(work, jobs, overwrite)
    try:
        work.make()
    except OSError as error:
        raise UsageError(f"--output={output}: cannot be made ({error.strerror})") from error
    start = time.monotonic()
    with _locked(work):
        offsets = _write_jobs(work, jobs)
        _passes(work, jobs, offsets, checked, workers, stalled, progress)
        for job in jobs:
            if work.record(job) is None:
                why = "lost: the runner ended without a record of it; run the batch again"
                work.write("results", job.id, base(job, work.run, LOST, why) | {"output": None})
        summary = summarize(work, jobs, time.monotonic() - start)
        summary.save(output)
        _clear(work)
    return summary


def _refuse_foreign(work: Work, jobs: Sequence[Job], overwrite: bool) -> None:
    """Refuses to replace files that no run of this batch wrote.

    Raises:
        UsageError: there is one.
    """
    foreign = [j for j in jobs if not overwrite and Path(j.output).exists() and not work.path("converted", j.id).exists()]
    if foreign:
        told = (f"line {job.line}: the output {job.output} exists; pass --overwrite to replace it" for job in foreign[:20])
        raise UsageError("\n".join(told))


@contextmanager
def _locked(work: Work) -> Iterator[None]:
    """Keeps a second batch out of the folder.

    Raises:
        UsageError: another one is at work there.
    """
    with (work.folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"--output={work.output}: another batch is at work there") from error
        yield


def _with_workers(runner: str, flags: list[str], jobs: int) -> tuple[list[str], int]:
    """The flags, with a process a core for Beam's own runner where none say otherwise, and how many share this machine.

    Raises:
        UsageError: a number of processes that is none, or that no machine has the memory for.
    """
    # --name=value, or --name and then the value.
    told = {flag.partition("=")[0]: flag.partition("=")[2] or after for flag, after in zip(flags, [*flags[1:], ""])}
    if told["--runner"] == DASK and not any(name.startswith("--dask_n") or name.startswith("--dask_part") for name in told):
        # By default a hundred jobs are one partition, which one worker takes.
        return [*flags, f"--dask_npartitions={min(jobs, MOST_PARTITIONS)}"], _cores()
    if runner != DIRECT:
        return flags, _cores()
    if not any(name.startswith("--direct_") for name in told):
        workers = max(1, min(_cores(), jobs))
        several = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"] if workers > 1 else []
        return [*flags, *several], workers
    number = int(told.get("--direct_num_workers", "1"))  # Beam's own parser has seen it
    if not 0 <= number <= MOST_WORKERS:
        raise UsageError(f"--direct_num_workers={number}: expected 0, for one a core, to {MOST_WORKERS}")
    return flags, number or _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_jobs(work: Work, jobs: Sequence[Job]) -> list[int]:
    """Writes the file of jobs, and returns where each stands."""
    for old in work.folder.glob("jobs.*.jsonl"):
        old.unlink()
    lines = [json.dumps(job.to_dict()).encode() + b"\n" for job in jobs]
    offsets, at = [], 0
    for line in lines:
        offsets.append(at)
        at += len(line)
    save(work.jobs, b"".join(lines))
    return offsets


def _passes(
    work: Work, jobs: Sequence[Job], offsets: Sequence[int], flags: list[str], workers: int, stalled: float,
    progress: Progress | None,
) -> None:  # fmt: skip
    threads = str(max(1, _cores() // workers))
    # Set before numpy loads: each process gets its share of the cores.
    environment = {**dict.fromkeys(_BLAS, threads), **os.environ, "PYTHONPATH": _python_path()}
    left, stalls = list(zip(jobs, offsets)), 0
    for number in range(PASSES):
        before = len(left)
        if number:
            logging.warning("%d of %d jobs have no record: pass %d runs them again", before, len(jobs), number + 1)
        request = {
            "work": asdict(work), "places": [(job.group, at) for job, at in left], "flags": flags,
            "verbosity": logging.get_verbosity() - 1, "parent": os.getpid(),
        }  # fmt: skip
        path = work.folder / "pass.json"
        save(path, json.dumps(request).encode())
        try:
            stalls += _one_pass(work, path, environment, stalled, _teller(progress, len(jobs) - before, len(jobs)))
        except UsageError:
            if not number:
                raise  # later it is a fault among others: work was done, and the summary tells of it
        left = [(job, at) for job, at in left if work.record(job) is None]
        if not left or stalls > 1:
            return


def _teller(progress: Progress | None, before: int, total: int) -> Callable[[int], None]:
    """Takes how many jobs of a pass are done, and tells how many of all."""
    return lambda done: None if progress is None else progress(min(before + done, total), total)


def _one_pass(work: Work, path: Path, environment: Mapping[str, str], stalled: float, tell: Callable[[int], None]) -> bool:
    """Runs a pass to its end, or ends it where it stalls, and returns whether it did.

    Raises:
        UsageError: the runner ended in an error before any job began: a cluster that is not there, a package or flag of its
            own that is missing.
    """
    log: IO[bytes]
    before = _progress_of(work, 0)[1]
    with (work.folder / "pass.log").open("wb") as log:
        command = [sys.executable, "-m", "tf_requant.batch.one_pass", str(path)]
        child = subprocess.Popen(
            command, env=dict(environment), start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            given_up = _wait(work, child, stalled, tell)
        finally:
            _end(child)
    if child.returncode and not given_up:
        tail = (work.folder / "pass.log").read_bytes()[-2000:].decode(errors="replace")
        if child.returncode == 1 and _progress_of(work, 0)[1] == before:
            last = tail.strip().rpartition("\n")[2]
            raise UsageError(f"the runner ended before any job began: {last or 'it said nothing'}")
        logging.warning("the runner ended with exit code %d:\n%s", child.returncode, tail)
    return given_up


def _wait(work: Work, child: subprocess.Popen[bytes], stalled: float, tell: Callable[[int], None]) -> bool:
    """Waits for the child, tells how far it is, and returns whether nothing was written any more."""
    begun, last, moved, looked = time.time(), -1.0, time.monotonic(), 0.0
    pause = _POLL
    while child.poll() is None:
        time.sleep(min(_POLL, 0.1 if time.monotonic() - looked < 1 else _POLL))
        if time.monotonic() - looked < pause:
            continue
        looked = time.monotonic()
        done, newest = _progress_of(work, begun)
        pause = max(_POLL, 20 * (time.monotonic() - looked))  # many files take their time
        if newest > last:
            last, moved = newest, time.monotonic()
        if time.monotonic() - moved > stalled:
            logging.warning("nothing was written for %.0f s: the pass is given up", stalled)
            return True
        tell(done)
    return False


def _progress_of(work: Work, begun: float) -> tuple[int, float]:
    """How many jobs were ended since, those converted counting half, and when the state changed last."""
    ended, converted = (
        {entry.name: entry.stat().st_mtime for entry in os.scandir(work.folder / kind)} for kind in ("results", "converted")
    )
    folders = [(work.folder / kind).stat().st_mtime for kind in KINDS]
    # A shard's folder changes with each shard.
    shards = [entry.stat().st_mtime for entry in os.scandir(work.folder / "shards")]
    over, halfway = ({name for name, at in times.items() if at >= begun - 1} for times in (ended, converted))
    return len(over) + len(halfway - over) // 2, max([*folders, *shards, *ended.values()])


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends the child and the workers that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # all of them are gone
    child.wait()


def _python_path() -> str:
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


def _clear(work: Work) -> None:
    """Removes what only an unfinished run needs."""
    shutil.rmtree(work.folder / "shards", ignore_errors=True)
    (work.folder / "pass.json").unlink(missing_ok=True)
