"""Outside judges of our output: the embedded runtime and an NPU's compiler (extra `witness`)."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tf_requant

MOBILENETS = ("mobilenet_v2_1.0_224_quant.tflite", "mobilenet_v1_0.25_128_quant.tflite")
RUN_EMBEDDED = """
import sys, numpy as np
from tflite_micro.python.tflite_micro import runtime
interpreter = runtime.Interpreter.from_file(sys.argv[1], arena_size=8_000_000)
interpreter.set_input(np.load(sys.argv[2]), 0)
interpreter.invoke()
np.save(sys.argv[3], interpreter.get_output(0))
"""


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", MOBILENETS)
def test_the_embedded_runtime_runs_what_its_kernels_refused_before(shared: Path, tmp_path: Path, name: str) -> None:
    if not installed("tflite_micro"):
        pytest.skip("tflite-micro is not installed (pip install 'tf_requant[witness]')")
    from tf_requant.runtime import run_model

    model = tf_requant.requantize(shared / "models" / name, "tflite_int8")
    model.save(tmp_path / "model.tflite")
    shape = model.model.main.tensors[model.model.main.inputs[0]].shape
    x = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-c", RUN_EMBEDDED, str(tmp_path / "model.tflite"), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (wanted,) = run_model(model.model_bytes, {model.model.main.inputs[0]: x}, backend="litert_ref").values()
    assert np.array_equal(np.load(tmp_path / "y.npy").ravel(), wanted.ravel())


@pytest.mark.slow
@pytest.mark.parametrize("name", MOBILENETS)
def test_an_npu_compiler_places_every_op(shared: Path, tmp_path: Path, name: str) -> None:
    if not installed("ethosu"):
        pytest.skip("ethos-u-vela is not installed (pip install 'tf_requant[witness]')")
    path = tmp_path / "model.tflite"
    tf_requant.requantize(shared / "models" / name, "tflite_int8").save(path)
    command = [sys.executable, "-m", "ethosu.vela", str(path), "--accelerator-config=ethos-u55-256", f"--output-dir={tmp_path}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert re.search(r"CPU operators = 0 \(", done.stdout), done.stdout[-2000:]
