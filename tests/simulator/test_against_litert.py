"""`tflite_ref` equals LiteRT's reference kernels on random single-op models and on every tensor of real ones."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests.builders import DTYPES, small_net
from tests.simulator.cases import CASES
from tests.simulator.draw import Draw, random_inputs
from tf_requant.errors import CalibrationError, RequantError
from tf_requant.io.data import load_samples
from tf_requant.io.tflite_writer import write
from tf_requant.model.graph import Model
from tf_requant.model.quant import code_limits
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.simulate import checked_model
from tf_requant.runtime import InterpreterProcess
from tf_requant.simulator.engine import Engine
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Simulator

NO_KERNEL = {("TILE", "int8")}
"""(op, dtype) that LiteRT 2.3.0's reference resolver does not register."""

MODELS = (
    "deeplabv3_mnv2_dm05_pascal_quant",
    "keras_lstm_mnist_ptq",
    "kws_dscnn_int8",
    "mobilenet_v1_0.25_128_quant",
    "mobilenet_v2_1.0_224_quant",
    "person_detect_int8",
    "resnet8_cifar10_int8",
    "ssd_lstm_traffic_uint8",
    "tf1/mnv2_cifar_qat_uint8",
    "tf1/mnv2_cifar_qat_uint8_logits",
    "tf2_mobilenet_v2_1.0_224_ptq",
)


@pytest.fixture(scope="module")
def reference() -> Iterator[InterpreterProcess]:
    with InterpreterProcess("litert_ref") as process:
        yield process


def _check_op(process: InterpreterProcess, code: str, dtype: str, seed: int) -> bool:
    data = CASES[code](Draw(seed, dtype, power_of_two=seed % 3 == 0))
    try:
        graph = checked_model(data).main
    except RequantError:
        return False  # TFLite has no such kernel
    if (code, dtype) in NO_KERNEL:
        return False
    process.load(data)
    inputs = dict(zip(graph.inputs, random_inputs(seed, [graph.tensors[t] for t in graph.inputs])))
    expected = process.run({t: a[None] for t, a in inputs.items()})
    for engine in ("numpy", "auto"):
        simulator = Simulator(graph, TFLITE_REF, strict=True, engine=engine)  # type: ignore[arg-type]
        for index, codes in simulator.run(inputs).items():
            np.testing.assert_array_equal(codes, expected[index][0], f"{code} {dtype} seed {seed} {engine}")
    return True


@pytest.mark.parametrize("code", CASES)
def test_every_op_equals_the_reference_kernel(reference: InterpreterProcess, code: str) -> None:
    ran = {dtype for dtype in DTYPES for seed in range(8) if _check_op(reference, code, dtype, seed)}
    assert "uint8" in ran


@pytest.mark.slow
@pytest.mark.parametrize("code", CASES)
def test_every_op_equals_the_reference_kernel_at_length(reference: InterpreterProcess, code: str) -> None:
    for dtype in DTYPES:
        for seed in range(8, 400):
            _check_op(reference, code, dtype, seed)


def codes_for(model: Model, kind: str) -> dict[int, NDArray[Any]]:
    """Input codes by tensor index: random, one edge of the type, or one value."""
    random, result = np.random.default_rng(7), {}
    for index in model.main.inputs:
        tensor = model.main.tensors[index]
        if tensor.dtype == "float32":
            result[index] = random.uniform(-1, 1, tensor.shape).astype(np.float32)
            continue
        low, high = code_limits(tensor.dtype)
        full = {"minimum": low, "maximum": high, "constant": (low + high) // 2 + 37}
        codes = np.full(tensor.shape, full[kind]) if kind in full else random.integers(low, high + 1, tensor.shape)
        result[index] = codes.astype(tensor.dtype)
    return result


def differences(
    process: InterpreterProcess, model: Model, inputs: dict[int, NDArray[Any]], engine: Engine = "numpy"
) -> tuple[int, list[str]]:
    """(elements compared, tensors that differ), fed forward on the simulator's own outputs."""
    expected, graph = process.run(inputs, tensors="all"), model.main
    compared, differing = 0, []
    with tf_requant.Simulation(model, engine=engine) as simulation:
        for index, codes in simulation.walk(inputs):
            if index in graph.inputs or graph.tensors[index].is_variable:
                continue
            theirs = np.asarray(expected[index][0]).reshape(codes.shape)
            compared += codes.size
            if not np.array_equal(theirs, codes, equal_nan=codes.dtype.kind == "f"):
                differing.append(f"{graph.tensors[index].name}: {int((theirs != codes).sum())} of {codes.size}")
    return compared, differing


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tensor_of_a_small_net_equals_the_reference(reference: InterpreterProcess, dtype: str) -> None:
    data = small_net(dtype)
    reference.load(data, preserve_all=True)
    model = checked_model(data)
    for kind in ("random", "minimum", "maximum", "constant"):
        assert differences(reference, model, codes_for(model, kind))[1] == []


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_a_real_model_equals_the_reference(
    reference: InterpreterProcess, shared: Path, name: str
) -> None:
    model = checked_model(shared / f"models/{name}.tflite")
    reference.load(write(model), preserve_all=True)
    inputs = [codes_for(model, kind) for kind in ("random", "minimum", "maximum", "constant")]
    inputs += _pictures(model, shared / "data/imagenet_sample/eval")
    for number, codes in enumerate(inputs):
        compared, differing = differences(reference, model, codes, "numpy" if number % 2 == 0 else "auto")
        assert compared > 1000 and differing == []


def _pictures(model: Model, folder: Path) -> list[dict[int, NDArray[Any]]]:
    """Two real images as codes, by tensor index; none for a model that takes no image."""
    try:
        samples = load_samples(folder, input_specs(model))
    except CalibrationError:
        return []
    names = {model.main.tensors[t].name: t for t in model.main.inputs}
    return [{names[name]: codes for name, codes in batch.items()} for batch in islice(samples.codes(1), 2)]
