"""A validation written down: whatever the models are, one document that keeps its schema, and files made from it alone."""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import tf_requant
from tests import builders
from tf_requant.errors import UsageError
from tf_requant.io import tflite
from tf_requant.io.data import load_samples
from tf_requant.pipeline.check import Check
from tf_requant.pipeline.diagnosis import diagnose
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.simulate import unlisted
from tf_requant.report.junit import junit
from tf_requant.report.page import render
from tf_requant.sample import evaluation_path, model_path
from tf_requant.targets import load_target
from tf_requant.validation.legality import check_legality
from tf_requant.validation.quality import Quality

SCHEMA = json.loads((Path(tf_requant.__file__).parent / "schemas/report.schema.json").read_text())
FORMS = ["junit.xml", "model_explorer/isolated_sqnr.json", "model_explorer/sqnr.json", "outputs.npz", "report.html", "report.json"]


def images(count: int = 4) -> np.ndarray:
    return np.load(evaluation_path())["images"][:count]


def codes(model: bytes, count: int = 3) -> dict[str, np.ndarray]:
    random, found = np.random.default_rng(0), {}
    graph = tflite.read(model).main
    for t in (graph.tensors[i] for i in graph.inputs):
        shape = (count, *t.shape[1:])
        low, high = (0, 1) if t.dtype == "float32" else (np.iinfo(t.dtype).min, np.iinfo(t.dtype).max)
        draw = random.normal(0, 1, shape) if t.dtype == "float32" else random.integers(low, high + 1, shape)
        found[t.name] = draw.astype(t.dtype)
    return found


def checked(model: bytes, made_for: str = "nna_sym8", data: Any = None, io: str = "target", **options: Any) -> Check:
    """A whole validation in the interpreter."""
    candidate = tf_requant.requantize(model, made_for, corrections="none", io=io).model_bytes
    arguments = {"reference": model, "data": codes(model) if data is None else data, "layers": 2, "isolate": True}
    return tf_requant.validate(candidate, **(arguments | options))


def diagnosed(model: bytes, made_for: str = "nna_sym8", data: Any = None, io: str = "target") -> Check:
    """What a validation finds out about layers, without starting an interpreter."""
    source, target = tflite.read(model), load_target(made_for)
    candidate = tf_requant.requantize(source, target, corrections="none", io=io).model
    samples, legality = load_samples(codes(model) if data is None else data, input_specs(source)), check_legality(candidate, target)
    found = diagnose(source, candidate, samples, 2, target.arithmetic, unlisted(candidate.main, target), legality)
    return Check({"none": Quality(2, 1.0, (0.3, 1.0), 40.0, 0.1)}, legality=legality, isolation=found)


@pytest.fixture(scope="module")
def check() -> Check:
    """The bundled model, for a target that leaves SOFTMAX to its host."""
    return checked(model_path().read_bytes(), "nna_sym8", images(), target="nna_sym8")


