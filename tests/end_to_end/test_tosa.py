"""`tosa` equals Arm's TOSA reference model, logit by logit, on re-expressed models (slow: installs its packages)."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

import tf_requant
from tests.conftest import ROOT
from tests.end_to_end.tosa import cut_before_softmax, run_tosa
from tf_requant.io.tflite import read

PACKAGES = ("tosa-converter-for-tflite", "tosa-tools")
MODELS = ("mobilenet_v2_1.0_224_quant", "resnet8_cifar10_int8", "kws_dscnn_int8", "person_detect_int8")
SAMPLES = 20


@pytest.fixture(scope="session")
def tosa_python() -> str:
    """A Python that has the packages: TF_REQUANT_TOSA_PYTHON's, or one of its own, made once under build/."""
    given = os.environ.get("TF_REQUANT_TOSA_PYTHON")
    if given:
        return given
    folder = ROOT / "build" / "tosa"
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{' and '.join(PACKAGES)} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        (folder / "installed").touch()
    return str(python)


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the packages' wheels are for Python 3.11")
@pytest.mark.parametrize("target", ("tflite_int8", "nna_sym8", "nna_sym8_pow2"))
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_the_tosa_reference_model(shared: Path, tosa_python: str, name: str, target: str) -> None:
    data = cut_before_softmax(tf_requant.requantize(shared / f"models/{name}.tflite", target=target).model_bytes)
    graph = read(data).main
    shape = graph.tensors[graph.inputs[0]].shape
    random = np.random.default_rng(11)
    codes = random.integers(-128, 128, (SAMPLES, *shape[1:])).astype(np.int8)
    codes[:2] = np.asarray([-128, 127], np.int8).reshape(2, *[1] * (codes.ndim - 1))
    theirs = run_tosa(data, codes, tosa_python)
    ours = next(iter(tf_requant.simulate(data, codes, arithmetic="tosa").values()))
    np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)
