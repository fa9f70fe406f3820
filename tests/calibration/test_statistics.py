"""A calibration survives its file, counts every code once, and tells its samples apart; damage is refused."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests.builders import conv2d, small_net
from tf_requant.calibration.statistics import KEY, Calibration, count_codes, digest, larger, reach
from tf_requant.errors import CalibrationError
from tf_requant.pipeline.calibrate import calibrate
from tf_requant.pipeline.simulate import checked_model

Arrays = dict[str, NDArray[np.generic]]


def a_calibration(seed: int = 0) -> Calibration:
    random = np.random.default_rng(seed)
    images, states = random.integers(0, 256, (6, 4, 4, 3)), random.integers(-128, 128, (6, 10))
    inputs = {"zoom/bild ä": images.astype(np.uint8), "a_state": states.astype(np.int8)}
    histograms = {7: random.integers(0, 1 << 40, 256), 3: random.integers(0, 9, 256)}
    return Calibration("0123abcd", inputs, histograms, {7: 0.125, 2: 1e-12})


def arrays_of(content: bytes) -> Arrays:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def images(dtype: str, count: int = 6) -> NDArray[np.integer]:
    limits = np.iinfo(dtype)
    return np.random.default_rng(1).integers(limits.min, limits.max + 1, (count, 8, 8, 3)).astype(dtype)


def test_what_is_written_is_read_again() -> None:
    saved = a_calibration()
    found = Calibration.from_arrays(arrays_of(saved.to_bytes()))
    assert found.model == "0123abcd" and len(found) == 6
    assert list(found.inputs) == ["zoom/bild ä", "a_state"]  # the order of the model's inputs
    for name, codes in saved.inputs.items():
        np.testing.assert_array_equal(found.inputs[name], codes)
        assert found.inputs[name].dtype == codes.dtype
    assert sorted(found.histograms) == [3, 7]
    for tensor, counts in saved.histograms.items():
        np.testing.assert_array_equal(found.histograms[tensor], counts)
    assert found.noise == {7: 0.125, 2: 1e-12} and found.digests == saved.digests


def test_a_calibration_without_statistics_is_written_and_read_again() -> None:
    found = Calibration.from_arrays(arrays_of(Calibration("m", {"x": np.zeros((2, 3), np.int16)}).to_bytes()))
    assert len(found) == 2 and found.histograms == {} and found.noise == {} and found.inputs["x"].dtype == np.int16


def test_equal_content_gives_equal_bytes_and_a_file_that_needs_no_pickle() -> None:
    first, again, other = (a_calibration(seed).to_bytes() for seed in (0, 0, 1))
    assert first == again != other
    assert KEY in arrays_of(first)


@pytest.mark.parametrize(
    "missing", [KEY, "input_names", "input_1", "histogram_tensors", "histogram_counts", "noise_values"]
)
def test_a_missing_array_is_refused(missing: str) -> None:
    arrays = arrays_of(a_calibration().to_bytes())
    del arrays[missing]
    with pytest.raises(CalibrationError, match="damaged"):
        Calibration.from_arrays(arrays)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        (KEY, np.frombuffer(b"{no json", np.uint8)),
        (KEY, np.frombuffer(b"\xff\xfe\x00", np.uint8)),
        (KEY, np.frombuffer(b"[1, 2]", np.uint8)),
        (KEY, np.frombuffer(json.dumps({"version": "1"}).encode(), np.uint8)),
        ("input_names", np.frombuffer(b'["x", "y", "z"]', np.uint8)),
        ("input_names", np.frombuffer(b"7", np.uint8)),
        ("histogram_tensors", np.array(3)),
        ("noise_tensors", np.array(3)),
    ],
)
def test_a_damaged_array_is_refused(name: str, array: NDArray[np.generic]) -> None:
    arrays = arrays_of(a_calibration().to_bytes()) | {name: array}
    with pytest.raises(CalibrationError, match="damaged"):
        Calibration.from_arrays(arrays)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("histogram_counts", np.zeros((1, 256), np.int64)),  # one histogram lost
        ("histogram_counts", np.zeros((2, 17), np.int64)),
        ("noise_values", np.zeros(1)),
        ("input_1", np.zeros((2, 10), np.int8)),  # fewer samples than of the other input
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(name: str, array: NDArray[np.generic]) -> None:
    arrays = arrays_of(a_calibration().to_bytes()) | {name: array}
    with pytest.raises(CalibrationError, match="damaged"):
        Calibration.from_arrays(arrays)


@pytest.mark.parametrize(
    ("dtype", "codes", "counts"),
    [
        ("uint8", [0, 0, 255, 128, 127], {0: 2, 255: 1, 128: 1, 127: 1}),
        ("int8", [-128, -128, 127, 0, -1], {0: 2, 255: 1, 128: 1, 127: 1}),
    ],
)
def test_the_first_bin_is_the_type_s_lowest_code(dtype: str, codes: list[int], counts: dict[int, int]) -> None:
    found = count_codes(None, np.array(codes, dtype))
    assert {n: int(c) for n, c in enumerate(found) if c} == counts and found.shape == (256,)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_every_code_is_counted_once_over_all_samples_and_any_memory_order(dtype: str) -> None:
    samples, low = images(dtype), int(np.iinfo(dtype).min)
    found = None
    for sample in samples:
        found = count_codes(found, sample.transpose(1, 0, 2)[::-1])
    assert found is not None
    assert found.tolist() == [int((samples == code).sum()) for code in range(low, low + 256)]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_histograms_are_of_the_codes_that_the_model_makes(dtype: str) -> None:
    model, samples, low = checked_model(small_net(dtype)), images(dtype), int(np.iinfo(dtype).min)
    found = calibrate(model, samples, noise=False)
    np.testing.assert_array_equal(found.inputs[model.main.tensors[model.main.inputs[0]].name], samples)
    with tf_requant.Simulation(model) as simulation:
        values = simulation.run(samples, "all")
    assert set(found.histograms) == {t for t, tensor in enumerate(model.main.tensors) if tensor.is_activation}
    for tensor, counts in found.histograms.items():
        codes = samples if tensor in model.main.inputs else values[model.main.tensors[tensor].name]
        assert counts.tolist() == [int((codes == code).sum()) for code in range(low, low + 256)]


def test_digests_tell_samples_apart_by_their_codes() -> None:
    calibration = a_calibration()
    assert len(set(calibration.digests)) == 6 and all(len(d) == 16 and int(d, 16) >= 0 for d in calibration.digests)
    changed = {name: codes.copy() for name, codes in calibration.inputs.items()}
    changed["a_state"][2, 5] ^= 1  # one bit of one sample
    other = Calibration("0123abcd", changed)
    assert [a == b for a, b in zip(calibration.digests, other.digests)] == [True, True, False, True, True, True]


def test_a_digest_is_of_the_content_alone() -> None:
    sample = {"b": np.arange(6, dtype=np.uint8).reshape(2, 3), "a": np.array([9], np.int8)}
    turned = {"a": np.array([9], np.int8), "b": np.asfortranarray(sample["b"])}
    assert digest(sample) == digest(turned) == "6172c592b2a29d47"
    assert digest(sample) != digest({"b": sample["b"].T, "a": sample["a"]})


def test_a_saved_calibration_serves_in_place_of_data(tmp_path: Path) -> None:
    model = checked_model(conv2d("uint8", channels=3))
    found = calibrate(model, images("uint8"))
    (tmp_path / "c.npz").write_bytes(found.to_bytes())
    again = calibrate(model, tmp_path / "c.npz")
    assert again.to_bytes() == found.to_bytes()


def test_a_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    found = calibrate(checked_model(conv2d("uint8", channels=3)), images("uint8"))
    (tmp_path / "c.npz").write_bytes(found.to_bytes())
    for data in (found, tmp_path / "c.npz"):
        with pytest.raises(CalibrationError, match="of another model"):
            calibrate(checked_model(conv2d("uint8", channels=3, seed=1)), data)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_file_that_was_cut_short_is_refused(keep: float, tmp_path: Path) -> None:
    content = a_calibration().to_bytes()
    (tmp_path / "c.npz").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CalibrationError):
        calibrate(checked_model(conv2d("uint8", channels=3)), tmp_path / "c.npz")


def test_a_file_with_a_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    model = checked_model(conv2d("uint8", channels=3))
    content = calibrate(model, images("uint8", 3)).to_bytes()
    positions = np.random.default_rng(0).integers(0, len(content), 40)
    refused = 0
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        (tmp_path / "c.npz").write_bytes(damaged)
        try:
            assert calibrate(model, tmp_path / "c.npz").to_bytes() == content
        except CalibrationError:
            refused += 1
    assert refused > 20


def test_peaks_are_of_the_samples_where_a_channel_was_largest() -> None:
    random, peaks = np.random.default_rng(2), None
    samples = random.integers(-128, 128, (30, 1, 2, 2, 5)).astype(np.int8)
    for codes in samples:
        peaks = larger(peaks, codes, -7)
    assert peaks is not None and peaks.shape == (5, 11)
    each = np.abs(samples.astype(int) + 7).max(axis=(1, 2, 3))
    np.testing.assert_array_equal(peaks, -np.sort(-each, axis=0)[:11].T)


def test_a_channel_that_seldom_fires_goes_further_than_one_that_always_does() -> None:
    found = reach(np.array([[100] * 11, [100, *[0] * 10], [100, *range(99, 89, -1)]]))
    np.testing.assert_allclose(found, [100.0, 110.0, 105.5])
    assert reach(np.array([[100]])) == 125.0


def test_the_reach_of_an_exponential_tail_holds_what_comes_but_for_one_in_e() -> None:
    """The peak of n samples is exceeded by one in n + 1; one mean excess further on by one in e of those."""
    random = np.random.default_rng(4)
    draws = np.round(random.exponential(1e4, (4000, 201))).astype(np.int64)
    found = reach(-np.sort(-draws[:, :200], axis=1)[:, :11])
    share = (draws[:, 200] > found).mean()
    assert 0.2 < share * 201 < 0.6


def test_saved_peaks_come_back_and_those_of_one_a_channel_do_too() -> None:
    saved = Calibration("0123abcd", {"x": np.zeros((2, 3), np.int8)}, {}, {}, {4: np.array([[9, 3], [5, 5]])})
    arrays = arrays_of(saved.to_bytes())
    np.testing.assert_array_equal(Calibration.from_arrays(arrays).peaks[4], [[9, 3], [5, 5]])
    np.testing.assert_array_equal(Calibration.from_arrays(arrays | {"peak_4": np.array([9, 5])}).peaks[4], [[9], [5]])
    for wrong in (np.zeros((0, 3), np.int64), np.zeros((2, 2)), np.zeros((2, 2, 2), np.int64)):
        with pytest.raises(CalibrationError, match="peaks of a tensor"):
            Calibration.from_arrays(arrays | {"peak_4": wrong})
