"""`tf_requant validate --report`: every figure that it prints is computed again from the saved outputs and from the models."""

import contextlib
import hashlib
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tf_requant.cli.main import main
from tf_requant.io import tflite
from tf_requant.sample import evaluation_path, model_path
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Simulator

SAMPLES, LAYERS, TARGET = 40, 4, "nna_sym8_pow2"
Z = 1.959963984540054
FLOAT32 = 1e-6
"""Relative: outputs are saved as float32, whose steps are 6e-8 of a value; a sum of squares keeps a tenth of that."""


def run(*arguments: object) -> SimpleNamespace:
    """The verb in this process, which has imported everything already: its exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["validate", *map(str, arguments)])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A candidate and labelled images."""
    folder = tmp_path_factory.mktemp("files")
    result = tf_requant.requantize(model_path(), TARGET, corrections="none")
    result.save(folder / "candidate.tflite")
    (folder / "conversion.json").write_text(json.dumps(result.report.to_dict()))
    with np.load(evaluation_path()) as data:
        held = {"images": data["images"][:SAMPLES], "labels": data["labels"][:SAMPLES]}
    np.savez(folder / "data.npz", **held)
    flags = [f"--model={folder / 'candidate.tflite'}", f"--reference={model_path()}", f"--data={folder / 'data.npz'}"]
    return SimpleNamespace(folder=folder, flags=flags, model=result.model, **held)


@pytest.fixture(scope="module")
def told(files: SimpleNamespace) -> SimpleNamespace:
    """One run with everything on, and all that it wrote."""
    report, junit, copy = (files.folder / name for name in ("report", "junit.xml", "copy.json"))
    done = run(
        *files.flags, f"--report={report}", f"--junit={junit}", f"--json={copy}", f"--layers={LAYERS}", f"--target={TARGET}",
        "--bisect", "--against=litert_ref", "--min_agreement=0.5", "--max_top1_drop=50", "--max_layer_error=0",
        f"--conversion={files.folder / 'conversion.json'}",
    )  # fmt: skip
    with np.load(report / "outputs.npz") as saved:
        outputs = dict(saved)
    document = json.loads((report / "report.json").read_text())
    return SimpleNamespace(done=done, report=report, junit=junit, copy=copy, outputs=outputs, document=document)


@pytest.fixture(scope="module")
def runs(files: SimpleNamespace) -> SimpleNamespace:
    """Every tensor of both models on the samples of the layer table, and the candidate's ops one by one."""
    source = tflite.read(model_path().read_bytes())
    first = files.model.main.tensors[files.model.main.inputs[0]]
    values = real(files.images[:LAYERS], source.main.tensors[source.main.inputs[0]]) / float(first.quant.scale[0])
    away = np.trunc(values + np.copysign(0.5, values)) + int(first.quant.zero_point[0])
    limits = np.iinfo(first.dtype)
    fed = np.clip(away, limits.min, limits.max).astype(first.dtype)
    ours = tf_requant.simulate(source, files.images[:LAYERS], tensors="all")
    theirs = tf_requant.simulate(files.model, fed, tensors="all")
    gains = json.loads(files.model.metadata["tf_requant"])["gains"]
    return SimpleNamespace(
        source=source.main, result=files.model.main, ours=ours, theirs=theirs, gains=gains,
        execute=Simulator(files.model.main, TFLITE_REF).execute, restore=Simulator(source.main, TFLITE_REF).execute,
    )  # fmt: skip


def real(codes: NDArray[Any], tensor: Any) -> NDArray[np.float64]:
    return (codes.astype(np.float64) - int(tensor.quant.zero_point[0])) * float(tensor.quant.scale[0])


def onto(values: NDArray[np.float64], tensor: Any) -> NDArray[Any]:
    limits = np.iinfo(tensor.dtype)
    codes = np.rint(values / float(tensor.quant.scale[0])) + int(tensor.quant.zero_point[0])
    return np.clip(codes, limits.min, limits.max).astype(tensor.dtype)


def named(graph: Any, name: str) -> Any:
    return next(t for t in graph.tensors if t.name == name)


def decibels(signal: float, noise: float) -> float:
    return float(10 * np.log10(signal / noise))


