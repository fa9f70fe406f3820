"""Target files: read, derived, and refused with a sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tf_requant.errors import TargetError
from tf_requant.numerics.rounding import Rounding
from tf_requant.targets import load_target

DOCUMENT = {
    "schema_version": 1,
    "name": "my_npu",
    "description": "one line",
    "sources": {"requantizer.stages": "datasheet 1.2 section 4", "accumulator": "assumed"},
    "activation": {"bits": [8], "signed": True, "symmetric": True, "unsigned_after_relu": False, "scale": "power_of_two", "granularity": "tensor"},
    "weight": {"bits": [8], "signed": True, "symmetric": True, "narrow": True, "scale": "power_of_two", "granularity": "tensor", "per_channel_ops": []},
    "bias": {"bits": 32, "scale": "input_times_weight"},
    "accumulator": {"bits": 32, "overflow": "saturate", "when": "after_bias"},
    "requantizer": {"kind": "shift", "multiplier_bits": 0, "shift_range": [-7, 31], "stages": [{"drop": "rest", "rounding": "HALF_UP"}]},
    "add": {"style": "shift_align", "intermediate_bits": 32, "rounding": "HALF_UP"},
    "average_pool": {"style": "multiply_shift", "multiplier_bits": 15, "rounding": "HALF_UP"},
    "lookup": {"ops": ["LOGISTIC", "TANH"], "entries": 256, "interpolation": "none", "rounding": "HALF_EVEN"},
    "pad": "zero_point",
    "ops": {"CONV_2D": {}, "DEPTHWISE_CONV_2D": {}, "FULLY_CONNECTED": {}, "ADD": {}, "AVERAGE_POOL_2D": {}, "MAX_POOL_2D": {}, "RESHAPE": {}, "PAD": {}, "CONCATENATION": {"scale": "same"}},
    "unlisted_ops": "host",
}  # fmt: skip


def changed(**changes: object) -> dict[str, object]:
    return {**DOCUMENT, **changes}


def test_the_example_of_the_interface_is_a_target(tmp_path: Path) -> None:
    path = tmp_path / "my_npu.json"
    path.write_text(json.dumps(DOCUMENT))
    target = load_target(path)
    assert target.name == "my_npu" and target.ops["CONCATENATION"].scale == "same"


def test_a_target_reads_back_equal() -> None:
    target = load_target(DOCUMENT)
    assert load_target(target.to_dict()) == target


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (changed(activation={**DOCUMENT["activation"], "scale": "any"}), "shift"),  # type: ignore[dict-item]
        (changed(bias={"bits": 64, "scale": "input_times_weight"}), "accumulator"),
        (changed(ops={"CONVOLVE": {}}), "CONVOLVE"),
        (changed(colour="red"), "colour"),
        (changed(schema_version=99), "schema_version"),
        (changed(pad="mirror"), "pad"),
        ([], "object"),
    ],
)  # fmt: skip
def test_a_bad_document_is_refused_with_a_sentence_that_names_it(document: object, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        load_target(document if isinstance(document, dict) else {"name": "x", "activation": document})


def test_a_misspelt_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(TargetError, match="nna_sym8_pow2"):
        load_target("nna_sym8_pow")


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(TargetError, match=r"broken\.json"):
        load_target(path)
    with pytest.raises(TargetError, match="absent"):
        load_target(tmp_path / "absent.json")


def test_a_target_with_every_optional_key_reads_back_equal() -> None:
    own = {"kind": "float32", "ratio": "float32", "scale_product": "float32"}
    target = load_target("nna_sym8").derive(
        name="full",
        accumulator={"bits": 34, "output_bits": 32},
        requantizer={"ratio": "float32"},
        requantizer_by_op={"MUL": own, "CONV_2D:int8": own, "CONV_2D:int16:int64": own},
        add={"style": "float32"},
        average_pool={"style": "reciprocal", "multiplier_bits": 31, "table": [[9, 7, 6], [4, 3, 62]]},
    )
    assert load_target(target.to_dict()) == target and target.derive() == target
    assert hash(target) == hash(load_target(target.to_dict()))
    assert (target.accumulator.output_bits, target.requantizer.ratio) == (32, "float32")
    assert (target.add.rounding, target.average_pool.table) == (Rounding.HALF_EVEN, ((9, 7, 6), (4, 3, 62)))
    assert target.arithmetic.requantizer_of("CONV_2D", "int8", "int32").kind == "float32"
    assert target.derive(accumulator={"output_bits": None}).accumulator.output_bits is None


def test_derive_changes_one_key_and_refuses_a_contradiction() -> None:
    target = load_target("nna_sym8_pow2").derive(name="wide", accumulator={"bits": 48})
    assert (target.name, target.accumulator.bits, target.accumulator.overflow) == ("wide", 48, "saturate")
    with pytest.raises(TargetError):
        target.derive(activation={"scale": "any"})


def document_with(path: str, value: object) -> dict[str, object]:
    """The interface's example with the value at a dotted path replaced, or added."""
    document = json.loads(json.dumps(DOCUMENT))
    *sections, last = path.split(".")
    section = document
    for key in sections:
        section = section[key]
    section[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("requantizer.stages", [{"drop": 0, "rounding": "HALF_UP"}], 'requantizer.stages[0].drop is 0, expected "rest" or a number of bits from 1 to 63'),
        ("requantizer.stages", [{"drop": "rest", "rounding": "HALF_UPP"}], 'requantizer.stages[0].rounding is "HALF_UPP", expected one of "FLOOR", "TRUNCATE", "HALF_UP", "HALF_DOWN", "HALF_AWAY", "HALF_EVEN"; did you mean "HALF_UP"?'),
        ("requantizer.shift_range", [1], "requantizer.shift_range is [1], expected a pair [lowest, highest] of integers"),
        ("accumulator.bits", "32", 'accumulator.bits is "32", expected an integer'),
        ("accumulator.bits", True, "accumulator.bits is true, expected an integer"),
        ("bias.bits", 4, "bias.bits is 4, expected 8 or more"),
        ("activation.scale", "pow2", 'activation.scale is "pow2", expected one of "any", "power_of_two"'),
        ("ops.CONV2D", {}, 'ops has the key "CONV2D", expected an op name in TFLite\'s spelling; did you mean "CONV_2D"?'),
        ("ops.CONV_2D", 3, "ops.CONV_2D is 3, expected an object"),
        ("ops.CONV_2D", {"kernel": 3}, "ops.CONV_2D.kernel is not a key of ops.CONV_2D; expected one of scale, kernel_max, stride_max, dilation; did you mean \"kernel_max\"?"),
        ("requantizer_by_op", {"CONV_2D:int32": {}}, 'requantizer_by_op has the key "CONV_2D:int32", expected "OP", "OP:input type" or "OP:input type:bias type", such as "CONV_2D:int16:int64"'),
        ("average_pool.table", [[9, 7]], "average_pool.table[0] is [9, 7], expected a triple [n, multiplier, bits] of integers"),
        ("average_pool.table", [[0, 7, 6]], "average_pool.table[0][0] is 0, expected 1 or more"),
        ("average_pool.table", [[9, 7, 63]], "average_pool.table[0][2] is 63, expected 62 or less"),
        ("requantizer.ratio", "float16", 'requantizer.ratio is "float16", expected one of "float32", "float64"; did you mean "float64"?'),
        ("accumulator.output_bits", 7, "accumulator.output_bits is 7, expected 8 or more"),
        ("schema_version", 2, "schema_version is 2, but this tf_requant reads version 1; update tf_requant or write the older format"),
        ("name", "my npu", "name is \"my npu\", expected letters, digits, '_', '-' and '.'"),
    ],
)  # fmt: skip
def test_a_malformed_value_is_told_by_path_got_and_expected(path: str, value: object, sentence: str) -> None:
    with pytest.raises(TargetError) as refusal:
        load_target(document_with(path, value))
    assert str(refusal.value).partition(": ")[2] == sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1,}', "line 1, column 9 is not JSON"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b"[1]", "the target is [1], expected an object"),
        (b'{"name": "a", "name": "b"}', 'the key "name" stands twice in one object; keep one'),
        (b'{"name": ' + b"9" * 5000 + b"}", "cannot read the target file"),
        (b"[" * 100000, "nested too deeply"),
    ],
)
def test_an_unreadable_file_is_told_in_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(TargetError) as refusal:
        load_target(str(path))
    assert str(refusal.value).startswith(f"{path}: ") and words in str(refusal.value)


