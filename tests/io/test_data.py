"""What a pixel means, and that every kind of source says the same of the same picture."""
# ruff: noqa: D103 (a test's name is its docstring)

import io
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tf_requant.calibration.statistics import digest
from tf_requant.errors import CalibrationError
from tf_requant.io.data import InputSpec, feed, load_samples, source_codes

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / os.environ.get("TF_REQUANT_SHARED", "../shared")

UINT8 = InputSpec("image", (1, 2, 2, 3), "uint8", 0.0078125, 128)
INT8 = InputSpec("image", (1, 2, 2, 3), "int8", 0.0078125, 0)
FLOAT = InputSpec("image", (1, 2, 2, 3), "float32")
PIXELS = np.arange(3 * 12, dtype=np.uint8).reshape(3, 2, 2, 3) * 7


def shared(path: str) -> Path:
    """Find shared data; skip where there is none."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"needs {found}: set TF_REQUANT_SHARED to the folder with the shared data")
    return found


def all_of(source: Any, *inputs: InputSpec, size: int = 2) -> NDArray[Any]:
    batches = list(load_samples(source, inputs).batches(size))
    return np.concatenate([batch[inputs[0].name] for batch in batches])


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def image_folder(path: Path, names: list[str]) -> Path:
    for name, pixels in zip(names, PIXELS, strict=False):
        (path / name).write_bytes(png(pixels))
    return path


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3, value])
    length = len(value)
    varint = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return bytes([number << 3 | 2]) + varint + value


def example(image: bytes, label: bytes | None) -> bytes:
    features = field(1, field(1, b"image/encoded") + field(2, field(1, field(1, image))))
    if label is not None:
        features += field(1, field(1, b"image/class/label") + field(2, field(3, label)))
    return field(1, features)


def test_a_pixel_is_the_code_of_a_uint8_input() -> None:
    assert source_codes(np.array([0, 127, 255], np.uint8), "uint8").tolist() == [0, 127, 255]


def test_a_pixel_less_128_is_the_code_of_an_int8_input() -> None:
    codes = source_codes(np.array([0, 127, 128, 255], np.uint8), "int8")
    assert (codes.dtype, codes.tolist()) == (np.int8, [-128, -1, 0, 127])


def test_a_pixel_is_normalized_for_a_float_input() -> None:
    values = source_codes(np.array([0, 255], np.uint8), "float32")
    assert (values.dtype, values.tolist()) == (np.float32, [-1.0, 1.0])
    assert source_codes(np.array([10, 30], np.uint8), "float32", (10.0, 20.0)).tolist() == [0.0, 1.0]


def test_int8_values_are_codes_already() -> None:
    assert source_codes(np.array([-128, 5], np.int8), "int8").tolist() == [-128, 5]


def test_a_pixel_means_nothing_to_an_int16_input() -> None:
    with pytest.raises(CalibrationError, match="uint8 values mean nothing to an input of type int16"):
        source_codes(np.array([1], np.uint8), "int16")


def test_equal_scales_shift_codes_exactly() -> None:
    source, candidate = InputSpec("x", (1, 4), "uint8", 0.1, 128), InputSpec("x", (1, 4), "int8", 0.1, 0)
    codes = feed(np.array([0, 1, 128, 255], np.uint8), source, candidate)
    assert (codes.dtype, codes.tolist()) == (np.int8, [-128, -127, 0, 127])


def test_another_scale_rounds_half_away_from_zero() -> None:
    source, candidate = InputSpec("x", (1, 5), "int8", 0.5, 0), InputSpec("x", (1, 5), "int8", 1.0, 0)
    assert feed(np.array([-3, -1, 1, 3, 5], np.int8), source, candidate).tolist() == [-2, -1, 1, 2, 3]


def test_what_the_candidate_cannot_hold_is_clamped() -> None:
    source, candidate = InputSpec("x", (1, 3), "uint8", 1.0, 128), InputSpec("x", (1, 3), "int8", 0.5, -10)
    assert feed(np.array([0, 128, 255], np.uint8), source, candidate).tolist() == [-128, -10, 127]


def test_an_int16_source_hands_over_its_real_value() -> None:
    source, candidate = InputSpec("x", (1, 3), "int16", 0.25, 0), InputSpec("x", (1, 3), "int8", 1.0, 3)
    assert feed(np.array([-8, 2, 4000], np.int16), source, candidate).tolist() == [1, 4, 127]


def test_a_float_candidate_gets_the_real_value() -> None:
    real = feed(np.array([0, 128, 255], np.uint8), UINT8, FLOAT)
    assert (real.dtype, real.tolist()) == (np.float32, [-1.0, 0.0, 0.9921875])


def test_a_float_source_is_quantized_for_the_candidate() -> None:
    assert feed(np.array([0, 255], np.uint8), FLOAT, INT8).tolist() == [-128, 127]
    assert feed(np.array([-0.5, 0.25], np.float32), FLOAT, INT8).tolist() == [-64, 32]


def test_an_integer_without_a_scale_has_no_real_value() -> None:
    with pytest.raises(CalibrationError, match="an integer without a scale"):
        feed(np.array([1], np.int32), InputSpec("x", (1,), "int32"), InputSpec("x", (1,), "float32"))


def test_batches_hold_pixels_in_order_and_the_last_may_be_short() -> None:
    samples = load_samples(PIXELS, [UINT8])
    assert len(samples) == 3
    assert [batch["image"].tolist() for batch in samples.batches(2)] == [PIXELS[:2].tolist(), PIXELS[2:].tolist()]


def test_codes_are_what_the_source_model_is_fed() -> None:
    (batch,) = load_samples(PIXELS, [INT8]).codes(3)
    np.testing.assert_array_equal(batch["image"], PIXELS.astype(int) - 128)


def test_one_sample_needs_no_batch_axis() -> None:
    assert len(load_samples(PIXELS[0], [UINT8])) == 1


def test_real_values_become_codes_of_a_quantized_input() -> None:
    real = np.array([[[[-1.0, 0.0, 0.5]] * 2] * 2], np.float32)
    assert all_of(real, UINT8)[0, 0, 0].tolist() == [0, 128, 192]


def test_pixels_given_as_floats_are_not_taken_for_real_values() -> None:
    with pytest.raises(CalibrationError, match="real values 0 to 77 lie far outside .*, -1 to 0.992188: give pixels"):
        load_samples(PIXELS.astype(np.float32), [UINT8])


def test_a_shape_that_does_not_fit_is_refused_with_the_expected_one() -> None:
    with pytest.raises(
        CalibrationError, match=r"'image' takes uint8 codes.*'samples', 2, 2, 3\], got uint8 \[3, 4, 3\]"
    ):
        load_samples(PIXELS.reshape(3, 4, 3), [UINT8])


def test_wide_integers_are_refused_because_their_meaning_is_not_clear() -> None:
    with pytest.raises(CalibrationError, match="got int64"):
        load_samples(PIXELS.astype(np.int64), [UINT8])


def test_npy_and_npz_and_arrays_hold_the_same_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=np.array([4, 5, 6]))
    np.savez(tmp_path / "named.npz", image=PIXELS)
    for source in (tmp_path / "x.npy", str(tmp_path / "x.npz"), tmp_path / "named.npz", {"image": PIXELS}):
        np.testing.assert_array_equal(all_of(source, UINT8), PIXELS)
    assert load_samples(tmp_path / "x.npz", [UINT8]).labels.tolist() == [4, 5, 6]
    assert load_samples(tmp_path / "x.npy", [UINT8]).labels is None


def test_several_inputs_take_one_array_each() -> None:
    specs = [InputSpec("a", (1, 2), "int8", 1.0), InputSpec("b", (1, 1), "int16", 1.0)]
    arrays = {"b": np.array([[300], [400]], np.int16), "a": np.array([[1, 2], [3, 4]], np.int8)}
    (batch,) = load_samples(arrays, specs).batches(9)
    assert {name: array.tolist() for name, array in batch.items()} == {"a": [[1, 2], [3, 4]], "b": [[300], [400]]}


def test_arrays_for_the_wrong_inputs_are_named() -> None:
    specs = [InputSpec("a", (1, 2), "int8", 1.0), InputSpec("b", (1, 1), "int16", 1.0)]
    with pytest.raises(CalibrationError, match=r"holds arrays \['a', 'c'\], the model's inputs are \['a', 'b'\]"):
        load_samples({"a": np.zeros((1, 2), np.int8), "c": np.zeros((1, 1), np.int16)}, specs)


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=np.array([4, 5]))
    with pytest.raises(CalibrationError, match=r"different lengths \[2, 3\]"):
        load_samples(tmp_path / "x.npz", [UINT8])


def test_a_pickle_in_an_archive_is_never_run(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(CalibrationError, match="cannot be read as a .npy file"):
        load_samples(tmp_path / "x.npy", [UINT8])


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CalibrationError, match="cannot be read as a .npz file"):
        load_samples(tmp_path / "x.npz", [UINT8])


def test_a_folder_is_read_in_the_order_of_names_with_labels_from_the_digits(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, ["0012_b.png", "0003_a.PNG", "0400_c.png"])
    (folder / "README.txt").write_text("no image")
    samples = load_samples(folder, [UINT8])
    assert samples.labels.tolist() == [3, 12, 400]
    np.testing.assert_array_equal(all_of(folder, UINT8), PIXELS[[1, 0, 2]])


def test_a_folder_where_a_name_has_no_digits_has_no_labels(tmp_path: Path) -> None:
    assert load_samples(image_folder(tmp_path, ["1_a.png", "b.png"]), [UINT8]).labels is None


def test_an_image_of_another_size_is_resized_bilinear(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0, 200, 200]] * 4, np.uint8)).save(tmp_path / "a.png")
    pixels = all_of(tmp_path, InputSpec("x", (1, 1, 2, 1), "uint8", 1.0))
    assert pixels.tolist() == [[[[29], [171]]]]


def test_a_grey_input_takes_a_colour_image_as_luminance(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2, 3), [255, 0, 0], np.uint8)).save(tmp_path / "a.bmp")
    assert all_of(tmp_path, InputSpec("x", (1, 2, 2), "uint8", 1.0)).tolist() == [[[76, 76], [76, 76]]]


def test_a_file_that_is_no_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    (image_folder(tmp_path, ["a.png"]) / "b.jpg").write_bytes(b"no image")
    samples = load_samples(tmp_path, [UINT8])
    with pytest.raises(CalibrationError, match=r"b\.jpg cannot be decoded as an image"):
        list(samples.batches(1))


def test_images_are_decoded_only_when_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *a: opened.append(a) or original(*a))
    samples = load_samples(image_folder(tmp_path, ["a.png", "b.png", "c.png"]), [UINT8])
    before = len(opened)
    next(samples.batches(1))
    assert (before, len(opened)) == (1, 2)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no sample"):
        load_samples(tmp_path, [UINT8])


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="there is no data at"):
        load_samples(tmp_path / "nowhere", [UINT8])


def test_images_alone_leave_the_other_inputs_at_real_zero(tmp_path: Path) -> None:
    state = InputSpec("state", (1, 2), "int8", 0.5, 7)
    samples = load_samples(image_folder(tmp_path, ["a.png"]), [state, UINT8])
    assert samples.zero_filled == ("state",)
    assert next(samples.batches(1))["state"].tolist() == [[7, 7]]


def write_records(path: Path, examples: list[bytes]) -> Path:
    from tf_requant.io.tfrecord import _masked_crc32c

    headers = (struct.pack("<Q", len(data)) for data in examples)
    records = (h + struct.pack("<I", _masked_crc32c(h)) + d + bytes(4) for h, d in zip(headers, examples, strict=True))
    path.write_bytes(b"".join(records))
    return path


def test_the_checksum_is_crc32c_masked() -> None:
    from tf_requant.io.tfrecord import _masked_crc32c

    crc32c = 0xE3069283  # the check value of CRC-32/ISCSI, of b"123456789"
    assert _masked_crc32c(b"123456789") == ((crc32c >> 15 | crc32c << 17) + 0xA282EAD8) % 2**32 == 0xC78AB0E5


def test_a_record_file_gives_images_and_labels(tmp_path: Path) -> None:
    packed, plain = field(1, b"\xac\x02"), field(1, 7)  # 300 as a packed list, 7 as a single value
    examples = [example(png(pixels), label) for pixels, label in zip(PIXELS, (packed, plain, plain), strict=True)]
    path = write_records(tmp_path / "train-00000-of-00001", examples)
    assert load_samples(path, [UINT8]).labels.tolist() == [300, 7, 7]
    np.testing.assert_array_equal(all_of(path, UINT8), PIXELS)


def test_a_record_file_without_labels_has_none(tmp_path: Path) -> None:
    path = write_records(tmp_path / "x.tfrecord", [example(png(PIXELS[0]), None)])
    assert load_samples(path, [UINT8]).labels is None


@pytest.mark.parametrize("damage", [slice(0, 0), slice(3, 4), slice(9, 10)])
def test_a_damaged_record_file_is_refused(tmp_path: Path, damage: slice) -> None:
    path = write_records(tmp_path / "x.tfrecord", [example(png(PIXELS[0]), None)])
    data = bytearray(path.read_bytes())
    data[damage] = b"\x55"
    path.write_bytes(data)
    with pytest.raises(CalibrationError, match="is no uncompressed TFRecord file, or is damaged: byte 0"):
        load_samples(path, [UINT8])


def test_a_truncated_record_file_is_refused(tmp_path: Path) -> None:
    path = write_records(tmp_path / "x.tfrecord", [example(png(pixels), None) for pixels in PIXELS])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CalibrationError, match="starts no whole record"):
        load_samples(path, [UINT8])


@pytest.mark.parametrize("record", [b"\xff\xff", b"\x0a\x05\x0a", b"\x0f"])
def test_a_record_that_is_no_example_is_refused(tmp_path: Path, record: bytes) -> None:
    with pytest.raises(CalibrationError, match="record 0 is no tf.train.Example"):
        load_samples(write_records(tmp_path / "x.tfrecord", [record]), [UINT8])


def test_a_record_without_an_image_says_what_it_has(tmp_path: Path) -> None:
    record = field(1, field(1, field(1, b"text") + field(2, field(1, field(1, b"hello")))))
    with pytest.raises(CalibrationError, match=r"record 0 has no image/encoded, it has \['text'\]"):
        load_samples(write_records(tmp_path / "x.tfrecord", [record]), [UINT8])


def test_a_representative_dataset_is_called_for_each_pass() -> None:
    calls: list[int] = []

    def representative_dataset() -> Iterator[list[NDArray[np.uint8]]]:
        calls.append(1)
        for pixels in PIXELS:
            yield [pixels[None]]

    np.testing.assert_array_equal(all_of(representative_dataset, UINT8), PIXELS)
    assert len(calls) == 3  # to count, to see the first, to read


def test_a_dataset_of_batches_with_labels_is_taken_apart() -> None:
    class Dataset:
        def __iter__(self) -> Iterator[tuple[Any, Any]]:
            yield PIXELS[:2], np.array([1, 2])
            yield PIXELS[2:], np.array([3])

    samples = load_samples(Dataset(), [UINT8])
    assert (len(samples), samples.labels.tolist()) == (3, [1, 2, 3])
    np.testing.assert_array_equal(next(samples.batches(9))["image"], PIXELS)


def test_a_dataset_of_named_arrays_fits_by_name() -> None:
    np.testing.assert_array_equal(all_of([{"image": pixels} for pixels in PIXELS], UINT8), PIXELS)


def test_an_infinite_dataset_is_refused() -> None:
    class Repeated:
        def cardinality(self) -> int:
            return -1

        def __iter__(self) -> Iterator[Any]:
            while True:
                yield PIXELS

    with pytest.raises(CalibrationError, match=r"infinite: add take\(count\)"):
        load_samples(Repeated(), [UINT8])


def test_what_can_be_read_only_once_is_refused() -> None:
    with pytest.raises(CalibrationError, match="generator cannot be read twice"):
        load_samples((pixels for pixels in PIXELS), [UINT8])


def test_a_callable_that_does_not_start_over_is_noticed() -> None:
    passes = [PIXELS, PIXELS[:2], PIXELS[:2]]
    samples = load_samples(lambda: iter(passes.pop(0)), [UINT8])
    with pytest.raises(CalibrationError, match="gave 3 samples at first and 2 when read again"):
        list(samples.batches(2))


def test_the_same_pictures_have_the_same_digest_however_they_are_stored(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, ["1_a.png", "2_b.png", "3_c.png"])
    files, reverse, one = (
        {digest(sample) for sample in load_samples(data, [INT8]).codes(1)} for data in (folder, PIXELS[::-1], PIXELS[1:2])
    )
    assert files == reverse and len(files) == 3
    assert len(files & one) == 1


def test_the_sample_of_imagenet_reads_with_its_labels() -> None:
    samples = load_samples(shared("data/imagenet_sample/eval"), [InputSpec("input", (1, 224, 224, 3), "uint8", 1.0)])
    assert (len(samples), samples.labels[:3].tolist()) == (400, [1, 3, 5])
    assert next(samples.batches(2))["input"].shape == (2, 224, 224, 3)


def test_cifar_reads_with_its_labels() -> None:
    samples = load_samples(shared("data/cifar10/calibration.npz"), [InputSpec("input", (1, 32, 32, 3), "int8", 1.0)])
    assert (len(samples), samples.labels.shape) == (512, (512,))


def test_reading_data_imports_neither_tensorflow_nor_pillow() -> None:
    code = "import sys, tf_requant.io.data; assert not {'tensorflow', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
