"""What the judge reports of its rules: how often each was checked, where it is broken, and the sentence it stands for."""

import json
from pathlib import Path

import jsonschema
import pytest

import tf_requant
from tests.validation.edits import (
    BIAS,
    FILTER,
    POW2,
    broken,
    first_code,
    one_layer,
    operand,
    output,
    quant,
    scaled,
    with_tensors,
)
from tf_requant.io import tflite
from tf_requant.model.graph import Model
from tf_requant.sample import model_path
from tf_requant.targets import Target, builtin_targets, load_target
from tf_requant.validation.legality import RULES, check_legality

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "report.schema.json"


@pytest.fixture(scope="module")
def layer() -> Model:
    return one_layer(POW2)


@pytest.fixture(scope="module")
def whole() -> Model:
    return tflite.read(tf_requant.requantize(model_path(), POW2, corrections="none").model_bytes)


def test_a_rule_is_checked_at_each_place_that_it_speaks_of(whole: Model) -> None:
    verdict = check_legality(whole, load_target(POW2))
    counts = {r.name: r.checked for r in verdict.rules}
    layers = sum(op.code in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") for op in whole.main.ops)
    assert layers > 10 and all(counts[n] == layers for n in ("weight_type", "weight_range", "bias_scale", "shift_multiplier"))
    adds = sum(op.code == "ADD" for op in whole.main.ops)
    # A layer reads one activation and writes one, an ADD reads two; nothing else of this network takes more than two.
    assert counts["activation_type"] == counts["activation_zero_point"] == 2 * verdict.accelerated + adds
    assert all(r.broken == () for r in verdict.rules)


def test_a_tensor_is_named_at_each_op_that_touches_it(whole: Model) -> None:
    edits = {output(whole): quant(zero_point=1)}
    verdict = check_legality(with_tensors(whole, edits), load_target(POW2))
    places, sentences = broken(verdict)["activation_zero_point"]
    assert [s.split(" (")[0] for s in sentences] == ["op 0", "op 1"] and places > 2
    assert verdict.violations == sentences


def test_violations_are_the_broken_places_of_all_rules(whole: Model) -> None:
    edits = {output(whole): quant(zero_point=1), operand(whole, FILTER): first_code(-128), operand(whole, BIAS): scaled(2)}
    verdict = check_legality(with_tensors(whole, edits), load_target(POW2))
    assert sorted(s for r in verdict.rules for s in r.broken) == sorted(verdict.violations)
    # In the order of the ops, not of the rules: the output, the weights and the bias of op 0, then op 1.
    assert [next(w for w in ("zero point 1", "bias", "weights") if w in s) for s in verdict.violations] == [
        "zero point 1", "weights", "bias", "zero point 1",
    ]  # fmt: skip


@pytest.mark.parametrize("target", builtin_targets())
def test_every_sentence_is_filled_in_with_the_targets_values(target: str) -> None:
    aim = load_target(target)
    rules = check_legality(one_layer(target), aim).rules
    assert rules and all(r.sentence.endswith(".") and not set("{}") & set(r.sentence) for r in rules)
    assert all("<" not in r.sentence and "None" not in r.sentence for r in rules)
    sentences = {r.name: r.sentence for r in rules}
    sign = "int8" if aim.weight.signed else "uint8"
    assert sentences["weight_type"] == f"Weights are {sign}."
    assert ("an output channel in CONV_2D" in sentences["weight_scales"]) == (aim.weight.granularity == "channel")


def test_a_target_is_only_shown_the_rules_that_it_makes() -> None:
    def names(target: Target) -> set[str]:
        return {r.name for r in check_legality(one_layer(target), target).rules}

    free, strict = names(load_target("tflite_int8")), names(load_target("nna_usym8_pow2"))
    only_strict = {"activation_zero_point", "unsigned_after_relu", "power_of_two_activations", "power_of_two_weights", "shift_multiplier"}
    assert strict - free == only_strict and free <= strict
    assert names(load_target(POW2).derive(bias={"bits": 16})) - names(load_target(POW2)) == {"bias_mantissa"}
    assert not {"weight_zero_point", "weight_range"} & names(load_target("tflite_uint8"))


def test_sentences_tell_the_values() -> None:
    def sentences(target: str) -> dict[str, str]:
        aim = load_target(target)
        return {rule.name: rule.sentence(aim) for rule in RULES}

    assert sentences(POW2)["weight_range"] == "Weight codes lie between -127 and 127."
    assert sentences("nna_usym8")["activation_zero_point"].endswith("zero point 0, or -128 where its codes are unsigned.")
    low, high = load_target(POW2).requantizer.shift_range
    assert sentences(POW2)["shift_multiplier"].endswith(f"a right shift between {low} and {high}.")
    assert "16 bits" in sentences("nvdla_int8")["bias_mantissa"]
    # Only what the target ties beyond TFLite's own kernels is named.
    plain = "Tensors between which an op copies raw codes share scale and zero point"
    assert sentences("tflite_int8")["equal_parameters"] == f"{plain}."
    tied = load_target("tflite_int8").derive(ops={"ADD": {"scale": "same"}, "PAD": {"scale": "same"}})
    assert next(r for r in RULES if r.name == "equal_parameters").sentence(tied) == f"{plain}, and so do those of ADD."


def test_a_verdict_fits_the_reports_schema(layer: Model) -> None:
    schema = json.loads(SCHEMA.read_text())["properties"]["legality"]
    wrong = with_tensors(layer, {output(layer): quant(zero_point=1)})
    for model in (layer, wrong):
        document = check_legality(model, load_target(POW2)).to_dict()
        jsonschema.validate(document, schema)
        assert json.loads(json.dumps(document)) == document
    assert document["rules"][2]["broken"] == document["violations"]
