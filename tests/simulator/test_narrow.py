"""Activations narrower than int8: nothing beyond the width leaves an op of the device, and all else is as in 8 bits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.builders import Builder, conv2d
from tests.simulator.cases import CASES
from tests.simulator.draw import Draw, random_inputs
from tf_requant.errors import RequantError
from tf_requant.model.graph import Graph, Tensor
from tf_requant.numerics.integers import limits
from tf_requant.pipeline.simulate import checked_model
from tf_requant.simulator.profiles import NNA, TFLITE_REF
from tf_requant.simulator.simulator import Simulator
from tf_requant.simulator.site import Site
from tf_requant.targets import builtin_targets, load_target

FIXED = {"LOGISTIC", "TANH", "SOFTMAX"}


def narrow_tensor(tensor: Tensor) -> bool:
    return tensor.dtype == "int8" and tensor.quant is not None and not tensor.quant.zero_point.any()


def models(code: str, count: int) -> list[Graph]:
    """Random models of an op with symmetric int8 tensors."""
    found = []
    for seed in range(count):
        try:
            found.append(checked_model(CASES[code](Draw(seed, "int8", symmetric=True))).main)
        except RequantError:
            continue  # TFLite has no such kernel
    return found


@pytest.mark.parametrize("base", [NNA, TFLITE_REF], ids=lambda a: a.name)
@pytest.mark.parametrize("code", sorted(set(CASES) - FIXED - {"DEQUANTIZE"}))
def test_no_op_writes_a_code_beyond_the_width(code: str, base: Any) -> None:
    seen = 0
    for number, graph in enumerate(models(code, 18)):
        bits = 2 + number % 6
        arithmetic = replace(base, name="narrow", activation_bits=bits, host_ops=())
        low, high = limits(bits)
        # Any code of int8, at its ends too: an input may hold what the device cannot.
        inputs = dict(zip(graph.inputs, random_inputs(number, [graph.tensors[t] for t in graph.inputs])))
        for engine, observe in (("numpy", False), ("auto", False), ("numpy", True)):
            simulator = Simulator(graph, arithmetic, observe=observe, engine=engine)  # type: ignore[arg-type]
            for index, codes in simulator.run(inputs, "all").items():
                if index in graph.producers and narrow_tensor(graph.tensors[index]):
                    assert simulator.placed[0].where == "device"
                    assert codes.size == 0 or (low <= codes.min() and codes.max() <= high), f"model {number}, {bits} bits"
                    seen += codes.size
    assert seen or code in ("ARG_MAX", "ARG_MIN")


@pytest.mark.parametrize("code", sorted(set(CASES) - FIXED - {"DEQUANTIZE", "ARG_MAX", "ARG_MIN"}))
def test_an_op_on_narrow_codes_is_the_8_bit_one_saturated_at_the_width(code: str) -> None:
    for number, graph in enumerate(models(code, 12)):
        low, high = limits(7)
        drawn = random_inputs(number, [graph.tensors[t] for t in graph.inputs])
        held = [q.clip(low, high) if narrow_tensor(graph.tensors[t]) else q for t, q in zip(graph.inputs, drawn)]
        inputs = dict(zip(graph.inputs, held))
        constants = [t for t in graph.ops[0].inputs if t >= 0 and t not in graph.inputs and narrow_tensor(graph.tensors[t])]
        if constants and code in ("PADV2", "PRELU"):
            continue  # their constants are activations, which saturate too
        wide = Simulator(graph, NNA).run(inputs)
        for index, codes in Simulator(graph, replace(NNA, activation_bits=7)).run(inputs).items():
            expected = wide[index].clip(low, high) if narrow_tensor(graph.tensors[index]) else wide[index]
            np.testing.assert_array_equal(codes, expected, f"model {number}")


def test_the_width_is_where_every_output_stage_ends() -> None:
    graph = checked_model(conv2d("int8")).main
    for bits in range(2, 8):
        stage = Site(graph, 0, replace(NNA, activation_bits=bits))
        assert stage.limits(stage.output()) == limits(bits)
    assert Site(graph, 0, NNA).limits(graph.tensors[graph.outputs[0]]) == (-128, 127)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_other_types_keep_their_own_width(dtype: str) -> None:
    graph = checked_model(conv2d(dtype)).main
    tensor = graph.tensors[graph.inputs[0]]
    inputs = dict(zip(graph.inputs, random_inputs(0, [tensor])))
    wide, narrow = (Simulator(graph, a).run(inputs) for a in (NNA, replace(NNA, activation_bits=4)))
    assert all(np.array_equal(narrow[t], wide[t]) for t in wide)


@pytest.mark.parametrize("code", ["LOGISTIC", "TANH"])
def test_an_output_that_tflite_spreads_over_int8_is_the_hosts(code: str) -> None:
    for graph in models(code, 3):
        inputs = dict(zip(graph.inputs, random_inputs(1, [graph.tensors[t] for t in graph.inputs])))
        simulator = Simulator(graph, replace(NNA, activation_bits=7))
        assert simulator.placed[0].where == "reference" and "codes of 8 bits, and it has 7" in simulator.placed[0].reason
        reference = Simulator(graph, TFLITE_REF).run(inputs)
        assert all(np.array_equal(codes, reference[t]) for t, codes in simulator.run(inputs).items())


def test_wider_codes_come_in_through_quantize() -> None:
    b = Builder()
    data, output = b.tensor([1, 3], "int8", 0.5), b.tensor([1, 3], "int8", 1.0)
    b.op("QUANTIZE", [data], [output], "QuantizeOptions")
    graph = checked_model(b.finish([data], [output])).main
    codes = {data: np.asarray([[100, -128, 127]], np.int8)}
    assert Simulator(graph, replace(NNA, activation_bits=7)).run(codes)[output].tolist() == [[50, -64, 63]]


def test_codes_beyond_the_width_count_as_saturated() -> None:
    b = Builder()
    data, output = b.tensor([1, 4], "int8", 0.5), b.tensor([1, 4], "int8", 1.0)
    b.op("QUANTIZE", [data], [output], "QuantizeOptions")
    graph = checked_model(b.finish([data], [output])).main
    counts = []
    for bits in (None, 7, 6):
        simulator = Simulator(graph, replace(NNA, activation_bits=bits), observe=True)
        simulator.run({data: np.asarray([[126, 100, 62, -128]], np.int8)})
        counts.append(simulator.observations[0].saturated)
    assert counts == [0, 0, 3]  # 63, 50, 31, -64 in 7 bits; 31, 31, 31, -32 in 6


@pytest.mark.parametrize("name", builtin_targets())
def test_built_in_targets_compute_as_before(name: str) -> None:
    arithmetic = load_target(name).arithmetic
    assert arithmetic.activation_bits is None and arithmetic.winograd is None and arithmetic.accumulator.intermediate is None
