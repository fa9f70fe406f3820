"""What a user types: exit codes, one clear sentence, and no file where something went wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tf_requant
from tests import builders
from tf_requant import builtin_targets, requantize
from tf_requant.cli.main import VERBS
from tf_requant.sample import evaluation_path, model_path

SAMPLE = model_path()
DATA = SAMPLE.read_bytes()


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """One run of the command line in a process of its own."""
    command = [sys.executable, "-m", "tf_requant", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def convert(tmp_path: Path, *more: object, model: object = SAMPLE, target: object = "nna_sym8") -> subprocess.CompletedProcess[str]:
    """`tf_requant requantize` to out.tflite in the test's folder."""
    return run("requantize", f"--model={model}", f"--target={target}", f"--output={tmp_path / 'out.tflite'}", *more)


def assert_refused(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    """Exit code 2, nothing on stdout, and exactly one line on stderr, which says this."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert sentence in done.stderr


def test_help_lists_the_verbs_and_exits_0():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert all(f"tf_requant {verb}" in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_shows_an_example_and_its_flags_and_exits_0(verb):
    done = run(verb, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert f"example: tf_requant {verb}" in done.stdout
    assert "\n  --flagfile: " in done.stdout


def test_no_verb_at_all_prints_the_overview_and_exits_2():
    done = run()
    assert done.returncode == 2 and "usage: tf_requant VERB" in done.stdout


def test_an_unknown_verb_exits_2_and_names_the_verbs():
    assert_refused(run("quantize"), "'quantize' is not a verb; verbs are: requantize, inspect, validate, simulate, calibrate, export, batch, targets")


def test_a_misspelt_flag_exits_2_with_a_suggestion(tmp_path):
    assert_refused(convert(tmp_path, "--overwrit"), "Did you mean: overwrite")
    assert not (tmp_path / "out.tflite").exists()


def test_a_value_outside_an_enumeration_exits_2_and_names_the_members(tmp_path):
    assert_refused(convert(tmp_path, "--io=int8"), "value should be one of <target|source|float>")


def test_a_word_that_is_no_flag_exits_2(tmp_path):
    assert_refused(convert(tmp_path, "stray"), "'stray' is not a flag")


@pytest.mark.parametrize("missing", ["model", "target", "output"])
def test_a_required_flag_that_is_missing_exits_2_and_is_named(tmp_path, missing):
    flags = {"model": SAMPLE, "target": "nna_sym8", "output": tmp_path / "out.tflite"}
    done = run("requantize", *(f"--{k}={v}" for k, v in flags.items() if k != missing))
    assert_refused(done, f"--{missing} is required")


def test_a_conversion_exits_0_and_writes_what_the_python_call_gives(tmp_path):
    done = convert(tmp_path, target="nna_sym8_pow2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.tflite").read_bytes() == requantize(SAMPLE, "nna_sym8_pow2").model_bytes
    assert f"wrote {tmp_path / 'out.tflite'}" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tflite"]


def test_flags_come_from_a_flagfile(tmp_path):
    (tmp_path / "job.flags").write_text(f"--model={SAMPLE}\n--target=nna_sym8\n--output={tmp_path / 'out.tflite'}\n")
    assert run("requantize", f"--flagfile={tmp_path / 'job.flags'}").returncode == 0
    assert (tmp_path / "out.tflite").exists()


def test_a_missing_flagfile_exits_2(tmp_path):
    assert_refused(run("requantize", f"--flagfile={tmp_path / 'none.flags'}"), "none.flags")


def test_a_dry_run_prints_a_reason_per_tensor_and_writes_nothing(tmp_path):
    done = convert(tmp_path, "--dry_run", target="tflite_int8")
    assert done.returncode == 0
    assert "recentred, every code exact" in done.stdout and "exact at the source's step" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_one_json_document(tmp_path):
    assert convert(tmp_path, f"--report={tmp_path / 'report'}").returncode == 0
    document = json.loads((tmp_path / "report/requantization.json").read_text())
    assert document["target"] == "nna_sym8" and document["result_bytes"] == (tmp_path / "out.tflite").stat().st_size


def nan_scale() -> bytes:
    """The bundled model with NaN where the scale of its RELU6 tensors was."""
    scale = np.float32(0.02352953515946865).tobytes()
    assert scale in DATA
    return DATA.replace(scale, np.float32("nan").tobytes())


BAD_MODELS = {
    "empty": (b"", "the file is empty"),
    "half": (DATA[: len(DATA) // 2], "truncated"),
    "few bytes": (DATA[:6], "not a TFLite flatbuffer"),
    "text": (b"hello, this is no model at all", "not a TFLite flatbuffer"),
    "wrong identifier": (DATA[:4] + b"TFL9" + DATA[8:], "the file identifier is b'TFL9', expected b'TFL3'"),
    "zeros": (bytes(1000), "not a TFLite flatbuffer"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_file_that_is_no_model_exits_2_and_leaves_no_output(tmp_path, content, sentence):
    (tmp_path / "bad.tflite").write_bytes(content)
    assert_refused(convert(tmp_path, model=tmp_path / "bad.tflite"), sentence)
    assert not (tmp_path / "out.tflite").exists()


def test_a_scale_that_is_not_a_number_exits_2_and_names_the_tensor(tmp_path):
    (tmp_path / "bad.tflite").write_bytes(nan_scale())
    done = convert(tmp_path, model=tmp_path / "bad.tflite")
    assert done.returncode == 2 and "nan" in done.stderr and "tensor" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out.tflite").exists()


def test_a_missing_model_exits_2(tmp_path):
    assert_refused(convert(tmp_path, model=tmp_path / "none.tflite"), "none.tflite: no such file")


def test_a_float_model_exits_2_and_says_what_to_do(tmp_path, shared):
    done = convert(tmp_path, model=shared / "models/resnet8_cifar10_float.tflite")
    assert_refused(done, "the model is float: no activation is quantized; quantize it first")


def test_the_model_that_fails_when_invoked_exits_2_with_the_reason(tmp_path, shared):
    done = convert(tmp_path, model=shared / "models/invalid_model_invoking_error.tflite")
    assert_refused(done, "'fake-op-double'")


def test_an_unknown_target_exits_2_with_a_suggestion(tmp_path):
    assert_refused(convert(tmp_path, target="nna_sym8_pow3"), "did you mean nna_sym8_pow2")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "is not JSON"), ("[]", "object"), ('{"schema_version": 1}', "name")],
    ids=["not JSON", "no object", "keys missing"],
)
def test_a_malformed_target_exits_2(tmp_path, content, sentence):
    (tmp_path / "bad.json").write_text(content)
    done = convert(tmp_path, target=tmp_path / "bad.json")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "bad.json" in done.stderr and sentence in done.stderr
    assert not (tmp_path / "out.tflite").exists()


def test_an_output_equal_to_the_source_exits_2_even_with_overwrite(tmp_path):
    source, alias = tmp_path / "m.tflite", tmp_path / "alias.tflite"
    source.write_bytes(DATA)
    alias.symlink_to(source)
    for output in (source, alias):
        done = run("requantize", f"--model={source}", "--target=nna_sym8", f"--output={output}", "--overwrite")
        assert_refused(done, "is the source itself")
    assert source.read_bytes() == DATA


def test_an_existing_output_is_left_alone_unless_it_may_be_overwritten(tmp_path):
    (tmp_path / "out.tflite").write_bytes(b"precious")
    assert_refused(convert(tmp_path), "exists; pass --overwrite")
    assert (tmp_path / "out.tflite").read_bytes() == b"precious"
    assert convert(tmp_path, "--overwrite").returncode == 0
    assert (tmp_path / "out.tflite").read_bytes() == requantize(SAMPLE, "nna_sym8").model_bytes


def test_a_failed_run_leaves_an_existing_output_alone(tmp_path):
    (tmp_path / "out.tflite").write_bytes(b"precious")
    (tmp_path / "bad.tflite").write_bytes(DATA[:1000])
    assert convert(tmp_path, "--overwrite", model=tmp_path / "bad.tflite").returncode == 2
    assert (tmp_path / "out.tflite").read_bytes() == b"precious"


def test_a_folder_that_does_not_exist_exits_2(tmp_path):
    assert_refused(convert(tmp_path / "none"), "none does not exist")


def test_a_folder_that_cannot_be_written_exits_2(tmp_path):
    folder = Path("/proc") if os.geteuid() == 0 else tmp_path / "locked"
    if folder != Path("/proc"):
        folder.mkdir(mode=0o555)
    done = convert(folder)
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_an_output_that_is_no_tflite_file_exits_2(tmp_path):
    done = run("requantize", f"--model={SAMPLE}", "--target=nna_sym8", f"--output={tmp_path / 'out.bin'}")
    assert_refused(done, "has to end in .tflite")


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--pin_range=input:0", "is not TENSOR:MIN:MAX"),
        ("--pin_range=input:2:1", "expected MIN < MAX"),
        ("--pin_range=input:nan:1", "MIN < MAX"),
        ("--pin_range=input:-inf:inf", "both finite"),
        ("--pin_range=input:-1e300:1e300", "both finite"),
        ("--pin_range=no_such_tensor:-1:1", "which is no quantized activation"),
        ("--keep=(", "is not a regular expression"),
        ("--corrections=magic", "corrections names 'magic'"),
    ],
)
def test_a_malformed_wish_exits_2(tmp_path, flag, sentence):
    assert_refused(convert(tmp_path, flag), sentence)
    assert not (tmp_path / "out.tflite").exists()


def simulate(tmp_path: Path, *more: object, data: object = None) -> subprocess.CompletedProcess[str]:
    """`tf_requant simulate` of the sample on two images to out.npz in the test's folder."""
    if data is None:
        with np.load(evaluation_path()) as file:
            np.save(tmp_path / "x.npy", file["images"][:2])
        data = tmp_path / "x.npy"
    return run("simulate", f"--model={SAMPLE}", f"--input={data}", f"--output={tmp_path / 'out.npz'}", *more)


def test_a_simulation_exits_0_and_writes_what_the_python_call_gives(tmp_path):
    done = simulate(tmp_path, "--all_tensors", "--arithmetic=nna")
    assert done.returncode == 0, done.stderr
    expected = tf_requant.simulate(SAMPLE, np.load(tmp_path / "x.npy"), arithmetic="nna", tensors="all")
    with np.load(tmp_path / "out.npz") as file:
        assert sorted(file.files) == sorted(expected)
        assert all(np.array_equal(file[name], codes) for name, codes in expected.items())


def test_a_simulation_that_is_observed_prints_what_it_counted(tmp_path):
    done = simulate(tmp_path, "--observe", "--arithmetic=nna_sym8_pow2", "--strict=false")
    assert done.returncode == 0 and "accumulator: " in done.stdout and "bits at worst" not in done.stderr


@pytest.mark.parametrize("name", ["file", "allow_pickle", "a/b:0"])
def test_any_tensor_name_fits_the_archive(tmp_path, name):
    b = builders.Builder()
    data, output = b.activation([1, 4], "int8"), b.tensor([1, 4], "int8", 0.05, 0, name=name)
    b.op("RELU", [data], [output], version=2)
    (tmp_path / "m.tflite").write_bytes(b.finish([data], [output]))
    np.save(tmp_path / "x.npy", np.asarray([[-1, 0, 1, 2]], np.int8))
    done = run("simulate", f"--model={tmp_path / 'm.tflite'}", f"--input={tmp_path / 'x.npy'}", f"--output={tmp_path / 'y.npz'}")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "y.npz") as file:
        assert file[name].tolist() == [[0, 0, 1, 2]]


