"""The screen gives the definition's codes, wherever its float arithmetic could be in doubt."""

import numpy as np
import pytest

from tf_requant.numerics.arithmetic import Requantizer, Stage
from tf_requant.numerics.fixed_point import Rescale
from tf_requant.numerics.output_stage import FLOAT32_EXACT, OutputStage, Screen
from tf_requant.numerics.rounding import Rounding
from tf_requant.simulator.engine import compiled

RULES = {
    "double rounding": Requantizer(),
    **{r.value: Requantizer(stages=(Stage("rest", r),)) for r in Rounding if r is not Rounding.TRUNCATE},
    "float64": Requantizer("float64", 0, stages=(Stage("rest", Rounding.HALF_AWAY),)),
}


def _agree(stage: OutputStage, bias: np.ndarray, sums: np.ndarray, precision: type) -> None:
    bound = np.broadcast_to(np.abs(sums).max(axis=0), bias.shape)
    screen = Screen(stage, bias, bound, precision)
    out = np.empty(sums.shape, stage.dtype)
    screen.apply(sums.astype(precision), out)
    screen.settle()
    np.testing.assert_array_equal(out, stage.exact(sums + bias))


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("name", RULES)
def test_a_screen_equals_the_definition_at_and_beside_every_tie(name: str, precision: type) -> None:
    # M = 2^-5, 3 / 64 and two ratios of no short form: all sums near a half of the output, and random ones.
    ratios = np.asarray([2.0**-5, 3 / 64, 0.0123456, 0.31])
    stage = OutputStage(Rescale.of_ratio(ratios, RULES[name]), -3, -128, 127, "int8")
    halves = (np.arange(-140, 140)[:, None] + 0.5) / ratios
    near = np.concatenate([np.rint(halves) + d for d in range(-3, 4)]).astype(np.int64)
    random = np.random.default_rng(0).integers(-20000, 20000, (5000, 4))
    _agree(stage, np.asarray([0, 7, -1000, 123456]), np.concatenate([near, random]), precision)


def test_a_power_of_two_is_floored_without_a_doubt() -> None:
    rule = Requantizer(stages=(Stage("rest", Rounding.HALF_UP),))
    stage = OutputStage(Rescale.of_ratio([2.0**-4, 2.0], rule), 5, -128, 127, "int8")
    sums = np.stack([np.arange(-4000, 4000), np.arange(-4000, 4000)], axis=1)
    screen = Screen(stage, np.asarray([3, -3]), np.asarray([4000, 4000]), np.float32)
    assert screen.floor
    _agree(stage, np.asarray([3, -3]), sums, np.float32)


def test_sums_at_the_very_bound_of_float32_are_exact() -> None:
    edge = FLOAT32_EXACT - 1
    stage = OutputStage(Rescale.of_ratio([2.0**-17, 0.0000077], Requantizer()), 0, -128, 127, "int8")
    sums = np.asarray([[edge, -edge], [-edge, edge], [edge - 1, 1 - edge], [65536, 65537]] * 200)
    _agree(stage, np.asarray([65536, -65536]), sums, np.float32)


def test_a_screen_declines_what_it_cannot_bound() -> None:
    bias, bound = np.zeros(1, np.int64), np.asarray([2**20])
    for rule in (
        Requantizer("float32", 0, stages=(Stage("rest", Rounding.HALF_EVEN),)),
        Requantizer(stages=(Stage("rest", Rounding.TRUNCATE),)),
    ):
        stage = OutputStage(Rescale.of_ratio(0.01, rule), 0, -128, 127, "int8")
        assert Screen.of(stage, bias, bound, np.float64) is None
    wrapping = OutputStage(Rescale.of_ratio(5000.0, Requantizer()), 0, -128, 127, "int8")
    assert Screen.of(wrapping, bias, bound, np.float64) is None


@pytest.mark.parametrize("bits", [15, 24, 31, 40])
@pytest.mark.parametrize("first", Rounding)
@pytest.mark.parametrize("last", Rounding)
def test_two_unequal_stages_are_screened_right_or_not_at_all(bits: int, first: Rounding, last: Rounding) -> None:
    random = np.random.default_rng(bits)
    for drop in (4, 12, 31):
        rule = Requantizer("multiplier_shift", bits, (-30, 31), (Stage(drop, first), Stage("rest", last)))
        stage = OutputStage(Rescale.of_ratio([0.25, 0.0371, 1.5], rule), 3, -128, 127, "int8")
        sums, bias = random.integers(-3000, 3000, (800, 3)), np.asarray([5, 0, -70])
        bound = np.abs(sums).max(axis=0)
        out = np.empty(sums.shape, np.int8)
        screen = Screen.of(stage, bias, bound, np.float32)
        if screen is not None:
            screen.apply(sums.astype(np.float32), out)
            screen.settle()
            np.testing.assert_array_equal(out, stage.exact(sums + bias), f"screen, {drop} bits first")
        fast = compiled("auto")
        if fast is not None and fast.FastStage.serves(stage, bias, bound):
            fast.FastStage(stage, bias).apply(sums.astype(np.float32), out)
            np.testing.assert_array_equal(out, stage.exact(sums + bias), f"numba, {drop} bits first")
