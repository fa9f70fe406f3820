"""export on the command line: what it writes and prints, and one sentence and no folder where it cannot."""

from pathlib import Path

import numpy as np
import pytest

import tf_requant
from tests.cli.test_cli import assert_refused, run
from tf_requant.export.flatbuffer import from_bytes
from tf_requant.sample import evaluation_path, model_path

TARGET = "nna_sym8_pow2"
DATA = evaluation_path()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.tflite"
    tf_requant.requantize(model_path(), TARGET, corrections="none").save(path)
    return path


def export(tmp_path: Path, model: Path, *more: str, target: str = TARGET, data: object = DATA):
    return run("export", f"--model={model}", f"--target={target}", f"--data={data}", f"--output={tmp_path / 'out'}", *more)


def test_it_writes_says_so_and_replaces_an_earlier_export_only_when_asked(tmp_path, model):
    done = export(tmp_path, model, "--samples=2")
    assert done.returncode == 0, done.stderr
    assert "22 ops, 21 on the accelerator" in done.stdout and "2 samples of 23 tensors, 22 headers" in done.stdout
    assert "host: op 21 (SOFTMAX): the target 'nna_sym8_pow2' does not list it" in done.stdout
    program = from_bytes((tmp_path / "out" / "program.nna").read_bytes())
    assert (program.target, len(program.ops)) == (TARGET, 22)
    with np.load(tmp_path / "out" / "golden" / "golden.npz") as golden:
        assert {array.shape[0] for array in golden.values()} == {2}
    before = (tmp_path / "out" / "golden" / "golden.npz").read_bytes()
    assert_refused(export(tmp_path, model, "--samples=1"), "pass --overwrite")
    assert (tmp_path / "out" / "golden" / "golden.npz").read_bytes() == before
    assert export(tmp_path, model, "--headers=none", "--overwrite").returncode == 0
    assert [p.name for p in (tmp_path / "out" / "golden").iterdir()] == ["golden.npz"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target": "tflite_uint8"}, "all its ops are left to the host"),
        ({"target": "nowhere"}, 'unknown target "nowhere"'),
        ({"data": "nowhere"}, "there is no data at nowhere"),
    ],
)
def test_what_cannot_be_used_exits_2_and_leaves_no_folder(tmp_path, model, change, sentence):
    assert_refused(export(tmp_path, model, **change), sentence)
    assert not list(tmp_path.iterdir())


def test_a_wrong_flag_exits_2_and_leaves_no_folder(tmp_path, model):
    assert_refused(export(tmp_path, model, "--samples=0"), "see tf_requant export --help")
    assert not list(tmp_path.iterdir())


def test_a_model_that_breaks_its_target_gets_a_sentence_for_each_breach(tmp_path):
    asymmetric = tmp_path / "asymmetric.tflite"
    tf_requant.requantize(model_path(), "tflite_int8", corrections="none").save(asymmetric)
    done = export(tmp_path, asymmetric)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) > 20
    assert "re-express it with requantize first" in done.stderr.splitlines()[0]
    assert not (tmp_path / "out").exists()


def test_the_output_must_not_hold_or_lie_in_what_is_read(tmp_path, model):
    images = tmp_path / "images"
    images.mkdir()
    arguments = ("export", f"--model={model}", f"--target={TARGET}", f"--data={images}")
    assert_refused(run(*arguments, f"--output={images / 'out'}"), "the folder of --data")
    assert_refused(run(*arguments, f"--output={model.parent}", "--overwrite"), "which no export wrote")
