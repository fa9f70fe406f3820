"""Every example, run as its head says: what it prints and writes, and the exit codes that a scheduler sees."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tf_requant
from tests import builders

FOLDER = Path(__file__).resolve().parents[2] / "examples"
JOBS = sorted(path.name for path in FOLDER.glob("*.py"))
SECONDS = 300


def run(name: str, *flags: object) -> subprocess.CompletedProcess[str]:
    """One example in a process of its own, which finds the package that the tests found."""
    paths = [str(Path(tf_requant.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHON": sys.executable}
    command = ["sh" if name.endswith(".sh") else sys.executable, str(FOLDER / name), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment)


def small(folder: Path, samples: int) -> tuple[Path, Path]:
    """A small network and input codes for it, as files."""
    (folder / "net.tflite").write_bytes(builders.small_net())
    np.save(folder / "data.npy", np.random.default_rng(0).integers(-128, 128, (samples, 8, 8, 3), np.int8))
    return folder / "net.tflite", folder / "data.npy"


@pytest.mark.parametrize("name", JOBS)
def test_an_example_says_for_whom_it_is_and_how_to_run_it(name):
    head = ast.get_docstring(ast.parse((FOLDER / name).read_text())) or ""
    assert re.search(r"^For ", head, re.MULTILINE), "for whom?"
    assert f"python examples/{name} " in head


@pytest.mark.parametrize("name", JOBS)
def test_help_shows_the_head_and_the_flags_and_exits_0(name):
    done = run(name, "--help")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert f"python examples/{name}" in done.stdout and "--output" in done.stdout


def test_a_flagfile_holds_a_job_and_one_gate_too_many_stops_it_with_3(tmp_path):
    more = ("--targets=nna_sym8,tflite_int8", f"--output={tmp_path / '{target}' / 'net.tflite'}")  # a later flag wins
    done = run("convert_job.py", f"--flagfile={FOLDER / 'job.flags'}", *more)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.count("passed") == 2
    assert {p.parent.name for p in tmp_path.rglob("net.tflite")} == {"nna_sym8", "tflite_int8"}
    model, data = small(tmp_path, 4)
    strict = (f"--model={model}", f"--data={data}", "--targets=nna_sym8", "--max_layer_error=-90", f"--output={tmp_path / 'strict'}")
    missed = run("convert_job.py", *strict)
    assert missed.returncode == 3 and "expected at most -90.0" in missed.stderr and not missed.stdout
    assert "Traceback" not in missed.stderr and not (tmp_path / "strict").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--targets=nowhere",), 'unknown target "nowhere"'),
        (("--targets=nna_sym8", "--no_such_flag"), "no_such_flag"),
        (("--targets=nna_sym8", "left_over"), "'left_over' is not a flag"),
        ((), "--targets"),
    ],
)
def test_what_a_job_cannot_use_exits_2_with_one_sentence(tmp_path, flags, sentence):
    done = run("convert_job.py", *flags, f"--output={tmp_path / 'out'}")
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_progress_is_logged_where_verbosity_asks_for_it(tmp_path):
    flags = (f"--model={small(tmp_path, 1)[0]}", "--targets=nna_sym8", f"--output={tmp_path}")
    assert "re-expressing for nna_sym8" in run("convert_job.py", *flags, "--verbosity=0").stderr


def test_the_gate_of_a_build_writes_junit_and_stops_with_3(tmp_path):
    model, data = small(tmp_path, 64)
    missed = run("gate_ci.sh", tmp_path / "gate", model, data, "nna_sym8_pow2", "1")  # 63 of 64 answers are the same
    assert missed.returncode == 3 and "expected at least 1.0" in missed.stderr, missed.stderr
    assert 'failures="0"' not in (tmp_path / "gate" / "junit.xml").read_text()
    assert run("gate_ci.sh").returncode == 2


def test_a_handoff_lists_what_lies_in_the_folder(tmp_path):
    done = run("firmware_handoff.py", f"--output={tmp_path}", "--samples=1")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    listed = dict(re.findall(r"^(\S+\.\w+) +(\d+)$", done.stdout, re.MULTILINE))
    assert {"nna_sym8_pow2.tflite", "program/program.nna", "program/golden/golden.npz"} <= set(listed)
    assert all((tmp_path / name).stat().st_size == int(size) for name, size in listed.items())


def test_a_target_of_ones_own_is_written_obeyed_and_simulated(tmp_path):
    done = run("custom_target.py", f"--output={tmp_path}", "--accumulator_bits=24")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert json.loads((tmp_path / "my_npu.json").read_text())["accumulator"]["bits"] == 24
    answers = re.findall(r"answers \[([\d, ]+)\]", done.stdout)
    assert len(answers) == 2 and len(answers[0].split(",")) == 8


@pytest.mark.skipif(importlib.util.find_spec("keras") is not None, reason="TensorFlow is installed")
def test_without_tensorflow_the_training_example_says_what_to_install(tmp_path):
    done = run("post_export_job.py", f"--output={tmp_path}")
    assert done.returncode == 2 and "pip install 'tf_requant[tensorflow]'" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_job_runs_on_the_bundled_network_as_its_head_says(tmp_path):
    gate = run("gate_ci.sh", tmp_path / "gate")
    assert gate.returncode == 0 and 'failures="0"' in (tmp_path / "gate" / "junit.xml").read_text(), gate.stderr
    done = run("convert_job.py", f"--flagfile={FOLDER / 'job.flags'}", f"--output={tmp_path / 'models'}")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert {p.stem for p in (tmp_path / "models").iterdir()} == {"nna_sym8", "nna_sym8_pow2", "tflite_int8"}


@pytest.mark.slow
def test_a_keras_model_passes_its_gate_and_a_gate_out_of_reach_exits_3(tmp_path):
    pytest.importorskip("tensorflow")
    done = run("post_export_job.py", f"--output={tmp_path}", f"--report={tmp_path / 'report'}", "--max_top1_drop=2")
    assert done.returncode == 0, done.stderr
    assert "nna_sym8_pow2: passed (PASS" in done.stdout and "target nna_sym8_pow2 obeyed" in done.stdout
    top1 = re.search(r"top-1 ([\d.]+)%", done.stdout)
    assert top1 is not None and float(top1[1]) > 95, "the net did not learn, so that its gate tells nothing"
    check = tf_requant.validate(
        tmp_path / "nna_sym8_pow2.tflite", reference=tmp_path / "nna_sym8_pow2.tflite", data=stripes(), target="nna_sym8_pow2"
    )
    assert check.passed
    assert (tmp_path / "report" / "nna_sym8_pow2" / "report.html").is_file()
    missed = run("post_export_job.py", f"--output={tmp_path / 'missed'}", "--max_layer_error=-60")
    assert missed.returncode == 3 and "nna_sym8_pow2: layer" in missed.stderr and "expected at most -60.0" in missed.stderr
    assert "Traceback" not in missed.stderr and not missed.stdout and not (tmp_path / "missed").exists()


def stripes() -> np.ndarray:
    return np.random.default_rng(9).uniform(-1, 1, (4, 16, 16, 1)).astype(np.float32)
