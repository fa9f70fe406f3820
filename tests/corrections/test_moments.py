"""Scales of least squares: nearer to the source's weights than any scale beside them, exact filters untouched."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests.builders import conv2d, depthwise, fully_connected
from tf_requant.calibration.layers import grouped, input_channels
from tf_requant.corrections.equalization import wanted_codes
from tf_requant.corrections.moments import best_multiples, preserve_power
from tf_requant.corrections.rounding import preserve_channel_sums
from tf_requant.io.tflite import read
from tf_requant.model.graph import Model
from tf_requant.plan import ConstantPlan, Plan
from tf_requant.planning.planner import plan_model
from tf_requant.targets import Target
from tf_requant.validation.legality import check_legality

MODELS = {
    "conv": lambda per_channel: conv2d("int8", per_channel=per_channel),
    "depthwise": lambda per_channel: depthwise("int8", per_channel=per_channel, multiplier=2),
    "dense": lambda per_channel: fully_connected("int8", per_channel=per_channel),
}
"""Of random codes to +-127."""


def narrow(name: str, bits: int = 4) -> Target:
    return tf_requant.load_target(name).derive(name=f"{name}_{bits}", weight={"bits": [bits]})


def fitted(kind: str, target: Target) -> tuple[Model, Plan, Plan]:
    model = read(MODELS[kind](bool(target.weight.per_channel_ops) and kind != "dense"))
    before = preserve_channel_sums(model, plan_model(model, target))
    return model, before, preserve_power(model, before, target)


def reals(model: Model, constant: ConstantPlan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the source's filter is and what the plan's is, float64[groups, outputs, K], in real units."""
    op = model.main.ops[0]
    values, channels = wanted_codes(model.main, 0, constant), input_channels(model.main, op)
    steps = np.broadcast_to(constant.params.scale, (values.shape[0] * values.shape[1],)).reshape(*values.shape[:2], 1)
    assert constant.codes is not None
    return values * steps, grouped(op, constant.codes.astype(np.float64), channels) * steps


@pytest.mark.parametrize("name", ["nna_sym8", "nna_sym8_per_channel"])
@pytest.mark.parametrize("kind", MODELS)
def test_no_scale_beside_it_is_nearer(kind: str, name: str) -> None:
    model, before, after = fitted(kind, narrow(name))
    (wanted, old), (same, new) = (reals(model, p.graphs[0].constants[0, 1]) for p in (before, after))
    np.testing.assert_allclose(wanted, same, rtol=1e-6)  # the source's filter, in whatever steps
    np.testing.assert_array_equal(before.graphs[0].constants[0, 1].codes, after.graphs[0].constants[0, 1].codes)
    axis = 2 if after.graphs[0].constants[0, 1].params.per_channel else None
    error = ((new - wanted) ** 2).sum(axis=axis)
    assert (error <= ((old - wanted) ** 2).sum(axis=axis)).all() and error.sum() < ((old - wanted) ** 2).sum()
    for multiple in (0.998, 1.002):
        assert (error < ((multiple * new - wanted) ** 2).sum(axis=axis)).all()
    assert np.abs(((new - wanted) * new).sum(axis=axis)).max() < 1e-5 * (wanted**2).sum()  # no error along the filter


@pytest.mark.parametrize("name", ["nna_sym8", "nna_sym8_per_channel"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_bias_keeps_its_value(kind: str, name: str) -> None:
    model, before, after = fitted(kind, narrow(name))
    codes = model.main.tensors[model.main.ops[0].inputs[2]].data
    assert codes is not None
    real = [codes * np.asarray(c.step) * c.params.scale for c in (p.graphs[0].constants[0, 2] for p in (before, after))]
    np.testing.assert_allclose(real[1], real[0], rtol=1e-5)
    scales = [after.graphs[0].constants[0, p].params.scale for p in (1, 2)]
    x = after.graphs[0].activations[model.main.ops[0].inputs[0]].params.scale
    np.testing.assert_allclose(scales[1], x * scales[0], rtol=1e-6)
    result = tf_requant.requantize(MODELS[kind](False), narrow(name), corrections="rounding,moments")
    assert check_legality(result.model, narrow(name)).legal


def test_exact_filters_and_powers_of_two_stay() -> None:
    """Exact, or clipped at the source's own step: a scale for what is clipped would be wrong for the rest."""
    for target in (tf_requant.load_target("nna_sym8"), narrow("nna_sym8_pow2"), narrow("nna_sym8_pow2_per_channel")):
        _, before, after = fitted("conv", target)
        assert after is before
    model = read(conv2d("uint8"))  # codes to 120 below the zero point and 135 above
    plan = plan_model(model, tf_requant.load_target("nna_sym8"))
    constant = plan.graphs[0].constants[0, 1]
    clipped = constant.with_(params=constant.params.with_(scale=np.float32([0.02])), step=1.0)
    held = Plan(plan.target, (plan.graphs[0].with_(constants={**plan.graphs[0].constants, (0, 1): clipped}),))
    assert preserve_power(model, held, tf_requant.load_target("nna_sym8")) is held


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_a_source_with_a_scale_a_channel_gets_one_for_all(kind: str) -> None:
    target = tf_requant.load_target("nna_sym8")
    result = tf_requant.requantize(MODELS[kind](True), target, corrections="rounding,moments")
    held = result.model.main.tensors[result.model.main.ops[0].inputs[1]].quant
    assert held is not None and not held.per_channel and check_legality(result.model, target).legal


def test_a_scale_that_the_rescale_cannot_hold_is_not_taken() -> None:
    target = narrow("nna_sym8")
    _, before, after = fitted("conv", target)
    assert after is not before
    model = read(MODELS["conv"](False))
    tight = replace(target, requantizer=replace(target.requantizer, shift_range=(0, 0)))
    assert preserve_power(model, before, tight) is before


def test_a_filter_of_zeros_keeps_its_scale() -> None:
    np.testing.assert_array_equal(best_multiples(np.zeros((1, 3, 4)), np.zeros((1, 3, 4)), True), np.ones(3))
    np.testing.assert_array_equal(best_multiples(-np.ones((1, 1, 4)), np.ones((1, 1, 4)), True), [1.0])


def test_it_needs_no_data_and_its_name() -> None:
    named = tf_requant.requantize(conv2d(), narrow("nna_sym8"), corrections="rounding,moments")
    assert named.report.corrections == ("rounding", "moments")
    assert "moments" not in tf_requant.requantize(conv2d(), narrow("nna_sym8")).report.corrections
