"""A filter's codes are changed only for ones that judge better, within every limit of the layer and the target."""

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from tf_requant.calibration.moments import Moments
from tf_requant.corrections.filters import Choice, Layer, choose
from tf_requant.corrections.gptq import compensated, within

Matrix = NDArray[np.float64]
ALL = frozenset({"scale_search", "gptq", "error_folding"})
METHODS = [frozenset({name}) for name in sorted(ALL)] + [ALL, frozenset({"gptq", "scale_search"})]
SHAPES = {"dense": (1, 8, 24), "depthwise": (12, 1, 9), "multiplied": (6, 2, 9), "grouped": (3, 4, 10)}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
every_method = pytest.mark.parametrize("methods", METHODS, ids=lambda m: "+".join(sorted(m)))


def moments(random: np.random.Generator, groups: int, inputs: int, noise: float = 1.0) -> Moments:
    """Of the source's inputs y, and of x, which has another gain on each input, and noise."""
    y = random.normal(size=(groups, 200, inputs)) @ (np.eye(inputs) + random.normal(size=(groups, inputs, inputs)))
    y *= 8
    x = y * np.linspace(0.95, 1.05, inputs) + random.normal(0, noise, y.shape)
    left = x.transpose(0, 2, 1) / 200
    return Moments(left @ x, left @ y, y.transpose(0, 2, 1) @ y / 200)


def drawn(seed: int, shape: tuple[int, int, int], power_of_two: bool = False, per_channel: bool = True) -> Layer:
    """A layer in nearest rounding at a scale that is twice as coarse as it has to be."""
    wanted = np.random.default_rng(seed).normal(0, 18, shape).clip(-63, 63)
    return Layer(wanted, np.rint(wanted), (-127, 127), power_of_two, per_channel)


def error(layer: Layer, choice: Choice, judged: Moments) -> float:
    """The output error of a choice over the output's variance."""
    by_output = np.broadcast_to(choice.multiple, layer.wanted.shape[0] * layer.wanted.shape[1])
    real = choice.codes * by_output.reshape(*layer.wanted.shape[:2], 1)
    return float(judged.error(real, layer.wanted).sum() / judged.signal(layer.wanted).sum())


def planned_error(layer: Layer, judged: Moments) -> float:
    return error(layer, Choice(np.ones(1), layer.planned, 0.0, ""), judged)


@every_shape
@every_method
@pytest.mark.parametrize("seed", range(3))
def test_a_choice_is_better_on_the_samples_held_back_than_what_was_planned(
    shape: tuple[int, int, int], methods: frozenset[str], seed: int
) -> None:
    random = np.random.default_rng(seed)
    layer = drawn(seed, shape)
    learned, judged = (moments(random, shape[0], shape[2]) for _ in range(2))
    choice = choose(layer, learned, judged, methods)
    if choice is None:  # named, the same proposals are taken, and are worse
        choice = choose(layer, learned, judged, methods, named=True)
        assert choice is not None and error(layer, choice, judged) >= planned_error(layer, judged)
    else:
        assert error(layer, choice, judged) < planned_error(layer, judged)
    assert choice.error == pytest.approx(error(layer, choice, judged))