def test_an_unknown_arithmetic_exits_2_and_names_the_known_ones(tmp_path):
    assert_refused(simulate(tmp_path, "--arithmetic=nnna"), "expected one of tflite_ref, ")
    assert not (tmp_path / "out.npz").exists()


def test_a_simulation_leaves_an_existing_output_alone(tmp_path):
    (tmp_path / "out.npz").write_bytes(b"mine")
    assert_refused(simulate(tmp_path), "pass --overwrite to replace it")
    assert (tmp_path / "out.npz").read_bytes() == b"mine"


def test_data_that_does_not_fit_the_model_exits_2(tmp_path):
    np.save(tmp_path / "wrong.npy", np.zeros((2, 5, 5, 3), np.uint8))
    assert_refused(simulate(tmp_path, data=tmp_path / "wrong.npy"), "takes uint8 codes")
    assert_refused(simulate(tmp_path, data=tmp_path / "absent.npy"), "absent.npy")


def test_targets_as_json_is_one_document_and_nothing_else():
    done = run("targets", "--format=json")
    assert done.returncode == 0 and done.stderr == ""
    assert list(json.loads(done.stdout)) == list(builtin_targets())


def test_a_shown_target_is_json_that_names_its_sources():
    document = json.loads(run("targets", "--show=nna_sym8_pow2", "--format=json").stdout)
    assert document["weight"]["scale"] == "power_of_two" and document["sources"]["requantizer"] == "assumed"


def test_inspect_as_json_is_one_document_that_says_what_stays_on_the_host():
    done = run("inspect", f"--model={SAMPLE}", "--target=nna_sym8", "--format=json")
    ops = json.loads(done.stdout)["graphs"][0]["ops"]
    assert {op["code"] for op in ops if op["host"]} == {"SOFTMAX"}


def test_importing_the_package_imports_no_tensorflow_beam_or_matplotlib():
    code = "import tf_requant, sys; tf_requant.requantize; print({'tensorflow', 'apache_beam', 'matplotlib'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
