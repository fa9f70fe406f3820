"""A validation as JUnit XML, parsed back: what fails there failed here, and what was not asked for is not there."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.report.minimal import document, layer, quality
from tf_requant.report.junit import junit

ALLOWED = {
    # Jenkins' junit-10.xsd: element -> (attributes it must have, attributes it may have, children it may have)
    "testsuites": ({"name", "tests", "failures", "errors", "time"}, set(), {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped", "time"}, set(), {"properties", "testcase", "system-out"}),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": ({"name", "classname", "time"}, set(), {"failure", "system-out"}),
    "failure": ({"message", "type"}, set(), set()),
    "system-out": (set(), set(), set()),
}


def parsed(found: dict[str, Any]) -> ET.Element:
    """The suite of a document, its shape and its sums checked."""
    root = ET.fromstring(junit(found).encode())
    assert root.tag == "testsuites" and len(root) == 1
    for element in root.iter():
        must, may, children = ALLOWED[element.tag]
        assert must <= element.attrib.keys() <= must | may, element.tag
        assert {child.tag for child in element} <= children
    cases, failed = root.findall(".//testcase"), root.findall(".//testcase/failure")
    assert all(len(case.findall("failure")) <= 1 for case in cases)
    for element in (root, root[0]):
        assert element.attrib["tests"] == str(len(cases)) and element.attrib["failures"] == str(len(failed))
        assert element.attrib["errors"] == "0" and float(element.attrib["time"]) == 0
    assert len({(c.attrib["classname"], c.attrib["name"]) for c in cases}) == len(cases)
    assert (len(failed) > 0) == (not found["passed"])
    return root[0]


def cases(found: dict[str, Any]) -> dict[str, str | None]:
    """Class and name of each case -> the text of its failure, or None for one that passed."""
    suite = parsed(found)
    return {f"{c.attrib['classname']} {c.attrib['name']}": c.findtext("failure") for c in suite.iter("testcase")}


def thresholds(**asked: float) -> dict[str, Any]:
    return {"min_agreement": None, "max_top1_drop": None, "max_layer_error": None} | asked


def legality(*rules: tuple[str, int, list[str]]) -> dict[str, Any]:
    violations = [sentence for _, _, broken in rules for sentence in broken]
    return {
        "target": "nna_sym8", "legal": not violations, "accelerated": 2, "host_ops": [], "violations": violations,
        "rules": [{"name": n, "sentence": f"The rule {n}.", "checked": c, "broken": b} for n, c, b in rules],
    }  # fmt: skip


def exactness(mismatches: int) -> dict[str, Any]:
    return {
        "arithmetic": "tflite_ref", "resolver": "litert_ref", "samples": 8, "elements": 4096, "mismatches": mismatches,
        "unseen": [], "simulated_ops": 3, "first": None, "tensors": [],
    }  # fmt: skip


def test_nothing_asked_for_is_one_case_that_passes() -> None:
    assert cases(document()) == {"tf_requant.quality quality was measured": None}
    suite = parsed(document(notes=["input 'x' was held at zero"]))
    assert suite.attrib["name"] == "tf_requant validate" and suite.attrib["skipped"] == "0"
    assert suite.findtext("testcase/system-out") == "litert: agreement 97.00% on 400 samples"
    assert suite.findtext("system-out") == "Nothing was asked for.\ninput 'x' was held at zero"


def test_a_threshold_is_a_case_on_each_interpreter() -> None:
    found = {"litert": quality(0.97, 0.001), "litert_ref": quality(0.91, 0.02)}
    sentences = [
        "litert_ref: agreement is 0.9100, expected at least 0.95",
        "litert_ref: top-1 drops by 2.00 points, expected at most 0.5",
    ]
    asked = thresholds(min_agreement=0.95, max_top1_drop=0.5)
    assert cases(document(quality=found, thresholds=asked, passed=False, failures=sentences)) == {
        "tf_requant.quality agreement in litert": None,
        "tf_requant.quality top-1 drop in litert": None,
        "tf_requant.quality agreement in litert_ref": sentences[0],
        "tf_requant.quality top-1 drop in litert_ref": sentences[1],
    }


def test_a_threshold_that_is_just_kept_passes() -> None:
    asked = thresholds(min_agreement=0.97, max_top1_drop=1.0)
    kept = {"tf_requant.quality agreement in litert": None, "tf_requant.quality top-1 drop in litert": None}
    assert cases(document(quality={"litert": quality(0.97, 0.01)}, thresholds=asked)) == kept
    failed = document(quality={"litert": quality(0.97, 0.01)}, thresholds=asked, passed=False, failures=["x"])
    assert cases(failed) == kept | {"tf_requant.validation other failure 1": "x"}


def test_a_threshold_fails_however_the_document_words_it() -> None:
    asked = thresholds(min_agreement=0.98)
    told = cases(document(thresholds=asked, passed=False, failures=["too few equal answers"]))
    assert told["tf_requant.quality agreement in litert"] == "litert: agreement is 0.9700, expected at least 0.98"
    assert told["tf_requant.validation other failure 1"] == "too few equal answers"


def test_layers_are_one_case_until_one_fails() -> None:
    layers, asked = [layer(0, "a"), layer(1, "b: its error is c"), layer(2, "q", compared=False)], thresholds(max_layer_error=-20.0)
    kept = document(layers=layers, thresholds=asked)
    assert cases(kept) == {"tf_requant.layers error of every layer": None}
    assert parsed(kept).findtext("testcase/system-out") == "2 layers compared, an error of at most -20.0 dB allowed"
    sentences = [
        "layer 'a': its error is -12.0 dB, expected at most -20.0",
        "layer 'b: its error is c': its error is 3.0 dB, expected at most -20.0",
    ]
    assert cases(document(layers=layers, thresholds=asked, passed=False, failures=sentences)) == {
        "tf_requant.layers layer 'a'": sentences[0],
        "tf_requant.layers layer 'b: its error is c'": sentences[1],
    }


def test_a_rule_is_a_case_that_tells_every_place() -> None:
    places = ["op 0 (CONV_2D, output 'a'): zero point 1", "op 1 (ADD, output 'b'): zero point 1"]
    judged = legality(("zero_point", 5, places), ("weight_type", 2, []), ("bias_mantissa", 0, []))
    sentences = [f"target nna_sym8: {place}" for place in places]
    found = document(legality=judged, passed=False, failures=sentences)
    assert cases(found) == {
        "tf_requant.legality zero_point": "\n".join(sentences),
        "tf_requant.legality weight_type": None,
        "tf_requant.legality bias_mantissa": None,
    }
    case = parsed(found).find("testcase")
    assert case is not None and case.findtext("system-out") == "The rule zero_point. Checked at 5 places."
    failure = case.find("failure")
    assert failure is not None and failure.attrib == {"message": f"{sentences[0]} (and 1 more)", "type": "legality"}


def test_exactness_is_a_case_where_it_was_proved() -> None:
    name = "tf_requant.exactness tflite_ref against litert_ref"
    assert cases(document(exactness=exactness(0))) == {name: None}
    sentence = "the simulator is not exact: 7 elements differ, the first at op 3"
    assert cases(document(exactness=exactness(7), passed=False, failures=[sentence])) == {name: sentence}
    unproved = "the simulator could not be proved: it computes no tensor that the interpreter shows"
    assert cases(document(exactness=exactness(0), passed=False, failures=[unproved])) == {name: unproved}
    assert cases(document(exactness=exactness(7), passed=False, failures=["x"]))[name] == "7 of 4096 elements differ"


@pytest.mark.parametrize("failures", [[], ["something else is wrong"], ["one thing", "another"]])
def test_a_failure_of_any_other_kind_is_a_case_of_its_own(failures: list[str]) -> None:
    asked = thresholds(min_agreement=0.9)
    told = cases(document(thresholds=asked, passed=False, verdict="It failed.", failures=failures))
    assert told.pop("tf_requant.quality agreement in litert") is None
    # A document that failed and says no word about it fails with its verdict.
    assert list(told.values()) == (failures or ["It failed."])


def test_every_failure_is_told_once() -> None:
    broken = ["op 0 (CONV_2D, output 'a'): x"]
    failures = [
        "litert: agreement is 0.9700, expected at least 0.99", "layer 'a': its error is 1.0 dB, expected at most 0",
        f"target nna_sym8: {broken[0]}", "the simulator is not exact: 7 elements differ", "and more",
    ]  # fmt: skip
    asked = thresholds(min_agreement=0.99, max_layer_error=0.0)
    found = document(
        thresholds=asked, passed=False, failures=failures, legality=legality(("r", 1, broken)), exactness=exactness(7)
    )
    texts = [text for text in cases(found).values() if text is not None]
    assert "\n".join(texts).split("\n") == failures


def test_the_verdict_is_the_documents() -> None:
    # What passed does not fail here, whatever the figures look like to us.
    asked = thresholds(min_agreement=0.99, max_top1_drop=0.0)
    found = document(quality={"litert": quality(0.9, 0.5)}, thresholds=asked, legality=legality(("r", 1, ["x"])), exactness=exactness(3))
    assert set(cases(found).values()) == {None}


def test_names_are_escaped_and_what_xml_forbids_is_stripped() -> None:
    name = "<a & \"b\"> ]]> 'c'\x00\x08\x1b\ud800\uffff é 日本 🙂\ttab"
    kept = "<a & \"b\"> ]]> 'c' é 日本 🙂\ttab"
    sentence = f"layer {name}: its error is 1.0 dB, expected at most 0"
    model = document()["model"] | {"name": name}
    found = document(model=model, notes=[name], passed=False, failures=[sentence, name])
    told = cases(found)
    assert told[f"tf_requant.layers layer {kept}"] == sentence.replace(name, kept)
    assert told["tf_requant.validation other failure 1"] == kept
    suite = parsed(found)
    values = {p.attrib["name"]: p.attrib["value"] for p in suite.iter("property")}
    assert values["model"] == kept and values["reference.sha256"] == "0" * 64 and values["generator"] == "tf_requant 0.1.0"
    assert junit(found).startswith('<?xml version="1.0" encoding="UTF-8"?>\n') and junit(found) == junit(found)
