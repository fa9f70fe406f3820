"""Codebooks are the best ones: exhaustive search over few levels agrees."""

from itertools import combinations

import numpy as np
import pytest

from tf_requant.numerics.codebook import best_levels, nearest


def error(values: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> float:
    return float((weights * (nearest(values, levels) - values) ** 2).sum())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_no_other_levels_do_better(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = -6, 5
    values = np.round(rng.normal(0, 3, 30).clip(low, high) * 16) / 16
    weights = rng.random(30) ** 2
    found = best_levels(values, weights, count, low, high)
    assert found.size <= count and np.all(np.diff(found) > 0) and low <= found.min() and found.max() <= high
    best = min(error(values, weights, np.array(c)) for n in range(1, count + 1) for c in combinations(range(low, high + 1), n))
    assert error(values, weights, found) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_values_on_few_integers_come_back_as_they_are() -> None:
    values = np.array([-3.0, 7.0, 7.0, 0.0])
    np.testing.assert_array_equal(best_levels(values, np.ones(4), 16, -127, 127), [-3, 0, 7])
    np.testing.assert_array_equal(best_levels(np.zeros(3), np.ones(3), 4, -127, 127), [0])


def test_a_uniform_grid_is_found_where_it_fits() -> None:
    """Values that a uniform quantizer of four bits holds: levels reproduce it."""
    grid = np.arange(-7, 8) * 16.0
    values = np.repeat(grid, 5)
    np.testing.assert_array_equal(best_levels(values, np.ones(values.size), 16, -127, 127), grid)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_they_are_never_worse_than_the_best_uniform_grid(bits: int) -> None:
    rng = np.random.default_rng(bits)
    values, weights = (np.round(rng.laplace(0, 25, 4000).clip(-127, 127) * 16) / 16), rng.random(4000)
    found = best_levels(values, weights, 2**bits, -127, 127)
    top = 2 ** (bits - 1) - 1
    uniform = min(error(values, weights, np.arange(-top, top + 1) * step) for step in range(1, 127 // top + 1))
    assert error(values, weights, found) < uniform


def test_the_nearest_of_two_equally_near_is_the_higher() -> None:
    np.testing.assert_array_equal(nearest(np.array([-200.0, 1.0, 0.99, 5.0, 200.0]), np.array([-2, 0, 2, 8])), [-2, 2, 0, 8, 8])
