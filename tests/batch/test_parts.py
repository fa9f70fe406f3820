"""A part of the samples is what the whole holds there, and what lies outside is not decoded."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tf_requant.errors import CalibrationError
from tf_requant.io.data import InputSpec, load_samples
from tf_requant.validation.tensors import LayerPart, fold_layers

SPEC = InputSpec("image", (1, 2, 2, 3), "uint8", 0.0078125, 128)
PIXELS = np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 2, 3)


def folder(path: Path) -> Path:
    path.mkdir()
    for n, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(path / f"{n}_x.png")
    return path


@pytest.mark.parametrize("kind", ["array", "folder", "stream"])
@pytest.mark.parametrize(("start", "stop"), [(0, 7), (0, 3), (2, 5), (5, 99), (7, 9)])
def test_a_part_is_what_the_whole_holds_there(tmp_path, kind, start, stop):
    source = {"array": lambda: PIXELS, "folder": lambda: folder(tmp_path / "f"), "stream": lambda: lambda: iter(PIXELS[:, None])}
    part = load_samples(source[kind](), (SPEC,)).part(start, stop)
    found = [batch["image"] for batch in part.codes(2)]
    assert len(part) == len(PIXELS[start:stop]) == sum(map(len, found))
    assert np.array_equal(np.concatenate([*found, PIXELS[:0]]), PIXELS[start:stop])


def test_a_part_of_a_part_counts_from_its_own_start():
    part = load_samples(PIXELS, (SPEC,)).part(1, 6).part(2, 99)
    assert np.array_equal(next(iter(part.codes(9)))["image"], PIXELS[3:6])


def test_labels_stay_with_their_samples(tmp_path):
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=np.arange(7))
    labels = load_samples(tmp_path / "x.npz", (SPEC,)).part(2, 4).labels
    assert labels is not None and labels.tolist() == [2, 3]


def test_images_outside_a_part_are_not_decoded(tmp_path):
    path = folder(tmp_path / "f")
    samples = load_samples(path, (SPEC,))
    for n in (1, 6):
        (path / f"{n}_x.png").write_bytes(b"no image")
    assert len(list(samples.part(2, 6).codes(1))) == 4
    with pytest.raises(CalibrationError, match="1_x.png"):
        list(samples.part(0, 2).codes(1))


def test_layer_sums_fold_the_same_in_any_order():
    parts = [LayerPart(n, {"a": (0.1 * n + 1, 1e-3 / (n + 1), n), "b": (1.0, 0.0, 0.0)}) for n in range(6)]
    rows = fold_layers(parts, ["b", "a", "c"])
    assert rows == fold_layers(parts[::-1], ["b", "a", "c"]) and [row.name for row in rows] == ["b", "a"]
    assert rows[1].largest == 5 and rows[0].sqnr == float("inf")
