"""Every contradiction that a target file can hold is refused with its own sentence."""

import copy
from typing import Any

import pytest

from tf_requant.errors import TargetError
from tf_requant.numerics.arithmetic import Intermediate
from tf_requant.targets import CONSTRAINTS, load_target

FREE: dict[str, Any] = {
    "name": "free",
    "activation": {"symmetric": True, "scale": "any"},
    "weight": {"scale": "any", "granularity": "tensor"},
    "ops": {"CONV_2D": {}, "ADD": {}},
}
SHIFT: dict[str, Any] = {
    **FREE,
    "name": "shift",
    "activation": {"symmetric": True, "scale": "power_of_two"},
    "weight": {"scale": "power_of_two", "granularity": "tensor"},
    "requantizer": {"kind": "shift"},
    "add": {"style": "shift_align"},
}
UNSIGNED: dict[str, Any] = {
    **FREE,
    "name": "unsigned",
    "activation": {"signed": False, "symmetric": False, "scale": "any"},
    "weight": {"signed": False, "symmetric": False, "scale": "any", "granularity": "tensor"},
}
WINOGRAD: dict[str, Any] = {**FREE, "name": "winograd", "winograd": "F(2x2,3x3)"}
TWO_STAGES = [{"drop": 31, "rounding": "HALF_UP"}, {"drop": "rest", "rounding": "HALF_AWAY"}]

