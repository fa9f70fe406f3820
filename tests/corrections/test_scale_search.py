"""The scale that is chosen is the one of least output error among the candidates, channel by channel or for all."""

from math import frexp

import numpy as np
import pytest
from numpy.typing import NDArray

from tf_requant.calibration.moments import Moments
from tf_requant.corrections.scale_search import best_scale, candidates

Matrix = NDArray[np.float64]
SHAPES = [(1, 6, 20), (5, 1, 9), (4, 2, 9), (2, 3, 12)]
every_shape = pytest.mark.parametrize("shape", SHAPES)
both = pytest.mark.parametrize("flag", [True, False])


def drawn(seed: int, groups: int, outputs: int, inputs: int) -> tuple[Matrix, Moments]:
    """A filter whose channels have ranges of their own around +-127, and a covariance a group."""
    random = np.random.default_rng(seed)
    wanted = random.normal(0, 40, (groups, outputs, inputs)) * 2.0 ** random.uniform(-2, 0.5, (groups, outputs, 1))
    mixed = random.normal(size=(groups, 50, inputs)) * random.uniform(0.2, 20, (groups, 1, inputs))
    mixed = mixed @ (np.eye(inputs) + 0.2 * random.normal(size=(groups, inputs, inputs)))
    xx = mixed.transpose(0, 2, 1) @ mixed / 50
    return wanted, Moments(xx, xx)


def output_errors(wanted: Matrix, moments: Moments, multiple: Matrix, low: int, high: int) -> Matrix:
    """What nearest rounding at a multiple of the scale does to each output, one weight at a time, float64[channels]."""
    found = []
    channels = [(g, o) for g in range(wanted.shape[0]) for o in range(wanted.shape[1])]
    for number, (group, output) in enumerate(channels):
        step = multiple[number] if len(multiple) > 1 else multiple[0]
        codes = [min(max(round(float(w) / step), low), high) for w in wanted[group, output]]
        error = np.array(codes) * step - wanted[group, output]
        found.append(error @ moments.xx[group] @ error)
    return np.array(found)


def test_candidates_by_hand() -> None:
    wanted = np.array([[10.0, -254.0], [100.0, 50.0]])
    assert candidates(wanted, 127, True, False).tolist() == [[1], [2], [1], [0.5]]
    assert candidates(wanted, 127, True, True).tolist() == [[1, 1], [2, 1], [1, 0.5], [0.5, 0.25]]
    found = candidates(wanted, 127, False, True)
    assert found[0].tolist() == [1, 1]
    np.testing.assert_allclose(found[1], [2, 100 / 127])  # the whole range, then less and less of it
    np.testing.assert_allclose(found[2:] / found[1], np.array([0.93, 0.86, 0.79, 0.72, 0.64, 0.55])[:, None] * [1, 1])


@every_shape
@both
def test_the_first_candidate_is_the_scale_at_hand(shape: tuple[int, int, int], flag: bool) -> None:
    rows = drawn(1, *shape)[0].reshape(-1, shape[2])
    for per_channel, width in ((True, len(rows)), (False, 1)):
        found = candidates(rows, 127, flag, per_channel)
        assert found.shape[1] == width and (found[0] == 1).all() and (found > 0).all()


@every_shape
@both
def test_power_of_two_candidates_are_octaves_of_the_scale_at_hand(shape: tuple[int, int, int], flag: bool) -> None:
    rows = drawn(2, *shape)[0].reshape(-1, shape[2])
    found = candidates(rows, 127, True, flag)
    assert all(frexp(f)[0] == 0.5 for f in found.reshape(-1))
    # The largest holds every weight, and half of it does not: no candidate is coarser than it has to be.
    peak = np.abs(rows).max(axis=1) if flag else np.abs(rows).max(keepdims=True)[0]
    assert (peak <= 127 * found[1] * (1 + 1e-5)).all() and (peak > 127 * found[1] / 2 * (1 - 1e-5)).all()
    np.testing.assert_array_equal(found[2:], [found[1] / 2, found[1] / 4])


