"""What a target may not say, one function a contradiction: it returns whether the target is free of it.

The docstring is the sentence the user reads; `{activation.bits}` in it becomes the target's own value, spelled
as in a target file. `check` runs the functions of `CONSTRAINTS`, in that order.
"""

import json
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tf_requant.numerics.rounding import Rounding
from tf_requant.targets.document import FILTER_OPS, plain, resolves
from tf_requant.targets.schema_check import schema
from tf_requant.targets.widths import (
    codebooks_hold_signed_symmetric_weights,
    costs_are_given_for_every_width,
    costs_have_names_of_their_own,
    indices_are_no_wider_than_codes,
)

if TYPE_CHECKING:
    from tf_requant.targets.target import Target


def shift_only_needs_power_of_two_scales(target: "Target") -> bool:
    """A shift-only requantizer reaches powers of two only, but a scale is free.

    Got activation.scale {activation.scale} and weight.scale {weight.scale}; set both to "power_of_two", or give
    requantizer.kind "multiplier_shift".
    """
    free = "any" in (target.activation.scale, target.weight.scale)
    return not (free and target.requantizer.kind == "shift")


def power_of_two_activations_are_symmetric(target: "Target") -> bool:
    """Power-of-two activations need zero point 0, but activation.symmetric is {activation.symmetric}.

    Set it to true.
    """
    return target.activation.symmetric or target.activation.scale != "power_of_two"


def power_of_two_weights_are_symmetric(target: "Target") -> bool:
    """Power-of-two weights need zero point 0, but weight.symmetric is {weight.symmetric}; set it to true."""
    return target.weight.symmetric or target.weight.scale != "power_of_two"


def shift_align_needs_power_of_two_activations(target: "Target") -> bool:
    """ADD can align by shifts only where scales differ by a power of two, but activation.scale is {activation.scale}.

    Set activation.scale to "power_of_two", or add.style to "tflite".
    """
    return target.add.style != "shift_align" or target.activation.scale == "power_of_two"


def bias_fits_the_accumulator(target: "Target") -> bool:
    """A bias of {bias.bits} bits is wider than the accumulator of {accumulator.bits}; widen one or narrow the other."""
    return target.bias.bits <= target.accumulator.bits


def power_of_two_biases_need_power_of_two_scales(target: "Target") -> bool:
    """A shift aligns a power-of-two bias only where s_in * s_w is a power of two too, but a scale is free.

    Got activation.scale {activation.scale} and weight.scale {weight.scale}; set both to "power_of_two", or
    bias.scale to "input_times_weight".
    """
    free = "any" in (target.activation.scale, target.weight.scale)
    return not (free and target.bias.scale == "power_of_two")


def the_requantizer_reads_no_more_than_the_accumulator(target: "Target") -> bool:
    """A requantizer cannot read {accumulator.output_bits} bits of an accumulator of {accumulator.bits}.

    Leave out accumulator.output_bits, or narrow it.
    """
    return target.accumulator.output_bits is None or target.accumulator.output_bits <= target.accumulator.bits


def a_multiplier_has_bits(target: "Target") -> bool:
    """A "multiplier_shift" requantizer needs at least one multiplier bit, but multiplier_bits is 0; TFLite's has 31."""
    return target.requantizer.multiplier_bits > 0 or target.requantizer.kind != "multiplier_shift"


def only_a_multiplier_has_bits(target: "Target") -> bool:
    """Only a "multiplier_shift" requantizer has a multiplier; set multiplier_bits to 0.

    Got requantizer.kind {requantizer.kind} with requantizer.multiplier_bits {requantizer.multiplier_bits}.
    """
    return target.requantizer.multiplier_bits == 0 or target.requantizer.kind == "multiplier_shift"


def shift_range_is_not_empty(target: "Target") -> bool:
    """A requantizer needs a shift to choose, but requantizer.shift_range {requantizer.shift_range} is empty.

    Give it as [lowest, highest].
    """
    low, high = target.requantizer.shift_range
    return low <= high


