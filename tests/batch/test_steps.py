"""Steps: the bytes and figures of the single-process verbs, once, again, in another order, and after a loss."""

import json
from pathlib import Path

import numpy as np
import pytest

import tf_requant
from tests.batch.jobs import by_hand, grouped, images, nets, prepared, written
from tf_requant.batch import conclusions, shards, steps
from tf_requant.batch.work import TRIES
from tf_requant.validation.quality import Quality

TARGETS = ["nna_sym8_pow2", "tflite_int8"]


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """One small model, calibrated for two targets and measured in two shards of which the last is short."""
    images(tmp_path, "seen.npz", 10, 1)
    images(tmp_path, "data.npz", 40, 2)
    line = {"model": nets(tmp_path, 1)[0], "targets": TARGETS, "calibration": "seen.npz", "data": "data.npz", "layers": 34}
    return written(tmp_path, line | {"corrections": "none"})  # the layer pass takes seconds


def test_bytes_and_figures_are_those_of_the_single_process_verbs(tmp_path, judged):
    line = json.loads(judged.read_text()) | {"corrections": "auto"}
    written(tmp_path, line)
    records = by_hand(*prepared(tmp_path / "out", judged))
    for record, target in zip(records, TARGETS, strict=True):
        alone = tf_requant.requantize(tmp_path / "net0.tflite", target, calibration=tmp_path / "seen.npz")
        assert Path(record["output"]).read_bytes() == alone.model_bytes
        check = tf_requant.validate(
            record["output"], reference=tmp_path / "net0.tflite", data=tmp_path / "data.npz", target=target, layers=34
        )
        told = {k: tuple(v) if isinstance(v, list) else v for k, v in record["quality"].items()}
        assert Quality(**told) == check.quality["litert"]
        assert [tuple(row) for row in record["layers"]] == [(t.name, t.sqnr, t.largest) for t in check.tensors]
        assert (record["passed"], record["failures"]) == (check.passed, list(check.failures))


def test_the_size_of_shards_changes_no_figure(tmp_path, judged):
    cut = by_hand(*prepared(tmp_path / "cut", judged, shard=32))
    whole = by_hand(*prepared(tmp_path / "whole", judged, shard=256))
    assert [(r["quality"], r["layers"], r["sha256"]) for r in cut] == [(r["quality"], r["layers"], r["sha256"]) for r in whole]


def test_shards_merge_to_the_same_in_any_order_and_grouping_and_twice():
    parts = [{"start": 32 * n, "parts": [n]} for n in range(5)]
    whole = shards.merge([[p] for p in parts])
    random = np.random.default_rng(0)
    for _ in range(20):
        order = [parts[i] for i in random.permutation(5)]
        cut = int(random.integers(1, 5))
        assert shards.merge([shards.merge([order[:cut]]), order[cut:], [order[0]]]) == whole


def test_a_model_is_calibrated_once_for_all_its_targets(tmp_path, judged, monkeypatch):
    written(tmp_path, json.loads(judged.read_text()) | {"corrections": "thresholds"})
    calls = []
    monkeypatch.setattr(steps, "calibrate", lambda *a, real=steps.calibrate, **k: calls.append(a[1]) or real(*a, **k))
    by_hand(*prepared(tmp_path / "out", judged))
    assert [Path(c).name for c in calls if not str(c).endswith(".npz") or ".work" not in str(c)] == ["seen.npz"]
    assert len(list((tmp_path / "out/.work/calibrations").iterdir())) == 1


def test_a_step_that_runs_twice_leaves_the_same(tmp_path, judged):
    work, jobs, offsets = prepared(tmp_path / "out", judged)
    (group,) = grouped((job.group, at) for job, at in zip(jobs, offsets))
    todo = list(steps.calibrate_once(group, work))
    assert list(steps.calibrate_once(group, work)) == todo
    item = (todo[0][0], [todo[0][1], todo[0][1]])
    first = list(steps.convert(item, work))
    written_at = Path(jobs[0].output).stat().st_mtime_ns
    assert list(steps.convert(item, work)) == first and Path(jobs[0].output).stat().st_mtime_ns == written_at
    measured = [pair for part in grouped(first) for pair in steps.validate_shard(part, work)]
    assert [pair for part in grouped(first) for pair in steps.validate_shard(part, work)] == measured
    merged = shards.merge([found for _, found in [*measured, *measured]])
    steps.finish((offsets[0], merged), work)
    before = work.record(jobs[0])
    conclusions.failed(work, jobs[0], "a late attempt")
    assert work.record(jobs[0]) == before and before is not None and before["status"] == "done"


