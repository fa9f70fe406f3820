"""post_export without TensorFlow: what it takes, what it returns and writes, and what a missed gate leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tf_requant
from tests import builders
from tf_requant.errors import (
    CalibrationError,
    ModelFormatError,
    RequantError,
    TargetError,
    UnsupportedModelError,
    UsageError,
    ValidationFailed,
)
from tf_requant.pipeline import post_export as home
from tf_requant.pipeline.exported import Exported, GatesMissed
from tf_requant.pipeline.post_export import CONVERSION
from tf_requant.pipeline.post_export import post_export as the_function
from tf_requant.pipeline.source import load_source

NET = builders.small_net()
SHAPE = (8, 8, 3)
UNREACHABLE = -120.0
"""dB: no layer is that exact."""
QUICK = {"corrections": "none"}


def codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (count, *SHAPE), np.int8)


def reals(count: int, seed: int = 0) -> np.ndarray:
    """What `small_net` reads: 0.05 a code."""
    return (0.05 * codes(count, seed)).astype(np.float32)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.tflite"
    path.write_bytes(NET)
    return path


# What comes back


def test_bytes_become_one_model_per_target_in_the_order_asked_for():
    models = the_function(NET, ["tflite_int16x8", "nna_sym8_pow2"])
    assert list(models) == ["tflite_int16x8", "nna_sym8_pow2"]
    for name, exported in models.items():
        assert isinstance(exported, Exported) and exported.target == name and exported.passed
        assert exported.legality.legal and exported.legality.target == name
        assert exported.path is None and exported.check is None
        assert exported.model_bytes == tf_requant.requantize(NET, name).model_bytes
        assert exported.report.source_bytes == len(NET)
    assert "no data was given" in str(models["nna_sym8_pow2"])


def test_a_path_a_model_and_a_single_target_are_taken_too(net):
    by_path = the_function(net, "nna_sym8")["nna_sym8"]
    by_model = the_function(by_path.result.source.model, tf_requant.load_target("nna_sym8"))["nna_sym8"]
    assert by_path.model_bytes == by_model.model_bytes


def test_one_calibration_serves_every_target(monkeypatch):
    calls = []
    real = home.calibrate
    monkeypatch.setattr(home, "calibrate", lambda *a, **k: calls.append(k) or real(*a, **k))
    dataset = lambda: ([x[None]] for x in reals(8))  # noqa: E731
    models = the_function(NET, ["nna_sym8", "nna_sym8_pow2"], representative_dataset=dataset)
    assert calls == [{"noise": True}]
    for name, exported in models.items():
        assert exported.model_bytes == tf_requant.requantize(NET, name, calibration=codes(8)).model_bytes
    the_function(NET, ["nna_sym8"], representative_dataset=dataset, corrections="none")
    assert len(calls) == 1, "nothing measures, so nothing is run"


def test_a_dataset_may_name_its_inputs_and_carry_a_signature():
    source = load_source(NET).model.main
    tensor = source.tensors[source.inputs[0]].name
    more = {"targets": "nna_sym8", "corrections": "bias"}
    plain = the_function(NET, representative_dataset=reals(6), **more)["nna_sym8"].model_bytes
    for dataset in (
        lambda: ({tensor: x[None]} for x in reals(6)),
        lambda: (("serving_default", {tensor: x[None]}) for x in reals(6)),
        {tensor: reals(6)},
        [(reals(6)[:3], [0, 1, 2]), (reals(6)[3:], [0, 1, 2])],
    ):
        assert the_function(NET, representative_dataset=dataset, **more)["nna_sym8"].model_bytes == plain


def test_with_data_every_target_is_judged_on_it():
    labels = np.arange(16) % 5
    models = the_function(NET, ["nna_sym8", "tflite_int8"], data=codes(16), labels=labels, min_agreement=0.0, **QUICK)
    for name, exported in models.items():
        assert exported.check is not None and exported.check.passed
        assert exported.check.model.name == f"{name}.tflite" and exported.check.reference.name == "bytes"
        assert exported.check.top1 is not None


# Gates


def test_missed_gates_of_all_targets_are_one_error_and_only_what_passed_is_written(tmp_path):
    (tmp_path / "nna_sym8.tflite").write_bytes(b"of the run before")
    with pytest.raises(ValidationFailed) as caught:
        the_function(
            NET, ["nna_sym8", "tflite_int8", "nna_sym8_pow2"], data=codes(4), output=tmp_path, corrections="none",
            max_layer_error={"nna_sym8": UNREACHABLE, "nna_sym8_pow2": UNREACHABLE},
        )  # fmt: skip
    sentences = str(caught.value).splitlines()
    assert {s.split(":")[0] for s in sentences} == {"nna_sym8", "nna_sym8_pow2"}
    assert all("expected at most -120.0" in s for s in sentences)
    assert (tmp_path / "nna_sym8.tflite").read_bytes() == b"of the run before"
    assert {p.name for p in tmp_path.iterdir()} == {"nna_sym8.tflite", "tflite_int8.tflite"}
    assert isinstance(caught.value, GatesMissed)
    exported = caught.value.exported
    assert {n: e.passed for n, e in exported.items()} == {"nna_sym8": False, "tflite_int8": True, "nna_sym8_pow2": False}
    assert exported["nna_sym8"].path is None and exported["tflite_int8"].path == tmp_path / "tflite_int8.tflite"
    assert sentences == [f"{n}: {f}" for n, e in exported.items() for f in e.failures]
    assert "FAILED" in str(exported["nna_sym8"])


def test_the_report_of_a_failed_model_is_written(tmp_path):
    with pytest.raises(ValidationFailed):
        the_function(NET, "nna_sym8", data=codes(4), report=tmp_path / "on_{target}", max_layer_error=UNREACHABLE, **QUICK)
    folder = tmp_path / "on_nna_sym8"
    assert {"report.html", "report.json", "junit.xml", CONVERSION} <= {p.name for p in folder.iterdir()}
    document = json.loads((folder / "report.json").read_text())
    assert not document["passed"] and document["model"]["name"] == "nna_sym8.tflite"


def test_a_broken_rule_fails_without_any_gate_or_data(monkeypatch, tmp_path):
    real = home.check_legality
    untouched = load_source(NET).model  # filters per channel, which the target has not
    monkeypatch.setattr(home, "check_legality", lambda model, target: real(untouched, target))
    with pytest.raises(ValidationFailed, match="nna_sym8: breaks the target: "):
        the_function(NET, ["nna_sym8"], output=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"min_agreement": 0.9}, "min_agreement given without data"),
        ({"max_layer_error": {"nna_sym8": -20.0}, "labels": np.zeros(3)}, "max_layer_error and labels given without data"),
        ({"min_agreement": 90, "data": codes(2)}, "expected a share from 0 to 1"),
        ({"min_agreement": "0.9", "data": codes(2)}, "expected a number"),
        ({"max_top1_drop": {"tflite_int8": 1}, "data": codes(2)}, "for the target 'tflite_int8'; asked for are: nna_sym8"),
        ({"max_top1_drop": 1, "data": codes(2)}, "needs labels"),
    ],
)
def test_a_gate_that_cannot_be_judged_is_refused_before_anything_is_written(tmp_path, arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        the_function(NET, ["nna_sym8"], output=tmp_path / "out", **arguments)
    assert not list(tmp_path.iterdir())


def test_samples_that_shaped_the_models_cannot_judge_them(tmp_path):
    shaping = reals(12)
    with pytest.raises(CalibrationError, match="1 of 3 samples .the first is number 2. are in the representative"):
        the_function(NET, ["nna_sym8_pow2"], representative_dataset=shaping, data=np.concatenate([reals(2, 1), shaping[3:4]]), output=tmp_path)
    assert not list(tmp_path.iterdir())


# Where it is written


def test_a_folder_a_template_and_a_file(tmp_path):
    assert the_function(NET, ["nna_sym8"], output=tmp_path / "a" / "b", **QUICK)["nna_sym8"].path == tmp_path / "a/b/nna_sym8.tflite"
    models = the_function(NET, ["nna_sym8", "tflite_int8"], output=f"{tmp_path}/{{target}}/net_{{target}}.tflite", **QUICK)
    assert models["tflite_int8"].path == tmp_path / "tflite_int8" / "net_tflite_int8.tflite"
    assert all(e.path is not None and e.path.read_bytes() == e.model_bytes for e in models.values())
    assert the_function(NET, "nna_sym8", output=tmp_path / "one.tflite", **QUICK)["nna_sym8"].path == tmp_path / "one.tflite"
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")], "what was written on the way is left"


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, net, monkeypatch):
    monkeypatch.setattr(home, "load_source", lambda *a: pytest.fail("worked before it looked at the output"))
    (tmp_path / "file").write_text("")
    two = ["nna_sym8", "tflite_int8"]
    for targets, arguments, sentence in (
        (two, {"output": tmp_path / "one.tflite"}, "for 2 targets: put {target} in its name"),
        (two, {"output": tmp_path / "{target}.h5"}, "ends in .tflite"),
        (two, {"output": tmp_path / "file"}, "is a file, expected a folder"),
        (two, {"output": tmp_path / "out", "report": tmp_path / "file"}, "is a file, expected a folder"),
        (two, {"output": ""}, "output is empty"),
        ("nna_sym8", {"output": net}, "is the source itself"),
        ("nna_sym8", {"output": tmp_path / "file.pb"}, "ends in .tflite"),
    ):
        with pytest.raises(UsageError, match=sentence):
            the_function(net, targets, **arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_exists_is_kept_where_that_is_asked_for(tmp_path):
    the_function(NET, "nna_sym8", output=tmp_path, **QUICK)
    with pytest.raises(UsageError, match="exists"):
        the_function(NET, "nna_sym8", output=tmp_path, overwrite=False)


def test_a_report_without_data_tells_the_decisions_under_the_name_that_the_command_line_uses(tmp_path):
    from tf_requant.cli.requantize import CONVERSION as the_command_lines

    the_function(NET, "nna_sym8", report=tmp_path)
    assert [p.name for p in (tmp_path / "nna_sym8").iterdir()] == [CONVERSION] == [the_command_lines]
    assert json.loads((tmp_path / "nna_sym8" / CONVERSION).read_text())["target"] == "nna_sym8"


# What is refused


@pytest.mark.parametrize(
    ("targets", "kind", "sentence"),
    [
        ([], UsageError, "names no target"),
        (["nna_sym8", "nna_sym8"], UsageError, "'nna_sym8' more than once"),
        (["nna_sym8", "nowhere"], TargetError, "nowhere"),
        ([3], TargetError, "a target is"),
    ],
)
def test_targets_that_are_none_are_refused(targets, kind, sentence):
    with pytest.raises(kind, match=sentence):
        the_function(NET, targets)


def test_sources_that_are_none_are_refused(tmp_path, shared):
    for source, kind, sentence in (
        (3, UsageError, "a model is a path, bytes or"),
        (b"no flatbuffer", ModelFormatError, "flatbuffer"),
        (tmp_path / "nowhere.tflite", RequantError, "nowhere.tflite"),
        (shared / "models/resnet8_cifar10_float.tflite", UnsupportedModelError, "the model is float"),
    ):
        with pytest.raises(kind, match=sentence):
            the_function(source, "nna_sym8")


# A converter, by the one method that it is known by


class Converter:
    """What `post_export` sees of a tf.lite.TFLiteConverter that its caller configured."""

    def __init__(self, content: object, dataset: object) -> None:
        self.content, self.representative_dataset = content, dataset

    def convert(self) -> object:
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def test_a_configured_converter_converts_as_it_is_and_its_own_dataset_calibrates():
    own = lambda: ([x[None]] for x in reals(8))  # noqa: E731
    by_converter = the_function(Converter(NET, own), ["nna_sym8"])["nna_sym8"]
    assert by_converter.model_bytes == the_function(NET, ["nna_sym8"], representative_dataset=own)["nna_sym8"].model_bytes
    assert "TFLiteConverter" not in sys.modules


def test_what_a_converter_raises_or_returns_is_a_sentence():
    dataset = reals(2)
    with pytest.raises(UnsupportedModelError, match="converter refused the model: RuntimeError: no such op"):
        the_function(Converter(RuntimeError("no such op"), dataset), ["nna_sym8"])
    with pytest.raises(UsageError, match="gave NoneType, expected the bytes"):
        the_function(Converter(None, dataset), ["nna_sym8"])


def test_a_converter_that_leaves_the_model_float_is_refused(shared):
    content = (shared / "models/resnet8_cifar10_float.tflite").read_bytes()
    with pytest.raises(UnsupportedModelError, match="did not quantize the model fully: the model is float.*representative_dataset"):
        the_function(Converter(content, None), ["nna_sym8"])
    with pytest.raises(UsageError, match="for TF1 graphs"):
        the_function(Converter(NET, None), ["nna_sym8"], inputs="x")


# The public name


@pytest.mark.parametrize(
    "code",
    [
        "import tf_requant; f = tf_requant.post_export; import tf_requant.pipeline.post_export",
        "import tf_requant.pipeline.post_export; import tf_requant; f = tf_requant.post_export",
        "from tf_requant import *; f = post_export; import tf_requant.pipeline.tfx_rewriter, tf_requant.cli.job",
    ],
)
def test_the_public_name_is_the_function_whatever_was_imported_first(code):
    told = "assert callable(f) and tf_requant.post_export is f, tf_requant.post_export"
    heavy = "import sys; assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    script = f"{code}; import tf_requant; {told}; {heavy}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_can_take_the_functions_place():
    with pytest.raises(ModuleNotFoundError):
        __import__("tf_requant.post_export")
    assert tf_requant.post_export is the_function
