"""The built-in targets, row by row against interface.md's table."""

import json
from importlib import resources

import jsonschema
import pytest

from tf_requant.targets import builtin_targets, check, load_target

# name: (activation type, symmetric, unsigned after ReLU), (weight signed, symmetric, granularity), scales, kind, bias
ROWS = {
    "tflite_int8": (("int8", False, False), (True, True, "channel"), "any", "multiplier_shift", 32),
    "tflite_int8_per_tensor": (("int8", False, False), (True, True, "tensor"), "any", "multiplier_shift", 32),
    "tflite_uint8": (("uint8", False, False), (False, False, "tensor"), "any", "multiplier_shift", 32),
    "tflite_int16x8": (("int16", True, False), (True, True, "channel"), "any", "multiplier_shift", 64),
    "nna_sym8": (("int8", True, False), (True, True, "tensor"), "any", "multiplier_shift", 32),
    "nna_sym8_per_channel": (("int8", True, False), (True, True, "channel"), "any", "multiplier_shift", 32),
    "nna_sym8_pow2": (("int8", True, False), (True, True, "tensor"), "power_of_two", "shift", 32),
    "nna_sym8_pow2_per_channel": (("int8", True, False), (True, True, "channel"), "power_of_two", "shift", 32),
    "nna_usym8": (("int8", True, True), (True, True, "tensor"), "any", "multiplier_shift", 32),
    "nna_usym8_pow2": (("int8", True, True), (True, True, "tensor"), "power_of_two", "shift", 32),
}


def test_the_built_ins_are_those_of_the_interface() -> None:
    assert set(builtin_targets()) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_built_in_says_what_its_row_says(name: str) -> None:
    (dtype, symmetric, unsigned), (signed, weights_symmetric, granularity), scale, kind, bias = ROWS[name]
    target = load_target(name)
    activation, weight = target.activation, target.weight
    assert ("int" if activation.signed else "uint") + str(activation.bits[0]) == dtype
    assert (activation.symmetric, activation.unsigned_after_relu, activation.scale) == (symmetric, unsigned, scale)
    assert (weight.signed, weight.symmetric, weight.granularity, weight.scale) == (signed, weights_symmetric, granularity, scale)
    assert weight.narrow and weight.bits == (8,)
    assert (target.requantizer.kind, target.bias.bits, target.unlisted_ops) == (kind, bias, "host")


def test_fully_connected_is_per_tensor_in_tflite_int8() -> None:
    per_channel = load_target("tflite_int8").weight.per_channel_ops
    assert "FULLY_CONNECTED" not in per_channel
    assert {"CONV_2D", "DEPTHWISE_CONV_2D"} <= set(per_channel)


def test_the_nna_declare_one_half_up_stage_and_a_saturating_accumulator() -> None:
    for name in (n for n in ROWS if n.startswith("nna")):
        target = load_target(name)
        assert [(s.drop, s.rounding.value) for s in target.requantizer.stages] == [("rest", "HALF_UP")]
        assert (target.accumulator.bits, target.accumulator.overflow, target.accumulator.when) == (32, "saturate", "after_bias")


@pytest.mark.parametrize("name", ROWS)
def test_a_built_in_obeys_the_schema_and_the_constraints(name: str) -> None:
    schema = json.loads((resources.files("tf_requant") / "schemas" / "target.schema.json").read_text())
    target = load_target(name)
    jsonschema.validate(target.to_dict(), schema)
    assert check(target) == []


@pytest.mark.parametrize("name", ROWS)
def test_every_fact_of_a_built_in_names_its_source(name: str) -> None:
    sources = load_target(name).sources
    assert {"activation", "weight", "accumulator", "requantizer"} <= {key.split(".")[0] for key in sources}
