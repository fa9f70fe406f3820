"""Factors pass where the function is by channel, and stop where it is not; noise is carried back by channels."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tf_requant
from tests.builders import Builder, version_of
from tf_requant.calibration.statistics import Calibration
from tf_requant.corrections.channels import ChannelClass, channel_classes, channel_powers, sensitivities
from tf_requant.corrections.splitting import observed_of, split
from tf_requant.io.tflite import read
from tf_requant.model.graph import Model
from tf_requant.model.ops import Activation, Padding
from tf_requant.planning.planner import plan_model

CONV = {"strideW": 1, "strideH": 1, "padding": Padding.SAME}


def layer(b: Builder, code: str, data: int, shape: list[int], output: list[int], activation: Activation = Activation.NONE) -> int:
    """A filter with one scale and a bias; returns its output."""
    dense, deep = code == "FULLY_CONNECTED", code == "DEPTHWISE_CONV_2D"
    weights = b.filter(shape, "int8")
    out = b.activation(output, "int8", 0.4, -128 if activation is Activation.RELU else None)
    fields: dict[str, Any] = {"fusedActivationFunction": activation}
    fields |= {} if dense else CONV | ({"depthMultiplier": 1} if deep else {})
    options = "FullyConnectedOptions" if dense else "DepthwiseConv2DOptions" if deep else "Conv2DOptions"
    bias = b.bias(data, weights, output[-1], "int8")
    b.op(code, [data, weights, bias], [out], options, version_of(code, "int8"), **fields)
    return out


def block(between: str = "") -> tuple[Model, dict[str, int]]:
    """Conv, conv, their sum, what is asked for, the mean and a dense layer; the names of its tensors."""
    b = Builder()
    x = b.activation([1, 4, 6, 3], "int8")
    first = layer(b, "CONV_2D", x, [6, 3, 3, 3], [1, 4, 6, 6], Activation.RELU)
    second = layer(b, "DEPTHWISE_CONV_2D", first, [1, 3, 3, 6], [1, 4, 6, 6])
    total = b.activation([1, 4, 6, 6], "int8", 0.6)
    added = b.tensor([6], "int8", 0.1, 0, np.arange(6)) if between == "CONSTANT" else second
    b.op("ADD", [first, added], [total], "AddOptions", 2, potScaleInt16=False)
    outputs, axes = [], [1, 2]
    if between == "CONSTANT":
        outputs = [second]
    if between == "LOGISTIC":
        gate = b.activation([1, 4, 6, 6], "int8", 1 / 256, -128)
        b.op("LOGISTIC", [total], [gate])
        outputs = [gate]
    if between == "OUTPUT":
        outputs = [total]
    if between == "MEAN":
        axes = [1, 3]
    if between == "BOTH":  # a place of the sum reaches the end by a share of the mean and by itself
        outputs = [layer(b, "CONV_2D", total, [2, 1, 1, 6], [1, 4, 6, 2])]
    if between == "FLAT":  # a channel of the map is not an input of the dense layer
        return read(b.finish([x], [layer(b, "FULLY_CONNECTED", total, [5, 144], [1, 5])])), {"total": total}
    mean = b.activation([1, 6], "int8", 0.6)
    b.op("MEAN", [total, b.integers(axes)], [mean], "ReducerOptions", 2, keepDims=False)
    end = layer(b, "FULLY_CONNECTED", mean, [5, 6], [1, 5])
    return read(b.finish([x], [end, *outputs])), {"first": first, "second": second, "total": total, "mean": mean}


def classes(model: Model) -> list[ChannelClass]:
    return list(channel_classes(model.main, plan_model(model, tf_requant.load_target("nna_sym8")).graphs[0]))


def test_a_sum_and_a_mean_tie_what_they_read_and_write() -> None:
    model, names = block()
    (found,) = classes(model)
    assert found.tensors == tuple(sorted(names.values()))
    assert found.writers == (0, 1) and found.readers == (1, 4)  # the second convolution reads and writes the class


@pytest.mark.parametrize("between", ["LOGISTIC", "OUTPUT", "CONSTANT", "MEAN", "FLAT"])
def test_what_anything_else_sees_keeps_its_values(between: str) -> None:
    """A nonlinear op, an output, a constant addend, a mean over channels of a shape that hides it."""
    model, names = block(between)
    assert not any(names["total"] in found.tensors for found in classes(model))


def test_noise_is_carried_back_by_the_squares_of_the_weights() -> None:
    model, names = block()
    graph = model.main
    ones = {t: np.ones((graph.tensors[t].shape[-1], 2), np.int64) for t in names.values()}
    flat = {t: np.ones(256, np.int64) for t in names.values()}
    noise = {t: 1.0 for t in (*names.values(), *graph.outputs)}
    found = sensitivities(graph, Calibration("", {}, flat, noise, ones))
    dense, deep = (np.asarray(graph.tensors[graph.ops[i].inputs[1]].steps(), np.float64) for i in (4, 1))
    behind = (dense**2).sum(axis=0)
    np.testing.assert_allclose(found[names["mean"]] / found[names["mean"]].sum(), behind / behind.sum())
    np.testing.assert_allclose(found[names["total"]] / found[names["total"]].sum(), behind / behind.sum())
    # The first is read by the sum, and by a filter whose output is; both tensors' sums are what was measured.
    own, scale = found[names["total"]], model.main.tensors[graph.ops[1].inputs[1]].quant
    assert scale is not None
    through = (deep[0] ** 2).sum(axis=(0, 1)) * float(scale.scale[0]) ** 2 * found[names["second"]]
    np.testing.assert_allclose(found[names["first"]] / found[names["first"]].sum(), (own + through) / (own + through).sum())
    for tensor in names.values():
        held = graph.tensors[tensor].quant
        assert held is not None
        assert found[tensor].sum() == pytest.approx(1 / float(held.scale[0]) ** 2)


def test_copies_of_channels_take_the_factors_of_their_originals() -> None:
    model, names = block()
    divided = split(model, {4: (1, 4, 4)})
    (found,) = classes(divided)
    copied = len(model.main.tensors) + 1
    assert found.tensors == tuple(sorted(names.values())) and found.readers == (1, 5)
    assert found.of(names["mean"], np.arange(6.0)).tolist() == [0, 1, 2, 3, 4, 5]
    assert found.of(copied, np.arange(6.0)).tolist() == [0, 1, 2, 3, 4, 5, 1, 4, 4]
    noise = {t: 1.0 for t in (*names.values(), *model.main.outputs)}
    flat = {t: np.ones(256, np.int64) for t in names.values()}
    ones = {t: np.ones((model.main.tensors[t].shape[-1], 2), np.int64) for t in names.values()}
    measured = sensitivities(divided.main, observed_of(Calibration("", {}, flat, noise, ones), model, divided))
    behind = np.bincount([0, 1, 2, 3, 4, 5, 1, 4, 4], measured[copied])
    np.testing.assert_allclose(measured[names["mean"]] / measured[names["mean"]].sum(), behind / behind.sum())


@pytest.mark.parametrize("changed", [{"axis": 0}, {"batch_dims": 1}, {"output": True}, {"read by": "ADD"}])
def test_other_gathers_let_no_factor_through(changed: dict[str, Any]) -> None:
    model, names = block()
    graph = split(model, {4: (1,)}).main
    gather, dense = graph.ops[4:6]
    if "output" in changed:
        graph = graph.with_(outputs=(*graph.outputs, gather.outputs[0]))
    elif "read by" in changed:
        graph = graph.with_(ops=(*graph.ops, dense.with_(code="ADD", inputs=gather.outputs * 2, outputs=gather.outputs, attrs={})))
    else:
        graph = graph.with_(ops=(*graph.ops[:4], gather.with_(attrs={**gather.attrs, **changed}), dense))
    plan = plan_model(model.with_(graphs=(graph,)), tf_requant.load_target("nna_sym8")).graphs[0]
    assert not any(names["mean"] in found.tensors for found in channel_classes(graph, plan))


def test_the_noise_of_a_mean_is_that_of_a_place_over_how_many_there_are() -> None:
    model, names = block("BOTH")
    graph, total = model.main, names["total"]
    noise = {t: 1.0 for t in (*names.values(), *graph.outputs)}
    found = sensitivities(graph, Calibration("", {}, {}, noise, {}))
    reader = next(op for op in graph.ops if op.inputs[0] == total and op.code == "CONV_2D")
    weights = graph.tensors[reader.inputs[1]]
    assert weights.quant is not None
    real = np.asarray(weights.steps(), np.float64).reshape(2, 6) * float(weights.quant.scale[0])
    wanted = found[names["mean"]] / 24 + (real**2 * found[reader.outputs[0]][:, None]).sum(axis=0)
    np.testing.assert_allclose(found[total] / found[total].sum(), wanted / wanted.sum())


def test_a_dead_channel_has_no_say() -> None:
    model, names = block()
    peaks = {t: np.ones((6, 2), np.int64) for t in names.values()}
    peaks[names["total"]][2] = 0
    found = sensitivities(model.main, Calibration("", {}, {}, {}, peaks))
    assert found[names["total"]][2] == 0 and (np.delete(found[names["total"]], 2) > 0).all()


def test_a_channel_has_the_histograms_power_by_its_peak() -> None:
    model, names = block()
    tensor = names["total"]
    quant = model.main.tensors[tensor].quant
    assert quant is not None
    counts = np.zeros(256, np.int64)
    counts[128 + int(quant.zero_point[0]) + 10] = 5  # ten steps above zero, always
    held = Calibration("", {}, {tensor: counts}, {}, {tensor: np.array([[1], [2], [2], [1], [1], [1]])})
    found = channel_powers(model.main, held, tensor)
    assert found.mean() == pytest.approx((10 * float(quant.scale[0])) ** 2)
    np.testing.assert_allclose(found / found[0], [1, 4, 4, 1, 1, 1])
    assert np.ptp(channel_powers(model.main, replace(held, peaks={}), tensor)) == 0
