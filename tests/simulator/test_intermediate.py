"""An intermediate register: groups that provably fit sum to the plain sum; without the proof they wrap as in hardware."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.simulator import scalar
from tests.simulator.draw import Draw
from tf_requant.model.graph import Graph
from tf_requant.model.ops import Padding
from tf_requant.numerics.arithmetic import Accumulator, Arithmetic, Intermediate, Requantizer
from tf_requant.numerics.fixed_point import Rescale
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.pipeline.simulate import checked_model
from tf_requant.simulator.mac import Layer, Weights
from tf_requant.simulator.ops.fully_connected import connect
from tf_requant.simulator.profiles import NNA
from tf_requant.simulator.simulator import Simulator
from tf_requant.targets import load_target

INT7 = load_target("nna_sym8_per_channel").derive(
    name="int7",
    activation={"bits": [7]},
    weight={"bits": [7]},
    accumulator={"intermediate": {"bits": 16, "products": 8}},
)
LOW, HIGH, TOP = -64, 63, 63


def model(d: Draw, code: str, extreme: bool) -> tuple[Graph, int]:
    """One layer of 7-bit codes with a random shape, and its output."""

    def weights(shape: list[int], axis: int) -> int:
        codes = d.random.choice([-TOP, TOP], shape) if extreme else d.random.integers(-TOP, TOP + 1, shape)
        return d.builder.tensor(shape, "int8", d.rounded(2.0 ** d.random.uniform(-9, -5, shape[axis])), 0, codes, axis)

    depth, outputs, (h, w), taps = d.any(1, 40), d.any(1, 5), (d.any(3, 6), d.any(3, 6)), (d.any(1, 3), d.any(1, 3))
    same = {"strideH": 1, "strideW": 1, "padding": Padding.SAME, "dilationHFactor": 1, "dilationWFactor": 1}
    if code == "FULLY_CONNECTED":
        data, filter_ = d.tensor([3, depth * 9]), weights([outputs, depth * 9], 0)
        shape, options, fields = [3, outputs], "FullyConnectedOptions", {}
    elif code == "CONV_2D":
        data, filter_ = d.tensor([1, h, w, depth]), weights([outputs, *taps, depth], 0)
        shape, options, fields = [1, h, w, outputs], "Conv2DOptions", same
    else:
        data, filter_ = d.tensor([1, h, w, outputs]), weights([1, *taps, outputs * 2], 3)
        shape, options, fields = [1, h, w, outputs * 2], "DepthwiseConv2DOptions", {**same, "depthMultiplier": 2}
    bias, _ = d.bias(data, filter_, shape[-1])
    # No output saturates, so that no wrapped sum can hide behind a clamp.
    reach = float(np.max(d.scale_of(data)[0] * d.scale_of(filter_)))
    output = d.tensor(shape, float(d.rounded(reach * 64 * 63 * 9 * depth / 40)))
    version = {"FULLY_CONNECTED": 4, "CONV_2D": 3}.get(code, 3)
    d.builder.op(code, [data, filter_, bias], [output], options, version, **fields)
    return checked_model(d.finish([data], [output])).main, output


def inputs_of(graph: Graph, d: Draw, kind: int) -> dict[int, Any]:
    """7-bit codes: any, both extremes, the lowest alone, or some that the device cannot hold."""
    index = graph.inputs[0]
    shape = graph.tensors[index].shape
    draw: tuple[Callable[[], Any], ...] = (
        lambda: d.random.integers(LOW, HIGH + 1, shape),
        lambda: d.random.choice([LOW, HIGH], shape),
        lambda: np.full(shape, LOW),
        lambda: d.random.integers(-128, 128, shape),
    )
    return {index: draw[kind]().astype(np.int8)}


@pytest.mark.parametrize("code", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
@pytest.mark.parametrize("seed", range(12))
def test_groups_that_fit_sum_to_what_the_products_sum_to(code: str, seed: int) -> None:
    d = Draw(seed, "int8", symmetric=True)
    graph, output = model(d, code, extreme=seed % 2 == 0)
    inputs = inputs_of(graph, d, seed // 2 % 4)
    arithmetic = INT7.arithmetic
    plain = replace(arithmetic, accumulator=replace(arithmetic.accumulator, intermediate=None))
    expected = scalar.execute(graph, inputs, arithmetic)[output]  # group by group, each held by a register that wraps
    for one in (arithmetic, plain):
        for observe in (False, True):
            simulator = Simulator(graph, one, strict=True, observe=observe)
            np.testing.assert_array_equal(simulator.run(inputs)[output], expected)
            assert not observe or simulator.observations[0].overflowed == 0


@pytest.mark.parametrize("code", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
@pytest.mark.parametrize("register", [Intermediate(13, 8), Intermediate(12, 3), Intermediate(14, 64)])
@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
def test_groups_that_do_not_fit_wrap_as_plain_integers_do(code: str, register: Intermediate, overflow: Any) -> None:
    arithmetic: Arithmetic = replace(INT7.arithmetic, accumulator=Accumulator(20, overflow, intermediate=register))
    plain = replace(arithmetic, accumulator=replace(arithmetic.accumulator, intermediate=None))
    differ = 0
    for seed in range(8):
        d = Draw(seed, "int8", symmetric=True)
        graph, output = model(d, code, extreme=True)
        inputs = inputs_of(graph, d, seed % 3)
        expected = scalar.execute(graph, inputs, arithmetic)[output]
        for observe in (False, True):
            simulator = Simulator(graph, arithmetic, strict=True, observe=observe)
            np.testing.assert_array_equal(simulator.run(inputs)[output], expected, f"seed {seed}")
        differ += int((Simulator(graph, plain).run(inputs)[output] != expected).any())
    assert differ


def _layer(products: int, weight: int, bits: int | None, taps: int = 9) -> Layer:
    stage = OutputStage(Rescale.of_ratio(1.0, Requantizer()), 0, -(2**15), 2**15 - 1, "int16")
    weights = Weights(np.full((1, taps, 1), weight), np.zeros(1, np.int64), 0, 0, "int8", False, bits)
    return Layer(weights, stage, Accumulator(32, intermediate=Intermediate(16, products)))


def test_the_proof_ends_where_one_product_more_would_leave_16_bits() -> None:
    codes = np.full((1, 9), LOW, np.int8)
    assert not _layer(8, TOP, 7).grouped and _layer(9, TOP, 7).grouped
    assert 8 * 64 * 63 == 32256 and 9 * 64 * 63 == 32768 + 3520
    assert connect(codes, _layer(8, -TOP, 7)).tolist() == [[2**15 - 1]]  # 36288, saturated by the output alone
    assert connect(codes, _layer(9, -TOP, 7)).tolist() == [[36288 - 2**16]]
    # Codes of 8 bits reach twice as far.
    assert _layer(8, TOP, None).grouped and not _layer(4, TOP, None).grouped


def test_a_layer_of_small_weights_is_proved_by_its_own_weights() -> None:
    assert not _layer(9, 50, 7).grouped
    assert _layer(2, 127, None).weights.worst_group(2) == 2 * 128 * 127


def test_groups_begin_anew_and_a_rest_is_a_group_of_its_own() -> None:
    # 3 + 3 + 1 products of 50 * 50 in 13 bits: 7500 wraps to -692 twice, 2500 stays.
    weights = Weights(np.full((1, 7, 1), 50), np.zeros(1, np.int64), 0, 0, "int8")
    stage = OutputStage(Rescale.of_ratio(1.0, Requantizer()), 0, -(2**15), 2**15 - 1, "int16")
    layer = Layer(weights, stage, Accumulator(32, intermediate=Intermediate(13, 3)))
    assert connect(np.full((1, 7), 50, np.int8), layer).tolist() == [[2 * (7500 - 2**13) + 2500]]


def test_a_wrapped_group_is_counted() -> None:
    d = Draw(0, "int8", symmetric=True)
    graph, _ = model(d, "CONV_2D", extreme=True)
    narrow = replace(NNA, activation_bits=7, accumulator=Accumulator(32, intermediate=Intermediate(12, 8)))
    simulator = Simulator(graph, narrow, observe=True)
    simulator.run(inputs_of(graph, d, 1))
    assert simulator.observations[0].overflowed > 0
