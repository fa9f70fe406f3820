"""The arithmetic of each tflite_* target is LiteRT's: the same codes as `tflite_ref`, on every op of the target's types."""

import numpy as np
import pytest

from tests.simulator.cases import CASES
from tests.simulator.draw import Draw, random_inputs
from tf_requant.errors import RequantError
from tf_requant.model.graph import Graph
from tf_requant.pipeline.simulate import checked_model
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Simulator
from tf_requant.targets import Target, builtin_targets, load_target

NAMES = [name for name in builtin_targets() if name.startswith("tflite_")]


def _types(target: Target) -> tuple[str, str]:
    """The activations' type and the biases' type in the file."""
    kind = "int" if target.activation.signed else "uint"
    return f"{kind}{target.activation.bits[0]}", f"int{target.bias.bits}"


def _graph(code: str, dtype: str, seed: int) -> Graph | None:
    try:
        return checked_model(CASES[code](Draw(seed, dtype, power_of_two=seed % 3 == 0))).main
    except RequantError:
        return None  # TFLite has no such kernel


def _compare(code: str, name: str, seed: int) -> bool:
    """One random model in both arithmetics; whether it is of the target's types."""
    target = load_target(name)
    dtype, bias = _types(target)
    graph = _graph(code, dtype, seed)
    if graph is None or any(
        t.is_constant and t.dtype in {"int32", "int64"} - {bias} and t.quant for t in graph.tensors
    ):
        return False
    inputs = dict(zip(graph.inputs, random_inputs(seed, [graph.tensors[t] for t in graph.inputs])))
    expected = Simulator(graph, TFLITE_REF, strict=True).run(inputs)
    for index, codes in Simulator(graph, target.arithmetic, strict=True).run(inputs).items():
        np.testing.assert_array_equal(codes, expected[index], f"{code} {name} seed {seed}")
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_tflite_target_gives_the_reference_kernels_codes(name: str) -> None:
    ran = {code for code in CASES for seed in range(16) if _compare(code, name, seed)}
    runnable = {
        code for code in CASES for seed in range(4) if _graph(code, _types(load_target(name))[0], seed) is not None
    }
    assert ran >= runnable and len(ran) >= 30


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", CASES)
def test_a_tflite_target_gives_the_reference_kernels_codes_at_length(code: str, name: str) -> None:
    for seed in range(16, 400):
        _compare(code, name, seed)
