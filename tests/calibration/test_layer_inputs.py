"""A layer's mean output is its filter times its mean input, tap by tap, whatever its groups, border and axes."""

import numpy as np
import pytest

from tests.simulator.cases import CASES
from tests.simulator.draw import Draw, random_inputs
from tf_requant.calibration.layer_inputs import LAYERS, LayerInputs, tap_means
from tf_requant.corrections.bias import accumulator_unit, mean_output, wanted_bias
from tf_requant.pipeline.simulate import checked_model
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Simulator


@pytest.mark.parametrize("code", LAYERS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("seed", range(12))
def test_the_mean_output_is_that_of_the_sums(code: str, dtype: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = checked_model(CASES[code](Draw(900 + seed, dtype))).main
    inputs = dict(zip(graph.inputs, random_inputs(3 * seed, [graph.tensors[t] for t in graph.inputs])))
    totals = []

    def watch(self: object, total: np.ndarray, out: np.ndarray) -> None:
        totals.append(total.reshape(-1, total.shape[-1]).copy())

    # The definition sees whole sums, int64[places, outputs], group by group.
    monkeypatch.setattr("tf_requant.simulator.mac.Layer.finish_exact", watch)
    Simulator(graph, TFLITE_REF, strict=True, observe=True).run(inputs)
    op = graph.ops[0]
    unit = np.broadcast_to(accumulator_unit(graph, op), graph.tensors[op.inputs[2]].shape)
    widths = {t.shape[1] for t in totals}
    groups = len(unit) // widths.pop()
    sums = np.concatenate([np.concatenate(totals_of, axis=0) for totals_of in _by_group(totals, groups)], axis=1)
    found = mean_output(graph, op, tap_means(graph, op, next(iter(inputs.values()))), 2)
    np.testing.assert_allclose(found, sums.mean(axis=0) * unit, rtol=1e-9, atol=1e-9 * float(unit.max()) * 2**31)


def _by_group(totals: list[np.ndarray], groups: int) -> list[list[np.ndarray]]:
    """Blocks of one image come group after group; small images make one block a group."""
    return [totals[g::groups] for g in range(groups)]


def test_means_run_over_samples() -> None:
    graph = checked_model(CASES["FULLY_CONNECTED"](Draw(4, "int8"))).main
    means, op = LayerInputs(graph), graph.ops[0]
    shape = graph.tensors[op.inputs[0]].shape
    for value in (1, 5):
        means.add(0, np.full(shape, value, np.int8))
    point = int(graph.tensors[op.inputs[0]].quant.zero_point[0])  # type: ignore[union-attr]
    assert np.all(means.mean(0) == 3 - point)
    assert means.readers(op.inputs[0]) == [0] and means.readers(op.outputs[0]) == []


def test_the_bias_moves_against_the_error() -> None:
    graph = checked_model(CASES["CONV_2D"](Draw(5, "int8"))).main
    op = graph.ops[0]
    bias = graph.tensors[op.inputs[2]].data
    assert bias is not None
    unit = np.broadcast_to(accumulator_unit(graph, op), bias.shape)
    found = np.zeros(bias.shape)
    moved = wanted_bias(graph, op, 2, found + 7 * unit, found)
    np.testing.assert_allclose(moved, np.clip(bias + 7.0, -(2.0**31), 2.0**31 - 1))


