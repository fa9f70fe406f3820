"""Calibration on the command line: what it adds, what is saved, and one sentence for every kind of unfit data."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tf_requant
from tests.cli.test_cli import assert_refused, convert, run
from tf_requant.errors import CalibrationError
from tf_requant.sample import calibration_path, evaluation_path, model_path

SAMPLE = model_path()


def some(path: Path, count: int, tmp_path: Path, name: str = "some.npz") -> Path:
    """The first samples of a file, with their labels."""
    with np.load(path) as file:
        np.savez(tmp_path / name, images=file["images"][:count], labels=file["labels"][:count])
    return tmp_path / name


def test_a_saved_calibration_gives_what_its_data_give(tmp_path):
    data, saved = some(calibration_path(), 20, tmp_path), tmp_path / "saved.npz"
    done = run("calibrate", f"--model={SAMPLE}", f"--data={data}", f"--output={saved}")
    assert done.returncode == 0 and "20 samples" in done.stdout, done.stderr
    for target in ("nna_sym8_pow2", "tflite_int8_per_tensor"):
        direct = tf_requant.requantize(SAMPLE, target, calibration=data)
        assert tf_requant.requantize(SAMPLE, target, calibration=saved).model_bytes == direct.model_bytes


def test_another_model_s_calibration_exits_2(tmp_path):
    saved = tmp_path / "saved.npz"
    other = tf_requant.requantize(SAMPLE, "tflite_int8", corrections="none").model
    saved.write_bytes(tf_requant.calibrate(other, some(calibration_path(), 5, tmp_path)).to_bytes())
    assert_refused(convert(tmp_path, f"--calibration={saved}"), "another model")


def test_a_model_is_not_judged_on_the_samples_that_shaped_it(tmp_path):
    data = some(calibration_path(), 20, tmp_path)
    assert convert(tmp_path, f"--calibration={data}", target="nna_sym8_pow2").returncode == 0
    arguments = ["validate", f"--model={tmp_path / 'out.tflite'}", f"--reference={SAMPLE}"]
    assert_refused(run(*arguments, f"--data={data}"), "20 of 20 samples")
    assert run(*arguments, f"--data={some(evaluation_path(), 20, tmp_path, 'others.npz')}").returncode == 0


def test_one_calibration_image_among_the_evaluation_images_is_found(tmp_path):
    data = some(calibration_path(), 10, tmp_path)
    result = tf_requant.requantize(SAMPLE, "nna_sym8_pow2", calibration=data)
    with np.load(calibration_path()) as seen, np.load(evaluation_path()) as unseen:
        mixed = np.concatenate([unseen["images"][:7], seen["images"][3:4], unseen["images"][7:9]])
    with pytest.raises(CalibrationError, match=r"1 of 10 samples \(the first is number 7\)"):
        tf_requant.validate(result.model_bytes, reference=SAMPLE, data=mixed, layers=0)


def array(tmp_path: Path, values: np.ndarray) -> Path:
    np.save(tmp_path / "data.npy", values)
    return tmp_path / "data.npy"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((4, 31, 32, 3), np.uint8), "shape ['samples', 32, 32, 3]"),
        (np.zeros((4, 32, 32, 3), np.int32), "got int32"),
        (np.full((4, 32, 32, 3), np.nan), "holds NaN"),
        (np.full((4, 32, 32, 3), 1e9), "far outside"),
        (np.zeros((0, 32, 32, 3), np.uint8), "no sample"),
        (np.zeros((4, 32, 32), np.uint8), "shape"),
    ],
)
def test_an_array_that_does_not_fit_exits_2(tmp_path, values, sentence):
    data = array(tmp_path, values)
    assert_refused(convert(tmp_path, f"--calibration={data}"), sentence)
    assert_refused(run("calibrate", f"--model={SAMPLE}", f"--data={data}", f"--output={tmp_path / 'c.npz'}"), sentence)
    assert not (tmp_path / "out.tflite").exists() and not (tmp_path / "c.npz").exists()


def test_an_empty_folder_exits_2(tmp_path):
    (tmp_path / "images").mkdir()
    assert_refused(convert(tmp_path, f"--calibration={tmp_path / 'images'}"), "holds no sample")


def test_a_broken_image_exits_2_and_is_named(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "1_good.png")
    (folder / "2_bad.png").write_bytes(b"no image at all")
    assert_refused(convert(tmp_path, f"--calibration={folder}"), "2_bad.png cannot be decoded")


def test_labels_that_do_not_match_exit_2(tmp_path):
    np.savez(tmp_path / "data.npz", images=np.zeros((4, 32, 32, 3), np.uint8), labels=np.zeros(3, np.int64))
    assert_refused(convert(tmp_path, f"--calibration={tmp_path / 'data.npz'}"), "different lengths")
    with pytest.raises(tf_requant.RequantError, match="labels"):
        tf_requant.validate(SAMPLE, reference=SAMPLE, data=np.zeros((4, 32, 32, 3), np.uint8), labels=np.zeros(3), layers=0)


@pytest.mark.parametrize("name", ["scale_search", "gptq", "error_folding", "thresholds", "folding"])
def test_a_correction_that_needs_data_says_so_without_it(tmp_path, name):
    assert_refused(convert(tmp_path, f"--corrections={name}"), "give calibration data (--calibration)")


def test_an_unknown_correction_exits_2_and_names_the_known_ones(tmp_path):
    assert_refused(convert(tmp_path, "--corrections=gptqq"), "did you mean gptq? known are: none alone, auto (with splitting, moments, distillation where wanted), splitting, thresholds")


def test_a_damaged_saved_calibration_exits_2(tmp_path):
    saved = tmp_path / "saved.npz"
    content = tf_requant.calibrate(SAMPLE, some(calibration_path(), 3, tmp_path)).to_bytes()
    saved.write_bytes(content[: len(content) // 2])
    assert_refused(convert(tmp_path, f"--calibration={saved}"), "cannot be read")


def test_an_output_that_cannot_be_written_is_refused_before_the_model_runs(tmp_path):
    data = array(tmp_path, np.zeros((4, 31, 32, 3), np.uint8))  # would be refused too, later
    done = run("calibrate", f"--model={SAMPLE}", f"--data={data}", f"--output={tmp_path / 'none' / 'c.npz'}")
    assert_refused(done, "does not exist")
