"""The bundled sample."""

import hashlib

import numpy as np

from tf_requant.sample import calibration_path, evaluation_path, model_path


def digests(path: object) -> set[str]:
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in np.load(str(path))["images"]}


def test_calibration_and_evaluation_images_do_not_overlap() -> None:
    assert not digests(calibration_path()) & digests(evaluation_path())


def test_the_sample_holds_what_it_says() -> None:
    for path, count in ((evaluation_path(), 256), (calibration_path(), 64)):
        data = np.load(path)
        assert data["images"].shape == (count, 32, 32, 3) and data["images"].dtype == np.uint8
        assert data["labels"].shape == (count,) and set(data["labels"]) <= set(range(10))
    assert model_path().read_bytes()[4:8] == b"TFL3"
