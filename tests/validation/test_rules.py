"""Each rule of a target: one fault planted in a legal model breaks that rule, there, and no other."""

import pytest

from tests import builders
from tests.validation.edits import (
    BIAS,
    FILTER,
    POW2,
    Edit,
    broken,
    first_code,
    one_layer,
    operand,
    output,
    per_channel,
    quant,
    retyped,
    scaled,
    with_tensors,
)
from tf_requant.model.graph import Model, Tensor
from tf_requant.pipeline.simulate import checked_model
from tf_requant.targets import Target, load_target
from tf_requant.validation.legality import RULES, check_legality

LAYERS, TENSORS = 1, 2


def assert_only(rule: str, checked: int, words: str, model: Model, edits: dict[int, Edit], target: str | Target = POW2) -> None:
    """The model is legal, and the edits break one rule at one of the places where it is checked."""
    aim = load_target(target)
    assert check_legality(model, aim).legal
    verdict = check_legality(with_tensors(model, edits), aim)
    assert list(broken(verdict)) == [rule]
    places, sentences = broken(verdict)[rule]
    assert places == checked and len(sentences) == 1 and verdict.violations == sentences
    assert words in sentences[0] and sentences[0].startswith("op 0 (")


@pytest.fixture(scope="module")
def layer() -> Model:
    return one_layer(POW2)


@pytest.fixture(scope="module")
def multiplied() -> Target:
    """Power-of-two scales, but any multiplier: so a scale can be wrong without the shift being wrong too."""
    return load_target(POW2).derive(name="multiplied", requantizer={"kind": "multiplier_shift"})


def test_activation_type(layer: Model) -> None:
    assert_only("activation_type", TENSORS, "is int16, the target's", layer, {output(layer): retyped("int16")})


def test_activation_scales(layer: Model) -> None:
    assert_only("activation_scales", TENSORS, "has 6 scales, an activation has one", layer, {output(layer): per_channel(6)})


def test_activation_zero_point(layer: Model) -> None:
    assert_only("activation_zero_point", TENSORS, "has zero point 1, expected 0", layer, {output(layer): quant(zero_point=1)})


def test_unsigned_after_relu(layer: Model) -> None:
    unsigned = {output(layer): quant(zero_point=-128)}
    assert_only("unsigned_after_relu", 1, "is unsigned, but no ReLU wrote it", layer, unsigned, "nna_usym8_pow2")


def test_power_of_two_activations(layer: Model, multiplied: Target) -> None:
    off = {output(layer): scaled(1.0000001)}
    assert_only("power_of_two_activations", TENSORS, "expected a power of two", layer, off, multiplied)


def test_equal_parameters() -> None:
    pool = one_layer(POW2, builders.pool)
    assert_only("equal_parameters", 1, "copies raw codes", pool, {output(pool): scaled(2)})


def test_fixed_outputs() -> None:
    squash = one_layer("tflite_int8", builders.unary, code="LOGISTIC")
    assert_only("fixed_outputs", 1, "TFLite fixes it at", squash, {output(squash): scaled(2)}, "tflite_int8")


def test_constant_weights(layer: Model) -> None:
    edits = {operand(layer, FILTER): lambda t: t.with_(data=None)}
    assert_only("constant_weights", LAYERS, "are not quantized constants", layer, edits)


def test_weight_type(layer: Model) -> None:
    assert_only("weight_type", LAYERS, "are uint8, expected int8", layer, {operand(layer, FILTER): retyped("uint8")})


def test_weight_zero_point(layer: Model) -> None:
    edits = {operand(layer, FILTER): quant(zero_point=3)}
    assert_only("weight_zero_point", LAYERS, "have zero point 3, expected 0", layer, edits)


def test_weight_range(layer: Model) -> None:
    assert_only("weight_range", LAYERS, "hold codes -128..", layer, {operand(layer, FILTER): first_code(-128)})


def test_weight_codebook() -> None:
    coded = load_target(POW2).derive(name="coded", weight={"codebook": 2})
    layer = one_layer(coded)

    def fifth(tensor: Tensor) -> Tensor:
        codes = tensor.data.copy()
        codes.flat[:5] = (-50, -20, 0, 20, 50)
        return tensor.with_(data=codes)

    assert_only("weight_codebook", LAYERS, "different codes, expected at most 4", layer, {operand(layer, FILTER): fifth}, coded)


def test_weight_scales(layer: Model) -> None:
    # The bias follows, since it has as many scales as the weights.
    edits = {operand(layer, FILTER): per_channel(6), operand(layer, BIAS): per_channel(6)}
    assert_only("weight_scales", LAYERS, "have 6 scales along axis 0, expected one scale", layer, edits)