def test_what_a_file_leaves_out_is_the_schema_s_default_and_the_code_s() -> None:
    document = {key: DOCUMENT[key] for key in ("name", "ops")}
    document |= {"activation": {"symmetric": True, "scale": "any"}, "weight": {"scale": "any", "granularity": "tensor"}}
    target = load_target(document).to_dict()
    schema = check_schema()
    sections = {**schema["properties"], "requantizer": schema["$defs"]["requantizer"]}
    for key, section in sections.items():
        if "properties" not in section and "default" in section:
            assert target[key] == section["default"], key
        for inner, described in section.get("properties", {}).items():
            if "default" in described:
                assert target[key][inner] == described["default"], (key, inner)


def test_every_property_of_the_schema_is_described_and_every_object_closed() -> None:
    def walk(node: object) -> None:
        if isinstance(node, dict):
            for name, described in (node.get("properties") or {}).items():
                assert described.get("description"), name
            assert "properties" not in node or node["additionalProperties"] is False
            for inner in node.values():
                walk(inner)
        elif isinstance(node, list):
            for inner in node:
                walk(inner)

    walk(check_schema())


def check_schema() -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    from tf_requant.targets.schema_check import schema

    return schema()


def test_derive_resets_what_the_changed_choice_made_void() -> None:
    channel = load_target("nna_sym8").derive(name="x", weight={"granularity": "channel"})
    assert channel.weight.per_channel_ops == ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
    assert channel.derive(weight={"granularity": "tensor"}).weight.per_channel_ops == ()
    assert load_target("nna_sym8_pow2").derive(requantizer={"kind": "multiplier_shift"}).requantizer.multiplier_bits == 31
    assert load_target("nna_sym8_pow2").derive(add={"style": "float32"}).add.rounding is Rounding.HALF_EVEN
    assert load_target("nna_sym8_pow2").derive(add={"style": "tflite"}).add.rounding is None


def test_derive_tells_which_facts_it_changed_and_drops_their_sources() -> None:
    variant = load_target(DOCUMENT).derive(accumulator={"bits": 40}, requantizer={"stages": [{"drop": "rest", "rounding": "FLOOR"}]})
    assert variant.sources == {
        "accumulator": "assumed", "accumulator.bits": "changed from my_npu", "requantizer.stages": "changed from my_npu"
    }  # fmt: skip


def test_derive_without_changes_is_the_same_target_and_none_removes_an_op() -> None:
    target = load_target("nna_sym8_pow2")
    assert target.derive() == target and hash(target.derive()) == hash(target)
    assert target.rule("MEAN") is not None and target.derive(ops={"MEAN": None}).rule("MEAN") is None


def test_a_lookup_op_runs_on_the_accelerator_without_an_entry_in_ops() -> None:
    target = load_target(DOCUMENT)
    assert target.rule("TANH") is not None and "TANH" not in target.ops and target.rule("SOFTMAX") is None


def test_a_built_in_loads_without_jsonschema() -> None:
    code = "import sys; from tf_requant.targets import load_target; load_target('nna_sym8'); assert 'jsonschema' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
