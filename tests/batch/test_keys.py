"""A key changes with everything that a result depends on, and with nothing else."""

import os

from tf_requant.batch import keys
from tf_requant.batch.keys import content, conversion_key, job_key


def test_a_file_s_hash_is_that_of_its_bytes_wherever_it_lies(tmp_path):
    (tmp_path / "a").write_bytes(b"model")
    (tmp_path / "b").write_bytes(b"model")
    assert content(str(tmp_path / "a")) == content(str(tmp_path / "b"))
    assert content(None) == ""


def test_a_folder_s_hash_knows_names_and_bytes(tmp_path):
    found = set()
    for name, text in (("1_a.png", b"x"), ("2_a.png", b"x"), ("1_a.png", b"y")):
        folder = tmp_path / f"{len(found)}"
        folder.mkdir()
        (folder / name).write_bytes(text)
        found.add(content(str(folder)))
    assert len(found) == 3


def test_a_changed_file_is_hashed_anew(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"one")
    before = content(str(path))
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert content(str(path)) != before


def test_a_checkpoint_is_more_than_its_meta_file(tmp_path):
    (tmp_path / "model.meta").write_bytes(b"graph")
    (tmp_path / "model.data-00000-of-00001").write_bytes(b"weights")
    before = content(str(tmp_path / "model.meta"))
    (tmp_path / "model.data-00000-of-00001").write_bytes(b"trained")
    assert content(str(tmp_path / "model.meta")) != before


def test_every_part_of_a_key_counts(monkeypatch):
    same = ("model", "calibration", {"name": "chip"}, {"io": "target"})
    others = [
        ("other", *same[1:]), (same[0], "other", *same[2:]), (*same[:2], {"name": "other"}, same[3]), (*same[:3], {"io": "source"})
    ]  # fmt: skip
    found = {conversion_key(*parts) for parts in (same, *others)}
    monkeypatch.setattr(keys, "__version__", "another")
    assert len(found | {conversion_key(*same)}) == 6
    assert len({job_key("a", "d", {}), job_key("b", "d", {}), job_key("a", "e", {}), job_key("a", "d", {"samples": 1})}) == 4
