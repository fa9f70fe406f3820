"""Arm's TOSA reference model as a judge: a compiler and an interpreter that do not run LiteRT's kernels.

`tosa-converter-for-tflite` lowers a file to TOSA's integer ops, `tosa-tools` runs these as the specification says.
Both lie in a Python of their own (their native libraries need not agree with those of this one):

    python -m venv elsewhere && elsewhere/bin/pip install tosa-converter-for-tflite tosa-tools
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from tf_requant.io.tflite import read
from tf_requant.io.tflite_writer import write

_RUN = """
import os, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import numpy as np
from tosa_converter_for_tflite import TosaConverterDebugInfo, TosaConverterOutputFormat, tflite_flatbuffer_to_tosa_mlir
import tosa_reference_model

folder = Path(sys.argv[1])
tflite, mlir, tosa = (str(folder / name) for name in ("model.tflite", "model.mlirbc", "model.tosa"))
tflite_flatbuffer_to_tosa_mlir(tflite, mlir, TosaConverterOutputFormat.Bytecode, TosaConverterDebugInfo.Disabled)
passes = ["--tosa-convert-integer-type-to-signless", "--tosa-serialize", "--tosa-flatbuffer-filename=" + tosa]
tool = Path(sys.executable).with_name("tosa-opt")
subprocess.run([tool, mlir, *passes, "-o", str(folder / "rest.mlir")], check=True)
graph = Path(tosa).read_bytes()

def run(sample):
    results, status = tosa_reference_model.run(graph, [sample])
    if status != tosa_reference_model.GraphStatus.TOSA_VALID:
        raise RuntimeError(f"the reference model ended with {status}")
    return results[0]

samples = np.load(folder / "inputs.npy")
with ProcessPoolExecutor(os.cpu_count(), get_context("fork")) as pool:  # a run keeps to one core
    outputs = list(pool.map(run, samples))
np.save(folder / "outputs.npy", np.stack(outputs))
"""


def run_tosa(model_bytes: bytes, inputs: np.ndarray, python: str) -> np.ndarray:
    """The codes of a model's first output for each sample, computed by TOSA's reference model.

    It is no witness of an activation fused into AVERAGE_POOL_2D: the converter drops it.

    Args:
        model_bytes: a TFLite file with static shapes, one input and a batch of 1 (see `cut_before_softmax`).
        inputs: codes [samples, *shape without the batch].
        python: the interpreter of the environment that holds the two packages.

    Raises:
        RuntimeError: the converter or the reference model refused the model, with what it said.
    """
    graph = read(model_bytes).main
    wanted = graph.tensors[graph.inputs[0]]
    samples = np.ascontiguousarray(inputs, wanted.dtype).reshape(len(inputs), *wanted.shape)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(model_bytes)
        np.save(folder / "inputs.npy", samples)
        done = subprocess.run([python, "-c", _RUN, name], capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr + done.stdout).strip()[-2000:]
            raise RuntimeError(f"the TOSA tools ended with {done.returncode}: {said}")
        outputs = np.load(folder / "outputs.npy")
    result = graph.tensors[graph.outputs[0]]
    signed = outputs.reshape(len(inputs), *result.shape[1:])  # also where the file says uint8: the passes made it so
    return signed.view(result.dtype)


def cut_before_softmax(model_bytes: bytes) -> bytes:
    """The model that ends with what its first SOFTMAX reads, or as it ends, with the static shapes of the file."""
    model = read(model_bytes)
    graph = model.main
    tensors = tuple(t.with_(opaque=t.opaque and t.opaque.replace(shape_signature=None)) for t in graph.tensors)
    ops, outputs = graph.ops, graph.outputs
    at = next((i for i, op in enumerate(ops) if op.code == "SOFTMAX"), None)
    if at is not None:
        ops, outputs = ops[:at], ops[at].inputs[:1]
    graph = graph.with_(tensors=tensors, ops=ops, outputs=outputs)
    return write(model.with_(graphs=(graph, *model.graphs[1:]), signatures=()))
