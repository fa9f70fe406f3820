"""What the driver does when the pipeline leaves jobs undone, or never ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.batch.jobs import nets, written
from tests.batch.processes import wait_for
from tf_requant.batch import driver
from tf_requant.batch.driver import run_batch
from tf_requant.batch.work import Work
from tf_requant.errors import UsageError


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(driver, "beam_flags", lambda runner, flags, own: [f"--runner={runner}"])
    return written(tmp_path, {"model": nets(tmp_path, 1)[0], "targets": ["nna_sym8", "ethos_u"]})


def test_a_job_without_a_record_is_lost_and_told(tmp_path, jobs, monkeypatch):
    passes = []
    monkeypatch.setattr(driver, "_one_pass", lambda *a: bool(passes.append(a)))
    summary = run_batch(jobs, tmp_path / "out")
    assert summary.counts == {"jobs": 2, "done": 0, "skipped": 0, "failed": 0, "lost": 2, "missed": 0}
    assert len(passes) == driver.PASSES and not summary.passed and "run the batch again" in summary.problems[0]


def test_a_pass_that_writes_nothing_is_given_up_and_its_processes_end(tmp_path, jobs, monkeypatch):
    script = tmp_path / "asleep.sh"
    script.write_text(f"#!/bin/sh\nsleep 600 &\necho $! >> {tmp_path}/pids\nwait\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    start = time.monotonic()
    summary = run_batch(jobs, tmp_path / "out", stalled=1)
    assert summary.counts["lost"] == 2 and time.monotonic() - start < 30
    for pid in (tmp_path / "pids").read_text().split():
        with pytest.raises(ProcessLookupError):
            for _ in range(50):
                os.kill(int(pid), 0)
                time.sleep(0.1)


def test_a_job_that_is_converted_is_half_done(tmp_path):
    work = Work(str(tmp_path), "one", 32)
    work.make()
    for name in ("a", "b", "c"):
        work.write("converted", name, {})
    assert driver._progress_of(work, 0)[0] == 1
    for name in ("a", "d"):
        work.write("results", name, {})
    assert driver._progress_of(work, 0)[0] == 3 and driver._progress_of(work, time.time() + 9)[0] == 0


def test_a_second_batch_in_one_folder_is_refused(tmp_path, jobs, monkeypatch):
    def inner(*_: object) -> bool:
        with pytest.raises(UsageError, match="another batch is at work"):
            run_batch(jobs, tmp_path / "out")
        return True

    monkeypatch.setattr(driver, "_one_pass", inner)
    run_batch(jobs, tmp_path / "out")


def test_a_runner_that_fails_before_any_job_began_is_told(tmp_path, jobs, monkeypatch):
    script = tmp_path / "fails.sh"
    script.write_text("#!/bin/sh\necho one\necho 'no cluster there' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(UsageError, match="ended before any job began: no cluster there$"):
        run_batch(jobs, tmp_path / "out")


def test_a_pass_does_not_outlive_what_waits_for_it(tmp_path):
    waits = "import os; from tf_requant.batch import one_pass; print(os.getpid(), flush=True); one_pass._outlive_nobody(os.getppid())"
    starts = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {waits!r}], start_new_session=True).wait()
"""
    root = str(Path(driver.__file__).resolve().parents[2])
    parent = subprocess.Popen([sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root})
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(2)
    os.kill(pid, 0)  # it waits as long as its parent does
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: gone(pid), 30)


def gone(pid: int) -> bool:
    """Whether a process ended; where nobody reaps orphans, it stays as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