class Figures(HTMLParser):
    """The exact values that the page carries, by their path into the document."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        if "data-figure" in held:
            self.values[str(held["data-figure"])] = str(held["data-value"])


def at(document: Any, path: str) -> Any:
    """What stands at a dotted path."""
    for key in path.split("."):
        key = key.replace("~1", ".").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


def assert_sound(check: Check) -> dict[str, Any]:
    """The document keeps its schema and has no number that JSON lacks; the page carries its values; the rest can be made."""
    document = check.to_dict()
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    json.dumps(document, allow_nan=False)
    figures = Figures(render(document)).values
    assert figures and all(json.loads(value) == at(document, path) for path, value in figures.items())
    junit(document)
    str(check)
    check.bisection()
    return document


def split_net() -> bytes:
    b = builders.Builder()
    x = b.activation([1, 4, 4, 6], "uint8")
    weights = b.filter([6, 1, 1, 6], "uint8")
    y = b.activation([1, 4, 4, 6], "uint8", 0.3)
    parts = [b.activation([1, 4, 4, 3], "uint8", 0.3) for _ in range(2)]
    b.op("CONV_2D", [x, weights, b.bias(x, weights, 6, "uint8")], [y], "Conv2DOptions", strideW=1, strideH=1)
    b.op("SPLIT", [b.integers(3), y], parts, "SplitOptions", numSplits=2)
    return b.finish([x], parts)


def test_a_model_of_several_outputs_keeps_the_schema() -> None:
    document = assert_sound(diagnosed(split_net(), "nna_sym8"))
    assert len(document["scores"]["names"]) == 2
    assert [row["op"] for row in document["layers"]].count("SPLIT") == 1


@pytest.mark.parametrize("target", ["nna_sym8_pow2", "tflite_int16x8"])
def test_a_small_net_keeps_the_schema(target: str) -> None:
    document = assert_sound(diagnosed(builders.small_net("uint8"), target))
    assert document["layer_samples"] == 2 and [r["index"] for r in document["layers"]] == list(range(len(document["layers"])))
    assert {row["place"] for row in document["layers"]} <= {"accelerator", "host"}


def test_a_model_with_ops_on_the_host_keeps_the_schema_and_says_which_and_why(check: Check) -> None:
    document = assert_sound(check)
    assert len(document["layers"]) == document["model"]["ops"] == 22
    host = {row["index"]: row for row in document["layers"] if row["place"] == "host"}
    assert [row["op"] for row in host.values()] == ["SOFTMAX"]
    assert all(row["reason"] for row in host.values())


def test_one_built_op_keeps_the_schema() -> None:
    document = assert_sound(diagnosed(builders.conv2d("uint8")))
    assert len(document["layers"]) == 1 and document["pictures"]["layers"][0]["weights"] is not None


def test_a_float_interface_keeps_the_schema() -> None:
    document = assert_sound(diagnosed(model_path().read_bytes(), "nna_sym8_pow2", images(), io="float"))
    assert [row["op"] for row in document["layers"]][0] == "QUANTIZE"


def test_a_float_model_against_itself_keeps_the_schema_and_ranks_nothing(shared) -> None:  # noqa: ANN001
    path = shared / "models/resnet8_cifar10_float.tflite"
    source = tflite.read(path.read_bytes())
    found = diagnose(source, source, load_samples(codes(path.read_bytes(), 1), input_specs(source)), 1)
    document = assert_sound(Check({"none": Quality(1, 1.0, (0.2, 1.0), float("inf"), 0.0)}, isolation=found))
    assert document["culprits"] == [] and document["scores"] == {"names": [], "sqnr": None}
    assert document["pictures"]["scatter"] == {"reference": [], "result": [], "of": 0}


def test_an_lstm_keeps_the_schema(shared) -> None:  # noqa: ANN001
    path = shared / "models/keras_lstm_mnist_ptq.tflite"
    document = assert_sound(diagnosed(path.read_bytes()))
    assert [row["index"] for row in document["layers"]] == list(range(len(document["layers"])))


def test_a_model_that_is_its_source_is_exact_in_every_form() -> None:
    source = tflite.read(model_path().read_bytes())
    found = diagnose(source, source, load_samples(images(), input_specs(source)), 2)
    document = assert_sound(Check({"none": Quality(2, 1.0, (0.3, 1.0), float("inf"), 0.0)}, isolation=found))
    assert document["scores"]["sqnr"] is None and document["culprits"] == []
    assert all(row["compared"] and row["sqnr"] is None and row["largest"] == 0 for row in document["layers"])


def test_a_folder_holds_every_form_of_one_document(tmp_path: Path, check: Check) -> None:
    folder = check.save(tmp_path / "new/report")
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == FORMS
    document = json.loads((folder / "report.json").read_text())
    assert document == check.to_dict()
    assert (folder / "report.html").read_text() == render(document)
    assert (folder / "junit.xml").read_text() == junit(document)
    first = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    check.save(folder)
    assert {path: path.read_bytes() for path in first} == first, "the same check gives the same bytes, in place of what was there"
    with np.load(folder / "outputs.npz") as saved:
        assert sorted(saved) == ["candidate/softmax", "reference/softmax"]
        assert all(saved[name].reshape(4, -1).shape == (4, 10) and saved[name].dtype == np.float32 for name in saved)


def test_a_check_without_isolated_layers_is_written_without_overlays_and_outputs(tmp_path: Path) -> None:
    data = model_path().read_bytes()
    check = tf_requant.validate(data, reference=data, data=images(), layers=1)
    assert sorted(p.name for p in check.save(tmp_path).rglob("*")) == ["junit.xml", "report.html", "report.json"]
    with pytest.raises(UsageError, match="isolate=True"):
        check.bisection()


def test_a_report_where_a_file_stands_is_refused_with_its_path(tmp_path: Path) -> None:
    data = model_path().read_bytes()
    check = tf_requant.validate(data, reference=data, data=images(1), layers=0)
    (tmp_path / "report").write_text("something else")
    with pytest.raises(UsageError, match="report: cannot be made"):
        check.save(tmp_path / "report")
    assert (tmp_path / "report").read_text() == "something else"


def test_outputs_that_are_too_large_are_left_out_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["tf_requant.pipeline.validate"], "_KEPT", 2 * 4 * 10 - 1)
    check = checked(builders.conv2d("uint8"), "nna_sym8", layers=1)
    assert check.outputs == {} and any("outputs.npz" in note for note in check.notes)
    assert not (check.save(tmp_path) / "outputs.npz").exists()


def test_layers_left_out_are_left_out_where_a_report_is_asked_for_too() -> None:
    """`layers`: samples for the layer table; 0 leaves it out."""
    check = checked(builders.conv2d("uint8"), "nna_sym8", layers=0)
    assert check.to_dict()["layer_samples"] == 0 and check.layers == ()


def test_the_scatter_spans_all_samples_and_holds_at_most_two_thousand() -> None:
    source = tflite.read(model_path().read_bytes())
    few = diagnose(source, source, load_samples(images(6), input_specs(source)), 6).pictures["scatter"]
    assert len(few["reference"]) == len(few["result"]) == few["of"] == 60
    b = builders.Builder()
    x, y = b.tensor([1, 900], "int8", 0.1, 0), b.tensor([1, 900], "int8", 0.1, 0)
    b.op("RELU", [x], [y])
    wide = tflite.read(b.finish([x], [y]))
    data = load_samples(np.arange(2700, dtype=np.int64).reshape(3, 900).astype(np.int8), input_specs(wide))
    many = diagnose(wide, wide, data, 3).pictures["scatter"]
    assert many["of"] == 2700 and 900 < len(many["reference"]) == len(many["result"]) <= 2000