def test_a_power_of_two_that_just_fits_is_not_doubled_for_a_last_bit() -> None:
    assert candidates(np.array([[127.00001, 3.0]]), 127, True, False)[1].tolist() == [1]


@both
def test_a_channel_of_zeros_keeps_its_scale(flag: bool) -> None:
    found = candidates(np.array([[0.0, 0.0], [64.0, 1.0]]), 127, flag, True)
    assert (found[:, 0] == 1).all() and not (found[:, 1] == 1).all()


@every_shape
@pytest.mark.parametrize("seed", range(6))
@both
def test_each_channel_gets_the_candidate_of_its_own_least_error(
    shape: tuple[int, int, int], seed: int, flag: bool
) -> None:
    wanted, moments = drawn(seed, *shape)
    tried = candidates(wanted.reshape(-1, shape[2]), 127, flag, True)
    chosen = best_scale(wanted, moments, tried, -127, 127)
    errors = np.array([output_errors(wanted, moments, t, -127, 127) for t in tried])
    found = output_errors(wanted, moments, chosen, -127, 127)
    np.testing.assert_allclose(found, errors.min(axis=0), rtol=1e-9)
    assert (found <= errors[0] * (1 + 1e-9)).all()
    assert all(c in t for c, t in zip(chosen, tried.T))


@every_shape
@pytest.mark.parametrize("seed", range(6))
@both
def test_one_scale_for_all_has_the_least_error_in_sum(shape: tuple[int, int, int], seed: int, flag: bool) -> None:
    wanted, moments = drawn(seed, *shape)
    tried = candidates(wanted.reshape(-1, shape[2]), 127, flag, False)
    chosen = best_scale(wanted, moments, tried, -127, 127)
    errors = [output_errors(wanted, moments, t, -127, 127).sum() for t in tried]
    assert chosen.shape == (1,) and chosen[0] == tried[int(np.argmin(errors)), 0]


@pytest.mark.parametrize(("low", "high"), [(-127, 127), (-8, 7)])
def test_an_outlier_that_nothing_feeds_is_clipped_for_the_others_sake(low: int, high: int) -> None:
    wanted = np.random.default_rng(0).uniform(-0.5 * high, 0.5 * high, (1, 2, 400))
    wanted[0, 1, 4] = high  # in the second channel alone
    power = np.full(400, 100.0)
    tried = candidates(wanted[0], high, False, True)
    for of_outlier, expected in ((1e-6, tried[-1, 1]), (1e6, 1)):  # the tightest; where it matters it is held
        power[4] = of_outlier
        chosen = best_scale(wanted, Moments(np.diag(power)[None], np.diag(power)[None]), tried, low, high)
        assert chosen[1] == expected


def test_of_equals_the_scale_at_hand_wins() -> None:
    wanted = np.array([[[64.0, -32.0, 8.0]]])
    tried = candidates(wanted[0], 127, True, True)
    assert tried[:, 0].tolist() == [1, 1, 0.5, 0.25]
    assert best_scale(wanted, Moments(np.eye(3)[None], np.eye(3)[None]), tried, -127, 127).tolist() == [1]
    dead = Moments(np.zeros((1, 3, 3)), np.zeros((1, 3, 3)))
    assert best_scale(np.array([[[64.3, 0.7, 9.9]]]), dead, tried, -127, 127).tolist() == [1]


def test_a_finer_octave_wins_where_weights_lie_between_the_codes() -> None:
    moments = Moments(np.eye(2)[None], np.eye(2)[None])
    wanted = np.array([[[10.5, 20.25], [127.0, 3.0]]])
    tried = candidates(wanted[0], 127, True, True)
    assert best_scale(wanted, moments, tried, -127, 127).tolist() == [0.25, 1]