# constraint: (a sound document, the one change that breaks it, words of the sentence with the values in it)
EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "shift_only_needs_power_of_two_scales": (
        SHIFT, {"weight": {"scale": "any"}}, 'Got activation.scale "power_of_two" and weight.scale "any"'),
    "power_of_two_activations_are_symmetric": (
        SHIFT, {"activation": {"symmetric": False}}, "Power-of-two activations need zero point 0, but activation.symmetric is false"),
    "power_of_two_weights_are_symmetric": (
        SHIFT, {"weight": {"symmetric": False}}, "Power-of-two weights need zero point 0, but weight.symmetric is false"),
    "shift_align_needs_power_of_two_activations": (
        FREE, {"add": {"style": "shift_align"}}, 'but activation.scale is "any"'),
    "bias_fits_the_accumulator": (
        FREE, {"bias": {"bits": 40}}, "A bias of 40 bits is wider than the accumulator of 32"),
    "a_multiplier_has_bits": (
        FREE, {"requantizer": {"multiplier_bits": 0}}, "but multiplier_bits is 0"),
    "only_a_multiplier_has_bits": (
        SHIFT, {"requantizer": {"multiplier_bits": 15}}, 'Got requantizer.kind "shift" with requantizer.multiplier_bits 15'),
    "shift_range_is_not_empty": (
        FREE, {"requantizer": {"shift_range": [8, 7]}}, "requantizer.shift_range [8, 7] is empty"),
    "the_last_stage_drops_the_rest": (
        FREE, {"requantizer": {"stages": TWO_STAGES[:1]}}, 'the stages are [{"drop": 31, "rounding": "HALF_UP"}]'),
    "only_a_multiplier_has_several_stages": (
        SHIFT, {"requantizer": {"stages": TWO_STAGES}}, 'Got requantizer.kind "shift" with requantizer.stages [{"drop": 31'),
    "power_of_two_biases_need_power_of_two_scales": (
        FREE, {"bias": {"scale": "power_of_two"}}, 'but a scale is free. Got activation.scale "any" and weight.scale "any"'),
    "the_requantizer_reads_no_more_than_the_accumulator": (
        FREE, {"accumulator": {"output_bits": 34}}, "cannot read 34 bits of an accumulator of 32"),
    "float32_adds_round_half_even": (
        FREE, {"add": {"style": "float32", "rounding": "HALF_UP"}}, 'but add.rounding is "HALF_UP"'),
    "pool_tables_belong_to_pools_that_multiply": (
        FREE, {"average_pool": {"table": [[9, 7, 6]]}}, 'Got average_pool.style "divide" with average_pool.table [[9, 7, 6]]'),
    "a_pool_table_names_each_window_once": (
        FREE, {"average_pool": {"style": "multiply_shift", "table": [[9, 7, 6], [9, 57, 9]]}}, "average_pool.table is [[9, 7, 6], [9, 57, 9]]"),
    "requantizers_by_op_name_known_ops": (
        FREE, {"requantizer_by_op": {"CONV2D": {}, "CONV_2D:int16": {}}}, 'Got ["CONV2D"]'),
    "pools_that_multiply_have_multiplier_bits": (
        FREE, {"average_pool": {"multiplier_bits": 15}}, 'Got average_pool.style "divide" with average_pool.multiplier_bits 15'),
    "activations_fit_a_tflite_file": (
        FREE, {"activation": {"bits": [8, 12]}}, "but activation.bits is [8, 12]"),
    "narrow_activations_are_symmetric": (
        FREE, {"activation": {"bits": [7], "symmetric": False}}, "but activation.symmetric is false. Got activation.bits [7]"),
    "an_intermediate_register_is_no_wider_than_the_accumulator": (
        FREE, {"accumulator": {"intermediate": {"bits": 33, "products": 8}}}, "of 33 bits is wider than the accumulator behind it. Got accumulator.bits 32"),
    "an_intermediate_register_holds_its_products": (
        FREE, {"accumulator": {"intermediate": {"bits": 16, "products": 3}}}, "register of 16 bits holds 2 products of the largest codes. Got accumulator.intermediate.products 3"),
    "groups_reach_the_accumulator_whole": (
        FREE, {"accumulator": {"intermediate": {"bits": 16, "products": 2}, "when": "each_step"}}, 'Got accumulator.when "each_step"'),
    "winograd_overflows_after_the_bias": (
        WINOGRAD, {"accumulator": {"when": "each_step"}}, 'Got accumulator.when "each_step"'),
    "codebooks_hold_signed_symmetric_weights": (
        UNSIGNED, {"weight": {"codebook": 4}}, "but weight.codebook is [4]"),
    "indices_are_no_wider_than_codes": (
        FREE, {"weight": {"bits": [4], "codebook": [3, 5]}}, "holds codes of weight.bits [4], so b is no more. Got weight.codebook [3, 5]"),
    "costs_are_given_for_every_width": (
        FREE, {"weight": {"costs": {"cycles": {"4": 1.0}}}}, 'each width of the weights [8] one cost, but they are {"cycles": {"4": 1}}'),
    "costs_have_names_of_their_own": (
        FREE, {"weight": {"costs": {"activations": {"8": 1.0}}}}, 'may not be called {"activations": {"8": 1}}'),
    "weights_fit_a_tflite_file": (
        FREE, {"weight": {"bits": [9]}}, "but weight.bits is [9]"),
    "wide_activations_are_symmetric": (
        FREE, {"activation": {"bits": [16], "symmetric": False}}, "TFLite's 16-bit activations have zero point 0, but activation.symmetric is false"),
    "unsigned_codes_have_8_bits": (
        UNSIGNED, {"weight": {"bits": [4]}}, "got activation.bits [8] and weight.bits [4]"),
    "families_agree": (
        FREE, {"activation": {"signed": False}}, "Got activation.signed false and weight.signed true"),
    "unsigned_after_relu_is_for_signed_activations": (
        UNSIGNED, {"activation": {"unsigned_after_relu": True}}, "Codes that are unsigned everywhere cannot turn unsigned after a ReLU"),
    "unsigned_after_relu_is_symmetric": (
        FREE, {"activation": {"unsigned_after_relu": True, "symmetric": False}}, "Unsigned codes after a ReLU have zero point 0, but activation.symmetric is false"),
    "unsigned_after_relu_has_8_bits": (
        FREE, {"activation": {"unsigned_after_relu": True, "bits": [16]}}, "travel as int8 in a TFLite file, but activation.bits is [16]"),
    "signed_weights_are_symmetric": (
        FREE, {"weight": {"symmetric": False}}, "TFLite's signed weights have zero point 0, but weight.symmetric is false"),
    "unsigned_weights_are_per_tensor": (
        UNSIGNED, {"weight": {"granularity": "channel"}}, 'no per-channel uint8 weights, but weight.granularity is "channel"'),
    "per_tensor_weights_name_no_per_channel_op": (
        FREE, {"weight": {"per_channel_ops": ["CONV_2D"]}}, 'but it is ["CONV_2D"]'),
    "per_channel_weights_name_an_op": (
        FREE, {"weight": {"granularity": "channel", "per_channel_ops": []}}, "need at least one op in weight.per_channel_ops"),
    "per_channel_ops_have_a_filter": (
        FREE, {"weight": {"granularity": "channel", "per_channel_ops": ["CONV_2D", "ADD"]}}, 'Got weight.per_channel_ops ["CONV_2D", "ADD"]'),
    "sources_name_facts_of_the_target": (
        FREE, {"sources": {"add.style": "assumed", "add.stile": "assumed"}}, 'Got ["add.stile"]'),
}  # fmt: skip