def test_a_rerun_skips_what_is_finished_and_keeps_its_figures(tmp_path, judged):
    first = by_hand(*prepared(tmp_path / "out", judged, run="one"))
    again = by_hand(*prepared(tmp_path / "out", judged, run="two"))
    assert [r["status"] for r in again] == ["skipped", "skipped"]
    assert [(r["quality"], r["sha256"], r["passed"]) for r in again] == [(r["quality"], r["sha256"], r["passed"]) for r in first]


@pytest.mark.parametrize("change", ["model", "data", "threshold", "output", "calibration"])
def test_a_rerun_does_again_what_changed(tmp_path, judged, change):
    line = json.loads(judged.read_text()) | {"targets": TARGETS[1:], "data": images(tmp_path, "data.npz", 4, 2)}
    by_hand(*prepared(tmp_path / "out", written(tmp_path, line), run="one"))
    if change == "model":
        (tmp_path / "net0.tflite").write_bytes((tmp_path / nets(tmp_path, 2)[1]).read_bytes())
    elif change == "threshold":
        line["thresholds"] = {"min_agreement": 0.0}
    elif change == "output":
        (tmp_path / "out/net0/tflite_int8.tflite").write_bytes(b"spoilt")
    else:
        images(tmp_path, {"data": "data.npz", "calibration": "seen.npz"}[change], 12, 7)
    records = by_hand(*prepared(tmp_path / "out", written(tmp_path, line), run="two"))
    assert [r["status"] for r in records] == ["done"]
    assert Path(records[0]["output"]).read_bytes() == tf_requant.requantize(tmp_path / "net0.tflite", TARGETS[1], corrections="none",
        calibration=tmp_path / "seen.npz").model_bytes  # fmt: skip


def test_what_a_dead_worker_left_half_done_is_taken_up_where_it_stopped(tmp_path, judged, monkeypatch):
    work, jobs, offsets = prepared(tmp_path / "out", judged, run="one")
    (group,) = grouped((job.group, at) for job, at in zip(jobs, offsets))
    for item in grouped(steps.calibrate_once(group, work)):
        list(steps.convert(item, work))  # then it dies
    monkeypatch.setattr(steps, "requantize", lambda *a, **k: pytest.fail("converted again"))
    assert [r["status"] for r in by_hand(*prepared(tmp_path / "out", judged, run="two"))] == ["done", "done"]


def test_a_job_that_cannot_be_done_is_one_record_with_the_verb_s_own_sentence(tmp_path):
    (model,) = nets(tmp_path, 1)
    (tmp_path / "broken.tflite").write_bytes(b"TFL3 no model")
    images(tmp_path, "data.npz", 3, 0)
    np.save(tmp_path / "wrong.npy", np.zeros((3, 9, 9, 3), np.uint8))
    jobs = written(
        tmp_path,
        {"model": "broken.tflite", "targets": ["nna_sym8"]},
        {"model": model, "targets": ["nna_sym8"], "data": "wrong.npy"},
        {"model": model, "targets": ["tflite_int8"], "calibration": "wrong.npy", "data": "data.npz"},
        {"model": model, "targets": ["ethos_u"], "data": "data.npz"},
    )
    records = by_hand(*prepared(tmp_path / "out", jobs))
    assert [r["status"] for r in records] == ["failed", "failed", "failed", "done"]
    with pytest.raises(tf_requant.RequantError) as refused:
        tf_requant.requantize(tmp_path / "broken.tflite", "nna_sym8")
    assert records[0]["sentence"] == str(refused.value) and records[0]["output"] is None
    assert "shape ['samples', 8, 8, 3]" in records[1]["sentence"] and Path(records[1]["output"]).is_file()
    assert "shape ['samples', 8, 8, 3]" in records[2]["sentence"] and not (tmp_path / "out/net0/tflite_int8.tflite").exists()


