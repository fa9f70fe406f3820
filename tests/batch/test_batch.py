"""The verb on Beam's own runner: flags, exit codes, the files that it leaves, and a job that is lost."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tf_requant
from tests.batch.jobs import images, nets, written

pytest.importorskip("apache_beam")


def batch(jobs: Path, output: Path, *flags: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tf_requant", "batch", f"--jobs={jobs}", f"--output={output}", "--verbosity=-1", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **more)


def documents(output: Path) -> dict[str, Any]:
    return json.loads((output / "summary.json").read_text())


def test_every_job_is_in_the_summary_and_a_failed_one_is_one_dead_letter(tmp_path):
    models = nets(tmp_path, 2)
    (tmp_path / "broken.tflite").write_bytes(b"no model at all")
    images(tmp_path, "data.npz", 40, 3)
    targets = ["nna_sym8", "tflite_int8"]
    jobs = written(
        tmp_path, *[{"model": m, "targets": targets, "data": "data.npz"} for m in models],
        {"model": "broken.tflite", "targets": ["nna_sym8"]},
    )  # fmt: skip
    output = tmp_path / "out"
    done = batch(jobs, output, "--direct_num_workers=1")
    assert done.returncode == 3, done.stderr
    assert "line 3, broken.tflite for nna_sym8: " in done.stderr and "Traceback" not in done.stderr
    summary = documents(output)
    assert summary["counts"] == {"jobs": 5, "done": 4, "skipped": 0, "failed": 1, "lost": 0, "missed": 0}
    assert [(r["model"], r["target"]) for r in summary["jobs"]] == [*((m, t) for m in models for t in targets), ("broken.tflite", "nna_sym8")]
    for row in summary["jobs"][:4]:
        alone = tf_requant.requantize(tmp_path / row["model"], row["target"])
        assert Path(row["output"]).read_bytes() == alone.model_bytes
    (letter,) = [json.loads(line) for line in (output / "dead_letters.jsonl").read_text().splitlines()]
    assert letter["sentence"] == summary["jobs"][4]["sentence"] != ""
    assert len(list(csv.DictReader((output / "summary.csv").open()))) == 5
    page = (output / "summary.html").read_text()
    assert page.count("http://") == page.count("http://www.w3.org/") and "https://" not in page
    again = batch(jobs, output, "--direct_num_workers=1")
    assert again.returncode == 3 and documents(output)["counts"]["skipped"] == 4


def test_two_worker_processes_give_the_bytes_of_one(tmp_path):
    images(tmp_path, "data.npz", 70, 3)
    images(tmp_path, "seen.npz", 8, 4)
    lines = [{"model": m, "targets": ["nna_sym8_pow2"], "data": "data.npz", "calibration": "seen.npz"} for m in nets(tmp_path, 2)]
    jobs = written(tmp_path, *[line | {"corrections": "thresholds"} for line in lines])
    flags = {"one": ["--direct_num_workers=1"], "two": ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]}
    for name, given in flags.items():
        assert batch(jobs, tmp_path / name, "--shard=32", *given).returncode == 0
    one, two = (documents(tmp_path / name)["jobs"] for name in flags)
    for a, b in zip(one, two, strict=True):
        assert Path(a["output"]).read_bytes() == Path(b["output"]).read_bytes()
        assert {k: a[k] for k in ("agreement", "sqnr", "worst_layer_sqnr", "top1")} == {
            k: b[k] for k in ("agreement", "sqnr", "worst_layer_sqnr", "top1")
        }


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--jobz=x", "did you mean --jobs?"),
        ("--direct_num_worker=2", "did you mean --direct_num_workers?"),
        ("--runner=DirektRunner", "did you mean DirectRunner?"),
        ("--runner=no.such.Runner", "no.such"),
        ("--runner=apache_beam.Pipeline", "is a Pipeline, expected a runner of Beam's"),
        ("--runner=os.path", "unknown runner 'os.path'"),
        ("--direct_num_workers=two", "in the flags for Beam"),
        ("--direct_num_workers=-1", "expected 0, for one a core, to 1024"),
        ("stray", "'stray' is not a flag"),
    ],
)
def test_a_flag_that_nobody_knows_is_refused_before_anything_runs(tmp_path, flag, sentence):
    jobs = written(tmp_path, {"model": nets(tmp_path, 1)[0], "targets": ["nna_sym8"]})
    refused = batch(jobs, tmp_path / "out", flag)
    assert refused.returncode == 2 and sentence in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_runner_that_cannot_start_is_told_in_its_own_words(tmp_path):
    jobs = written(tmp_path, {"model": nets(tmp_path, 1)[0], "targets": ["nna_sym8"]})
    refused = batch(jobs, tmp_path / "out", "--runner=PortableRunner")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "the runner ended before any job began: " in refused.stderr and "--job_endpoint" in refused.stderr


def test_wrong_lines_exit_2_and_nothing_runs(tmp_path):
    refused = batch(written(tmp_path, "{", {"model": "gone", "targets": ["nna_sym8"]}), tmp_path / "out")
    assert refused.returncode == 2 and "line 1: no JSON" in refused.stderr and "line 2: model: there is nothing" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_no_run_wrote_is_not_replaced(tmp_path):
    jobs = written(tmp_path, {"model": nets(tmp_path, 1)[0], "targets": ["nna_sym8"], "output": "mine.tflite"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.tflite").write_bytes(b"mine")
    refused = batch(jobs, tmp_path / "out")
    assert refused.returncode == 2 and "line 1: the output" in refused.stderr and "--overwrite" in refused.stderr
    assert (tmp_path / "out/mine.tflite").read_bytes() == b"mine"


def test_without_beam_one_sentence_names_the_extra(tmp_path):
    hidden = tmp_path / "hidden/apache_beam"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'apache_beam'\")")
    jobs = written(tmp_path, {"model": nets(tmp_path, 1)[0], "targets": ["nna_sym8"]})
    root = str(Path(tf_requant.__file__).resolve().parents[1])
    import os

    refused = batch(jobs, tmp_path / "out", env={**os.environ, "PYTHONPATH": f"{hidden.parent}:{root}"})
    assert refused.returncode == 2 and "pip install 'tf_requant[beam]'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
