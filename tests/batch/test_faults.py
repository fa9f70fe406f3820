"""Workers that die, and very many jobs: nothing is lost, bytes stay the same, memory stays flat."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import tf_requant
from tests.batch.jobs import images, nets, written
from tests.batch.processes import descendants, resident, wait_for

pytest.importorskip("apache_beam")
pytestmark = pytest.mark.slow
TARGETS = ["nna_sym8_pow2", "tflite_int8", "nna_usym8", "ethos_u"]
TWO = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(tf_requant.__file__).resolve().parents[1]), "OPENBLAS_NUM_THREADS": "1"}


@contextmanager
def running(jobs: Path, output: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tf_requant", "batch", f"--jobs={jobs}", f"--output={output}", *flags]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def summary(output: Path) -> dict[str, Any]:
    return json.loads((output / "summary.json").read_text())


def records(output: Path) -> int:
    return len(list((output / ".work/results").glob("*.json")))


def conversions(output: Path) -> int:
    return len(list((output / ".work/converted").glob("*.json")))


def figures(output: Path) -> list[tuple[Any, ...]]:
    """What has to be the same on every runner."""
    names = ("model", "target", "verdict", "agreement", "agreement_low", "top1", "sqnr", "worst_layer", "worst_layer_sqnr", "sha256")
    return [tuple(row[name] for name in names) for row in summary(output)["jobs"]]


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    images(tmp_path, "data.npz", 70, 3)
    images(tmp_path, "seen.npz", 8, 4)
    line = {"targets": TARGETS, "data": "data.npz", "calibration": "seen.npz"}
    return written(tmp_path, *[line | {"model": model} for model in nets(tmp_path, 3)])


@pytest.fixture
def right(tmp_path: Path, jobs: Path) -> list[tuple[Any, ...]]:
    """The figures of one process, which are checked against the verbs elsewhere."""
    with running(jobs, tmp_path / "one", "--direct_num_workers=1") as process:
        assert process.wait(600) == 0
    return figures(tmp_path / "one")


def test_a_killed_worker_of_the_direct_runner_loses_nothing(tmp_path, jobs, right):
    output = tmp_path / "out"
    with running(jobs, output, "--shard=32", *TWO) as process:
        wait_for(lambda: (output / ".work/converted").is_dir() and conversions(output) >= 3, 120)
        workers = [pid for pid, command in descendants(process.pid).items() if "sdk_worker_main" in command]
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait(600) == 0
        assert b"have no record" in process.stderr.read()  # a second pass brought them
    assert summary(output)["counts"]["lost"] == 0 and figures(output) == right


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two worker processes of Dask on the loopback address."""
    with socket.socket() as probe, ExitStack() as stack:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        common = ["--host", "127.0.0.1", "--no-dashboard"]
        nodes = []
        for n, arguments in enumerate(
            [["scheduler", "--port", address.rpartition(":")[2]], *[["worker", address, "--nthreads", "1", "--no-nanny"]] * 2]
        ):
            log = stack.enter_context((folder / f"dask{n}.log").open("wb"))
            command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:], *common]
            nodes.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log))
            stack.callback(nodes[-1].wait)
            stack.callback(nodes[-1].kill)
        wait_for(lambda: (folder / "dask0.log").read_text().count("Register worker") >= 2, 60)
        yield address, nodes[1:]


@pytest.mark.parametrize("kill", [False, True], ids=["both workers live", "one worker dies"])
def test_a_dask_cluster_gives_the_same_bytes(tmp_path, jobs, right, kill):
    pytest.importorskip("dask.distributed")
    output = tmp_path / "out"
    flags = ["--shard=32", "--runner=DaskRunner", "--dask_npartitions=4"]
    with cluster(tmp_path) as (address, workers), running(jobs, output, *flags, f"--dask_client_address={address}") as process:
        if kill:
            wait_for(lambda: (output / ".work/converted").is_dir() and conversions(output) >= 3, 120)
            workers[0].kill()
        assert process.wait(900) == 0, process.stderr.read().decode()
    assert summary(output)["counts"]["lost"] == 0 and figures(output) == right


def test_a_dask_cluster_that_is_gone_is_told_and_a_rerun_finishes(tmp_path, jobs, right):
    pytest.importorskip("dask.distributed")
    output = tmp_path / "out"
    flags = ["--stalled=20", "--runner=DaskRunner", "--dask_npartitions=4"]
    with cluster(tmp_path) as (address, workers), running(jobs, output, *flags, f"--dask_client_address={address}") as process:
        wait_for(lambda: (output / ".work/converted").is_dir() and conversions(output) >= 3, 120)
        for worker in workers:
            worker.kill()
        assert process.wait(300) == 3
    counts = summary(output)["counts"]
    assert counts["lost"] > 0 and counts["jobs"] == len(right)
    with running(jobs, output, *TWO) as process:
        assert process.wait(600) == 0
    assert figures(output) == right


def test_a_thousand_jobs_are_all_there_and_memory_stays_flat(tmp_path):
    images(tmp_path, "data.npz", 8, 3)
    targets = [
        *TARGETS, "tflite_uint8", "tflite_int8_per_tensor", "nna_sym8", "nna_sym8_per_channel", "nna_usym8_pow2", "gemmini_f32"
    ]  # fmt: skip
    lines = [{"model": model, "targets": targets, "corrections": "none"} for model in nets(tmp_path, 100)]
    for line in lines[::10]:
        line["data"] = "data.npz"
    output = tmp_path / "out"
    held: list[int] = []
    with running(written(tmp_path, *lines), output, *TWO) as process:
        while process.poll() is None:
            time.sleep(2)
            if (output / ".work/converted").is_dir() and conversions(output) >= 50:
                below = [pid for pid, command in descendants(process.pid).items() if "runtime.worker" not in command]
                held.append(sum(map(resident, [process.pid, *below])))
    assert process.returncode == 0
    found = summary(output)
    assert found["counts"]["jobs"] == found["counts"]["done"] == 1000 == len({row["id"] for row in found["jobs"]})
    half = len(held) // 2
    # 60 MB over four processes: allocators, Beam's own bookkeeping and the rows of the summary.
    assert max(held[half:]) < max(held[:half]) + 60e6, [round(h / 1e6) for h in held]