def test_a_bug_is_a_record_too(tmp_path, judged, monkeypatch):
    monkeypatch.setattr(steps, "requantize", lambda *a, **k: {}["nowhere"])
    records = by_hand(*prepared(tmp_path / "out", judged))
    assert all(r["status"] == "failed" and r["sentence"].startswith("a bug, please report it: KeyError") for r in records)


def test_a_job_that_takes_its_worker_along_fails_after_some_tries_and_is_tried_again_by_a_rerun(tmp_path):
    jobs = written(tmp_path, {"model": nets(tmp_path, 1)[0], "targets": ["tflite_int8"]})
    work, (job,), offsets = prepared(tmp_path / "out", jobs)
    work.write("tries", job.id, {"run": "one", "count": TRIES})
    (record,) = by_hand(work, (job,), offsets)
    assert record["status"] == "failed" and "died 3 times over this job" in record["sentence"]
    assert [r["status"] for r in by_hand(*prepared(tmp_path / "out", jobs, run="two"))] == ["done"]


def test_a_missed_threshold_is_done_but_not_passed_in_the_words_of_validate(tmp_path):
    images(tmp_path, "data.npz", 40, 0)
    line = {"model": nets(tmp_path, 1)[0], "targets": ["nna_sym8_pow2"], "data": "data.npz", "thresholds": {"max_layer_error": -99.0}}
    (record,) = by_hand(*prepared(tmp_path / "out", written(tmp_path, line)))
    check = tf_requant.validate(
        record["output"], reference=tmp_path / "net0.tflite", data=tmp_path / "data.npz", target="nna_sym8_pow2", max_layer_error=-99.0
    )
    assert record["failures"] == list(check.failures) != [] and (record["status"], record["passed"]) == ("done", False)


def test_a_model_is_not_judged_on_samples_that_shaped_it(tmp_path, judged):
    line = json.loads(judged.read_text()) | {"data": "seen.npz", "targets": ["nna_sym8_pow2"], "corrections": "thresholds"}
    (record,) = by_hand(*prepared(tmp_path / "out", written(tmp_path, line)))
    with pytest.raises(tf_requant.RequantError) as refused:
        tf_requant.validate(record["output"], reference=tmp_path / "net0.tflite", data=tmp_path / "seen.npz")
    assert record["status"] == "failed" and record["sentence"] == str(refused.value)


def test_exactness_is_proved_only_where_it_is_asked_for(tmp_path):
    images(tmp_path, "data.npz", 3, 0)
    line = {"model": nets(tmp_path, 1)[0], "targets": ["tflite_int8"], "data": "data.npz"}
    lines = [line, line | {"exactness": True, "output": "exact"}]
    plain, proved = by_hand(*prepared(tmp_path / "out", written(tmp_path, *lines)))
    assert plain["exactness"] is None and proved["exactness"]["mismatches"] == 0 < proved["exactness"]["elements"]


def test_a_job_without_data_is_converted_and_judged_for_legality(tmp_path):
    line = {"model": nets(tmp_path, 1)[0], "targets": ["nna_sym8_pow2"]}
    (record,) = by_hand(*prepared(tmp_path / "out", written(tmp_path, line)))
    assert record["quality"] is None and record["legal"] and record["passed"]


def test_only_the_first_samples_count_where_a_number_is_given(tmp_path, judged):
    line = json.loads(judged.read_text()) | {"samples": 35, "targets": ["nna_sym8_pow2"]}
    (record,) = by_hand(*prepared(tmp_path / "out", written(tmp_path, line)))
    with np.load(tmp_path / "data.npz") as file:
        check = tf_requant.validate(
            record["output"], reference=tmp_path / "net0.tflite", data=file["images"][:35], labels=file["labels"][:35]
        )
    assert record["quality"]["agreement"] == check.agreement and record["quality"]["top1"] == check.top1
