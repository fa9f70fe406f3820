"""A validation as JUnit XML, which CI systems read: one case for each threshold and each rule of the target.

The elements and attributes are those that Jenkins' `junit-10.xsd` and Ant's task share; a validation document
(`schemas/report.schema.json`) is all that it is made of.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SUITE = "tf_requant validate"

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (section 2.2, production 2) has no way to write, not even escaped: control characters, lone surrogates."""
_LAYER = re.compile(r"(layer .+): its error is ", re.DOTALL)


@dataclass(frozen=True)
class _Case:
    """One case.

    Attributes:
        area: what it is about, the last part of its class name.
        name: the same from run to run, without figures.
        found: the figure, for the log.
        failures: the sentences that make it fail; empty for a case that passes.
    """

    area: str
    name: str
    found: str = ""
    failures: tuple[str, ...] = ()


def junit(document: Mapping[str, Any]) -> str:
    """The XML text of a validation document, to be written as UTF-8.

    The document's own verdict rules: where it passed no case fails, and else at least one does.
    """
    cases = _cases(document)
    failed = sum(bool(case.failures) for case in cases)
    # The document holds no times, and the same document is to give the same text.
    counts = {"tests": str(len(cases)), "failures": str(failed), "errors": "0", "time": "0"}
    root = ET.Element("testsuites", {"name": SUITE, **counts})
    suite = ET.SubElement(root, "testsuite", {"name": SUITE, **counts, "skipped": "0"})
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(document).items():
        ET.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for case in cases:
        _write(suite, case)
    ET.SubElement(suite, "system-out").text = _clean("\n".join([document["verdict"], *document["notes"]]))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _cases(document: Mapping[str, Any]) -> list[_Case]:
    """Every case: thresholds, layers, rules and exactness, then what failed beside them."""
    sentences: Sequence[str] = () if document["passed"] else document["failures"]
    cases = [*_thresholds(document), *_layers(document, sentences), *_rules(document), *_exactness(document, sentences)]
    covered = {sentence for case in cases for sentence in case.failures}
    others = [s for s in sentences if s not in covered]
    cases += [_Case("validation", f"other failure {n}", failures=(s,)) for n, s in enumerate(others, 1)]
    if not document["passed"] and not any(case.failures for case in cases):
        cases.append(_Case("validation", "verdict", failures=(document["verdict"],)))
    if not cases:
        cases.append(_Case("quality", "quality was measured", "\n".join(_measured(document))))
    return cases


def _thresholds(document: Mapping[str, Any]) -> Iterator[_Case]:
    """One case for each threshold on each interpreter; none for what was not asked for."""
    least, most = document["thresholds"]["min_agreement"], document["thresholds"]["max_top1_drop"]
    for backend, quality in document["quality"].items():
        if least is not None:
            found = f"{backend}: agreement is {quality['agreement']:.4f}, expected at least {least}"
            yield _threshold(document, f"agreement in {backend}", found, quality["agreement"] < least)
        if most is not None and quality["top1_drop"] is not None:
            drop = 100 * quality["top1_drop"]
            found = f"{backend}: top-1 drops by {drop:.2f} points, expected at most {most}"
            yield _threshold(document, f"top-1 drop in {backend}", found, drop > most)


def _threshold(document: Mapping[str, Any], name: str, found: str, missed: bool) -> _Case:
    """A case that stands for the document's own sentence, which begins as ours does, or else for ours."""
    beginning = " ".join(found.split()[:2])
    own = tuple(s for s in document["failures"] if s.startswith(beginning)) or (found,)
    return _Case("quality", name, found, own if missed and not document["passed"] else ())


def _layers(document: Mapping[str, Any], sentences: Sequence[str]) -> Iterator[_Case]:
    """A case for each layer that missed the threshold, or one for all that kept it."""
    most = document["thresholds"]["max_layer_error"]
    missed = [(match.group(1), s) for s in sentences if (match := _LAYER.match(s))]
    for name, sentence in missed:
        yield _Case("layers", name, failures=(sentence,))
    if most is not None and not missed:
        compared = sum(layer["compared"] for layer in document["layers"])
        yield _Case("layers", "error of every layer", f"{compared} layers compared, an error of at most {most} dB allowed")


def _rules(document: Mapping[str, Any]) -> Iterator[_Case]:
    """One case for each rule of the target."""
    legality = document["legality"]
    for rule in () if legality is None else legality["rules"]:
        found = f"{rule['sentence']} Checked at {rule['checked']} places."
        # The document's failures tell the same sentences behind the target's name.
        told = {f"target {legality['target']}: {place}": place for place in rule["broken"]}
        failures = () if document["passed"] else tuple(s if s in document["failures"] else place for s, place in told.items())
        yield _Case("legality", rule["name"], found, failures)


def _exactness(document: Mapping[str, Any], sentences: Sequence[str]) -> Iterator[_Case]:
    """The simulator's proof, where it was asked for."""
    exactness = document["exactness"]
    if exactness is not None:
        found = f"{exactness['mismatches']} of {exactness['elements']} elements differ"
        failures = tuple(s for s in sentences if s.startswith("the simulator "))
        if not failures and exactness["mismatches"] and not document["passed"]:
            failures = (found,)
        yield _Case("exactness", f"{exactness['arithmetic']} against {exactness['resolver']}", found, failures)


def _measured(document: Mapping[str, Any]) -> Iterator[str]:
    for backend, quality in document["quality"].items():
        yield f"{backend}: agreement {quality['agreement']:.2%} on {quality['samples']} samples"


def _properties(document: Mapping[str, Any]) -> dict[str, str]:
    """What was compared with what."""
    found = {"generator": document["generator"]}
    for role in ("model", "reference"):
        found |= {role: document[role]["name"], f"{role}.sha256": document[role]["sha256"]}
    return found if document["legality"] is None else {**found, "target": document["legality"]["target"]}


def _write(suite: ET.Element, case: _Case) -> None:
    attributes = {"classname": f"tf_requant.{case.area}", "name": _clean(case.name), "time": "0"}
    element = ET.SubElement(suite, "testcase", attributes)
    if case.failures:
        more = f" (and {len(case.failures) - 1} more)" if len(case.failures) > 1 else ""
        failure = ET.SubElement(element, "failure", {"message": _clean(case.failures[0] + more), "type": case.area})
        failure.text = _clean("\n".join(case.failures))
    if case.found:
        ET.SubElement(element, "system-out").text = _clean(case.found)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("", text)
