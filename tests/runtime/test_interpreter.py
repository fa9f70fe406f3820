"""The child process survives nothing; its parent survives everything."""
# ruff: noqa: D103 (a test's name is its docstring)

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tf_requant.errors import InterpreterError, UsageError
from tf_requant.runtime import BACKENDS, InterpreterProcess, available_backends, prove_runs, run_model

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / os.environ.get("TF_REQUANT_SHARED", "../shared")


def shared_model(name: str) -> bytes:
    """Read a model of the shared folder; skip where there is none."""
    path = SHARED / "models" / name
    if not path.exists():
        pytest.skip(f"needs {path}: set TF_REQUANT_SHARED to the folder with the shared models")
    return path.read_bytes()


def single_op_model(
    builtin: int, version: int, options: tuple[int, Any], tensors: list[tuple[str, list[int], Any]], inputs: list[int]
) -> bytes:
    """Pack one int8 op, scales 0.5 and zero points 0, that reads all tensors but the last, which it writes.

    Args:
        builtin: the member of BuiltinOperator.
        version: of the op.
        options: the member of BuiltinOptions and the options.
        tensors: (name, shape, constant or None).
        inputs: indices of the graph's inputs.

    """
    model, graph, code, node = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = version
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    for name, shape, constant in tensors:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, shape, schema.TensorType.INT8
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [0.5], [0]
        if constant is not None:
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(constant.tobytes(), np.uint8)
        graph.tensors = [*(graph.tensors or []), tensor]
    graph.inputs, graph.outputs, graph.operators = inputs, [len(tensors) - 1], [node]
    node.opcodeIndex, node.inputs, node.outputs = 0, list(range(len(tensors) - 1)), [len(tensors) - 1]
    node.builtinOptionsType, node.builtinOptions = options
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def add_model(batch: int = 1) -> bytes:
    """Int8 a[batch, 2] + b[batch, 2] = sum[batch, 2], all with scale 0.5 and zero point 0."""
    options = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    tensors = [(name, [batch, 2], None) for name in ("a", "b", "sum")]
    return single_op_model(schema.BuiltinOperator.ADD, 2, options, tensors, [0, 1])


def depthwise_without_bias() -> bytes:
    """Build the model that LiteRT 2.3.0 is known to dereference a null bias for."""
    options = schema.DepthwiseConv2DOptionsT()
    options.strideW = options.strideH = options.depthMultiplier = 1
    filters = np.ones((1, 3, 3, 4), np.int8)
    tensors = [("x", [1, 8, 8, 4], None), ("filter", [1, 3, 3, 4], filters), ("y", [1, 8, 8, 4], None)]
    typed = schema.BuiltinOptions.DepthwiseConv2DOptions, options
    return single_op_model(schema.BuiltinOperator.DEPTHWISE_CONV_2D, 3, typed, tensors, [0])


A = np.array([[1, 2], [3, 100], [-5, 6]], np.int8)
B = np.array([[10, 20], [30, 100], [-50, 60]], np.int8)
SUM = [[[11, 22]], [[33, 127]], [[-55, 66]]]


def test_the_backends_are_those_of_the_against_flag() -> None:
    assert list(BACKENDS) == ["litert", "litert_ref", "litert_opt", "tflite_runtime", "tf"]


def test_litert_is_available_in_all_three_resolvers() -> None:
    assert available_backends()[:3] == ("litert", "litert_ref", "litert_opt")


def test_asking_what_is_available_imports_no_interpreter() -> None:
    code = (
        "import sys; from tf_requant.runtime import available_backends; available_backends(); "
        "assert not {'tensorflow', 'ai_edge_litert', 'tflite_runtime'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("backend", ["litert", "litert_ref", "litert_opt"])
def test_samples_come_back_stacked_along_a_new_leading_axis(backend: str) -> None:
    result = run_model(add_model(), {"a": A, "b": B}, backend)
    assert {index: (array.dtype, array.tolist()) for index, array in result.items()} == {2: (np.int8, SUM)}


def test_a_batch_of_the_models_own_size_is_one_sample() -> None:
    result = run_model(add_model(batch=3), {0: A, 1: B})
    assert result[2].tolist() == [[[11, 22], [33, 127], [-55, 66]]]


def test_a_leading_sample_axis_is_taken_as_given() -> None:
    result = run_model(add_model(batch=3), {0: np.stack([A, B]), 1: np.stack([B, A])})
    assert result[2].shape == (2, 3, 2)


def test_a_model_is_described_as_the_interpreter_sees_it() -> None:
    with InterpreterProcess() as process:
        details = process.load(add_model())
        first = details.inputs[0]
        assert (first.name, first.index, first.shape, first.dtype) == ("a", 0, (1, 2), "int8")
        assert (first.scale, first.zero_point) == (0.5, 0)
        assert [output.name for output in details.outputs] == ["sum"]
        assert details == process.details()


def test_one_process_loads_models_one_after_the_other() -> None:
    with InterpreterProcess() as process:
        process.load(add_model())
        assert process.run({"a": A, "b": B})[2].tolist() == SUM
        process.load(add_model(batch=3), resolver="BUILTIN_REF")
        assert process.run({"a": A, "b": B})[2].shape == (1, 3, 2)


def test_all_tensors_are_the_inputs_and_what_ops_compute() -> None:
    model = shared_model("mobilenet_v1_0.25_128_quant.tflite")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    for backend in ("litert", "litert_ref", "litert_opt"):
        with InterpreterProcess(backend) as process:
            details = process.load(model, preserve_all=True)
            tensors = process.run({details.inputs[0].name: pixels}, "all")
            output = details.outputs[0].index
            plain = run_model(model, {details.inputs[0].index: pixels}, backend)
        assert set(tensors) | set(process.unobservable) == set(details.observable)
        assert len(tensors) == 32, backend
        np.testing.assert_array_equal(tensors[details.inputs[0].index][:, 0], pixels)
        np.testing.assert_array_equal(tensors[output], plain[output])


def test_a_tensor_that_was_not_preserved_cannot_be_asked_for() -> None:
    with InterpreterProcess() as process:
        process.load(add_model())
        with pytest.raises(UsageError, match=r"tensors \[0\] cannot be observed.*preserve_all=True"):
            process.run({"a": A, "b": B}, [0])


def test_state_starts_afresh_for_each_sample() -> None:
    model = shared_model("keras_lstm_mnist_ptq.tflite")
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    forwards, backwards = (run_model(model, {0: order}, "litert_ref") for order in (images, images[::-1]))
    for index in forwards:
        np.testing.assert_array_equal(forwards[index], backwards[index][::-1])


def test_progress_counts_the_samples() -> None:
    seen = []
    run_model(add_model(), {"a": A, "b": B}, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 3)]