def test_power_of_two_weights(layer: Model, multiplied: Target) -> None:
    edits = {operand(layer, FILTER): scaled(1.0000001)}
    assert_only("power_of_two_weights", LAYERS, "have a scale that is no power of two", layer, edits, multiplied)


def test_layer_parameters(layer: Model) -> None:
    # What carries no parameters is no activation to the other rules.
    aim = load_target(POW2)
    verdict = check_legality(with_tensors(layer, {operand(layer, 0): lambda t: t.with_(quant=None)}), aim)
    assert list(broken(verdict)) == ["layer_parameters"] and "carries no parameters" in verdict.violations[0]
    counts = {r.name: r.checked for r in verdict.rules}
    assert counts["activation_type"] == 1 and counts["layer_parameters"] == 1
    # Behind it nothing about sums can be said.
    assert counts["bias_type"] == counts["bias_scale"] == counts["shift_multiplier"] == 0


def test_bias_type(layer: Model) -> None:
    assert_only("bias_type", LAYERS, "is int64, expected int32", layer, {operand(layer, BIAS): retyped("int64")})


def test_bias_mantissa() -> None:
    narrow = load_target(POW2).derive(name="narrow", bias={"bits": 16})
    layer = one_layer(narrow)
    edits = {operand(layer, BIAS): first_code(2**15 + 1)}
    assert_only("bias_mantissa", LAYERS, "expected mantissas of 16 bits", layer, edits, narrow)


def test_bias_parameters(layer: Model) -> None:
    # Its scale is wrong too, but a scale beside a zero point is not looked at.
    edits: dict[int, Edit] = {operand(layer, BIAS): lambda t: quant(zero_point=1)(scaled(2)(t))}
    assert_only("bias_parameters", LAYERS, "expected 1 scales and zero point 0", layer, edits)


def test_bias_scale(layer: Model) -> None:
    assert_only("bias_scale", LAYERS, "another scale than input times weights", layer, {operand(layer, BIAS): scaled(2)})


def test_bias_present(layer: Model) -> None:
    op = layer.main.ops[0]
    without = layer.with_(graphs=(layer.main.with_(ops=(op.with_(inputs=op.inputs[:2]),)),))
    verdict = check_legality(without, load_target(POW2))
    assert broken(verdict) == {"bias_present": (1, verdict.violations)} and len(verdict.violations) == 1


def test_shift_multiplier(layer: Model) -> None:
    assert_only("shift_multiplier", LAYERS, "is no right shift between", layer, {output(layer): scaled(2.0**-40)})
    # Within the range, but no shift at all.
    verdict = check_legality(with_tensors(layer, {output(layer): scaled(1.5)}), load_target(POW2))
    assert set(broken(verdict)) == {"power_of_two_activations", "shift_multiplier"}


def test_narrow_activations_are_planned() -> None:
    b = builders.Builder()
    data, table, rectified = b.activation([1, 8], "int8"), b.tensor([1, 8], "int8", 1 / 128), b.tensor([1, 8], "int8", 1 / 128)
    b.op("TANH", [data], [table])
    b.op("RELU", [table], [rectified], version=2)
    model, eight = checked_model(b.finish([data], [rectified])), load_target("nna_sym8")
    assert check_legality(model, eight).legal and check_legality(model, eight).accelerated == 2
    # TFLite's TANH fills int8 whatever reads it: in 7 bits it is the host's, and nothing else may read its codes.
    verdict = check_legality(model, eight.derive(name="seven", activation={"bits": [7]}))
    assert list(broken(verdict)) == ["narrow_activations_are_planned"] and verdict.accelerated == 1
    assert "TFLite fixes" in verdict.violations[0] and verdict.violations[0].startswith("op 1 (RELU")


def test_recorded_widths() -> None:
    six = load_target("nna_sym8").derive(name="six", activation={"bits": [6]})
    layer = one_layer("nna_sym8")
    assert_only(
        "recorded_widths", TENSORS, "was planned with 8 bits, the target's activations have 6", layer, {output(layer): lambda t: t.with_(bits=8)}, six
    )
    # A device of other widths saturates elsewhere, so it computes something else.
    for target in (six.derive(name="two", activation={"bits": [8, 4]}), load_target("nna_sym8")):
        assert not check_legality(with_tensors(layer, {output(layer): lambda t: t.with_(bits=6)}), target).legal
    assert check_legality(with_tensors(layer, {output(layer): lambda t: t.with_(bits=6)}), six).legal


def test_every_rule_has_its_test() -> None:
    assert {f"test_{rule.name}" for rule in RULES} <= set(globals())
    assert len({rule.name for rule in RULES}) == len(RULES)
