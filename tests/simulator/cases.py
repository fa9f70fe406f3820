"""Random single-op models: every op with random shapes, scales, zero points, options and codes, from one seed.

A case aims its output scale at the spread of the op's results, misses on purpose now and then, and mixes random
inputs with constant ones at the edges of the type.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.builders import DTYPES, version_of
from tests.simulator.cases_moves import MOVES
from tests.simulator.draw import ACTIVATIONS, SPREAD, Build, Draw, shapes_of
from tf_requant.model.ops import OPS, Padding
from tf_requant.model.quant import code_limits


def _typed(fields: dict[str, Any], dtype: str, bias: str) -> dict[str, Any]:
    """An int16 layer with an int32 bias says so, or the kernel reads it as int64."""
    return fields | ({"quantizedBiasType": schema.TensorType.INT32} if dtype == "int16" and bias == "int32" else {})


def _window(d: Draw, dilated: bool) -> tuple[list[int], dict[str, Any], list[int]]:
    """(kernel, options, output edges) that fit an image drawn along."""
    kernel, stride = [d.any(1, 4), d.any(1, 4)], [d.any(1, 3), d.any(1, 3)]
    dilation = [d.any(1, 3), d.any(1, 3)] if dilated and stride == [1, 1] else [1, 1]
    reach = [(k - 1) * f + 1 for k, f in zip(kernel, dilation)]
    padding = d.one([Padding.SAME, Padding.VALID])
    image = [r + d.any(0, 6) if padding == Padding.VALID else d.any(1, 9) for r in reach]
    edges = [-(-n // s) if padding == Padding.SAME else (n - r) // s + 1 for n, r, s in zip(image, reach, stride)]
    fields = {"strideH": stride[0], "strideW": stride[1], "padding": padding}
    if dilated:
        fields |= {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
    return [*kernel, *image], fields, edges


def conv(d: Draw) -> bytes:
    (kh, kw, h, w), fields, edges = _window(d, True)
    groups = d.any(2, 3) if d.dtype != "int16" and d.chance(0.15) else 1
    depth, outputs, batch = d.any(1, 5), d.any(1, 5) * groups, d.any(1, 2)
    data, filter_ = d.tensor([batch, h, w, depth * groups]), d.filter([outputs, kh, kw, depth], 0)
    bias, kind = d.bias(data, filter_, outputs)
    deviation = d.scale_of(data)[0] * d.scale_of(filter_) * SPREAD[d.dtype] * 74 * (kh * kw * depth) ** 0.5
    output = d.tensor([batch, *edges, outputs], d.aimed(deviation))
    fields = _typed(fields | {"fusedActivationFunction": d.one(ACTIVATIONS)}, d.dtype, kind)
    d.builder.op("CONV_2D", [data, filter_, bias], [output], "Conv2DOptions", version_of("CONV_2D", d.dtype), **fields)
    return d.finish([data], [output])


def depthwise(d: Draw) -> bytes:
    (kh, kw, h, w), fields, edges = _window(d, True)
    depth, multiplier, batch = d.any(1, 6), d.any(1, 3), d.any(1, 2)
    data, filter_ = d.tensor([batch, h, w, depth]), d.filter([1, kh, kw, depth * multiplier], 3)
    bias, _ = d.bias(data, filter_, depth * multiplier)
    if d.dtype == "int16":  # the kernel takes no other
        bias = d.builder.tensor(
            [depth * multiplier], "int64", d.scale_of(bias), 0, d.random.integers(-(2**20), 2**20, depth * multiplier)
        )
    deviation = d.scale_of(data)[0] * d.scale_of(filter_) * SPREAD[d.dtype] * 74 * (kh * kw) ** 0.5
    output = d.tensor([batch, *edges, depth * multiplier], d.aimed(deviation))
    fields |= {"fusedActivationFunction": d.one(ACTIVATIONS), "depthMultiplier": multiplier}
    version = version_of("DEPTHWISE_CONV_2D", d.dtype)
    d.builder.op("DEPTHWISE_CONV_2D", [data, filter_, bias], [output], "DepthwiseConv2DOptions", version, **fields)
    return d.finish([data], [output])


def connected(d: Draw) -> bytes:
    batch, depth, units = d.any(1, 3), d.any(1, 40), d.any(1, 6)
    data, filter_ = d.tensor([batch, depth]), d.filter([units, depth], 0)
    bias, kind = d.bias(data, filter_, units)
    deviation = d.scale_of(data)[0] * d.scale_of(filter_) * SPREAD[d.dtype] * 74 * depth**0.5
    output = d.tensor([batch, units], d.aimed(deviation))
    activation = d.one(ACTIVATIONS)
    fields = _typed({"fusedActivationFunction": activation}, d.dtype, kind)
    version = version_of("FULLY_CONNECTED", d.dtype)
    d.builder.op("FULLY_CONNECTED", [data, filter_, bias], [output], "FullyConnectedOptions", version, **fields)
    return d.finish([data], [output])


def transposed(d: Draw) -> bytes:
    kernel, stride, image = ([d.any(1, n), d.any(1, n)] for n in (4, 3, 5))
    padding = d.one([Padding.SAME, Padding.VALID])
    edges = [n * s if padding == Padding.SAME else (n - 1) * s + max(k, s) for n, s, k in zip(image, stride, kernel)]
    depth, outputs = d.any(1, 4), d.any(1, 4)
    shape = d.builder.integers([1, *edges, outputs])
    data, filter_ = d.tensor([1, *image, depth]), d.filter([outputs, *kernel, depth], 0)
    bias, _ = d.bias(data, filter_, outputs)
    if d.dtype == "int16":
        bias = d.builder.tensor([outputs], "int64", d.scale_of(bias), 0, d.random.integers(-(2**20), 2**20, outputs))
    deviation = (
        d.scale_of(data)[0] * d.scale_of(filter_) * SPREAD[d.dtype] * 74 * (kernel[0] * kernel[1] * depth) ** 0.5
    )
    output = d.tensor([1, *edges, outputs], d.aimed(deviation))
    fields = {"strideH": stride[0], "strideW": stride[1], "padding": padding}
    d.builder.op("TRANSPOSE_CONV", [shape, filter_, data, bias], [output], "TransposeConvOptions", 3, **fields)
    return d.finish([data], [output])


def elementwise(code: str) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        shapes = shapes_of(d)
        first, second = (d.tensor(s) for s in shapes)
        s = [float(d.scale_of(t)[0]) for t in (first, second)]
        spread = SPREAD[d.dtype]
        deviation = s[0] * s[1] * spread**2 if code == "MUL" else max(s) * spread
        output = d.tensor(np.broadcast_shapes(*map(tuple, shapes)), d.aimed(deviation))
        fields: dict[str, Any] = {"fusedActivationFunction": d.one(ACTIVATIONS)}
        if code != "MUL":
            fields["potScaleInt16"] = False
        d.builder.op(
            code, [first, second], [output], f"{code.capitalize()}Options", version_of(code, d.dtype), **fields
        )
        return d.finish([first, second], [output])

    return build


def pooled(code: str) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        (kh, kw, h, w), fields, edges = _window(d, False)
        batch, depth = d.any(1, 2), d.any(1, 4)
        data = d.tensor([batch, h, w, depth])
        output = d.like([batch, *edges, depth], data)
        fields |= {"filterHeight": kh, "filterWidth": kw, "fusedActivationFunction": d.one(ACTIVATIONS)}
        d.builder.op(code, [data], [output], "Pool2DOptions", version_of(code, d.dtype), **fields)
        return d.finish([data], [output])

    return build


def mean(d: Draw) -> bytes:
    shape = [d.any(1, 3), d.any(1, 9), d.any(1, 9), d.any(1, 4)]
    axes = sorted(set(d.random.choice(4, d.any(1, 3)).tolist()))
    keep = d.chance(0.5)
    data = d.tensor(shape)
    result = [1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes]
    same = d.chance(0.4)
    output = d.like(result, data) if same else d.tensor(result, d.aimed(d.scale_of(data)[0] * SPREAD[d.dtype]))
    d.builder.op(
        "MEAN", [data, d.builder.integers(axes)], [output], "ReducerOptions", version_of("MEAN", d.dtype), keepDims=keep
    )
    return d.finish([data], [output])


def mapped(code: str, options: str = "", requantizes: bool = True, **fields: Any) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        shape = [1, d.any(1, 40), d.any(1, 8)]
        data = d.tensor(shape)
        fixed = OPS[code].fixed_params(d.dtype)
        if fixed:
            output = d.tensor(shape, *fixed)
        elif requantizes:
            output = d.tensor(shape, d.aimed(d.scale_of(data)[0] * SPREAD[d.dtype]))
        else:
            output = d.like(shape, data)
        drawn = {k: v(d) if callable(v) else v for k, v in fields.items()}
        d.builder.op(code, [data], [output], options, version_of(code, d.dtype), **drawn)
        return d.finish([data], [output])

    return build


def dequantized(d: Draw) -> bytes:
    shape = [1, d.any(1, 40)]
    data, output = d.tensor(shape), d.builder.tensor(shape, "float32")
    d.builder.op("DEQUANTIZE", [data], [output], "DequantizeOptions", version_of("DEQUANTIZE", d.dtype))
    return d.finish([data], [output])


def prelu(d: Draw) -> bytes:
    shape = [1, d.any(1, 5), d.any(1, 5), d.any(1, 4)]
    data = d.tensor(shape)
    low, high = code_limits(d.dtype)
    codes = d.random.integers(low, high + 1, [1, 1, shape[3]])
    slope = d.builder.tensor(
        [1, 1, shape[3]], d.dtype, float(d.rounded(2.0 ** d.random.uniform(-9, -6))), d.point(), codes
    )
    output = d.tensor(shape, d.aimed(d.scale_of(data)[0] * SPREAD[d.dtype]))
    d.builder.op("PRELU", [data, slope], [output])
    return d.finish([data], [output])


def requantized(d: Draw) -> bytes:
    shape, other = (
        [1, d.any(1, 200)],
        d.one([t for t in DTYPES if (d.dtype, t) not in (("int16", "uint8"), ("uint8", "int16"))]),
    )
    data = d.tensor(shape)
    target = Draw(d.any(0, 2**31), other, d.power_of_two, d.symmetric)
    output = d.builder.tensor(shape, other, target.aimed(d.scale_of(data)[0] * SPREAD[d.dtype]), target.point())
    d.builder.op("QUANTIZE", [data], [output], "QuantizeOptions", 2 if "int16" in (other, d.dtype) else 1)
    return d.finish([data], [output])


CASES: dict[str, Build] = {
    **MOVES,
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": depthwise,
    "FULLY_CONNECTED": connected,
    "TRANSPOSE_CONV": transposed,
    **{code: elementwise(code) for code in ("ADD", "SUB", "MUL")},
    **{code: pooled(code) for code in ("AVERAGE_POOL_2D", "MAX_POOL_2D")},
    "MEAN": mean,
    "PRELU": prelu,
    "QUANTIZE": requantized,
    **{code: mapped(code) for code in ("LOGISTIC", "TANH")},
    "SOFTMAX": mapped("SOFTMAX", "SoftmaxOptions", beta=lambda d: d.one([0.3, 1.0, 1.0, 2.0])),
    "HARD_SWISH": mapped("HARD_SWISH"),
    "LEAKY_RELU": mapped(
        "LEAKY_RELU",
        "LeakyReluOptions",
        alpha=lambda d: d.one([0.5, 0.25] if d.power_of_two else [0.1, 0.2, -0.3, 1.7, 0.5]),
    ),
    **{code: mapped(code) for code in ("RELU", "RELU6", "RELU_N1_TO_1")},
    "DEQUANTIZE": dequantized,
}
"""TFLite's op name -> a random model of it."""
