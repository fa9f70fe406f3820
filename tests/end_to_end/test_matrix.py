"""Every quantized model to every core target: it converts, runs, and only what must stays on the host."""

import os
from pathlib import Path

import numpy as np
import pytest

from tf_requant import Result, Simulation, builtin_targets, load_target, requantize
from tf_requant.errors import UnsupportedModelError
from tf_requant.io.tflite import read
from tf_requant.model.graph import Graph, Op
from tf_requant.runtime import prove_runs
from tf_requant.sample import model_path
from tf_requant.validation.legality import check_legality

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / os.environ.get("TF_REQUANT_SHARED", "../shared") / "models"
UNQUANTIZED = ("resnet8_cifar10_float", "mnv2_cifar_float", "invalid_model_invoking_error")
QUANTIZED = sorted(p for p in MODELS.rglob("*.tflite") if p.stem not in UNQUANTIZED)
SMALL = [p for p in QUANTIZED if p.stat().st_size < 400_000]
TARGETS = [t for t in builtin_targets() if t.startswith(("tflite_", "nna_"))]
HARDWARE = [t for t in builtin_targets() if t not in TARGETS]
FAST = "rounding"  # what needs no run of the model: this is about every conversion, not its fidelity
NAMES = {"ids": lambda p: p.stem}

HOST = {"SOFTMAX", "ARG_MAX", "LOGISTIC", "TANH", "UNIDIRECTIONAL_SEQUENCE_LSTM", "CUSTOM"}
"""What may stay on the host, besides ops on float or index tensors: the issue's list."""


def on_float_or_index_tensors(graph: Graph, op: Op) -> bool:
    """Whether an op reads or writes real numbers, or moves no quantized codes at all."""
    tensors = [graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
    return any(t.dtype == "float32" for t in tensors) or not any(t.is_activation for t in tensors)


def assert_only_the_inevitable_stays_on_the_host(result: Result, source: Path) -> None:
    for graph, plan in zip(read(source).graphs, result.plan.graphs):
        host = [op for op, placed in zip(graph.ops, plan.ops) if not placed.on_accelerator]
        surplus = [op.code for op in host if op.code not in HOST and not on_float_or_index_tensors(graph, op)]
        assert surplus == []
    assert len(result.report.host_ops) == sum(not o.on_accelerator for p in result.plan.graphs for o in p.ops)


def runs_here(path: Path) -> bool:
    """Whether the interpreter has a kernel for every op of a model."""
    return all(op.code != "CUSTOM" for graph in read(path).graphs for op in graph.ops)


def test_there_are_ten_core_targets():
    assert len(TARGETS) == 10


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("path", QUANTIZED, **NAMES)
def test_every_model_converts_and_only_the_inevitable_stays_on_the_host(path, target):
    result = requantize(path, target, corrections=FAST)
    assert_only_the_inevitable_stays_on_the_host(result, path)
    assert read(result.model_bytes).warnings == ()


@pytest.mark.parametrize("target", HARDWARE)
@pytest.mark.parametrize("path", QUANTIZED, **NAMES)
def test_every_model_converts_for_published_hardware_and_obeys_it(path, target):
    result = read(requantize(path, target, corrections=FAST).model_bytes)
    assert result.warnings == () and check_legality(result, load_target(target)).violations == ()


@pytest.mark.parametrize("target", HARDWARE)
def test_what_published_hardware_runs_the_simulator_runs_by_its_arithmetic(target):
    result = requantize(model_path(), target)
    host = {where for where, _ in result.report.host_ops}
    with Simulation(result.model, target) as simulation:
        elsewhere = [where for where, place in simulation.report.placed if place.where != "device"]
    names = {where.split(", output ")[1] for where in host}
    assert [where for where in elsewhere if "(QUANTIZE," not in where and where.split(", output ")[1] not in names] == []


@pytest.mark.parametrize("target", ["tflite_int8", "tflite_int16x8", "nna_usym8_pow2", *HARDWARE])
@pytest.mark.parametrize("path", [model_path(), *SMALL], **NAMES)
def test_a_converted_small_model_runs_in_all_three_resolvers(path, target):
    prove_runs(requantize(path, target, corrections=FAST).model_bytes)


@pytest.mark.slow
@pytest.mark.parametrize("target", [*TARGETS, *HARDWARE])
@pytest.mark.parametrize("path", QUANTIZED, **NAMES)
def test_every_converted_model_runs_in_all_three_resolvers(path, target):
    if not runs_here(path):
        pytest.skip("this interpreter has no kernel for the model's own custom op")
    prove_runs(requantize(path, target, corrections=FAST).model_bytes)


@pytest.mark.slow
@pytest.mark.parametrize("io", ["source", "float"])
@pytest.mark.parametrize("target", ["tflite_uint8", "tflite_int16x8", "nna_sym8_pow2"])
@pytest.mark.parametrize("path", QUANTIZED, **NAMES)
def test_every_interface_of_a_converted_model_runs(path, target, io):
    if not runs_here(path):
        pytest.skip("this interpreter has no kernel for the model's own custom op")
    prove_runs(requantize(path, target, io=io).model_bytes)


@pytest.mark.parametrize("path", QUANTIZED, **NAMES)
def test_recentring_twice_gives_the_activations_of_recentring_once(path):
    once = requantize(path, "tflite_int8", corrections="none").model_bytes
    twice = requantize(once, "tflite_int8", corrections="none").model_bytes
    for a, b in zip(read(once).main.tensors, read(twice).main.tensors, strict=True):
        assert a.quant is None or a.quant.identical(b.quant)
        assert a.data is None or np.array_equal(a.data, b.data)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet8_cifar10_float.tflite", "the model is float: no activation is quantized"),
        ("tf1/mnv2_cifar_float.tflite", "the model is float: no activation is quantized"),
        ("invalid_model_invoking_error.tflite", "there is nothing quantized to re-express"),
    ],
)
def test_a_model_without_codes_is_refused_with_the_reason(shared, name, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        requantize(shared / "models" / name, "nna_sym8")