def the_last_stage_drops_the_rest(target: "Target") -> bool:
    """A requantizer's last stage, and no other, drops "rest"; the stages are {requantizer.stages}."""
    rests = [stage.drop == "rest" for stage in target.requantizer.stages]
    return rests == [False] * (len(rests) - 1) + [True]


def only_a_multiplier_has_several_stages(target: "Target") -> bool:
    """Only a "multiplier_shift" requantizer rounds in several stages; keep one that drops "rest".

    Got requantizer.kind {requantizer.kind} with requantizer.stages {requantizer.stages}.
    """
    return len(target.requantizer.stages) == 1 or target.requantizer.kind == "multiplier_shift"


def float32_adds_round_half_even(target: "Target") -> bool:
    """An ADD of style "float32" rounds half to even, but add.rounding is {add.rounding}; leave it out."""
    return target.add.style != "float32" or target.add.rounding in (None, Rounding.HALF_EVEN)


def pools_that_multiply_have_multiplier_bits(target: "Target") -> bool:
    """An average pool that multiplies by 1 / n needs multiplier bits, and of style "divide" it has none.

    Got average_pool.style {average_pool.style} with average_pool.multiplier_bits {average_pool.multiplier_bits}.
    """
    return (target.average_pool.multiplier_bits > 0) == (target.average_pool.style != "divide")


def pool_tables_belong_to_pools_that_multiply(target: "Target") -> bool:
    """A table of multipliers belongs to an average pool that multiplies; empty average_pool.table.

    Got average_pool.style {average_pool.style} with average_pool.table {average_pool.table}.
    """
    return target.average_pool.style != "divide" or not target.average_pool.table


def a_pool_table_names_each_window_once(target: "Target") -> bool:
    """A table of multipliers holds each window size once, but average_pool.table is {average_pool.table}."""
    sizes = [taps for taps, _, _ in target.average_pool.table]
    return len(set(sizes)) == len(sizes)


def requantizers_by_op_name_known_ops(target: "Target") -> bool:
    """Each key of requantizer_by_op begins with an op name in TFLite's spelling, such as CONV_2D:int16.

    Got {unknown_requantizers}.
    """
    return not _unknown_requantizers(target)


def an_intermediate_register_is_no_wider_than_the_accumulator(target: "Target") -> bool:
    """An intermediate register of {accumulator.intermediate.bits} bits is wider than the accumulator behind it.

    Got accumulator.bits {accumulator.bits}; narrow accumulator.intermediate.bits, or leave out accumulator.intermediate.
    """
    inner = target.accumulator.intermediate
    return inner is None or inner.bits <= target.accumulator.bits


def an_intermediate_register_holds_its_products(target: "Target") -> bool:
    """An intermediate register of {accumulator.intermediate.bits} bits holds {most_products} products of the largest codes.

    Got accumulator.intermediate.products {accumulator.intermediate.products}, with weight.bits {weight.bits} and
    activation.bits {activation.bits}; set it to that many at most, or widen accumulator.intermediate.bits.
    """
    inner = target.accumulator.intermediate
    return inner is None or inner.products <= _most_products(target)


def groups_reach_the_accumulator_whole(target: "Target") -> bool:
    """An accumulator behind an intermediate register never sees single products, so it cannot overflow at each.

    Got accumulator.when {accumulator.when}; set it to "after_bias", or leave out accumulator.intermediate.
    """
    return target.accumulator.intermediate is None or target.accumulator.when == "after_bias"


def winograd_overflows_after_the_bias(target: "Target") -> bool:
    """Winograd's sums are not those of single products, so its accumulator cannot overflow at each.

    Got accumulator.when {accumulator.when}; set it to "after_bias", or leave out winograd.
    """
    return target.winograd is None or target.accumulator.when == "after_bias"


def activations_fit_a_tflite_file(target: "Target") -> bool:
    """A TFLite file holds activations of 2 to 8 bits, in int8, or of 16 bits, but activation.bits is {activation.bits}."""
    return set(target.activation.bits) <= {*range(2, 9), 16}