@every_shape
def test_together_the_methods_are_at_least_as_good_as_each(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(5)
    layer, both = drawn(5, shape), moments(random, shape[0], shape[2])
    found = [choose(layer, both, both, methods) for methods in METHODS]
    errors = [c.error if c else planned_error(layer, both) for c in found]
    assert min(errors) == errors[METHODS.index(ALL)] < 0.9 * planned_error(layer, both)


@every_shape
def test_nothing_is_chosen_where_the_planned_codes_judge_best(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(1)
    plain, both = drawn(1, shape), moments(random, shape[0], shape[2])
    best = compensated(plain.wanted, both.xx, within(-127, 127))
    layer = Layer(plain.wanted, best, (-127, 127), False, True)
    assert choose(layer, both, both, frozenset({"gptq"})) is None
    assert choose(plain, both, both, frozenset({"gptq"})) is not None


def test_what_only_the_learning_samples_ask_for_is_not_chosen() -> None:
    layer = Layer(np.array([[[0.4, 0.4]]]), np.zeros((1, 1, 2)), (-127, 127), False, False)
    alike = Moments(np.array([[[100.0, 90], [90, 100]]]), np.array([[[100.0, 90], [90, 100]]]))
    against = np.array([[[100.0, -90], [-90, 100]]])
    judged = Moments(against, against, against)
    assert choose(layer, alike, judged, frozenset({"gptq"})) is None
    named = choose(layer, alike, judged, frozenset({"gptq"}), named=True)
    assert named is not None and named.codes.tolist() == [[[0, 1]]]
    agreeing = choose(layer, alike, Moments(alike.xx, alike.xy, alike.xx), frozenset({"gptq"}))
    assert agreeing is not None and agreeing.codes.tolist() == [[[0, 1]]]


@every_shape
def test_an_exact_filter_of_undisturbed_inputs_stays(shape: tuple[int, int, int]) -> None:
    codes = drawn(2, shape).planned
    same = moments(np.random.default_rng(2), shape[0], shape[2]).xx
    layer = Layer(codes + 3e-5, codes, (-127, 127), False, True)  # what float32's scales leave
    assert layer.exact and not drawn(2, shape).exact
    both = Moments(same, same, same)
    assert choose(layer, both, both, ALL) is None
    assert choose(layer, both, both, frozenset({"scale_search"}), named=True) is None


@every_shape
@pytest.mark.parametrize("methods", [m for m in METHODS if m != {"scale_search"}], ids=lambda m: "+".join(sorted(m)))
def test_a_method_that_was_named_is_always_taken(shape: tuple[int, int, int], methods: frozenset[str]) -> None:
    random = np.random.default_rng(3)
    learned, judged = (moments(random, shape[0], shape[2]) for _ in range(2))
    codes = drawn(3, shape).planned
    for layer in (drawn(3, shape), Layer(codes, codes, (-127, 127), False, True)):
        assert choose(layer, learned, judged, methods, named=True) is not None


def test_no_method_proposes_nothing() -> None:
    both = moments(np.random.default_rng(0), 1, 24)
    assert choose(drawn(0, SHAPES["dense"]), both, both, frozenset({"bias"}), named=True) is None


@every_shape
@every_method
@pytest.mark.parametrize("limits", [(-127, 127), (-20, 20), (-8, 7), (-30, 225)])
def test_codes_are_integers_within_their_limits(
    shape: tuple[int, int, int], methods: frozenset[str], limits: tuple[int, int]
) -> None:
    both, plain = moments(np.random.default_rng(4), shape[0], shape[2], 6.0), drawn(4, shape)
    layer = Layer(plain.wanted, plain.planned.clip(*limits), limits, False, True)
    choice = choose(layer, both, both, methods, named=True)
    if choice is None:  # no finer scale helps where the lower limit clips
        assert methods == {"scale_search"} and limits == (-30, 225)
        return
    assert choice.codes.shape == shape
    assert choice.codes.min() >= limits[0] and choice.codes.max() <= limits[1]
    assert (choice.codes == np.rint(choice.codes)).all()


@every_shape
@pytest.mark.parametrize("power_of_two", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("floor", [0.0, 0.3, 0.7, 1.0, 1.5])
def test_no_scale_shrinks_below_what_the_bias_and_the_rescale_need(
    shape: tuple[int, int, int], power_of_two: bool, per_channel: bool, floor: float
) -> None:
    both, plain = moments(np.random.default_rng(6), shape[0], shape[2]), drawn(6, shape, power_of_two, per_channel)
    parts = plain.wanted, plain.planned, plain.limits, power_of_two, per_channel
    free = choose(plain, both, both, frozenset({"scale_search"}), named=True)
    assert free is not None and free.multiple.min() < 0.7  # twice as coarse as it has to be
    assert free.multiple.shape == (shape[0] * shape[1] if per_channel else 1,)
    for layer in (Layer(*parts, bias_share=floor), Layer(*parts, multiples=(floor, np.inf))):
        choice = choose(layer, both, both, frozenset({"scale_search"}), named=True)
        if floor >= 1:
            assert choice is None  # the scale at hand is always allowed, and nothing finer is
        else:
            assert choice is None or choice.multiple.min() >= floor
            assert choice is None or not power_of_two or set(np.log2(choice.multiple) % 1) == {0.0}


def test_a_filter_on_an_asymmetric_grid_keeps_its_scale() -> None:
    both, plain = moments(np.random.default_rng(7), 1, 24), drawn(7, SHAPES["dense"])
    layer = Layer(abs(plain.wanted), abs(plain.planned), (0, 255), False, True)
    assert choose(layer, both, both, frozenset({"scale_search"}), named=True) is None


def test_the_reason_names_the_method_and_what_it_brings() -> None:
    both = moments(np.random.default_rng(8), 1, 24)
    layer = drawn(8, SHAPES["dense"])
    choice = choose(layer, both, both, ALL)
    assert choice is not None
    found = re.fullmatch(r"(.*), predicted output error (-[\d.]+) -> (-[\d.]+) dB", choice.reason)
    assert found is not None and found[1].startswith("scale_search, gptq, error_folding at a ridge of 0.")
    assert float(found[2]) == round(10 * np.log10(planned_error(layer, both)), 1) > float(found[3])
    assert float(found[3]) == round(10 * np.log10(choice.error), 1)