def scores(told: SimpleNamespace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = (told.outputs[f"{side}/softmax"].astype(np.float64) for side in ("reference", "candidate"))
    return first.reshape(SAMPLES, -1), second.reshape(SAMPLES, -1)


def quality(told: SimpleNamespace) -> dict[str, Any]:
    assert list(told.document["quality"]) == ["litert_ref"]
    return told.document["quality"]["litert_ref"]


def test_a_run_that_keeps_its_thresholds_exits_0_and_writes_every_form(told: SimpleNamespace) -> None:
    assert told.done.returncode == 0, told.done.stderr
    assert {p.name for p in told.report.iterdir()} == {"report.json", "report.html", "junit.xml", "outputs.npz", "model_explorer"}
    assert json.loads(told.copy.read_text()) == told.document
    assert told.junit.read_text() == (told.report / "junit.xml").read_text()
    assert told.document["passed"] and told.document["failures"] == []


def test_the_document_keeps_its_schema(told: SimpleNamespace) -> None:
    schema = json.loads((Path(tf_requant.__file__).parent / "schemas/report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(told.document)


def test_agreement_and_its_interval_follow_from_the_saved_outputs(told: SimpleNamespace) -> None:
    wanted, got = scores(told)
    share, found = float((wanted.argmax(1) == got.argmax(1)).mean()), quality(told)
    assert found["samples"] == SAMPLES == len(wanted) and found["agreement"] == share
    for bound in found["agreement_interval"]:
        # Wilson's bounds are the shares q from which the one seen is 1.96 standard deviations away.
        assert abs(share - bound) == pytest.approx(Z * np.sqrt(bound * (1 - bound) / SAMPLES), rel=1e-9, abs=1e-12)
    assert found["agreement_interval"][0] <= share <= found["agreement_interval"][1]


def test_top_1_top_5_and_the_drop_follow_from_the_saved_outputs(told: SimpleNamespace, files: SimpleNamespace) -> None:
    wanted, got = scores(told)
    labels, found = told.outputs["labels"], quality(told)
    assert labels.tolist() == files.labels.tolist()
    one, two = wanted.argmax(1) == labels, got.argmax(1) == labels
    assert (found["reference_top1"], found["top1"]) == (one.mean(), two.mean())
    first_five = [np.argsort(-s, axis=1, kind="stable")[:, :5] for s in (wanted, got)]
    five = [float((order == labels[:, None]).any(1).mean()) for order in first_five]
    assert [found["reference_top5"], found["top5"]] == five
    paired = one.astype(float) - two.astype(float)
    half = Z * paired.std() / np.sqrt(SAMPLES)
    assert found["top1_drop"] == pytest.approx(paired.mean(), abs=1e-12)
    assert found["top1_drop_interval"] == pytest.approx([paired.mean() - half, paired.mean() + half], abs=1e-12)


def test_sqnr_and_the_largest_difference_follow_from_the_saved_outputs(told: SimpleNamespace) -> None:
    wanted, got = scores(told)
    found = quality(told)
    assert found["sqnr"] == pytest.approx(decibels((wanted**2).sum(), ((got - wanted) ** 2).sum()), rel=FLOAT32)
    assert found["largest"] == pytest.approx(np.abs(got - wanted).max(), rel=FLOAT32)


def test_the_saved_outputs_are_what_the_simulator_computes(told: SimpleNamespace, runs: SimpleNamespace) -> None:
    """litert_ref and tflite_ref are the same codes, so that the interpreter's figures have a second witness."""
    for side, values, graph in (("reference", runs.ours, runs.source), ("candidate", runs.theirs, runs.result)):
        expected = real(values["softmax"], named(graph, "softmax")).reshape(LAYERS, -1)
        np.testing.assert_allclose(told.outputs[f"{side}/softmax"].reshape(SAMPLES, -1)[:LAYERS], expected, rtol=FLOAT32)


def wanted_of(runs: SimpleNamespace, name: str) -> NDArray[np.float64]:
    """The source's values in the candidate's real units."""
    return real(runs.ours[name], named(runs.source, name)) * runs.gains.get(name, 1.0)


def alone(runs: SimpleNamespace, index: int, sample: int) -> NDArray[Any]:
    """What the candidate's op makes of the source's values of one sample."""
    arrays = []
    for t in runs.result.ops[index].inputs:
        tensor = runs.result.tensors[t]
        if tensor.data is not None:
            arrays.append(tensor.data)
        else:
            name = runs.source.tensors[runs.source.inputs[0]].name if t in runs.result.inputs else tensor.name
            arrays.append(onto(wanted_of(runs, name)[sample : sample + 1], tensor))
    return runs.execute(index, arrays)[0]


def test_every_row_of_the_layer_table_is_what_the_models_do(told: SimpleNamespace, runs: SimpleNamespace) -> None:
    document = told.document
    assert document["layer_samples"] == LAYERS and document["layer_arithmetic"] == "tflite_ref"
    assert [row["index"] for row in document["layers"]] == list(range(len(runs.result.ops)))
    for row in document["layers"]:
        op = runs.result.ops[row["index"]]
        tensor, name = runs.result.tensors[op.outputs[0]], row["name"]
        step, wanted, got = float(tensor.quant.scale[0]), wanted_of(runs, name), real(runs.theirs[name], tensor)
        lone = real(np.concatenate([alone(runs, row["index"], n) for n in range(LAYERS)]), tensor)
        signal, where = float((wanted**2).sum()), (row["index"], name)
        assert name == tensor.name and row["op"] == op.code and row["compared"] and row["isolated"]
        for figure, values in (("sqnr", got), ("isolated_sqnr", lone)):
            noise = float(((values - wanted) ** 2).sum())
            expected = None if noise == 0 else pytest.approx(decibels(signal, noise), rel=1e-9)
            assert row[figure] == expected, where
        assert row["largest"] == pytest.approx(np.abs(got - wanted).max() / step, rel=1e-9), where
        low, high = np.iinfo(tensor.dtype).min, np.iinfo(tensor.dtype).max
        steps = wanted / step + int(tensor.quant.zero_point[0])
        codes = runs.theirs[name]
        beyond = ((codes == high) & (steps > high + 0.5)) | ((codes == low) & (steps < low - 0.5))
        assert row["saturated"] == beyond.mean(), where
        assert row["gain"] == pytest.approx(runs.gains.get(name, 1.0), rel=1e-12), where


def test_the_shift_is_the_mean_difference_of_the_channel_that_it_names(told: SimpleNamespace, runs: SimpleNamespace) -> None:
    """Over what does not stand at the same end of its tensor in both models of a sample."""
    for row in told.document["layers"]:
        name, tensor = row["name"], runs.result.tensors[runs.result.ops[row["index"]].outputs[0]]
        channels = tensor.shape[-1]
        difference = ((real(runs.theirs[name], tensor) - wanted_of(runs, name)) / float(tensor.quant.scale[0])).reshape(-1, channels)
        hidden = []
        for x, y in zip(runs.ours[name], runs.theirs[name]):
            hidden.append((((x == x.min()) & (y == y.min())) | ((x == x.max()) & (y == y.max()))).reshape(-1, channels))
        free = ~np.concatenate(hidden)
        means = np.where(free, difference, 0).sum(0) / np.maximum(free.sum(0), 1)
        assert row["shift"]["channel"] == int(np.abs(means).argmax()), name
        assert row["shift"]["steps"] == pytest.approx(means[row["shift"]["channel"]], abs=1e-9), name


def test_the_scores_and_what_each_restoration_gains_are_what_running_it_gives(told: SimpleNamespace, runs: SimpleNamespace) -> None:
    document = told.document
    assert document["scores"]["names"] == ["logits_squeeze"]
    wanted = wanted_of(runs, "logits_squeeze")
    before = float(((real(runs.theirs["logits_squeeze"], named(runs.result, "logits_squeeze")) - wanted) ** 2).sum())
    assert document["scores"]["sqnr"] == pytest.approx(decibels((wanted**2).sum(), before), rel=1e-9)
    for culprit in document["culprits"]:
        noise = 0.0
        for n in range(LAYERS):
            values = {t.name: runs.theirs[t.name][n : n + 1] for t in runs.result.tensors if t.name in runs.theirs}
            values[runs.result.ops[culprit["index"]].outputs[0]] = None  # type: ignore[index]
            noise += float(((restored(runs, culprit["index"], values) - wanted[n : n + 1]) ** 2).sum())
        assert culprit["samples"] == LAYERS
        assert culprit["gain"] == pytest.approx(decibels(before, noise), rel=1e-9, abs=1e-9), culprit["index"]
        assert culprit["restored_sqnr"] == pytest.approx(decibels((wanted**2).sum(), noise), rel=1e-9)


def restored(runs: SimpleNamespace, index: int, values: dict[str, Any]) -> NDArray[np.float64]:
    """The candidate's logits where the source's op stands at one place: the models have the same ops at the same indices."""
    own, op = runs.source.ops[index], runs.result.ops[index]
    arrays = []
    for t, s in zip(op.inputs, own.inputs):
        if runs.source.tensors[s].data is not None:
            arrays.append(runs.source.tensors[s].data)
        else:
            tensor = runs.result.tensors[t]
            arrays.append(onto(real(values[tensor.name], tensor) / runs.gains.get(tensor.name, 1.0), runs.source.tensors[s]))
    output = runs.result.tensors[op.outputs[0]]
    written = real(runs.restore(index, arrays)[0], runs.source.tensors[own.outputs[0]])
    values[output.name] = onto(written * runs.gains.get(output.name, 1.0), output)
    for later in range(index + 1, len(runs.result.ops)):
        op = runs.result.ops[later]
        inputs = [t.data if t.data is not None else values[t.name] for t in (runs.result.tensors[i] for i in op.inputs)]
        values[runs.result.tensors[op.outputs[0]].name] = runs.execute(later, inputs)[0]
    return real(values["logits_squeeze"], named(runs.result, "logits_squeeze"))


def test_the_histograms_count_the_codes_and_weights_of_both_models(told: SimpleNamespace, runs: SimpleNamespace) -> None:
    pictures = told.document["pictures"]
    assert [p["index"] for p in pictures["layers"]] == [c["index"] for c in told.document["culprits"][:8]]
    for picture in pictures["layers"]:
        name = picture["name"]
        for side, values, graph, gain in (
            ("source", runs.ours, runs.source, 1.0), ("result", runs.theirs, runs.result, runs.gains.get(name, 1.0)),
        ):  # fmt: skip
            drawn, tensor = picture["activation"][side], named(graph, name)
            counts, _ = np.histogram(real(values[name], tensor) / gain, drawn["edges"])
            assert drawn["counts"] == counts.tolist() and sum(counts) == values[name].size, (name, side)
            widths = np.diff(drawn["edges"])
            np.testing.assert_allclose(widths, float(tensor.quant.scale[0]) / gain, rtol=1e-9)
        assert len(picture["activation"]["source"]["edges"]) == len(picture["activation"]["source"]["counts"]) + 1
        if picture["weights"] is not None:
            for side, graph in (("source", runs.source), ("result", runs.result)):
                assert sum(picture["weights"][side]["counts"]) == graph.tensors[graph.ops[picture["index"]].inputs[1]].data.size


def test_the_scatter_pairs_scores_of_both_models(told: SimpleNamespace, runs: SimpleNamespace) -> None:
    scatter = told.document["pictures"]["scatter"]
    assert scatter["of"] == LAYERS * 10 == len(scatter["reference"])
    expected = [wanted_of(runs, "logits_squeeze"), real(runs.theirs["logits_squeeze"], named(runs.result, "logits_squeeze"))]
    np.testing.assert_allclose(scatter["reference"], expected[0].reshape(-1), rtol=1e-12)
    np.testing.assert_allclose(scatter["result"], expected[1].reshape(-1), rtol=1e-12)


def test_files_are_told_by_size_and_hash(told: SimpleNamespace, files: SimpleNamespace) -> None:
    for key, path in (("model", files.folder / "candidate.tflite"), ("reference", model_path())):
        data = path.read_bytes()
        assert told.document[key] == {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "ops": 22}


class Figures(HTMLParser):
    """The exact values that the page carries, with what a reader sees, by their path into the document."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: dict[str, tuple[str, str]] = {}
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        self._open = str(held.get("data-figure", ""))
        if self._open:
            self.values[self._open] = str(held["data-value"]), ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.values[self._open] = self.values[self._open][0], data
            self._open = ""


def test_the_page_carries_the_document_s_figures(told: SimpleNamespace) -> None:
    figures = Figures((told.report / "report.html").read_text()).values
    for path, (value, _) in figures.items():
        found: Any = told.document
        for key in path.split("."):
            found = found[int(key)] if isinstance(found, list) else found[key.replace("~1", ".").replace("~0", "~")]
        assert json.loads(value) == found, path
    expected = [f"layers.{n}.{key}" for n in range(22) for key in ("sqnr", "isolated_sqnr", "largest", "saturated")]
    expected += [f"culprits.{n}.gain" for n in range(len(told.document["culprits"]))]
    expected += [f"quality.litert_ref.{key}" for key in ("agreement", "sqnr", "top1", "top5", "top1_drop", "largest", "samples")]
    assert set(expected) <= set(figures)
    assert figures["layers.3.sqnr"][1] == f"{told.document['layers'][3]['sqnr']:.1f}"


def test_the_terminal_prints_the_document_s_figures(told: SimpleNamespace) -> None:
    text, found, document = told.done.stdout, quality(told), told.document
    low, high = found["agreement_interval"]
    assert f"litert_ref: agreement {found['agreement']:.2%} (95 %: {low:.2%} to {high:.2%}) on {SAMPLES} samples" in text
    low, high = found["top1_drop_interval"]
    drop = f"drop {found['top1_drop']:.2%} (95 %: {low:.2%} to {high:.2%})"
    assert f"top-1 {found['top1']:.2%}, source {found['reference_top1']:.2%}, {drop}" in text
    assert f"top-5 {found['top5']:.2%}, source {found['reference_top5']:.2%}" in text
    assert f"SQNR {found['sqnr']:.1f} dB, largest difference {found['largest']:.4g}" in text
    assert f"scores: SQNR {document['scores']['sqnr']:.1f} dB on {LAYERS} samples (tflite_ref)" in text
    assert text.splitlines()[0] == document["verdict"]
    for number, culprit in enumerate(document["culprits"][:3], 1):
        assert f"  {number}. op {culprit['index']} {culprit['op']} {culprit['name']}: {culprit['why']}" in text
        assert f"restoring it adds {culprit['gain']:.2f} dB" in culprit["why"]


def test_bisect_prints_a_line_for_every_culprit(told: SimpleNamespace) -> None:
    lines = told.done.stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("restored layer"))
    for line, culprit in zip(lines[start + 1 :], told.document["culprits"], strict=False):
        assert line.startswith(f"{culprit['index']} {culprit['op']} ")
        figures = re.findall(r"-?\d+\.\d+|\d+", line[52:])
        assert figures == [f"{culprit['gain']:.2f}", f"{culprit['restored_sqnr']:.1f}", str(culprit["samples"])]
    assert len(told.document["culprits"]) >= 3


def test_the_conversion_s_reasons_stand_in_the_layer_table(told: SimpleNamespace, files: SimpleNamespace) -> None:
    rows = json.loads((files.folder / "conversion.json").read_text())["tensors"]
    reasons = {row["name"]: row["reason"] for row in rows if row["role"] == "activation"}
    assert all(row["reason"] == reasons[row["name"]] for row in told.document["layers"] if row["name"] in reasons)
    assert any(row["reason"] for row in told.document["layers"])


def failures(junit: Path) -> list[str]:
    root = ET.parse(junit).getroot()
    found = [case.find("failure").get("message") for case in root.iter("testcase") if case.find("failure") is not None]
    assert int(root.get("failures")) == len(found)
    return found


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--min_agreement=1", "litert: agreement is 0.{4 digits}, expected at least 1.0"),
        ("--max_top1_drop=-50", "litert: top-1 drops by {points} points, expected at most -50.0"),
        ("--max_layer_error=-60", "its error is "),
    ],
)
def test_a_missed_threshold_exits_3_with_one_sentence_and_a_failure(
    tmp_path: Path, files: SimpleNamespace, flag: str, sentence: str
) -> None:
    done = run(*files.flags, flag, "--layers=1" if "layer" in flag else "--layers=0", f"--junit={tmp_path / 'junit.xml'}", f"--json={tmp_path / 'x.json'}")
    assert done.returncode == 3
    told = [line.removeprefix("tf_requant validate: ") for line in done.stderr.splitlines() if line.startswith("tf_requant validate: ")]
    document = json.loads((tmp_path / "x.json").read_text())
    assert told == document["failures"] == failures(tmp_path / "junit.xml") and not document["passed"]
    assert all(re.sub(r"\{.*", "", sentence) in line for line in told) and told
    assert len(told) == 1 or "layer" in flag
    assert document["verdict"].startswith("FAIL") and done.stdout.startswith("FAIL")


def test_no_missed_threshold_is_no_failure(told: SimpleNamespace) -> None:
    assert failures(told.junit) == []