def narrow_activations_are_symmetric(target: "Target") -> bool:
    """Activations of fewer than 8 bits have zero point 0, but activation.symmetric is {activation.symmetric}.

    Got activation.bits {activation.bits}; set activation.symmetric to true.
    """
    return target.activation.symmetric or min(target.activation.bits) >= 8


def weights_fit_a_tflite_file(target: "Target") -> bool:
    """A TFLite file holds weights of 2 to 8 bits, in int8, but weight.bits is {weight.bits}."""
    return set(target.weight.bits) <= set(range(2, 9))


def wide_activations_are_symmetric(target: "Target") -> bool:
    """TFLite's 16-bit activations have zero point 0, but activation.symmetric is {activation.symmetric}.

    Set it to true.
    """
    return target.activation.symmetric or 16 not in target.activation.bits


def unsigned_codes_have_8_bits(target: "Target") -> bool:
    """TFLite's unsigned codes have 8 bits; got activation.bits {activation.bits} and weight.bits {weight.bits}."""
    return (target.activation.signed or target.activation.bits == (8,)) and (
        target.weight.signed or target.weight.bits == (8,)
    )


def families_agree(target: "Target") -> bool:
    """TFLite cannot mix signed and unsigned codes in one op, so activation.signed and weight.signed must agree.

    Got activation.signed {activation.signed} and weight.signed {weight.signed}; for unsigned codes after a ReLU
    use activation.unsigned_after_relu.
    """
    return target.activation.signed == target.weight.signed


def unsigned_after_relu_is_for_signed_activations(target: "Target") -> bool:
    """Codes that are unsigned everywhere cannot turn unsigned after a ReLU; drop activation.unsigned_after_relu.

    Got activation.signed {activation.signed}; set it to true to keep unsigned_after_relu.
    """
    return target.activation.signed or not target.activation.unsigned_after_relu


def unsigned_after_relu_is_symmetric(target: "Target") -> bool:
    """Unsigned codes after a ReLU have zero point 0, but activation.symmetric is {activation.symmetric}.

    Set it to true.
    """
    return target.activation.symmetric or not target.activation.unsigned_after_relu


def unsigned_after_relu_has_8_bits(target: "Target") -> bool:
    """Codes unsigned after a ReLU travel as int8 in a TFLite file, but activation.bits is {activation.bits}.

    Set it to [8].
    """
    return target.activation.bits == (8,) or not target.activation.unsigned_after_relu


def signed_weights_are_symmetric(target: "Target") -> bool:
    """TFLite's signed weights have zero point 0, but weight.symmetric is {weight.symmetric}; set it to true."""
    return target.weight.symmetric or not target.weight.signed


def unsigned_weights_are_per_tensor(target: "Target") -> bool:
    """TFLite has no per-channel uint8 weights, but weight.granularity is {weight.granularity}; set it to "tensor"."""
    return target.weight.signed or target.weight.granularity == "tensor"


def per_tensor_weights_name_no_per_channel_op(target: "Target") -> bool:
    """Weights of granularity "tensor" leave weight.per_channel_ops empty, but it is {weight.per_channel_ops}.

    Empty it, or set weight.granularity to "channel".
    """
    return target.weight.granularity == "channel" or not target.weight.per_channel_ops


def per_channel_weights_name_an_op(target: "Target") -> bool:
    """Weights of granularity "channel" need at least one op in weight.per_channel_ops, but it is empty.

    Name the ops, or set weight.granularity to "tensor".
    """
    return target.weight.granularity == "tensor" or bool(target.weight.per_channel_ops)


def per_channel_ops_have_a_filter(target: "Target") -> bool:
    """Only CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV and FULLY_CONNECTED have a filter with output channels.

    Got weight.per_channel_ops {weight.per_channel_ops}.
    """
    return set(target.weight.per_channel_ops) <= set(FILTER_OPS)


def sources_name_facts_of_the_target(target: "Target") -> bool:
    """Each key of sources is the dotted path of a key of the target, such as requantizer.stages.

    Got {unknown_sources}, which name nothing.
    """
    document = plain(target)
    return all(resolves(document, path) for path in target.sources)