def test_many_bytes_travel_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tf_requant.runtime.interpreter._CHUNK_BYTES", 12)
    seen = []
    result = run_model(add_model(), {"a": A, "b": B}, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]
    assert result[2].tolist() == SUM


def test_an_array_that_does_not_fit_is_named_with_what_was_expected() -> None:
    with pytest.raises(UsageError) as caught:
        run_model(add_model(), {"a": A.astype(np.float32), "c": B})
    assert str(caught.value) == (
        "the model has no input 'c', it has 'a', 'b'; input 'a' takes int8 [1, 2] a sample, got float32 [3, 2]; "
        "input 'b' (tensor 1) is missing"
    )


def test_a_different_number_of_samples_for_each_input_is_refused() -> None:
    with pytest.raises(UsageError, match="different numbers of samples: 'a' 3, 'b' 2"):
        run_model(add_model(), {"a": A, "b": B[:2]})


def test_no_samples_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match="no sample to run"):
        run_model(add_model(), {"a": A[:0], "b": B[:0]})


def test_an_unknown_interpreter_is_bad_usage() -> None:
    with pytest.raises(UsageError, match="there is no interpreter 'litert2': choose one of litert, litert_ref"):
        InterpreterProcess("litert2")


def test_an_interpreter_that_is_not_installed_is_bad_usage() -> None:
    if "tflite_runtime" in available_backends():
        pytest.skip("tflite_runtime is installed here")
    with pytest.raises(UsageError, match="needs the package tflite_runtime, which is not installed"):
        InterpreterProcess("tflite_runtime")


def test_a_file_that_is_no_model_is_refused_in_the_interpreters_words() -> None:
    with pytest.raises(InterpreterError) as caught:
        run_model(b"not a model", {})
    assert str(caught.value) == (
        "ai_edge_litert with resolver AUTO failed while loading the model: The model is not a valid Flatbuffer buffer"
    )


def test_a_custom_op_without_a_kernel_is_refused() -> None:
    with pytest.raises(InterpreterError, match="failed while loading the model: Encountered unresolved custom op"):
        prove_runs(shared_model("invalid_model_invoking_error.tflite"))


def test_a_kernel_that_crashes_is_an_error_and_the_caller_survives() -> None:
    with pytest.raises(InterpreterError, match=r"^ai_edge_litert with resolver \w+ died with signal 11 \(SIGSEGV\)"):
        prove_runs(depthwise_without_bias())
    assert run_model(add_model(), {"a": A, "b": B})[2].tolist() == SUM


def test_each_crash_is_laid_to_its_own_resolver() -> None:
    with pytest.raises(InterpreterError) as caught:
        prove_runs(depthwise_without_bias())  # BUILTIN_REF runs it
    assert str(caught.value).splitlines() == [
        "ai_edge_litert with resolver AUTO died with signal 11 (SIGSEGV) while running the model",
        "ai_edge_litert with resolver BUILTIN_WITHOUT_DEFAULT_DELEGATES "
        "died with signal 11 (SIGSEGV) while running the model",
    ]


def test_a_sound_model_runs_everywhere() -> None:
    prove_runs(add_model())


def test_a_dead_process_stays_dead() -> None:
    with InterpreterProcess() as process:
        process.load(add_model())
        os.kill(process._process.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(InterpreterError, match=r"died with signal 9 \(SIGKILL\) while running the model"):
                process.run({"a": A, "b": B})
        assert not process.alive


def test_a_hang_ends_at_the_timeout() -> None:
    with InterpreterProcess(timeout=5) as process:
        process.load(add_model())
        process._timeout = 0.2
        os.kill(process._process.pid, signal.SIGSTOP)
        with pytest.raises(InterpreterError, match="gave no answer within 0.2 s and was stopped while running"):
            process.run({"a": A, "b": B})
        assert not process.alive


def test_what_a_kernel_prints_does_not_spoil_the_answers() -> None:
    code = (
        "import os, sys; from tf_requant.runtime import worker; run = worker._Session.run\n"
        "worker._Session.run = lambda self, *a, **k: os.write(1, b'noise\\n') and run(self, *a, **k)\n"
        "sys.argv = ['worker', 'ai_edge_litert']; worker.main()"
    )
    with InterpreterProcess() as process:
        noisy = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=process._log
        )
        process._process.kill()
        process._process.communicate()
        process._process = noisy
        process.load(add_model())
        assert process.run({"a": A, "b": B})[2].tolist() == SUM
        process._log.seek(0)
        assert b"noise" in process._log.read()
