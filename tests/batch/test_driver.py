"""What the driver does when the pipeline leaves jobs undone, or never ends."""

import os
import sys
import time
from pathlib import Path

import pytest

from tests.batch.jobs import nets, written
from tf_requant.batch import driver
from tf_requant.batch.driver import run_batch
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


def test_a_second_batch_in_one_folder_is_refused(tmp_path, jobs, monkeypatch):
    def inner(*_: object) -> bool:
        with pytest.raises(UsageError, match="another batch is at work"):
            run_batch(jobs, tmp_path / "out")
        return True

    monkeypatch.setattr(driver, "_one_pass", inner)
    run_batch(jobs, tmp_path / "out")
