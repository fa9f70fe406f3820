"""The page says what the document says, to the last digit, whatever the document holds, and needs nothing but itself."""

import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.report import documents
from tests.report.documents import CASES, LONG, NASTY, case
from tf_requant.report import page
from tf_requant.report.page import render

SCHEMA = json.loads((Path(page.__file__).parents[1] / "schemas/report.schema.json").read_text())
PAGES = {name: render(document) for name, document in CASES.items()}
VOID = {"meta", "wbr", "input", "br"}
NAMES = sorted(CASES)


class Page(HTMLParser):
    """Tags, attributes, the figures and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: dict[str, tuple[str, str]] = {}
        self.text = ""
        self.reading: tuple[str, int] | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        path = dict(attrs).get("data-figure")
        if path is not None:
            self.reading = (path, len(self.open))
            self.figures[path] = (dict(attrs)["data-value"] or "", "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self.reading is not None and len(self.open) == self.reading[1]:
            self.reading = None
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style", "title"):
            self.text += data
        if self.reading is not None:
            value, text = self.figures[self.reading[0]]
            self.figures[self.reading[0]] = (value, text + data)


READ = {name: Page(html) for name, html in PAGES.items()}


def at(document: Any, path: str) -> Any:
    for key in path.split("."):
        key = key.replace("~1", ".").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


def leaves(document: Any, path: tuple[str | int, ...] = ()) -> dict[str, Any]:
    """Every number of the document by its path."""
    if isinstance(document, dict):
        return {k: v for key, value in document.items() for k, v in leaves(value, (*path, key)).items()}
    if isinstance(document, list):
        return {k: v for i, value in enumerate(document) for k, v in leaves(value, (*path, i)).items()}
    return {page.dotted(path): document} if isinstance(document, (int, float)) else {}


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_documents_obey_the_schema(name: str) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(CASES[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_element_is_closed(name: str) -> None:
    assert READ[name].open == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_the_file_is_named(name: str) -> None:
    assert "http" not in PAGES[name] and "//" not in re.sub(r"(?m)^\s*//.*$", "", PAGES[name].replace(LONG, ""))
    assert not re.search(r"@import|url\((?!#)|\bfetch\b|XMLHttpRequest|import\(", PAGES[name])
    for tag, attributes in READ[name].tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        for key in ("href", "xlink:href", "src", "srcset", "action", "data"):
            assert (attributes.get(key) or "#").startswith("#"), (tag, attributes)


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique_and_every_link_leads_somewhere(name: str) -> None:
    ids = [attributes["id"] for _, attributes in READ[name].tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for _, attributes in READ[name].tags if "href" in attributes}
    assert {f"#{i}" for i in ids} >= links
    named = {attributes["aria-labelledby"] for tag, attributes in READ[name].tags if tag == "svg"}
    assert named <= set(ids)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_its_exact_value_from_the_document(name: str) -> None:
    for path, (value, _) in READ[name].figures.items():
        assert json.loads(value) == at(CASES[name], path) and value == json.dumps(at(CASES[name], path)), path


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_document_is_on_the_page(name: str) -> None:
    """Except indices, which stand in words and links, and the pictures' points."""
    left = re.compile(r"^pictures\.(layers|scatter\.re)|\.op_index$|\.index$|\.element\.\d+$|^legality\.legal$|\.(compared|isolated)$")
    unnamed = re.compile(r"^quality\..*\.(reference_)?top\d") if name == "nulls" else None
    for path in leaves(CASES[name]):
        if left.search(path) or (unnamed and unnamed.search(path)):
            continue
        restored = re.fullmatch(r"culprits\.(\d+)\.samples", path)
        if restored and CASES[name]["culprits"][int(restored[1])]["samples"] == 0:
            continue
        assert path in READ[name].figures, path


@pytest.mark.parametrize("name", NAMES)
def test_every_sentence_and_name_is_on_the_page(name: str) -> None:
    document, text = CASES[name], READ[name].text
    legality = document["legality"] or {"target": "", "violations": [], "host_ops": [], "rules": []}
    said = [document["verdict"], document["generator"], *document["failures"], *document["notes"], legality["target"]]
    said += [document[key]["name"] for key in ("model", "reference")] + [document["model"]["sha256"]]
    said += [c[key] for c in document["culprits"] for key in ("op", "name", "why")] + legality["violations"]
    said += [op[key] for op in legality["host_ops"] for key in ("op", "reason")]
    said += [rule["name"] for rule in legality["rules"]] + [rule["sentence"] for rule in legality["rules"]]
    said += [place for rule in legality["rules"] for place in rule["broken"]] + list(document["quality"])
    said += [row[key] for row in document["layers"] for key in ("op", "name", "place", "source", "result", "decision", "reason")]
    exact = document["exactness"] or {"arithmetic": "", "resolver": "", "unseen": [], "tensors": []}
    said += [exact["arithmetic"], exact["resolver"], *exact["unseen"], *(row["name"] for row in exact["tensors"])]
    said += [row["name"] for row in document["tensors"]] + document["scores"]["names"]
    for sentence in said:
        assert sentence in text, sentence


