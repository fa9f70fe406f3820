"""TF1 graphs on the command line where TensorFlow is not, whatever is installed; and that nothing else asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import SAMPLE, assert_refused, convert, run


def put_first(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package named tensorflow that this process's children import before any other."""
    (folder / "tensorflow").mkdir(parents=True)
    (folder / "tensorflow/__init__.py").write_text(code)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture
def no_tensorflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    put_first(tmp_path_factory.mktemp("stub"), "raise ImportError('none here')\n", monkeypatch)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """The path of a graph, which without TensorFlow nothing reads."""
    (tmp_path / "x.pb").write_bytes(b"\x0a\x00")
    return tmp_path / "x.pb"


@pytest.mark.usefixtures("no_tensorflow")
@pytest.mark.parametrize("output", ["out.tflite", "out.pb"])
def test_a_graph_without_tensorflow_exits_2_with_the_command_that_installs_it(tmp_path, graph, output):
    done = run("requantize", f"--model={graph}", "--target=nna_sym8", f"--output={tmp_path / output}")
    assert_refused(done, "reading a TF1 graph takes TensorFlow, which cannot be imported here (none here)")
    assert "pip install 'tf_requant[tensorflow]'" in done.stderr
    assert list(tmp_path.iterdir()) == [graph]


@pytest.mark.usefixtures("no_tensorflow")
@pytest.mark.parametrize("name", ["x.pbtxt", "x.meta", "folder"])
def test_every_kind_of_graph_asks_for_tensorflow(tmp_path, name):
    (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_bytes(b"")
    assert_refused(convert(tmp_path, model=tmp_path / name), "pip install 'tf_requant[tensorflow]'")
    assert not (tmp_path / "out.tflite").exists()


@pytest.mark.usefixtures("no_tensorflow")
@pytest.mark.parametrize("verb", ["inspect", "validate"])
def test_verbs_that_only_read_ask_for_tensorflow_too(graph, verb):
    flags = {"inspect": ["--target=nna_sym8"], "validate": [f"--reference={SAMPLE}", f"--data={SAMPLE.parent}"]}[verb]
    assert_refused(run(verb, f"--model={graph}", *flags), "pip install 'tf_requant[tensorflow]'")


@pytest.mark.parametrize("flag", ["--inputs=input", "--outputs=a,b", "--input_stats=127.5:127.5", "--weights=trained"])
def test_a_flag_for_graphs_with_another_model_exits_2(tmp_path, flag):
    assert_refused(convert(tmp_path, flag), "are for TF1 graphs, and the model is none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stats", ["abc", "1", "1:2:3", "1:x"])
def test_statistics_that_are_not_two_numbers_exit_2(tmp_path, graph, stats):
    done = convert(tmp_path, f"--input_stats={stats}", model=graph)
    assert_refused(done, f"--input_stats={stats}: expected MEAN:STD, two numbers")


@pytest.mark.parametrize("stats", ["0:0", "0:-1", "nan:1", "1:inf"])
def test_statistics_that_no_pixel_has_exit_2(tmp_path, graph, stats):
    done = convert(tmp_path, f"--input_stats={stats}", model=graph)
    assert_refused(done, ": expected a finite mean and a deviation above zero")


@pytest.mark.parametrize("shape", ["1x2xq", "1x0x3", "1x-2", "x"])
def test_a_shape_that_is_not_sizes_exits_2(tmp_path, graph, shape):
    done = convert(tmp_path, f"--inputs=image:{shape}", model=graph)
    assert_refused(done, f"--inputs=image:{shape}: expected NAME or NAME:1x224x224x3")


def test_weights_are_codes_or_trained(tmp_path, graph):
    assert_refused(convert(tmp_path, "--weights=float", model=graph), "value should be one of <codes|trained>")


def test_a_graph_as_output_of_another_model_exits_2(tmp_path):
    done = run("requantize", f"--model={SAMPLE}", "--target=nna_sym8", f"--output={tmp_path / 'x.pb'}")
    assert_refused(done, f"--output={tmp_path / 'x.pb'} has to end in .tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_as_output_over_its_source_exits_2(graph):
    done = run("requantize", f"--model={graph}", "--target=nna_sym8", f"--output={graph}", "--overwrite")
    assert_refused(done, "is the source itself")
    assert graph.read_bytes() == b"\x0a\x00"


def test_requantizing_a_tflite_file_imports_no_tensorflow_in_any_process(tmp_path, monkeypatch):
    put_first(tmp_path / "stub", f"open({str(tmp_path / 'imported')!r}, 'w').close()\n", monkeypatch)
    code = (
        "import sys, tf_requant; from tf_requant.sample import model_path; "
        "tf_requant.requantize(model_path(), 'nna_sym8'); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n" and not (tmp_path / "imported").exists()
    assert convert(tmp_path).returncode == 0 and not (tmp_path / "imported").exists()
    subprocess.run([sys.executable, "-c", "import tensorflow"], check=True)
    assert (tmp_path / "imported").exists()  # or the stub would not have told
