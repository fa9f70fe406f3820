"""A worker opens a model and its data once for all the shards that follow one another, and holds one of each."""

import os

import pytest

from tests.batch.jobs import by_hand, images, nets, prepared, written
from tf_requant.batch import opened
from tf_requant.batch.opened import Latest


def test_what_is_asked_for_again_is_not_opened_again():
    latest: Latest[str] = Latest()
    calls = []
    for key in ("a", "a", "b", "b", "a"):
        assert latest.get(key, lambda key=key: calls.append(key) or f"{key} opened") == f"{key} opened"
    assert calls == ["a", "b", "a"]


def test_the_last_one_is_let_go_before_the_next_is_opened():
    latest: Latest[int] = Latest()
    latest.get("a", lambda: 1)

    def refused() -> int:
        assert latest._held is None
        raise ValueError

    with pytest.raises(ValueError):
        latest.get("b", refused)
    assert latest.get("a", lambda: 2) == 2


def test_all_shards_of_all_targets_read_data_and_model_once(tmp_path, monkeypatch):
    images(tmp_path, "data.npz", 100, 2)
    line = {"model": nets(tmp_path, 1)[0], "targets": ["nna_sym8", "tflite_int8"], "data": "data.npz", "layers": 0}
    counts = {"load_samples": 0, "load_source": 0}
    for name in counts:
        real = getattr(opened, name)

        def counted(*arguments, name=name, real=real):
            counts[name] += 1
            return real(*arguments)

        monkeypatch.setattr(opened, name, counted)
    records = by_hand(*prepared(tmp_path / "out", written(tmp_path, line), shard=32))
    assert [r["quality"]["samples"] for r in records] == [100, 100]
    assert counts == {"load_samples": 1, "load_source": 1}
    assert opened._SAMPLES._held is None and opened._SOURCE._held is None  # a cluster's workers outlive the batch


def test_data_that_changed_on_disk_is_read_anew(tmp_path):
    line = {"model": nets(tmp_path, 1)[0], "targets": ["tflite_int8"], "data": images(tmp_path, "data.npz", 4, 2), "layers": 0}
    jobs = written(tmp_path, line)
    (job,) = prepared(tmp_path / "out", jobs)[1]
    assert len(opened.open_samples(job)) == 4
    images(tmp_path, "data.npz", 6, 3)
    os.utime(tmp_path / "data.npz", ns=(1, 1))
    assert len(opened.open_samples(job)) == 6
