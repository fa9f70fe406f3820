"""`tf_requant validate --report`: what it refuses, with one sentence and nothing left behind."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tf_requant
from tests.cli.test_report import SAMPLES, TARGET, run
from tf_requant.sample import evaluation_path, model_path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The flags of a run that would pass."""
    folder = tmp_path_factory.mktemp("files")
    tf_requant.requantize(model_path(), TARGET, corrections="none").save(folder / "candidate.tflite")
    with np.load(evaluation_path()) as data:
        np.savez(folder / "data.npz", images=data["images"][:SAMPLES], labels=data["labels"][:SAMPLES])
    flags = [f"--model={folder / 'candidate.tflite'}", f"--reference={model_path()}", f"--data={folder / 'data.npz'}"]
    return SimpleNamespace(folder=folder, flags=flags)


def assert_refused(done: SimpleNamespace, sentence: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1, (done.stdout, done.stderr)
    assert sentence in done.stderr


def test_a_misspelt_flag_exits_2(tmp_path: Path, files: SimpleNamespace) -> None:
    assert_refused(run(*files.flags, f"--reprot={tmp_path / 'r'}"), "Did you mean: report")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["json", "junit"])
def test_a_file_in_a_folder_that_does_not_exist_exits_2_before_the_work(tmp_path: Path, files: SimpleNamespace, flag: str) -> None:
    done = run(*files.flags, f"--{flag}={tmp_path / 'none/out'}", f"--report={tmp_path / 'r'}")
    assert_refused(done, f"--{flag}={tmp_path / 'none/out'}: the folder does not exist")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["json", "junit"])
def test_a_file_that_is_a_folder_exits_2(tmp_path: Path, files: SimpleNamespace, flag: str) -> None:
    (tmp_path / "folder").mkdir()
    assert_refused(run(*files.flags, "--layers=0", f"--{flag}={tmp_path / 'folder'}"), str(tmp_path / "folder"))


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"tensors": []}', '{"tensors": 3, "corrections": []}'])
def test_a_conversion_that_is_none_exits_2(tmp_path: Path, files: SimpleNamespace, content: str | None) -> None:
    path = tmp_path / "conversion.json"
    if content is not None:
        path.write_text(content)
    done = run(*files.flags, f"--conversion={path}", f"--report={tmp_path / 'r'}", "--layers=1")
    assert_refused(done, f"--conversion={path}")
    assert not (tmp_path / "r").exists()


def test_a_report_into_an_existing_file_exits_2_and_leaves_it(tmp_path: Path, files: SimpleNamespace) -> None:
    (tmp_path / "r").write_text("mine")
    assert_refused(run(*files.flags, f"--report={tmp_path / 'r'}"), f"--report={tmp_path / 'r'}: ")
    assert (tmp_path / "r").read_text() == "mine"


def test_a_model_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path, files: SimpleNamespace) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"TFL3 and nothing else")
    flags = [f"--model={tmp_path / 'broken.tflite'}", *files.flags[1:]]
    done = run(*flags, f"--report={tmp_path / 'r'}", f"--json={tmp_path / 'x.json'}")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.tflite"], "no output after exit 2"
