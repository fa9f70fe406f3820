"""TF1 graphs as jobs: bytes, figures and refusals of the single verbs, on Beam's own runner."""

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TF1 graphs need TensorFlow: pip install 'tf_requant[tensorflow]'")
pytest.importorskip("apache_beam", reason="batch needs Apache Beam: pip install 'tf_requant[beam]'")

import tf_requant  # noqa: E402
from tests.batch.jobs import written  # noqa: E402

pytestmark = pytest.mark.slow
TARGETS = ["nna_sym8_pow2", "tflite_uint8"]
TWO = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def rows_of(jobs: Path, output: Path) -> list[dict[str, Any]]:
    environment = os.environ | {"PYTHONPATH": str(Path(tf_requant.__file__).resolve().parents[1])}
    command = [sys.executable, "-m", "tf_requant", "batch", f"--jobs={jobs}", f"--output={output}", "--verbosity=-1", *TWO]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode in (0, 3), done.stderr
    return json.loads((output / "summary.json").read_text())["jobs"]


@pytest.fixture(scope="module")
def graphs(shared: Path) -> list[Path]:
    found = sorted((shared / "models/tf1").glob("*.pb"))
    assert found
    return found


def test_every_shared_graph_becomes_the_bytes_or_the_sentence_of_the_single_verb(tmp_path, graphs):
    jobs = written(tmp_path, *[{"model": str(graph), "targets": TARGETS} for graph in graphs])
    rows = rows_of(jobs, tmp_path / "out")
    for row, (graph, target) in zip(rows, [(g, t) for g in graphs for t in TARGETS], strict=True):
        assert (row["model"], row["target"]) == (graph.name, target)
        try:
            alone = tf_requant.requantize(graph, target)
        except tf_requant.RequantError as refused:
            assert (row["verdict"], row["sentence"], row["output"]) == ("failed", str(refused), None)
        else:
            assert row["verdict"] == "pass" and Path(row["output"]).read_bytes() == alone.model_bytes
    assert {row["verdict"] for row in rows} == {"pass", "failed"}  # the graph whose batch norm was left unfolded


def test_calibration_data_and_options_of_a_graph_mean_what_they_mean_to_the_verbs(tmp_path, graphs):
    sample = Path(str(resources.files("tf_requant.sample")))
    seen, others, stats = sample / "cifar10_calibration.npz", sample / "cifar10_evaluation.npz", [127.5, 127.5]
    line = {
        "model": str(graphs[0]), "targets": TARGETS[:1], "calibration": str(seen), "corrections": "thresholds,bias",
        "weights": "trained", "input_stats": stats, "data": str(others), "samples": 64,
    }  # fmt: skip
    (row,) = rows_of(written(tmp_path, line), tmp_path / "out")
    alone = tf_requant.requantize(
        graphs[0], TARGETS[0], calibration=seen, corrections="thresholds,bias", weights="trained", input_stats=(127.5, 127.5)
    )
    assert row["verdict"] == "pass" and Path(row["output"]).read_bytes() == alone.model_bytes
    with np.load(others) as file:
        check = tf_requant.validate(alone, reference=graphs[0], data=file["images"][:64], labels=file["labels"][:64])
    assert (row["agreement"], row["top1"], row["reference_top1"]) == (check.agreement, check.top1, check.reference_top1)
