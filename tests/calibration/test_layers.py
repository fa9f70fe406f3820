"""A layer as matrices gives the integer sums that the layer gives, whatever its groups, border and axes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.simulator.cases import CASES
from tests.simulator.draw import Draw, random_inputs
from tf_requant.calibration.layers import LAYERS, grouped, has_filter, input_channels, rows, tap_means, ungrouped
from tf_requant.corrections.bias import accumulator_unit, mean_output, wanted_bias
from tf_requant.model.graph import Graph, Op, Tensor
from tf_requant.model.ops import Padding
from tf_requant.model.quant import QuantParams
from tf_requant.pipeline.simulate import checked_model
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Simulator

EVERY = 1 << 20
SEEDS = range(900, 912)
every_layer = pytest.mark.parametrize("code", LAYERS)
every_type = pytest.mark.parametrize("dtype", ["uint8", "int8"])
every_seed = pytest.mark.parametrize("seed", SEEDS)


def drawn(code: str, dtype: str, seed: int) -> tuple[Graph, NDArray[np.integer]]:
    """A random layer and codes for its input."""
    graph = checked_model(CASES[code](Draw(seed, dtype))).main
    (codes,) = random_inputs(3 * seed, [graph.tensors[t] for t in graph.inputs])
    return graph, codes


def sums_of(graph: Graph, codes: NDArray[np.integer], monkeypatch: pytest.MonkeyPatch) -> NDArray[np.int64]:
    """The layer's whole integer sums, bias included, int64[places of all images, outputs]."""
    totals: list[NDArray[np.int64]] = []

    def watch(self: object, total: NDArray[np.int64], out: NDArray[np.integer]) -> None:
        totals.append(total.reshape(-1, total.shape[-1]).copy())

    # The definition sees whole sums, int64[places, outputs]: image after image, in each group after group.
    monkeypatch.setattr("tf_requant.simulator.mac.Layer.finish_exact", watch)
    Simulator(graph, TFLITE_REF, strict=True, observe=True).run({graph.inputs[0]: codes})
    outputs = graph.tensors[graph.ops[0].inputs[2]].size
    groups = outputs // totals[0].shape[1]
    return np.concatenate([np.concatenate(totals[g::groups]) for g in range(groups)], axis=1)


def integer_filter(graph: Graph) -> NDArray[np.int64]:
    """Code minus zero point, grouped."""
    weights = graph.tensors[graph.ops[0].inputs[1]]
    assert weights.data is not None and weights.quant is not None
    values = weights.data.astype(np.int64) - weights.quant.along(len(weights.shape))[1]
    return grouped(graph.ops[0], values, input_channels(graph, graph.ops[0]))


def bias_of(graph: Graph) -> NDArray[np.int64]:
    data = graph.tensors[graph.ops[0].inputs[2]].data
    assert data is not None
    return data.astype(np.int64)


def image_of(height: int, width: int) -> tuple[Graph, NDArray[np.int8]]:
    """A layer of one tap on an image whose codes count its places."""
    codes = np.arange(height * width).reshape(1, height, width, 1).astype(np.int8)
    plain = QuantParams("int8", np.ones(1, np.float32), np.zeros(1, np.int64))
    weights, image = Tensor("w", "int8", (1, 1, 1, 1), plain), Tensor("x", "int8", codes.shape, plain)
    op = Op("CONV_2D", (0, 1), (2,), {"stride_h": 1, "stride_w": 1, "padding": Padding.VALID})
    return Graph("main", (image, weights), (op,), (0,), (2,)), codes


def test_outputs_of_a_depthwise_filter_go_to_the_input_channel_that_they_see() -> None:
    values = np.arange(12).reshape(1, 1, 3, 4)  # three taps of two inputs, each with two outputs
    found = grouped(Op("DEPTHWISE_CONV_2D", (), ()), values, 2)
    assert found.tolist() == [[[0, 4, 8], [1, 5, 9]], [[2, 6, 10], [3, 7, 11]]]


def test_outputs_of_a_grouped_filter_go_to_their_group_and_inputs_run_fastest() -> None:
    values = np.arange(16).reshape(4, 1, 2, 2)  # two groups of two outputs, two taps of two inputs a group
    found = grouped(Op("CONV_2D", (), ()), values, 4)
    assert found.tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[8, 9, 10, 11], [12, 13, 14, 15]]]


def test_a_fully_connected_filter_is_one_group() -> None:
    assert grouped(Op("FULLY_CONNECTED", (), ()), np.arange(6).reshape(2, 3), 3).tolist() == [[[0, 1, 2], [3, 4, 5]]]