CONSTRAINTS: tuple[Callable[["Target"], bool], ...] = (
    shift_only_needs_power_of_two_scales,
    power_of_two_activations_are_symmetric,
    power_of_two_weights_are_symmetric,
    shift_align_needs_power_of_two_activations,
    bias_fits_the_accumulator,
    power_of_two_biases_need_power_of_two_scales,
    the_requantizer_reads_no_more_than_the_accumulator,
    a_multiplier_has_bits,
    only_a_multiplier_has_bits,
    shift_range_is_not_empty,
    the_last_stage_drops_the_rest,
    only_a_multiplier_has_several_stages,
    float32_adds_round_half_even,
    pools_that_multiply_have_multiplier_bits,
    pool_tables_belong_to_pools_that_multiply,
    a_pool_table_names_each_window_once,
    requantizers_by_op_name_known_ops,
    an_intermediate_register_is_no_wider_than_the_accumulator,
    an_intermediate_register_holds_its_products,
    groups_reach_the_accumulator_whole,
    winograd_overflows_after_the_bias,
    activations_fit_a_tflite_file,
    narrow_activations_are_symmetric,
    weights_fit_a_tflite_file,
    codebooks_hold_signed_symmetric_weights,
    indices_are_no_wider_than_codes,
    costs_are_given_for_every_width,
    costs_have_names_of_their_own,
    wide_activations_are_symmetric,
    unsigned_codes_have_8_bits,
    families_agree,
    unsigned_after_relu_is_for_signed_activations,
    unsigned_after_relu_is_symmetric,
    unsigned_after_relu_has_8_bits,
    signed_weights_are_symmetric,
    unsigned_weights_are_per_tensor,
    per_tensor_weights_name_no_per_channel_op,
    per_channel_weights_name_an_op,
    per_channel_ops_have_a_filter,
    sources_name_facts_of_the_target,
)


def check(target: "Target") -> list[str]:
    """The sentence of every constraint that the target breaks; empty for a sound target."""
    found = _broken(target)
    for op, own in target.requantizer_by_op.items():
        # Each constraint reads target.requantizer only; an op's own one takes its place in turn.
        alone = replace(target, requantizer=own, requantizer_by_op={}, sources={})
        found += [f"requantizer_by_op.{op}: {problem}" for problem in _broken(alone) if problem not in found]
    return found


def sentence(constraint: Callable[["Target"], bool], target: "Target") -> str:
    """A constraint's docstring with the target's values filled in."""
    document = plain(target)
    document["unknown_sources"] = [path for path in target.sources if not resolves(document, path)]
    document |= {"unknown_requantizers": _unknown_requantizers(target), "most_products": _most_products(target)}
    document["widths"] = list(target.weight.widths)
    return _JsonFormatter().vformat(" ".join((constraint.__doc__ or constraint.__name__).split()), (), document)


def _unknown_requantizers(target: "Target") -> list[str]:
    known = schema()["$defs"]["op"]["enum"] if target.requantizer_by_op else []
    return [key for key in target.requantizer_by_op if key.split(":")[0] not in known]


def _most_products(target: "Target") -> int:
    """How many products of the largest codes, zero points off, an intermediate register holds; 0 without one."""
    inner, x, w = target.accumulator.intermediate, target.activation, target.weight
    if inner is None:
        return 0
    # A difference of two codes of b bits, or a code of which half are negative.
    codes = 2 ** max(x.bits) - 1 if not x.symmetric or not x.signed or x.unsigned_after_relu else 2 ** (max(x.bits) - 1)
    weights = 2 ** (max(w.bits) - 1) - int(w.narrow) if w.signed else 2 ** max(w.bits) - 1
    return int((2 ** (inner.bits - 1) - 1) // (codes * weights))


def _broken(target: "Target") -> list[str]:
    return [sentence(constraint, target) for constraint in CONSTRAINTS if not constraint(target)]


class _JsonFormatter(string.Formatter):
    """Fills in values by dotted path and spells them as a target file does: true, "any", [8, 16]."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        value: Any = kwargs
        for key in field_name.split("."):
            value = value[key]
        return value, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        return json.dumps(value)
