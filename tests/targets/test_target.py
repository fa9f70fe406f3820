"""Target files: read, derived, and refused with a sentence."""

import json
from pathlib import Path

import pytest

from tf_requant.errors import TargetError
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


def test_derive_changes_one_key_and_refuses_a_contradiction() -> None:
    target = load_target("nna_sym8_pow2").derive(name="wide", accumulator={"bits": 48})
    assert (target.name, target.accumulator.bits, target.accumulator.overflow) == ("wide", 48, "saturate")
    with pytest.raises(TargetError):
        target.derive(activation={"scale": "any"})