@every_layer
@every_type
@every_seed
def test_ungrouped_undoes_grouped(code: str, dtype: str, seed: int) -> None:
    graph, _ = drawn(code, dtype, seed)
    op = graph.ops[0]
    weights = graph.tensors[op.inputs[1]]
    assert weights.data is not None and has_filter(graph, 0)
    back = ungrouped(op, grouped(op, weights.data, input_channels(graph, op)), weights.shape)
    np.testing.assert_array_equal(back, weights.data)
    assert back.flags.c_contiguous and back.dtype == weights.data.dtype


@every_layer
@every_type
@every_seed
def test_a_filter_times_its_rows_is_the_layer_s_sums(
    code: str, dtype: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, codes = drawn(code, dtype, seed)
    seen = rows(graph, graph.ops[0], codes, EVERY)
    assert seen.dtype == np.float32
    products = integer_filter(graph) @ seen.astype(np.int64).transpose(0, 2, 1)  # [groups, outputs, places]
    sums = sums_of(graph, codes, monkeypatch)
    np.testing.assert_array_equal(products.reshape(-1, products.shape[2]).T, sums - bias_of(graph))


@every_layer
@every_type
@every_seed
def test_tap_means_are_the_mean_of_all_rows(code: str, dtype: str, seed: int) -> None:
    graph, codes = drawn(code, dtype, seed)
    seen = rows(graph, graph.ops[0], codes, EVERY)
    means = tap_means(graph, graph.ops[0], codes)
    np.testing.assert_allclose(means, seen.mean(axis=1, dtype=np.float64), rtol=1e-12, atol=1e-9)


@every_layer
@every_type
@every_seed
def test_the_mean_output_is_that_of_the_sums(code: str, dtype: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, codes = drawn(code, dtype, seed)
    sums = sums_of(graph, codes, monkeypatch)
    unit = np.broadcast_to(accumulator_unit(graph, graph.ops[0]), sums.shape[1])
    found = mean_output(graph, graph.ops[0], tap_means(graph, graph.ops[0], codes), 2)
    np.testing.assert_allclose(found, sums.mean(axis=0) * unit, rtol=1e-9, atol=1e-9 * float(unit.max()) * 2**31)


@every_type
def test_grouped_layers_and_depth_multipliers_are_among_the_cases(dtype: str) -> None:
    convolutions = [integer_filter(drawn("CONV_2D", dtype, seed)[0]).shape for seed in SEEDS]
    depthwise = [integer_filter(drawn("DEPTHWISE_CONV_2D", dtype, seed)[0]).shape for seed in SEEDS]
    assert any(groups > 1 and outputs > 1 for groups, outputs, _ in convolutions)
    assert any(groups > 1 and outputs > 1 for groups, outputs, _ in depthwise)


@pytest.mark.parametrize(
    ("most", "places"),
    [
        (36, list(range(36))),
        (9, [1, 3, 5, 13, 15, 17, 25, 27, 29]),  # every second row from the first, every second column from the second
        (4, [7, 10, 25, 28]),  # every third of both, one in from the border
    ],
)
def test_rows_are_taken_on_a_lattice_over_the_whole_image(most: int, places: list[int]) -> None:
    graph, codes = image_of(6, 6)
    assert rows(graph, graph.ops[0], codes, most).reshape(-1).tolist() == places


def test_every_sample_of_a_batch_gives_rows() -> None:
    graph, codes = image_of(6, 6)
    found = rows(graph, graph.ops[0], np.concatenate([codes, codes + 36]), 4)
    assert found.reshape(-1).tolist() == [7, 10, 25, 28, 43, 46, 61, 64]


@pytest.mark.parametrize(("height", "width", "most"), [(1, 100, 10), (100, 1, 50), (2, 60, 4), (60, 2, 4), (1, 9, 1)])
def test_a_narrow_image_gives_rows_too(height: int, width: int, most: int) -> None:
    graph, codes = image_of(height, width)
    assert rows(graph, graph.ops[0], codes, most).shape[1] >= 1


def test_a_changed_row_leaves_the_codes_alone() -> None:
    graph, codes = image_of(3, 3)
    rows(graph, graph.ops[0], codes, EVERY)[...] = 77
    assert codes.reshape(-1).tolist() == list(range(9))


def test_the_bias_moves_against_the_error() -> None:
    graph, _ = drawn("CONV_2D", "int8", 5)
    op, bias = graph.ops[0], bias_of(graph)
    unit = np.broadcast_to(accumulator_unit(graph, op), bias.shape)
    found = np.zeros(bias.shape)
    moved = wanted_bias(graph, op, 2, found + 7 * unit, found)
    np.testing.assert_allclose(moved, np.clip(bias + 7.0, -(2.0**31), 2.0**31 - 1), rtol=0, atol=1e-3)