def broken(document: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    document = copy.deepcopy(document)
    for key, section in change.items():
        document[key] = {**document.get(key, {}), **section}
    return document


def test_every_constraint_has_a_failing_example_and_every_example_its_constraint() -> None:
    assert sorted(EXAMPLES) == sorted(constraint.__name__ for constraint in CONSTRAINTS)


@pytest.mark.parametrize("document", [FREE, SHIFT, UNSIGNED, WINOGRAD], ids=lambda document: document["name"])
def test_the_unbroken_documents_are_targets(document: dict[str, Any]) -> None:
    assert load_target(document).name == document["name"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_contradiction_is_refused_with_its_sentence_and_the_real_values(name: str) -> None:
    document, change, words = EXAMPLES[name]
    with pytest.raises(TargetError) as refusal:
        load_target(broken(document, change))
    sentences = str(refusal.value).splitlines()
    own = next(constraint for constraint in CONSTRAINTS if constraint.__name__ == name)
    opening = (own.__doc__ or "").split("{")[0].split("\n")[0]
    assert [line for line in sentences if words in line and opening in line], sentences
    assert all(line.startswith(f"target {document['name']}: ") and "{activation" not in line for line in sentences)


@pytest.mark.parametrize(
    ("activation", "weight", "most"),
    [
        ({"bits": [7]}, {"bits": [7]}, 8),  # 2^15 - 1 over 64 * 63
        ({"bits": [7]}, {"bits": [7], "narrow": False}, 7),
        ({"bits": [8]}, {"bits": [8]}, 2),
        ({"bits": [8], "symmetric": False}, {"bits": [8]}, 1),
        ({"bits": [8, 7]}, {"bits": [4, 7]}, 4),
        ({"bits": [4]}, {"bits": [4]}, 585),
        ({"bits": [16]}, {"bits": [8]}, 0),
    ],
)
def test_an_intermediate_register_takes_as_many_products_as_provably_fit_and_not_one_more(
    activation: dict[str, Any], weight: dict[str, Any], most: int
) -> None:
    def register(products: int) -> dict[str, Any]:
        change = {"activation": activation, "weight": weight, "accumulator": {"intermediate": {"bits": 16, "products": products}}}
        return broken(FREE, change)

    with pytest.raises(TargetError, match=f"of 16 bits holds {most} products of the largest codes"):
        load_target(register(most + 1))
    if most:
        assert load_target(register(most)).accumulator.intermediate == Intermediate(16, most)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_narrow_activations_are_signed_and_have_one_zero_point(bits: int) -> None:
    assert load_target(broken(FREE, {"activation": {"bits": [bits]}})).arithmetic.activation_bits == bits
    for change in ({"symmetric": False}, {"signed": False}, {"unsigned_after_relu": True}):
        with pytest.raises(TargetError, match=r"activation\.bits|of 2 to 8 bits"):
            load_target(broken(FREE, {"activation": {"bits": [bits], **change}}))


@pytest.mark.parametrize("bits", [8, 16])
def test_activations_that_fill_their_type_leave_the_arithmetic_as_it_was(bits: int) -> None:
    assert load_target(broken(FREE, {"activation": {"bits": [bits]}})).arithmetic.activation_bits is None


def test_a_target_with_narrow_registers_and_winograd_reads_back_equal_and_loses_them_by_none() -> None:
    change = {"activation": {"bits": [7]}, "weight": {"bits": [7]}, "accumulator": {"intermediate": {"bits": 16, "products": 8}}}
    target = load_target(broken(WINOGRAD, change))
    assert load_target(target.to_dict()) == target
    plain = target.derive(winograd=None, accumulator={"intermediate": None})
    assert plain.winograd is None and plain.accumulator.intermediate is None and "winograd" not in plain.to_dict()


def test_a_reciprocal_pool_says_its_multiplier_bits() -> None:
    with pytest.raises(TargetError, match='Got average_pool.style "reciprocal" with average_pool.multiplier_bits 0'):
        load_target(broken(FREE, {"average_pool": {"style": "reciprocal"}}))
    load_target(broken(FREE, {"average_pool": {"style": "reciprocal", "multiplier_bits": 31, "table": [[9, 1, 0]]}}))


def test_all_contradictions_are_told_at_once() -> None:
    document = broken(SHIFT, {"activation": {"scale": "any"}, "bias": {"bits": 64}})
    with pytest.raises(TargetError) as refusal:
        load_target(document)
    assert len(str(refusal.value).splitlines()) == 3


def test_an_op_s_own_requantizer_is_checked_too_and_named() -> None:
    document = broken(FREE, {"requantizer_by_op": {"CONV_2D": {"shift_range": [3, 1]}}})
    with pytest.raises(TargetError, match=r"requantizer_by_op\.CONV_2D: .*shift_range \[3, 1\] is empty"):
        load_target(document)
