"""Tensors that share parameters count alike where they are rounded on their own, and not by their elements."""

import numpy as np
import pytest

import tf_requant
from tests import builders
from tf_requant.model.graph import Graph
from tf_requant.model.shares import is_mean, rounded
from tf_requant.numerics.affine import reexpress
from tf_requant.pipeline.simulate import checked_model
from tf_requant.planning.ranges import UNSEEN, unseen_share
from tf_requant.targets import load_target

SIDE = 4


def pooled(code: str = "AVERAGE_POOL_2D") -> bytes:
    """x -> RELU conv -> average of the whole map -> RESHAPE -> FULLY_CONNECTED."""
    b = builders.Builder()
    x = b.activation([1, SIDE, SIDE, 2], "int8", 0.02, 0)
    made = b.activation([1, SIDE, SIDE, 3], "int8", 0.05, -128)
    mean, flat = b.activation([1, 1, 1, 3], "int8", 0.05, -128), b.activation([1, 3], "int8", 0.05, -128)
    w, v = b.filter([3, 1, 1, 2], "int8"), b.filter([5, 3], "int8")
    out = b.activation([1, 5], "int8", 0.1, 0)
    b.op("CONV_2D", [x, w, b.bias(x, w, 3, "int8")], [made], "Conv2DOptions", strideW=1, strideH=1, fusedActivationFunction=1)
    if code == "MEAN":
        b.op("MEAN", [made, b.integers([1, 2])], [mean], "ReducerOptions", keepDims=True)
    else:
        b.op(code, [made], [mean], "Pool2DOptions", filterHeight=SIDE, filterWidth=SIDE, strideW=SIDE, strideH=SIDE, padding=1)
    b.op("RESHAPE", [mean, b.integers([1, 3])], [flat], "ReshapeOptions", newShape=[1, 3])
    b.op("FULLY_CONNECTED", [flat, v, b.bias(flat, v, 5, "int8")], [out], "FullyConnectedOptions")
    return b.finish([x], [out])


def graph_of(model: bytes) -> tuple[Graph, list[int]]:
    """The graph, and the class of what the first layer writes, its mean and the copy of that."""
    graph = checked_model(model).main
    made = graph.ops[0].outputs[0]
    mean = graph.ops[1].outputs[0]
    return graph, [made, mean, graph.ops[2].outputs[0]]


@pytest.mark.parametrize("code", ["AVERAGE_POOL_2D", "MEAN"])
def test_a_map_and_its_mean_are_rounded_and_a_copy_is_not(code: str) -> None:
    graph, (made, mean, copy) = graph_of(pooled(code))
    assert rounded(graph, [made, mean, copy]) == [made, mean]
    assert [is_mean(graph, t, [made, mean, copy]) for t in (made, mean, copy)] == [False, True, False]


def test_the_largest_of_a_window_is_a_copy() -> None:
    graph, (made, most, copy) = graph_of(pooled("MAX_POOL_2D"))
    assert rounded(graph, [made, most, copy]) == [made] and not is_mean(graph, most, [made, most, copy])


def test_what_comes_from_outside_its_class_is_rounded() -> None:
    graph, (_, mean, copy) = graph_of(pooled())
    for alone in (graph.inputs[0], graph.outputs[0], mean, copy):
        assert rounded(graph, [alone]) == [alone] and not is_mean(graph, alone, [alone])


def test_the_mean_of_a_map_chooses_the_scale_of_both() -> None:
    """The scale of least error of the codes that occurred, map and mean alike: recomputed by trying a grid of scales."""
    model = pooled()
    graph, (made, mean, _) = graph_of(model)
    random = np.random.default_rng(0)
    data = random.normal(0, 12, (200, SIDE, SIDE, 2)).clip(-128, 127).astype(np.int8)
    data[random.random(data.shape) < 0.02] = 127  # rare, and far above the rest: the mean hardly holds them
    observed = tf_requant.calibrate(model, data)
    target = load_target("nna_sym8_per_channel")
    result = tf_requant.requantize(model, target, calibration=observed, corrections="thresholds")
    plan = result.plan.graphs[0].activations
    assert plan[made].params is plan[mean].params or plan[made].params.identical(plan[mean].params)
    chosen = float(plan[made].params.scale[0]) / 0.05
    values = np.arange(256.0)
    weighed = sum(observed.histograms[t] / observed.histograms[t].sum() for t in (made, mean))
    plain = sum(observed.histograms[t] for t in (made, mean)).astype(float)
    # Only the map may leave what was seen, and by as much as codes that it had once say.
    parts = ((weighed, unseen_share(observed.histograms[made]) / 2), (plain, UNSEEN))
    weighed, plain = (u / 256 + p / p.sum() * (1 - u) for p, u in parts)

    def error(scale: float, p: np.ndarray) -> float:
        return float(((reexpress(values, 1 / scale, -127, 127) * scale - values) ** 2) @ p / p.sum())

    tried = np.linspace(0.6, 1.0, 17) * 255 / 127
    assert error(chosen, weighed) <= 1.02 * min(error(s, weighed) for s in tried)
    assert min(tried, key=lambda s: error(s, weighed)) < min(tried, key=lambda s: error(s, plain))


def test_more_data_leave_less_for_what_never_occurred() -> None:
    few, many = np.array([0, 3, 1, 1, 0]), np.array([0, 3000, 1000, 900, 0])
    assert unseen_share(few) == 0.5 and unseen_share(many) == pytest.approx(1 / 4901)
    assert unseen_share(np.zeros(5, np.int64)) == 1