def test_figures_are_formatted_one_way() -> None:
    shown = {path: text for path, (_, text) in READ["small"].figures.items()}
    assert shown["quality.litert.agreement"] == "97.25 %" and shown["quality.litert.agreement_interval.1"] == "98.46 %"
    assert shown["quality.litert.top1_drop"] == "0.25 points" and shown["quality.litert.sqnr"] == "21.4 dB"
    assert shown["thresholds.max_top1_drop"] == "0.50 points" and shown["model.bytes"] == "3,577,760 bytes"
    assert shown["culprits.0.gain"] == "+4.00 dB" and shown["culprits.0.suspicion"] == "1.4 steps"
    assert shown["layers.0.sqnr"] == "30.0" and shown["layers.1.gain"] == "2.667" and shown["layers.0.saturated"] == "0.01"


def test_what_is_not_all_is_not_shown_as_all() -> None:
    shown = {path: text for path, (_, text) in READ["odd"].figures.items()}
    assert shown["quality.litert.agreement"] == ">99.99 %" and shown["quality.litert.top1_drop"] == ">-0.01 points"


def test_no_error_reads_exact_and_no_comparison_a_dash() -> None:
    shown = {path: text for path, (_, text) in READ["small"].figures.items()}
    assert (shown["layers.4.sqnr"], shown["layers.4.isolated_sqnr"]) == ("exact", "exact")
    assert (shown["layers.5.sqnr"], shown["layers.5.isolated_sqnr"]) == ("–", "–")
    assert READ["nulls"].figures["quality.litert.sqnr"] == ("null", "exact")
    assert READ["odd"].figures["culprits.0.restored_sqnr"] == ("null", "exact")
    assert READ["nulls"].figures["culprits.0.restored_sqnr"] == ("null", "–")


def test_markup_in_names_stays_text() -> None:
    html = PAGES["nasty"]
    assert html.count("<script") == 1 and "alert('x')" not in html and "{{ 7 * 7 }}" in html
    assert escape(NASTY, quote=False).split("&quot;")[0].split("'")[0] in html and LONG in READ["nasty"].text
    assert not any("alert" in (v or "") for _, a in READ["nasty"].tags for k, v in a.items() if k.startswith("on"))


def test_the_verdict_is_in_words_and_comes_first() -> None:
    assert READ["failed"].text.strip().startswith("✗ FAIL") and READ["small"].text.strip().startswith("✓ PASS")
    order = [attributes["id"] for tag, attributes in READ["mobilenet"].tags if tag == "section"]
    assert order == "quality culprits network worst scores exactness legality layers provenance".split()


def test_pictures_are_named_and_follow_the_colour_scheme() -> None:
    drawn = [attributes for tag, attributes in READ["mobilenet"].tags if tag == "svg"]
    assert len(drawn) == 2 + 2 * 8 + 1 and all(a["role"] == "img" for a in drawn)
    for svg in re.findall(r"<svg.*?</svg>", PAGES["mobilenet"], flags=re.DOTALL):
        assert re.match(r"<svg [^>]*><title [^>]*>[^<]+</title>", svg)
        assert not re.search(r"#[0-9a-f]{6}\b", svg) and "var(--ink)" in svg or "var(--muted)" in svg
    assert "activation of op 14 MobilenetV2/expanded_conv_4/depthwise/Relu6, source against candidate" in PAGES["mobilenet"]


def test_a_point_of_the_network_tells_its_layer_and_leads_to_its_row() -> None:
    assert '<a href="#layer-14" tabindex="-1"><title>op 14 DEPTHWISE_CONV_2D MobilenetV2/expanded_conv_4' in PAGES["mobilenet"]
    assert "_blank" not in PAGES["mobilenet"] and "xlink" not in PAGES["mobilenet"]
    assert "accumulated exact, isolated exact" not in PAGES["mobilenet"], "an exact layer has no point"


def test_mobilenet_fits_well_under_five_megabytes() -> None:
    assert len(CASES["mobilenet"]["layers"]) == 66 and len(PAGES["mobilenet"].encode()) < 2_000_000


def test_histograms_of_very_many_bins_are_drawn_coarser() -> None:
    assert len(PAGES["odd"].encode()) < 500_000


def test_the_same_document_gives_the_same_bytes() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert render(case("odd")) == PAGES["odd"]
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert render(case("odd")) == PAGES["odd"]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", NAMES)
def test_the_document_is_left_as_it_was(name: str) -> None:
    """It was rendered above."""
    assert CASES[name] == getattr(documents, name)()
