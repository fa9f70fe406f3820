"""Synthetic inputs have what natural ones have: power that falls with frequency, channels that move together."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tf_requant.calibration.synthetic import synthetic_codes
from tf_requant.model.quant import code_limits

DTYPES = ("uint8", "int8", "int16")
SHAPES = [(1, 200), (3, 50), (40,), (1, 1, 1, 30), (1, 60, 2), (2, 12, 10, 3), (1, 6, 6, 6, 2), (1, 1, 1), (1, 5, 1, 1)]


def fields(dtype: str, shape: tuple[int, ...] = (1, 64, 64, 3), count: int = 24) -> NDArray[np.float64]:
    """Samples [count, ...] as shares of the code range from its middle."""
    low, high = code_limits(dtype)
    codes = np.stack(synthetic_codes(shape, dtype, count)).astype(np.float64)
    return (codes - (low + high) / 2) / (high - low)


def power(samples: NDArray[np.float64], axes: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(frequency in cycles a place, mean power there) of every frequency but zero."""
    spectrum = np.abs(np.fft.fftn(samples - samples.mean(axis=axes, keepdims=True), axes=axes)) ** 2
    others = tuple(n for n in range(samples.ndim) if n not in axes)
    grid = np.meshgrid(*(np.fft.fftfreq(samples.shape[a]) for a in axes), indexing="ij")
    radius = np.sqrt(sum(np.square(g) for g in grid)).reshape(-1)
    return radius[1:], spectrum.mean(axis=others).reshape(-1)[1:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_type_is_served(shape: tuple[int, ...], dtype: str) -> None:
    samples = synthetic_codes(shape, dtype, 5)
    assert [(s.shape, s.dtype.name) for s in samples] == [(shape, dtype)] * 5
    low, high = code_limits(dtype)
    assert all(low <= s.min() and s.max() <= high for s in samples)
    assert len({s.tobytes() for s in samples}) == 5  # no sample twice


@pytest.mark.parametrize("shape", [(1, 16, 16, 3), (1, 40)])
def test_a_seed_gives_the_same_samples_and_another_gives_others(shape: tuple[int, ...]) -> None:
    first, again, other = (np.stack(synthetic_codes(shape, "int8", 4, seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9
    np.testing.assert_array_equal(np.stack(synthetic_codes(shape, "int8", 2, 7)), first[:2])


def test_types_differ_by_where_zero_lies() -> None:
    plain, shifted = (np.stack(synthetic_codes((1, 16, 16, 2), t, 3)).astype(int) for t in ("uint8", "int8"))
    assert np.abs(plain - 128 - shifted).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_fill_the_range_as_photographs_do(dtype: str) -> None:
    found = fields(dtype)
    assert abs(found.mean()) < 0.05
    assert 0.2 < found.std(axis=(1, 2, 3)).mean() < 0.25
    assert 0.05 < found.mean(axis=(1, 2, 3, 4)).std() < 0.15  # some bright, some dark
    assert (np.abs(found) > 0.499).mean() < 0.1  # few at the clamps
    assert np.abs(np.diff(found, axis=2)).max() < 0.85  # none wrapped around from one end to the other


@pytest.mark.parametrize("dtype", DTYPES)
def test_power_falls_with_the_square_of_the_frequency(dtype: str) -> None:
    radius, found = power(fields(dtype), (2, 3))
    slope = np.polyfit(np.log(radius[radius < 0.5]), np.log(found[radius < 0.5]), 1)[0]
    assert -2.3 < slope < -1.7  # white noise: 0
    low = radius <= 1 / 16
    assert low.mean() < 0.015 and found[low].sum() > 0.4 * found.sum()


def test_rows_and_columns_are_alike() -> None:
    found = fields("uint8", (1, 64, 64, 1))
    down, across = (np.square(np.diff(found, axis=axis)).mean() for axis in (2, 3))
    assert 0.8 < down / across < 1.25
    assert np.square(np.diff(found, axis=3)).mean() < 0.6 * found.var()  # white noise: 2


def test_a_sequence_has_the_spectrum_along_its_time_alone() -> None:
    radius, found = power(fields("int8", (1, 512, 4)), (2,))
    assert -2.3 < np.polyfit(np.log(radius), np.log(found), 1)[0] < -1.7


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (1, 1024, 3)])
def test_channels_move_together_and_are_not_the_same(shape: tuple[int, ...]) -> None:
    samples = fields("uint8", shape).reshape(24, -1, 3)
    found = np.mean([np.corrcoef(s, rowvar=False) for s in samples], axis=0)
    assert (found[~np.eye(3, dtype=bool)] > 0.8).all() and (found[~np.eye(3, dtype=bool)] < 0.97).all()


def test_features_without_an_extent_are_independent() -> None:
    samples = fields("int8", (1, 400), 200)[:, 0]
    neighbours = samples - samples.mean(axis=1, keepdims=True)
    share = (neighbours[:, 1:] * neighbours[:, :-1]).mean() / neighbours.var()
    assert abs(share) < 0.02 and 0.2 < neighbours.std() < 0.25
