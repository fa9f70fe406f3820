"""Moments are covariances of what was added, whatever the batches, and errors from them are those of the outputs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tf_requant.calibration.moments import Moments, PairedMoments
from tf_requant.corrections.gptq import compensated, within

Places = NDArray[np.float32]
FLOAT32 = 2e-5
"""Relative rounding noise of float32 products of codes: sums of a few thousand of them."""


def correlated(seed: int, groups: int, places: int, inputs: int) -> tuple[Places, Places]:
    """Inputs x with means and covariances of their own, and y that x resembles but is not."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(groups, places, inputs)) @ random.normal(0, 9, (groups, inputs, inputs))
    x = mixed + random.uniform(-20, 20, (groups, 1, inputs))
    y = 0.8 * x + np.roll(mixed, 1, axis=2) * 0.3 + random.normal(0, 2, x.shape) - 7
    return np.float32(x), np.float32(y)


def paired(x: Places, y: Places, sizes: list[int]) -> Moments:
    """The moments of places that come in samples of these sizes."""
    moments, start = PairedMoments(full=True), 0
    for size in sizes:
        moments.add(x[:, start : start + size], y[:, start : start + size])
        start += size
    assert start == x.shape[1]
    return moments.centred()


def covariance(a: Places, b: Places) -> NDArray[np.float64]:
    """E[a_i b_j] of what is left of a and b without their means, group by group, place by place."""
    found = np.zeros((a.shape[0], a.shape[2], b.shape[2]))
    for group, (left, right) in enumerate(zip(a.astype(np.float64), b.astype(np.float64))):
        for one, other in zip(left - left.mean(axis=0), right - right.mean(axis=0)):
            found[group] += np.outer(one, other) / len(left)
    return found


def test_a_toy_by_hand() -> None:
    x = np.array([[[0, 5], [2, 5], [4, 5]]], np.float32)  # variance 8/3, and a constant
    y = np.array([[[1, 0], [1, 3], [1, 6]]], np.float32)
    found = paired(x, y, [2, 1])
    np.testing.assert_allclose(found.xx, np.array([[[8 / 3, 0], [0, 0]]]), atol=1e-6)
    np.testing.assert_allclose(found.xy, [[[0, 4], [0, 0]]], atol=1e-6)  # x_0 moves with y_1: rows are x's
    assert found.yy is not None
    np.testing.assert_allclose(found.yy, [[[0, 0], [0, 6]]], atol=1e-6)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("inputs", [1, 6])
def test_moments_are_covariances_group_by_group(groups: int, inputs: int) -> None:
    x, y = correlated(groups + inputs, groups, 300, inputs)
    found = paired(x, y, [300])
    assert found.yy is not None
    scale = float(np.abs(covariance(x, x)).max())
    for mine, right in ((found.xx, covariance(x, x)), (found.xy, covariance(x, y)), (found.yy, covariance(y, y))):
        np.testing.assert_allclose(mine, right, atol=FLOAT32 * scale)


def test_the_covariance_of_one_group_is_numpy_s() -> None:
    x, y = correlated(5, 1, 400, 3)
    found = paired(x, y, [400])
    both = np.cov(np.concatenate([x[0], y[0]], axis=1).astype(np.float64), rowvar=False, bias=True)
    np.testing.assert_allclose(np.concatenate([found.xx[0], found.xy[0]], axis=1), both[:3], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("sizes", [[9000], [1] * 40 + [8960], [3000] * 3, [4095, 1, 4096, 808], [4097, 4903]])
def test_how_places_come_in_makes_no_difference(sizes: list[int]) -> None:
    x, y = correlated(3, 2, 9000, 4)
    found, right = paired(x, y, sizes), paired(x, y, [900] * 10)
    assert found.yy is not None and right.yy is not None
    scale = float(right.xx.max())
    for mine, other in ((found.xx, right.xx), (found.xy, right.xy), (found.yy, right.yy)):
        np.testing.assert_allclose(mine, other, atol=FLOAT32 * scale)


def test_asking_twice_and_adding_later_is_possible() -> None:
    x, y = correlated(8, 1, 200, 3)
    moments = PairedMoments(full=True)
    moments.add(x[:, :50], y[:, :50])
    first = moments.centred()
    np.testing.assert_array_equal(first.xx, moments.centred().xx)
    moments.add(x[:, 50:], y[:, 50:])
    np.testing.assert_allclose(moments.centred().xy, covariance(x, y), atol=FLOAT32 * float(first.xx.max()))


def test_the_source_s_own_covariance_is_there_only_where_it_was_asked_for() -> None:
    x, y = correlated(1, 1, 50, 2)
    moments = PairedMoments()
    moments.add(x, y)
    assert moments.centred().yy is None


@pytest.mark.parametrize("groups", [1, 3])
def test_the_error_is_the_variance_of_the_outputs_difference(groups: int) -> None:
    x, y = correlated(11, groups, 500, 5)
    random = np.random.default_rng(1)
    wanted = random.normal(0, 20, (groups, 4, 5))
    codes = np.rint(wanted + random.normal(0, 1, wanted.shape))
    moments = paired(x, y, [500])
    ours, theirs = (np.einsum("gok,gpk->gop", w, a.astype(np.float64)) for w, a in ((codes, x), (wanted, y)))
    np.testing.assert_allclose(moments.error(codes, wanted), (ours - theirs).var(axis=2), rtol=1e-3)
    np.testing.assert_allclose(moments.signal(wanted), theirs.var(axis=2), rtol=1e-4)
    change = np.einsum("gok,gpk->gop", codes - wanted, x.astype(np.float64))
    np.testing.assert_allclose(moments.rounding_error(codes - wanted), change.var(axis=2), rtol=1e-3)


def test_errors_by_hand() -> None:
    moments = Moments(np.array([[[4.0, 1], [1, 2]]]), np.array([[[3.0, 0], [1, 1]]]), np.array([[[5.0, 2], [2, 6]]]))
    change = np.array([[[1.0, 0], [1, -1]]])
    assert moments.rounding_error(change).tolist() == [[4, 4]]  # 4; 4 - 2 + 2
    codes, wanted = np.array([[[1.0, 2]]]), np.array([[[1.0, 1]]])
    assert moments.signal(wanted).tolist() == [[15]]
    assert moments.error(codes, wanted).tolist() == [[17]]  # 4 + 4 + 8, twice 3 + 2 + 2 less, and 15


def test_an_error_is_never_negative() -> None:
    x, _ = correlated(2, 1, 100, 3)
    moments = paired(x, x, [100])
    wanted = np.random.default_rng(0).normal(0, 20, (1, 50, 3))
    assert (moments.error(wanted, wanted) >= 0).all()


@pytest.mark.parametrize("value", [127, 254])
def test_inputs_that_hardly_move_have_a_covariance_that_gptq_can_invert(value: int) -> None:
    x = np.full((2, 256, 9), value, np.float32)
    moments = PairedMoments()
    for _ in range(60):
        moments.add(x, x)
    found = moments.centred().xx
    assert np.linalg.eigvalsh(found).min() > -1e-3
    wanted = np.array([[[0.4] * 9]] * 2)
    assert np.abs(compensated(wanted, found, within(-127, 127)) - wanted).max() <= 1
