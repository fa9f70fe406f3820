"""Random single-op models: every op with random shapes, scales, zero points, options and codes, from one seed.

A case aims its output scale at the spread of the op's results, misses on purpose now and then, and mixes random
inputs with constant ones at the edges of the type.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from tests.builders import DTYPES, Builder, version_of
from tf_requant.model.ops import OPS, Activation, Padding
from tf_requant.model.quant import code_limits

_ACTIVATIONS = (Activation.NONE, Activation.NONE, Activation.RELU, Activation.RELU6, Activation.RELU_N1_TO_1)
_SPREAD = {"uint8": 74.0, "int8": 74.0, "int16": 18900.0}
"""Standard deviation of evenly distributed codes."""


class Draw:
    """One random model in the making.

    Args:
        seed: what everything is drawn from.
        dtype: of the activations.
        power_of_two: whether every scale is a power of two.
        symmetric: whether zero points are 0 (uint8 then has its own anyway).
    """

    def __init__(self, seed: int, dtype: str, power_of_two: bool = False, symmetric: bool = False) -> None:
        self.random = np.random.default_rng(seed)
        self.builder = Builder(seed)
        self.dtype, self.power_of_two, self.symmetric = dtype, power_of_two, symmetric or dtype == "int16"

    def any(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def one(self, options: Sequence[Any]) -> Any:
        return options[self.any(0, len(options) - 1)]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def rounded(self, scale: Any) -> Any:
        return 2.0 ** np.round(np.log2(scale)) if self.power_of_two else np.float32(scale)

    def scale(self) -> float:
        base = {"uint8": -5.0, "int8": -5.0, "int16": -12.0}[self.dtype]
        return float(self.rounded(2.0 ** (base + self.random.uniform(-2, 2))))

    def point(self) -> int:
        low, high = code_limits(self.dtype)
        if self.symmetric:
            return 128 if self.dtype == "uint8" else 0
        return self.one([low, high, 0, self.any(low, high), self.any(low, high)])

    def tensor(self, shape: Sequence[int], scale: float | None = None, point: int | None = None) -> int:
        return self.builder.tensor(shape, self.dtype, scale or self.scale(), self.point() if point is None else point)

    def like(self, shape: Sequence[int], other: int) -> int:
        quant = self.builder.graph.tensors[other].quantization
        return self.builder.tensor(shape, self.dtype, float(quant.scale[0]), int(quant.zeroPoint[0]))

    def scale_of(self, tensor: int) -> Any:
        return self.builder.graph.tensors[tensor].quantization.scale

    def aimed(self, deviation: Any) -> float:
        """An output scale for results of that standard deviation, in real units; every so often far off."""
        miss = 2.0 ** self.random.uniform(-6, 6) if self.chance(0.2) else 2.0 ** self.random.uniform(-0.5, 1.5)
        return float(self.rounded(max(float(np.max(deviation)), 1e-12) / _SPREAD[self.dtype] * miss))

    def filter(self, shape: Sequence[int], axis: int) -> int:
        kind = "uint8" if self.dtype == "uint8" else "int8"
        low, high = code_limits(kind)
        codes = self.random.integers(low, high + 1, shape)
        per_channel = kind == "int8" and self.chance(0.6)
        scale = 2.0 ** self.random.uniform(-9, -5, shape[axis] if per_channel else 1)
        point = 0 if kind == "int8" else self.any(100, 150)
        return self.builder.tensor(shape, kind, self.rounded(scale), point, codes, axis if per_channel else 0)

    def bias(self, data: int, filter_: int, channels: int) -> tuple[int, str]:
        wide = self.dtype == "int16" and self.chance(0.5)
        reach = self.one([100, 5000, 2**20, 2**31 - 1])
        values = self.random.integers(-reach, reach + 1, channels)
        dtype = "int64" if wide else "int32"
        return self.builder.tensor([channels], dtype, self.scale_of(data) * self.scale_of(filter_), 0, values), dtype

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        return self.builder.finish(inputs, outputs)


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
    deviation = d.scale_of(data)[0] * d.scale_of(filter_) * _SPREAD[d.dtype] * 74 * (kh * kw * depth) ** 0.5
    output = d.tensor([batch, *edges, outputs], d.aimed(deviation))
    fields = _typed(fields | {"fusedActivationFunction": d.one(_ACTIVATIONS)}, d.dtype, kind)
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
    deviation = d.scale_of(data)[0] * d.scale_of(filter_) * _SPREAD[d.dtype] * 74 * (kh * kw) ** 0.5
    output = d.tensor([batch, *edges, depth * multiplier], d.aimed(deviation))
    fields |= {"fusedActivationFunction": d.one(_ACTIVATIONS), "depthMultiplier": multiplier}
    version = version_of("DEPTHWISE_CONV_2D", d.dtype)
    d.builder.op("DEPTHWISE_CONV_2D", [data, filter_, bias], [output], "DepthwiseConv2DOptions", version, **fields)
    return d.finish([data], [output])


def connected(d: Draw) -> bytes:
    batch, depth, units = d.any(1, 3), d.any(1, 40), d.any(1, 6)
    data, filter_ = d.tensor([batch, depth]), d.filter([units, depth], 0)
    bias, kind = d.bias(data, filter_, units)
    deviation = d.scale_of(data)[0] * d.scale_of(filter_) * _SPREAD[d.dtype] * 74 * depth**0.5
    output = d.tensor([batch, units], d.aimed(deviation))
    activation = d.one(_ACTIVATIONS)
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
        d.scale_of(data)[0] * d.scale_of(filter_) * _SPREAD[d.dtype] * 74 * (kernel[0] * kernel[1] * depth) ** 0.5
    )
    output = d.tensor([1, *edges, outputs], d.aimed(deviation))
    fields = {"strideH": stride[0], "strideW": stride[1], "padding": padding}
    d.builder.op("TRANSPOSE_CONV", [shape, filter_, data, bias], [output], "TransposeConvOptions", 3, **fields)
    return d.finish([data], [output])


def _shapes(d: Draw) -> tuple[list[int], list[int]]:
    full = [1, d.any(1, 4), d.any(1, 5), d.any(1, 4)]
    other = [n if d.chance(0.7) else 1 for n in full] if d.chance(0.4) else full
    return (full, other) if d.chance(0.5) else (other, full)


def elementwise(code: str) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        shapes = _shapes(d)
        first, second = (d.tensor(s) for s in shapes)
        s = [float(d.scale_of(t)[0]) for t in (first, second)]
        spread = _SPREAD[d.dtype]
        deviation = s[0] * s[1] * spread**2 if code == "MUL" else max(s) * spread
        output = d.tensor(np.broadcast_shapes(*map(tuple, shapes)), d.aimed(deviation))
        fields: dict[str, Any] = {"fusedActivationFunction": d.one(_ACTIVATIONS)}
        if code != "MUL":
            fields["potScaleInt16"] = False
        d.builder.op(
            code, [first, second], [output], f"{code.capitalize()}Options", version_of(code, d.dtype), **fields
        )
        return d.finish([first, second], [output])

    return build


def compared(code: str) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        shapes = _shapes(d)
        first = d.tensor(shapes[0])
        second, output = d.like(shapes[1], first), d.like(np.broadcast_shapes(*map(tuple, shapes)), first)
        d.builder.op(code, [first, second], [output], "MaximumMinimumOptions", version_of(code, d.dtype))
        return d.finish([first, second], [output])

    return build


def pooled(code: str) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        (kh, kw, h, w), fields, edges = _window(d, False)
        batch, depth = d.any(1, 2), d.any(1, 4)
        data = d.tensor([batch, h, w, depth])
        output = d.like([batch, *edges, depth], data)
        fields |= {"filterHeight": kh, "filterWidth": kw, "fusedActivationFunction": d.one(_ACTIVATIONS)}
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
    output = d.like(result, data) if same else d.tensor(result, d.aimed(d.scale_of(data)[0] * _SPREAD[d.dtype]))
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
            output = d.tensor(shape, d.aimed(d.scale_of(data)[0] * _SPREAD[d.dtype]))
        else:
            output = d.like(shape, data)
        drawn = {k: v(d) if callable(v) else v for k, v in fields.items()}
        d.builder.op(code, [data], [output], options, version_of(code, d.dtype), **drawn)
        return d.finish([data], [output])

    return build


def indexed(code: str) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        shape, axis = [d.any(1, 3), d.any(1, 6), d.any(1, 5)], d.any(-2, 2)
        data = d.tensor(shape)
        result = [n for i, n in enumerate(shape) if i != axis % 3]
        output = d.builder.tensor(result, "int64")
        options = "ArgMaxOptions" if code == "ARG_MAX" else "ArgMinOptions"
        number = schema.TensorType.INT64
        d.builder.op(
            code, [data, d.builder.integers([axis])], [output], options, version_of(code, d.dtype), outputType=number
        )
        return d.finish([data], [output])

    return build


def dequantized(d: Draw) -> bytes:
    shape = [1, d.any(1, 40)]
    data, output = d.tensor(shape), d.builder.tensor(shape, "float32")
    d.builder.op("DEQUANTIZE", [data], [output], "DequantizeOptions", version_of("DEQUANTIZE", d.dtype))
    return d.finish([data], [output])


def packed(d: Draw) -> bytes:
    shape, count, axis = [d.any(1, 3), d.any(1, 4)], d.any(1, 3), d.any(-3, 2)
    first = d.tensor(shape)
    tensors = [first, *(d.like(shape, first) for _ in range(count - 1))]
    place = axis % 3
    output = d.like([*shape[:place], count, *shape[place:]], first)
    d.builder.op("PACK", tensors, [output], "PackOptions", version_of("PACK", d.dtype), axis=axis, valuesCount=count)
    return d.finish(tensors, [output])


def padded(d: Draw) -> bytes:
    shape, result, (pads,), _ = _padding(d)
    data = d.tensor(shape)
    quant = d.builder.graph.tensors[data].quantization
    low, high = code_limits(d.dtype)
    value = d.builder.tensor([1], d.dtype, float(quant.scale[0]), int(quant.zeroPoint[0]), [d.any(low, high)])
    output = d.like(result, data)
    d.builder.op(
        "PADV2", [data, d.builder.integers(pads), value], [output], "PadV2Options", version_of("PADV2", d.dtype)
    )
    return d.finish([data], [output])


def prelu(d: Draw) -> bytes:
    shape = [1, d.any(1, 5), d.any(1, 5), d.any(1, 4)]
    data = d.tensor(shape)
    low, high = code_limits(d.dtype)
    codes = d.random.integers(low, high + 1, [1, 1, shape[3]])
    slope = d.builder.tensor(
        [1, 1, shape[3]], d.dtype, float(d.rounded(2.0 ** d.random.uniform(-9, -6))), d.point(), codes
    )
    output = d.tensor(shape, d.aimed(d.scale_of(data)[0] * _SPREAD[d.dtype]))
    d.builder.op("PRELU", [data, slope], [output])
    return d.finish([data], [output])


def requantized(d: Draw) -> bytes:
    shape, other = (
        [1, d.any(1, 200)],
        d.one([t for t in DTYPES if (d.dtype, t) not in (("int16", "uint8"), ("uint8", "int16"))]),
    )
    data = d.tensor(shape)
    target = Draw(d.any(0, 2**31), other, d.power_of_two, d.symmetric)
    output = d.builder.tensor(shape, other, target.aimed(d.scale_of(data)[0] * _SPREAD[d.dtype]), target.point())
    d.builder.op("QUANTIZE", [data], [output], "QuantizeOptions", 2 if "int16" in (other, d.dtype) else 1)
    return d.finish([data], [output])


def concatenated(d: Draw) -> bytes:
    parts, rest = [d.any(1, 4) for _ in range(d.any(1, 3))], [1, d.any(1, 4), d.any(1, 4)]
    output = d.tensor([*rest, sum(parts)])
    mixed = d.dtype == "uint8" and not d.power_of_two
    tensors = [d.tensor([*rest, n]) if mixed and d.chance(0.7) else d.like([*rest, n], output) for n in parts]
    d.builder.op(
        "CONCATENATION", tensors, [output], "ConcatenationOptions", version_of("CONCATENATION", d.dtype), axis=3
    )
    return d.finish(tensors, [output])


def resized(code: str) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        image, size = [d.any(1, 7), d.any(1, 7)], [d.any(1, 12), d.any(1, 12)]
        batch, depth = d.any(1, 2), d.any(1, 3)
        data = d.tensor([batch, *image, depth])
        output = d.like([batch, *size, depth], data)
        align = d.chance(0.3)
        fields = {"alignCorners": align, "halfPixelCenters": not align and d.chance(0.5)}
        options = {
            "RESIZE_BILINEAR": "ResizeBilinearOptions",
            "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
        }[code]
        version = max(version_of(code, d.dtype), 3)
        d.builder.op(code, [data, d.builder.integers(size)], [output], options, version, **fields)
        return d.finish([data], [output])

    return build


def moved(
    code: str,
    options: str,
    draw: Callable[[Draw], tuple[list[int], list[int], list[Any], dict[str, Any]]],
    first: bool = False,
    outputs: int = 1,
) -> Callable[[Draw], bytes]:
    """An op on raw codes: `draw` gives (shape, output shape, constant parameters, options)."""

    def build(d: Draw) -> bytes:
        shape, result, parameters, fields = draw(d)
        data = d.tensor(shape)
        constants = [d.builder.integers(p) for p in parameters]
        results = [d.like(result, data) for _ in range(outputs)]
        inputs = [*constants, data] if first else [data, *constants]
        d.builder.op(code, inputs, results, options, version_of(code, d.dtype), **fields)
        return d.finish([data], results)

    return build


def _padding(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape = [1, d.any(1, 4), d.any(1, 4), d.any(1, 3)]
    pads = [[0, 0], [d.any(0, 3), d.any(0, 3)], [d.any(0, 3), d.any(0, 3)], [d.any(0, 2), d.any(0, 2)]]
    return shape, [n + a + b for n, (a, b) in zip(shape, pads)], [pads], {}


def _mirrored(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape = [1, d.any(2, 5), d.any(2, 5), 2]
    pads = [[0, 0], [d.any(0, 1), d.any(0, 1)], [d.any(0, 1), d.any(0, 1)], [0, 0]]
    return shape, [n + a + b for n, (a, b) in zip(shape, pads)], [pads], {"mode": d.any(0, 1)}


def _transposed(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape, order = [d.any(1, 4) for _ in range(4)], d.random.permutation(4).tolist()
    return shape, [shape[i] for i in order], [order], {}


def _sliced(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape = [d.any(1, 5) for _ in range(4)]
    begin = [d.any(0, n - 1) for n in shape]
    size = [d.any(1, n - b) for n, b in zip(shape, begin)]
    return shape, size, [begin, [-1 if b + s == n and d.chance(0.3) else s for b, s, n in zip(begin, size, shape)]], {}


def _strided(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape = [d.any(2, 6) for _ in range(4)]
    begin, steps = [d.any(0, n - 1) for n in shape], [d.any(1, 2) for _ in shape]
    end = [d.any(b + 1, n) for b, n in zip(begin, shape)]
    fields = {"beginMask": d.any(0, 15), "endMask": d.any(0, 15), "shrinkAxisMask": 0}
    if d.chance(0.4):
        return _signed_stride(d, shape)
    lower = [0 if fields["beginMask"] >> i & 1 else b for i, b in enumerate(begin)]
    upper = [shape[i] if fields["endMask"] >> i & 1 else e for i, e in enumerate(end)]
    return shape, [-(-(u - b) // s) for u, b, s in zip(upper, lower, steps)], [begin, end, steps], fields


def _signed_stride(d: Draw, shape: list[int]) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    """Slices that run backwards, indices from the end, and dimensions of one element that vanish."""
    begin, end, steps, shrunk, result = [], [], [], 0, []
    for axis, edge in enumerate(shape):
        if d.chance(0.3) and shrunk.bit_count() < 2:
            first = d.any(-edge, edge - 1)
            begin, end, steps, shrunk = [*begin, first], [*end, first + 1], [*steps, 1], shrunk | 1 << axis
            continue
        step = d.one([-2, -1, 1])
        first, last = (edge - 1, 0) if step < 0 else (-edge, edge)
        begin, end, steps = [*begin, first], [*end, last], [*steps, step]
        result.append(len(range(edge)[slice(first, last, step)]))
    return shape, result, [begin, end, steps], {"beginMask": 0, "endMask": 0, "shrinkAxisMask": shrunk}


def _tiled(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape, times = [d.any(1, 3) for _ in range(3)], [d.any(1, 3) for _ in range(3)]
    return shape, [n * t for n, t in zip(shape, times)], [times], {}


def _gathered(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape, axis = [d.any(1, 5) for _ in range(3)], d.any(0, 2)
    if d.chance(0.4):
        batch = d.one([1, -1])
        picked = d.random.integers(0, shape[1], (shape[0], d.any(1, 4)))
        return shape, [shape[0], picked.shape[1], shape[2]], [picked], {"axis": 1, "batchDims": batch}
    index = d.random.integers(0, shape[axis], d.any(1, 6))
    return shape, [*shape[:axis], len(index), *shape[axis + 1 :]], [index], {"axis": axis}


def _reshaped(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    a, b, c = d.any(1, 4), d.any(1, 4), d.any(1, 4)
    return [a, b, c], [c, a * b], [[c, -1]], {"newShape": [c, -1]}


def _squeezed(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    n = d.any(2, 4)
    return [1, n, 1, 3], [1, n, 3], [], {"squeezeDims": [2]}


Build = Callable[[Draw], bytes]
CASES: dict[str, Build] = {
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": depthwise,
    "FULLY_CONNECTED": connected,
    "TRANSPOSE_CONV": transposed,
    **{code: elementwise(code) for code in ("ADD", "SUB", "MUL")},
    **{code: compared(code) for code in ("MAXIMUM", "MINIMUM")},
    **{code: pooled(code) for code in ("AVERAGE_POOL_2D", "MAX_POOL_2D")},
    "MEAN": mean,
    "PRELU": prelu,
    "QUANTIZE": requantized,
    "CONCATENATION": concatenated,
    **{code: mapped(code) for code in ("LOGISTIC", "TANH")},
    "SOFTMAX": mapped("SOFTMAX", "SoftmaxOptions", beta=lambda d: d.one([0.3, 1.0, 1.0, 2.0])),
    "HARD_SWISH": mapped("HARD_SWISH"),
    "LEAKY_RELU": mapped(
        "LEAKY_RELU",
        "LeakyReluOptions",
        alpha=lambda d: d.one([0.5, 0.25] if d.power_of_two else [0.1, 0.2, -0.3, 1.7, 0.5]),
    ),
    **{code: mapped(code) for code in ("RELU", "RELU6", "RELU_N1_TO_1")},
    **{code: resized(code) for code in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")},
    "PADV2": padded,
    "PACK": packed,
    "DEQUANTIZE": dequantized,
    **{code: indexed(code) for code in ("ARG_MAX", "ARG_MIN")},
    "PAD": moved("PAD", "PadOptions", _padding),
    "MIRROR_PAD": moved("MIRROR_PAD", "MirrorPadOptions", _mirrored),
    "TRANSPOSE": moved("TRANSPOSE", "TransposeOptions", _transposed),
    "SLICE": moved("SLICE", "SliceOptions", _sliced),
    "STRIDED_SLICE": moved("STRIDED_SLICE", "StridedSliceOptions", _strided),
    "TILE": moved("TILE", "TileOptions", _tiled),
    "GATHER": moved("GATHER", "GatherOptions", _gathered),
    "RESHAPE": moved("RESHAPE", "ReshapeOptions", _reshaped),
    "SQUEEZE": moved("SQUEEZE", "SqueezeOptions", _squeezed),
    "EXPAND_DIMS": moved("EXPAND_DIMS", "ExpandDimsOptions", lambda d: ([2, 3], [2, 1, 3], [[1]], {})),
    "SPLIT": moved("SPLIT", "SplitOptions", lambda d: ([2, 6, 3], [2, 2, 3], [[1]], {"numSplits": 3}), True, 3),
    "SPLIT_V": moved(
        "SPLIT_V", "SplitVOptions", lambda d: ([2, 6, 3], [2, 2, 3], [[2, -1, 2], [1]], {"numSplits": 3}), False, 3
    ),
    "UNPACK": moved("UNPACK", "UnpackOptions", lambda d: ([2, 3, 4], [2, 4], [], {"num": 3, "axis": 1}), False, 3),
    "DEPTH_TO_SPACE": moved(
        "DEPTH_TO_SPACE", "DepthToSpaceOptions", lambda d: ([1, 2, 3, 8], [1, 4, 6, 2], [], {"blockSize": 2})
    ),
    "SPACE_TO_DEPTH": moved(
        "SPACE_TO_DEPTH", "SpaceToDepthOptions", lambda d: ([1, 4, 6, 2], [1, 2, 3, 8], [], {"blockSize": 2})
    ),
    "SPACE_TO_BATCH_ND": moved(
        "SPACE_TO_BATCH_ND",
        "SpaceToBatchNDOptions",
        lambda d: ([1, 3, 6, 2], [6, 2, 2, 2], [[2, 3], [[0, 1], [0, 0]]], {}),
    ),
    "BATCH_TO_SPACE_ND": moved(
        "BATCH_TO_SPACE_ND",
        "BatchToSpaceNDOptions",
        lambda d: ([6, 2, 2, 2], [1, 3, 6, 2], [[2, 3], [[0, 1], [0, 0]]], {}),
    ),
    "REVERSE_V2": moved("REVERSE_V2", "ReverseV2Options", lambda d: ([2, 3, 4], [2, 3, 4], [[1]], {})),
    "REDUCE_MAX": moved("REDUCE_MAX", "ReducerOptions", lambda d: ([2, 3, 4], [2, 4], [[1]], {"keepDims": False})),
    "REDUCE_MIN": moved("REDUCE_MIN", "ReducerOptions", lambda d: ([2, 3, 4], [2, 1, 4], [[1]], {"keepDims": True})),
}
"""TFLite's op name -> a random model of it."""


def random_inputs(seed: int, tensors: Sequence[Any]) -> list[NDArray[Any]]:
    """Codes for some input tensors: mostly random, now and then all at one edge of the type or on one value."""
    random = np.random.default_rng(seed + 1)
    result = []
    for tensor in tensors:
        low, high = code_limits(tensor.dtype)
        kind = random.integers(6)
        if kind < 3:
            codes = random.integers(low, high + 1, tensor.shape)
        elif kind == 3:
            codes = random.choice([low, high], tensor.shape)
        else:
            codes = np.full(tensor.shape, [low, high, random.integers(low, high + 1)][random.integers(3)])
        result.append(codes.astype(tensor.dtype))
    return result
