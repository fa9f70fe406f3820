"""A job file is told wrong line by line, before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.batch.jobs import images, nets, written
from tf_requant.batch.jobs import Job, read_jobs
from tf_requant.errors import UsageError
from tf_requant.targets import load_target


def jobs_of(tmp_path: Path, *lines: dict[str, Any] | str) -> tuple[Job, ...]:
    return read_jobs(written(tmp_path, *lines), tmp_path / "out")


@pytest.fixture
def model(tmp_path: Path) -> str:
    return nets(tmp_path, 1)[0]


def test_a_line_is_one_job_a_target_in_its_order(tmp_path, model):
    jobs = jobs_of(tmp_path, {"model": model, "targets": ["nna_sym8", "tflite_int8"]}, "", {"model": model, "targets": "ethos_u"})
    assert [(j.number, j.line, j.target) for j in jobs] == [(0, 1, "nna_sym8"), (1, 1, "tflite_int8"), (2, 3, "ethos_u")]
    assert [Path(j.output).relative_to(tmp_path / "out") for j in jobs] == [
        Path("net0/nna_sym8.tflite"), Path("net0/tflite_int8.tflite"), Path("net0/ethos_u.tflite")
    ]  # fmt: skip


def test_paths_are_relative_to_the_job_file_and_results_to_the_output(tmp_path, model):
    images(tmp_path, "data.npz", 2, 0)
    line = {"model": model, "targets": ["nna_sym8"], "data": "data.npz", "output": "by_target/{target}/{model}.tflite"}
    (job,) = jobs_of(tmp_path, line)
    assert (job.model, job.data) == (str(tmp_path / model), str(tmp_path / "data.npz"))
    assert job.output == str(tmp_path / "out/by_target/nna_sym8/net0.tflite")


def test_a_target_file_counts_by_the_name_that_it_gives(tmp_path, model):
    document = load_target("nna_sym8").derive(name="my_npu").to_dict()
    (tmp_path / "chip.json").write_text(json.dumps(document))
    (job,) = jobs_of(tmp_path, {"model": model, "targets": ["chip.json"]})
    assert (job.target, job.target_source) == ("my_npu", str(tmp_path / "chip.json"))


def test_jobs_of_one_model_and_calibration_are_one_group(tmp_path, model):
    images(tmp_path, "seen.npz", 2, 0)
    images(tmp_path, "other.npz", 2, 1)
    jobs = jobs_of(
        tmp_path,
        {"model": model, "targets": ["nna_sym8", "ethos_u"], "calibration": "seen.npz"},
        {"model": model, "targets": ["tflite_int8"], "calibration": "seen.npz"},
        {"model": model, "targets": ["nna_usym8"], "calibration": "other.npz"},
    )
    assert [job.group for job in jobs] == [0, 0, 0, 1]


def test_a_job_survives_the_file_that_it_travels_in(tmp_path, model):
    (job,) = jobs_of(tmp_path, {"model": model, "targets": ["nna_sym8"], "keep": "SOFTMAX", "pin_range": {"x": [0, 1]}})
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "no JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"model": "net0.tflite", "model": "net0.tflite", "targets": "nna_sym8"}', "model stands there twice"),
        ({"targets": ["nna_sym8"]}, "model is missing"),
        ({"model": "net0.tflite"}, "targets is missing"),
        ({"model": "net0.tflite", "targets": []}, "targets: expected a text or a list"),
        ({"model": "net0.tflite", "targets": ["nna_sym9"]}, "did you mean nna_sym8"),
        ({"model": "gone.tflite", "targets": ["nna_sym8"]}, "model: there is nothing at"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "data": "gone"}, "data: there is nothing at"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "calibratoin": "x"}, "did you mean calibration?"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "io": "int"}, "io: expected one of target, source, float"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "samples": 0}, "samples: expected a whole number from 1"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "samples": True}, "samples: expected a whole number"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "keep": "("}, "is no regular expression"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "corrections": "magic"}, "corrections names 'magic'"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "corrections": "gptq"}, "give calibration data"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "pin_range": {"x": [1]}}, "expected [minimum, maximum]"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "thresholds": {"min_agreement": 0.5}}, "there is no `data`"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "thresholds": {"min_agreemnt": 1}}, "did you mean min_agreement?"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "thresholds": {"min_agreement": 97}}, "from 0 to 1, got 97"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "thresholds": {"min_agreement": -0.1}}, "from 0 to 1, got -0.1"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "thresholds": {"max_top1_drop": -1}}, "points from 0 to 100, got -1"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "thresholds": {"max_layer_error": 15}}, "a number below 0, got 15"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "thresholds": {"max_top1_drop": 10**400}}, "expected a number"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "pin_range": {"x": [1, 0]}}, "expected [minimum, maximum], got [1, 0]"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "bits": "4"}, "bits: expected a whole number of bits"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "bits": [4]}, "stores weights of 8 bits, not of 4"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "activation_bits": "6"}, "activation_bits: expected a whole number of bits"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "activation_bits": [6]}, "stores activations of 8 bits, not of 6"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "bits": 8, "budget": "weights:2"}, "is no budget"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "bits": 8, "budget": "weights:1"}, "there is no `calibration`"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "inputs": "x"}, "is for TF1 graphs"),
        ({"model": "graph.pb", "targets": ["nna_sym8"], "input_stats": [300, 1]}, "mean 300"),
        ({"model": "graph.pb", "targets": ["nna_sym8"], "inputs": "x:axb"}, "expected NAME or NAME:1x224x224x3"),
        ({"model": "a\0b", "targets": ["nna_sym8"]}, "model: expected a text"),
        ({"model": "net0.tflite", "targets": ["\ud800.json"]}, "targets: expected a text or a list"),
        ({"model": "x" * 5000, "targets": ["nna_sym8"]}, "model: File name too long"),
        ({"model": "~nobody at all/x", "targets": ["nna_sym8"]}, "is no path"),
        ({"model": "loop", "targets": ["nna_sym8"]}, "is no path"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "output": "/tmp/x.tflite"}, "lies outside of --output="),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "output": "../x.tflite"}, "lies outside of --output="),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "output": "{model.__class__}.tflite"}, "only {target} and {model}"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "output": "{target:>999999999}.tflite"}, "only {target} and {model}"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "output": "x" * 300 + ".tflite"}, "too long for a file"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "output": "{chip}.tflite"}, "only {target} and {model}"),
        ({"model": "net0.tflite", "targets": ["nna_sym8", "ethos_u"], "output": "x.tflite"}, "one file for 2 targets"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "output": ".work/x.tflite"}, "the batch's own state"),
        ({"model": "net0.tflite", "targets": ["nna_sym8"], "output": "../net0.tflite"}, "lies outside of --output="),
    ],
)
def test_what_is_wrong_is_told_by_line(tmp_path, model, line, sentence):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "graph.pb").touch()
    with pytest.raises(UsageError) as refused:
        jobs_of(tmp_path, {"model": model, "targets": ["tflite_int8"]}, line)
    assert "line 2: " in str(refused.value) and sentence in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_two_jobs_of_one_output_are_told_with_both_lines(tmp_path, model):
    with pytest.raises(UsageError, match="line 2: .* is also that of line 1, target nna_sym8"):
        jobs_of(tmp_path, {"model": model, "targets": ["nna_sym8"]}, {"model": model, "targets": ["nna_sym8"]})


def test_an_output_that_is_an_input_is_told(tmp_path, model):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.tflite").write_bytes((tmp_path / model).read_bytes())
    with pytest.raises(UsageError, match="line 1: the output .*mine.tflite is an input of line 1"):
        jobs_of(tmp_path, {"model": "out/mine.tflite", "targets": ["nna_sym8"], "output": "mine.tflite"})


def test_an_output_within_another_or_within_a_file_is_told(tmp_path, model):
    lines = [{"model": model, "targets": ["nna_sym8"], "output": output} for output in ("a.tflite/b.tflite", "a.tflite")]
    with pytest.raises(UsageError, match="line 1: the output .* would lie in that of line 2, which is a file"):
        jobs_of(tmp_path, *lines)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.tflite").touch()
    with pytest.raises(UsageError, match="line 1: the output .* would lie in .*a.tflite, which is a file"):
        jobs_of(tmp_path, lines[0])


def test_an_output_behind_a_link_that_leaves_the_folder_is_told(tmp_path, model):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/away").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="line 1: .* lies outside of --output="):
        jobs_of(tmp_path, {"model": model, "targets": ["nna_sym8"], "output": "away/{model}/"})


def test_all_wrong_lines_are_told_at_once_up_to_a_number(tmp_path):
    with pytest.raises(UsageError) as refused:
        jobs_of(tmp_path, *["{"] * 30)
    assert str(refused.value).count("\nline ") == 20 and "and 10 more problems" in str(refused.value)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no job"):
        jobs_of(tmp_path, "", "  ")
