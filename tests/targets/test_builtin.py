"""The built-in targets, row by row against interface.md's table."""

import json
from importlib import resources

import jsonschema
import pytest

from tf_requant.model.ops import OPS
from tf_requant.simulator.profiles import TFLITE_REF
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
    "ethos_u": (("int8", False, False), (True, True, "channel"), "any", "multiplier_shift", 40),
    "nvdla_int8": (("int8", True, False), (True, True, "channel"), "any", "multiplier_shift", 16),
    "dpu_pow2": (("int8", True, False), (True, True, "tensor"), "power_of_two", "shift", 8),
    "esp32s3_pow2": (("int8", True, False), (True, True, "tensor"), "power_of_two", "shift", 32),
    "esp32p4_pow2": (("int8", True, False), (True, True, "channel"), "power_of_two", "shift", 32),
    "gemmini_f32": (("int8", True, False), (True, True, "tensor"), "any", "float32", 32),
    "q7_legacy": (("int8", True, False), (True, True, "tensor"), "power_of_two", "shift", 8),
    "k210_kpu": (("uint8", False, False), (False, False, "tensor"), "any", "multiplier_shift", 32),
}

# name: accumulator, (multiplier bits, shift range, stages), ADD, average pool
HARDWARE = {
    "ethos_u": ((40, "wrap", None), (31, (-31, 32), "31 HALF_UP, rest HALF_AWAY"), ("tflite", 20, None), ("reciprocal", 31, "HALF_AWAY")),
    "nvdla_int8": ((34, "saturate", 32), (15, (-15, 16), "rest HALF_AWAY"), ("tflite", 8, "HALF_AWAY"), ("multiply_shift", 16, "HALF_AWAY")),
    "dpu_pow2": ((32, "saturate", None), (0, (-7, 31), "rest HALF_UP"), ("shift_align", 20, "HALF_UP"), ("multiply_shift", 15, "HALF_UP")),
    "esp32s3_pow2": ((40, "saturate", None), (0, (-7, 31), "rest HALF_UP"), ("shift_align", 20, "HALF_UP"), ("multiply_shift", 15, "HALF_UP")),
    "esp32p4_pow2": ((40, "saturate", None), (0, (-7, 31), "rest HALF_EVEN"), ("shift_align", 20, "HALF_EVEN"), ("multiply_shift", 15, "HALF_EVEN")),
    "gemmini_f32": ((32, "wrap", None), (0, (-30, 31), "rest HALF_EVEN"), ("float32", 20, "HALF_EVEN"), ("divide", 0, "HALF_AWAY")),
    "q7_legacy": ((32, "wrap", None), (0, (0, 31), "rest HALF_UP"), ("tflite", 20, None), ("divide", 0, "TRUNCATE")),
    "k210_kpu": ((40, "saturate", None), (24, (0, 31), "15 FLOOR, rest HALF_EVEN"), ("tflite", 20, None), ("divide", 0, "TRUNCATE")),
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


def test_the_built_ins_come_family_by_family_and_int8_before_int16() -> None:
    assert builtin_targets() == (
        "tflite_int8", "tflite_int8_per_tensor", "tflite_int16x8", "tflite_uint8", "nna_sym8", "nna_sym8_per_channel",
        "nna_sym8_pow2", "nna_sym8_pow2_per_channel", "nna_usym8", "nna_usym8_pow2", "dpu_pow2", "esp32p4_pow2",
        "esp32s3_pow2", "ethos_u", "gemmini_f32", "k210_kpu", "nvdla_int8", "q7_legacy",
    )  # fmt: skip


def test_every_other_target_is_published_hardware() -> None:
    assert set(HARDWARE) == {name for name in ROWS if not name.startswith(("tflite_", "nna_"))}


@pytest.mark.parametrize("name", HARDWARE)
def test_published_hardware_computes_as_its_row_says(name: str) -> None:
    accumulator, (bits, shifts, stages), add, pool = HARDWARE[name]
    target = load_target(name)
    rule = target.requantizer
    assert (target.accumulator.bits, target.accumulator.overflow, target.accumulator.output_bits) == accumulator
    assert (rule.multiplier_bits, rule.shift_range) == (bits, shifts)
    assert ", ".join(f"{s.drop} {s.rounding.value}" for s in rule.stages) == stages
    assert (target.add.style, target.add.left_shift, target.add.rounding) == add
    assert (target.average_pool.style, target.average_pool.multiplier_bits, target.average_pool.rounding) == pool
    assert (target.pad, target.lookup.interpolation) == ("zero_point", "none")


def test_the_dpu_averages_by_its_dyadic_constants() -> None:
    pool = load_target("dpu_pow2").average_pool
    assert {n: (multiplier, 2**bits) for n, multiplier, bits in pool.table} == {
        9: (7, 64), 25: (10, 256), 36: (7, 256), 49: (21, 1024), 196: (21, 4096)
    }  # fmt: skip


@pytest.mark.parametrize("name", HARDWARE)
def test_published_hardware_lists_only_ops_with_a_kernel_of_its_type_and_cites_or_assumes(name: str) -> None:
    target = load_target(name)
    kind = "int8" if target.activation.signed else "uint8"
    assert all(OPS[op].runs(kind) for op in (*target.ops, *target.lookup.ops))
    copied = {op for op in target.ops if OPS[op].rule == "same"}
    assert {op for op in target.ops if target.ops[op].scale == "same"} <= copied
    # A document or a source file has a suffix; UG1414 and CMSIS-NN's function names have none.
    cited = ("assumed", ".md", ".rst", ".py", ".scala", ".hpp", ".cpp", ".h", ".c", "arm_")
    assert all(any(mark in source for mark in cited) or "NN_ROUND" in source or "CMSIS-NN" in source for source in target.sources.values())


def test_the_tables_of_ethos_u_come_from_float64_rounded_half_away() -> None:
    lookup = load_target("ethos_u").lookup
    assert (lookup.ops, lookup.precision, lookup.rounding.value) == (("LOGISTIC", "TANH"), "float64", "HALF_AWAY")


def test_int16_convolutions_round_once_on_ethos_u_and_its_fully_connected_is_in_fixed_point() -> None:
    arithmetic = load_target("ethos_u").arithmetic
    assert arithmetic.requantizer_of("CONV_2D", "int16", "int64").multiplier_bits == 15
    assert [s.rounding.value for s in arithmetic.requantizer_of("CONV_2D", "int16", "int64").stages] == ["HALF_UP"]
    assert arithmetic.requantizer_of("CONV_2D", "int8", "int32") == arithmetic.requantizer_of("FULLY_CONNECTED", "int8") == arithmetic.requantizer


TFLITE_STAGES = [{"drop": 31, "rounding": "HALF_UP"}, {"drop": "rest", "rounding": "HALF_AWAY"}]
POOL = {"style": "multiply_shift", "multiplier_bits": 15, "rounding": "HALF_UP", "table": []}


@pytest.mark.parametrize("name", [n for n in ROWS if n.startswith("nna")])
def test_an_nna_computes_as_the_interface_says(name: str) -> None:
    document, shift = load_target(name).to_dict(), "pow2" in name
    assert document["requantizer"]["multiplier_bits"] == (0 if shift else 31)
    assert document["add"] == {
        "style": "shift_align" if shift else "tflite", "left_shift": 20, "intermediate_bits": 32, "rounding": "HALF_UP"
    }  # fmt: skip
    assert document["average_pool"] == POOL
    assert document["lookup"] == {
        "ops": ["LOGISTIC", "TANH", "HARD_SWISH"], "entries": 256, "interpolation": "none", "rounding": "HALF_EVEN",
        "precision": "float64",
    }  # fmt: skip
    assert (document["pad"], document["requantizer_by_op"]) == ("zero_point", {})
    assert not {"LOGISTIC", "TANH", "HARD_SWISH", "SOFTMAX"} & set(document["ops"])
    raw = {op for op, rule in document["ops"].items() if rule.get("scale") == "same"}
    assert {"CONCATENATION", "PAD", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "RESHAPE"} <= raw
    assert not {"CONV_2D", "ADD", "MUL", "FULLY_CONNECTED", "QUANTIZE"} & raw


@pytest.mark.parametrize("name", [n for n in ROWS if n.startswith("tflite")])
def test_a_tflite_target_computes_as_the_reference_kernels_do(name: str) -> None:
    document, wide = load_target(name).to_dict(), name == "tflite_int16x8"
    assert document["requantizer"] == {
        "kind": "multiplier_shift", "multiplier_bits": 31, "shift_range": [-1100, 31], "stages": TFLITE_STAGES,
        "scale_product": "float64", "ratio": "float64",
    }  # fmt: skip
    assert document["accumulator"] == {"bits": 64 if wide else 32, "overflow": "wrap", "when": "after_bias"}
    assert document["add"] == {"style": "tflite", "left_shift": 15 if wide else 20, "intermediate_bits": 32}
    assert document["average_pool"] == {"style": "divide", "multiplier_bits": 0, "rounding": "HALF_AWAY", "table": []}
    assert document["requantizer_by_op"]["FULLY_CONNECTED"]["kind"] == "float64"
    arithmetic = load_target(name).arithmetic
    dtype = {"tflite_uint8": ("uint8", "int32"), "tflite_int16x8": ("int16", "int64")}.get(name, ("int8", "int32"))
    convolution = arithmetic.requantizer_of("CONV_2D", *dtype)
    assert (convolution.multiplier_bits, len(convolution.stages)) == ((15, 1) if wide else (31, 2))
    # Where the simulator's own profile of the reference kernels, which LiteRT itself has confirmed, says otherwise.
    for op in load_target(name).ops:
        assert arithmetic.requantizer_of(op, *dtype) == TFLITE_REF.requantizer_of(op, *dtype), op


@pytest.mark.parametrize(
    ("name", "per_channel"),
    [
        ("tflite_int8", ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")),
        ("tflite_int16x8", ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")),
        ("nna_sym8_per_channel", ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")),
        ("nna_sym8_pow2_per_channel", ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")),
        ("nna_sym8", ()),
        ("tflite_uint8", ()),
        ("ethos_u", ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")),
        ("nvdla_int8", ("CONV_2D", "FULLY_CONNECTED")),
        ("esp32p4_pow2", ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")),
    ],
)
def test_a_built_in_names_the_ops_with_per_channel_weights(name: str, per_channel: tuple[str, ...]) -> None:
    assert load_target(name).weight.per_channel_ops == per_channel


def test_a_tflite_target_lists_no_op_without_a_kernel_of_its_type() -> None:
    without = {"HARD_SWISH", "L2_NORMALIZATION", "LOG_SOFTMAX", "ARG_MAX", "ARG_MIN", "RELU_N1_TO_1", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH"}
    assert not without & set(load_target("tflite_int16x8").ops)
    assert without <= set(load_target("tflite_int8").ops) and without <= set(load_target("tflite_uint8").ops)
    # The reference SUM does not rescale signed codes.
    assert [name for name in builtin_targets() if "SUM" in load_target(name).ops] == ["tflite_uint8"]


@pytest.mark.parametrize("name", ROWS)
def test_every_section_of_a_built_in_that_is_not_the_default_names_its_source(name: str) -> None:
    target = load_target(name)
    document = target.to_dict()
    plain = {
        key: document[key] for key in ("name", "ops")
    } | {"activation": {"symmetric": True, "scale": "any"}, "weight": {"scale": "any", "granularity": "tensor"}}  # fmt: skip
    default = load_target(plain).to_dict()
    facts = set(document) - {"schema_version", "name", "description", "sources"}
    assert {key for key in facts if document[key] != default[key] or key == "ops"} <= {path.split(".")[0] for path in target.sources}
