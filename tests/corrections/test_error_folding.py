"""A folded filter gives the source's output on the inputs that the result has, where what these are is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tf_requant.calibration.moments import Moments, PairedMoments
from tf_requant.corrections.error_folding import RIDGES, folded

Matrix = NDArray[np.float64]
SHAPES = {"dense": (1, 7, 24), "depthwise": (30, 1, 9), "multiplied": (12, 3, 9), "grouped": (3, 4, 10)}
"""Groups, outputs, inputs."""
TINY = 1e-9
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def drawn(seed: int, groups: int, outputs: int, inputs: int) -> tuple[Matrix, Matrix, Matrix]:
    """A filter, source inputs y [groups, places, inputs], and maps A of each group, none of them symmetric."""
    random = np.random.default_rng(seed)
    wanted = random.normal(0, 30, (groups, outputs, inputs))
    y = random.normal(0, 25, (groups, 6 * inputs, inputs)) + random.uniform(-20, 20, (groups, 1, inputs))
    maps = np.eye(inputs) + random.normal(0, 0.5 / np.sqrt(inputs), (groups, inputs, inputs))
    return wanted, y, maps


def exact(x: Matrix, y: Matrix) -> Moments:
    """Moments without float32's noise."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    left = x.transpose(0, 2, 1) / x.shape[1]
    return Moments(left @ x, left @ y, y.transpose(0, 2, 1) @ y / x.shape[1])


def test_a_known_gain_is_taken_off_by_hand() -> None:
    # x_0 = 2 y_0, x_1 = y_1 + y_0: what w = [6, 4] gives of y, [1, 4] gives of x.
    y = np.array([[[3.0, 0], [-3, 0], [0, 5], [0, -5]]])
    x = np.stack([2 * y[..., 0], y[..., 1] + y[..., 0]], axis=2)
    np.testing.assert_allclose(folded(np.array([[[6.0, 4.0]]]), exact(x, y), 0.0), [[[1.0, 4.0]]], rtol=1e-3)


@every_shape
@pytest.mark.parametrize("seed", range(4))
def test_a_linear_map_ahead_of_a_filter_is_undone_in_it(shape: tuple[int, int, int], seed: int) -> None:
    wanted, y, maps = drawn(seed, *shape)
    x = y @ maps.transpose(0, 2, 1)  # x = A y at every place
    found = folded(wanted, exact(x, y), TINY)
    np.testing.assert_allclose(found, wanted @ np.linalg.inv(maps), rtol=1e-3, atol=0.01)
    np.testing.assert_allclose(x @ found.transpose(0, 2, 1), y @ wanted.transpose(0, 2, 1), atol=1.0)


@every_shape
def test_it_is_undone_from_counted_moments_too(shape: tuple[int, int, int]) -> None:
    wanted, y, maps = drawn(7, *shape)
    x, counted = y @ maps.transpose(0, 2, 1), PairedMoments()
    for start in range(0, x.shape[1], 5):
        counted.add(np.float32(x[:, start : start + 5]), np.float32(y[:, start : start + 5]))
    np.testing.assert_allclose(folded(wanted, counted.centred(), TINY), wanted @ np.linalg.inv(maps), atol=0.05)


@every_shape
def test_a_filter_of_undisturbed_inputs_stays_exactly(shape: tuple[int, int, int]) -> None:
    wanted, y, _ = drawn(3, *shape)
    for ridge in (TINY, *RIDGES):
        np.testing.assert_array_equal(folded(wanted, exact(y, y), ridge), wanted)


@every_shape
def test_a_huge_ridge_leaves_the_filter_where_it_is(shape: tuple[int, int, int]) -> None:
    wanted, y, maps = drawn(4, *shape)
    moments = exact(y @ maps.transpose(0, 2, 1), y)
    np.testing.assert_allclose(folded(wanted, moments, 1e9), wanted, atol=1e-6)
    steps = [np.abs(folded(wanted, moments, ridge) - wanted).mean() for ridge in (1e9, *RIDGES, TINY)]
    assert steps == sorted(steps)


@every_shape
@pytest.mark.parametrize("ridge", RIDGES)
def test_a_folded_filter_is_nearer_to_the_source_s_output(shape: tuple[int, int, int], ridge: float) -> None:
    wanted, y, maps = drawn(5, *shape)
    x = y @ maps.transpose(0, 2, 1) + np.random.default_rng(0).normal(0, 3, y.shape)
    moments = exact(x, y)
    mended, left = moments.error(folded(wanted, moments, ridge), wanted), moments.error(wanted, wanted)
    assert (mended < left).all() and mended.sum() < 0.6 * left.sum()


def test_noise_that_nothing_predicts_shrinks_the_filter_and_no_more() -> None:
    y = np.array([[[4.0], [-4.0], [4.0], [-4.0]]])
    x = y + np.array([[[2.0], [2.0], [-2.0], [-2.0]]])  # power 16 of the signal, 4 of the noise
    np.testing.assert_allclose(folded(np.array([[[10.0]]]), exact(x, y), 0.0), [[[8.0]]], rtol=1e-3)
    np.testing.assert_allclose(folded(np.array([[[10.0]]]), exact(x, y), 1.0), [[[9.0]]], rtol=1e-3)


def test_inputs_that_never_move_leave_their_weights_alone() -> None:
    wanted, y, maps = drawn(6, 1, 3, 8)
    x = y @ maps.transpose(0, 2, 1)
    x[..., 5] = 17
    assert np.abs((folded(wanted, exact(x, y), 0.1) - wanted)[..., 5]).max() < 1e-9
