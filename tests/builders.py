"""Small valid quantized TFLite models, built in code: one function an op, the same bytes for the same seed.

Every function returns the file's bytes. `dtype` is the type of the activations: uint8, int8 or int16; filters
and biases follow it. A `Builder` makes anything else, and `edited` changes what was built.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tf_requant.model.ops import OPS, Activation, Padding
from tf_requant.model.quant import code_limits

DTYPES = ("uint8", "int8", "int16")
_DEFAULT_POINT = {"uint8": 128, "int8": 0, "int16": 0}
_DEFAULT_SCALE = {"uint8": 0.05, "int8": 0.05, "int16": 0.05 / 256}
_PLACEHOLDER = 127


class Builder:
    """Collects tensors and ops of one graph, then packs them.

    Args:
        seed: what random constants are drawn from.
    """

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self.model.subgraphs, self.model.description = [self.graph], "tests/builders.py"
        self.graph.name, self.graph.tensors, self.graph.operators = "main", [], []

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "int8",
        scale: float | Sequence[float] | None = None,
        zero_point: int | Sequence[int] = 0,
        data: Any = None,
        axis: int = 0,
        name: str | None = None,
    ) -> int:
        """Adds a tensor, a constant where there is data, and returns its index; without a scale it is plain."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name or f"tensor_{len(self.graph.tensors)}", list(shape)
        tensor.type, tensor.buffer = getattr(schema.TensorType, dtype.upper()), 0
        if scale is not None:
            quant = tensor.quantization = schema.QuantizationParametersT()
            quant.scale = np.atleast_1d(np.float32(scale))
            quant.zeroPoint = np.broadcast_to(np.int64(zero_point), quant.scale.shape).copy()
            quant.quantizedDimension = axis
        if data is not None:
            array = np.asarray(data, dtype).reshape(shape)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(schema.BufferT())
            self.model.buffers[-1].data = np.frombuffer(array.tobytes(), np.uint8)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def activation(self, shape: Sequence[int], dtype: str, scale: float | None = None, zero_point: int | None = None) -> int:
        """Adds a quantized activation with everyday parameters, or with these."""
        point = _DEFAULT_POINT[dtype] if zero_point is None else zero_point
        return self.tensor(shape, dtype, scale or _DEFAULT_SCALE[dtype], point)

    def integers(self, values: Any, dtype: str = "int32") -> int:
        """Adds a constant parameter: an axis, a shape, paddings."""
        array = np.asarray(values, dtype)
        return self.tensor(array.shape, dtype, data=array)

    def filter(self, shape: Sequence[int], dtype: str, axis: int | None = None) -> int:
        """Adds random weights for activations of a type; one scale a channel where there is an axis."""
        kind = "uint8" if dtype == "uint8" else "int8"
        low, high = code_limits(kind, narrow=True)
        codes = self.random.integers(low, high + 1, shape)
        scale: Any = 0.02 if axis is None else self.random.uniform(0.005, 0.04, shape[axis])
        return self.tensor(shape, kind, scale, 120 if kind == "uint8" else 0, codes, axis or 0)

    def bias(self, data: int, filters: int, channels: int, dtype: str) -> int:
        """Adds a random bias at scale s_data * s_filter."""
        scales = [self.graph.tensors[t].quantization.scale for t in (data, filters)]
        values = self.random.integers(-500, 500, channels)
        return self.tensor([channels], "int64" if dtype == "int16" else "int32", scales[0] * scales[1], 0, values)

    def op(
        self, code: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", version: int = 1, **fields: Any
    ) -> None:  # fmt: skip
        """Adds an op; options are a table of the schema, fields in its object API's spelling."""
        number = getattr(schema.BuiltinOperator, code)
        codes = [(c.builtinCode, c.version) for c in self.model.operatorCodes]
        if (number, version) not in codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = number, min(number, _PLACEHOLDER), version
            self.model.operatorCodes.append(entry)
            codes.append((number, version))
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = codes.index((number, version)), list(inputs), list(outputs)
        if options:
            op.builtinOptionsType, op.builtinOptions = getattr(schema.BuiltinOptions, options), getattr(schema, options + "T")()
            for name, value in fields.items():
                assert hasattr(op.builtinOptions, name), name
                setattr(op.builtinOptions, name, value)
        self.graph.operators.append(op)

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """Packs the graph between these inputs and outputs."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        return pack(self.model)


def pack(model: Any) -> bytes:
    """The file of a `ModelT`."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def edited(content: bytes, change: Callable[[Any], None]) -> bytes:
    """The file after a change to its `ModelT`."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    return pack(model)


def version_of(code: str, dtype: str) -> int:
    """The op version for a type of activations."""
    return OPS[code].versions[DTYPES.index(dtype)] or 1


def _edge(size: int, window: int, stride: int, dilation: int, padding: Padding) -> int:
    reach = (window - 1) * dilation + 1
    return -(-size // stride) if padding == Padding.SAME else (size - reach) // stride + 1


def _output_scale(dtype: str, taps: int) -> float:
    """What keeps the sums of random taps inside the type's range."""
    return _DEFAULT_SCALE[dtype] * 0.7 * taps**0.5


def conv2d(
    dtype: str = "int8", *, per_channel: bool = False, padding: Padding = Padding.SAME, stride: int = 1, dilation: int = 1,
    activation: Activation = Activation.NONE, size: int = 8, channels: int = 4, filters: int = 6, window: int = 3, seed: int = 0,
) -> bytes:  # fmt: skip
    """CONV_2D of [1, size, size, channels] with `filters` windows."""
    b, edge = Builder(seed), _edge(size, window, stride, dilation, padding)
    data = b.activation([1, size, size, channels], dtype)
    weights = b.filter([filters, window, window, channels], dtype, 0 if per_channel else None)
    bias = b.bias(data, weights, filters, dtype)
    output = b.activation([1, edge, edge, filters], dtype, _output_scale(dtype, window * window * channels))
    fields = {"strideW": stride, "strideH": stride, "dilationWFactor": dilation, "dilationHFactor": dilation}
    fields |= {"padding": padding, "fusedActivationFunction": activation}
    b.op("CONV_2D", [data, weights, bias], [output], "Conv2DOptions", version_of("CONV_2D", dtype), **fields)
    return b.finish([data], [output])


def depthwise(
    dtype: str = "int8", *, per_channel: bool = False, padding: Padding = Padding.SAME, stride: int = 1, dilation: int = 1,
    activation: Activation = Activation.NONE, size: int = 8, channels: int = 4, multiplier: int = 1, window: int = 3,
    seed: int = 0,
) -> bytes:  # fmt: skip
    """DEPTHWISE_CONV_2D of [1, size, size, channels]."""
    b, edge, filters = Builder(seed), _edge(size, window, stride, dilation, padding), channels * multiplier
    data = b.activation([1, size, size, channels], dtype)
    weights = b.filter([1, window, window, filters], dtype, 3 if per_channel else None)
    bias = b.bias(data, weights, filters, dtype)
    output = b.activation([1, edge, edge, filters], dtype, _output_scale(dtype, window * window))
    fields = {"strideW": stride, "strideH": stride, "dilationWFactor": dilation, "dilationHFactor": dilation}
    fields |= {"padding": padding, "fusedActivationFunction": activation, "depthMultiplier": multiplier}
    version = version_of("DEPTHWISE_CONV_2D", dtype)
    b.op("DEPTHWISE_CONV_2D", [data, weights, bias], [output], "DepthwiseConv2DOptions", version, **fields)
    return b.finish([data], [output])


def fully_connected(
    dtype: str = "int8", *, per_channel: bool = False, bias: bool = True, activation: Activation = Activation.NONE,
    batch: int = 2, depth: int = 12, units: int = 5, keep_num_dims: bool = False, seed: int = 0,
) -> bytes:  # fmt: skip
    """FULLY_CONNECTED of [batch, depth]."""
    b = Builder(seed)
    data, weights = b.activation([batch, depth], dtype), b.filter([units, depth], dtype, 0 if per_channel else None)
    inputs = [data, weights] + ([b.bias(data, weights, units, dtype)] if bias else [-1])
    output = b.activation([batch, units], dtype, _output_scale(dtype, depth))
    fields = {"fusedActivationFunction": activation, "keepNumDims": keep_num_dims}
    b.op("FULLY_CONNECTED", inputs, [output], "FullyConnectedOptions", version_of("FULLY_CONNECTED", dtype), **fields)
    return b.finish([data], [output])


def transpose_conv(
    dtype: str = "int8", *, per_channel: bool = False, padding: Padding = Padding.SAME, stride: int = 2, size: int = 4,
    channels: int = 4, filters: int = 6, window: int = 3, seed: int = 0,
) -> bytes:  # fmt: skip
    """TRANSPOSE_CONV of [1, size, size, channels] with a bias."""
    b = Builder(seed)
    edge = size * stride if padding == Padding.SAME else (size - 1) * stride + window
    shape = b.integers([1, edge, edge, filters])
    data = b.activation([1, size, size, channels], dtype)
    weights = b.filter([filters, window, window, channels], dtype, 0 if per_channel else None)
    bias = b.bias(data, weights, filters, dtype)
    output = b.activation([1, edge, edge, filters], dtype, _output_scale(dtype, window * window * channels))
    fields = {"strideW": stride, "strideH": stride, "padding": padding}
    b.op("TRANSPOSE_CONV", [shape, weights, data, bias], [output], "TransposeConvOptions", 3, **fields)
    return b.finish([data], [output])


def binary(
    code: str, dtype: str = "int8", *, shapes: tuple[Sequence[int], Sequence[int]] = ((1, 4, 4, 3), (1, 4, 4, 3)),
    activation: Activation = Activation.NONE, scales: Sequence[float] = (1.0, 0.7, 1.3),
) -> bytes:  # fmt: skip
    """ADD, SUB, MUL, MAXIMUM or MINIMUM; scales of first, second and output in the everyday scale."""
    b, compares = Builder(), code in ("MAXIMUM", "MINIMUM")
    first, second, output = (
        b.activation(shape, dtype, _DEFAULT_SCALE[dtype] * (1.0 if compares else scale))
        for shape, scale in zip((*shapes, np.broadcast_shapes(*map(tuple, shapes))), scales)
    )
    fields: dict[str, Any] = {} if compares else {"fusedActivationFunction": activation}
    if code in ("ADD", "SUB"):
        fields["potScaleInt16"] = False
    options = "MaximumMinimumOptions" if compares else f"{code.capitalize()}Options"
    b.op(code, [first, second], [output], options, version_of(code, dtype), **fields)
    return b.finish([first, second], [output])


def pool(
    code: str = "AVERAGE_POOL_2D", dtype: str = "int8", *, padding: Padding = Padding.VALID, stride: int = 2, window: int = 2,
    size: int = 8, channels: int = 3, activation: Activation = Activation.NONE,
) -> bytes:  # fmt: skip
    """AVERAGE_POOL_2D or MAX_POOL_2D."""
    b, edge = Builder(), _edge(size, window, stride, 1, padding)
    data, output = b.activation([1, size, size, channels], dtype), b.activation([1, edge, edge, channels], dtype)
    fields = {"strideW": stride, "strideH": stride, "filterWidth": window, "filterHeight": window, "padding": padding}
    b.op(code, [data], [output], "Pool2DOptions", version_of(code, dtype), fusedActivationFunction=activation, **fields)
    return b.finish([data], [output])


def unary(code: str, dtype: str = "int8", *, shape: Sequence[int] = (1, 12), options: str = "", **fields: Any) -> bytes:
    """An op of one input and the same shape; the output's parameters are those that the kernel dictates, if any."""
    b, fixed = Builder(), OPS[code].fixed_params(dtype)
    data = b.activation(shape, dtype)
    output = b.activation(shape, dtype, *(fixed or ()))
    b.op(code, [data], [output], options, version_of(code, dtype), **fields)
    return b.finish([data], [output])


def move(
    code: str, output_shape: Sequence[int], *parameters: Any, dtype: str = "int8", shape: Sequence[int] = (1, 4, 6, 3),
    options: str = "", first: bool = False, outputs: int = 1, **fields: Any,
) -> bytes:  # fmt: skip
    """An op on raw codes with constant parameters behind (or, `first`, before) the data; equal scales throughout."""
    b = Builder()
    data = b.activation(shape, dtype)
    constants = [b.integers(p) for p in parameters]
    results = [b.activation(output_shape, dtype) for _ in range(outputs)]
    inputs = [*constants, data] if first else [data, *constants]
    b.op(code, inputs, results, options, version_of(code, dtype), **fields)
    return b.finish([data], results)


def concatenation(
    dtype: str = "int8", *, axis: int = -1, parts: Sequence[int] = (2, 3), scales: Sequence[float] = (1, 1, 1)
) -> bytes:  # fmt: skip
    """CONCATENATION of [1, 4, 4, part] tensors along the last axis; the last scale is the output's."""
    b = Builder()
    sizes = (*parts, sum(parts))
    tensors = [b.activation([1, 4, 4, n], dtype, _DEFAULT_SCALE[dtype] * s) for n, s in zip(sizes, scales)]
    b.op("CONCATENATION", tensors[:-1], tensors[-1:], "ConcatenationOptions", version_of("CONCATENATION", dtype), axis=axis)
    return b.finish(tensors[:-1], tensors[-1:])


def small_net(dtype: str = "int8", *, per_channel: bool | None = None, seed: int = 0) -> bytes:
    """Conv, depthwise, residual ADD, AVERAGE_POOL_2D, RESHAPE, FULLY_CONNECTED and SOFTMAX on [1, 8, 8, 3]."""
    b = Builder(seed)
    scale, wide = _DEFAULT_SCALE[dtype], _output_scale(dtype, 27)
    per_channel = dtype != "uint8" if per_channel is None else per_channel
    axes = (0, 3) if per_channel else (None, None)
    x, conv, spread = (b.activation([1, 8, 8, c], dtype, s) for c, s in ((3, scale), (4, wide), (4, wide * 2)))
    total, pooled, flat = (b.activation(s, dtype, wide * 2) for s in ([1, 8, 8, 4], [1, 4, 4, 4], [1, 64]))
    logits = b.activation([1, 5], dtype, wide * 8)
    result = b.activation([1, 5], dtype, *(OPS["SOFTMAX"].fixed_params(dtype) or ()))
    step = {"strideW": 1, "strideH": 1, "fusedActivationFunction": Activation.RELU6}
    for code, data, out, shape, axis, options, extra in (
        ("CONV_2D", x, conv, [4, 3, 3, 3], axes[0], "Conv2DOptions", step),
        ("DEPTHWISE_CONV_2D", conv, spread, [1, 3, 3, 4], axes[1], "DepthwiseConv2DOptions", step | {"depthMultiplier": 1}),
    ):
        weights = b.filter(shape, dtype, axis)
        b.op(code, [data, weights, b.bias(data, weights, 4, dtype)], [out], options, version_of(code, dtype), **extra)
    b.op("ADD", [conv, spread], [total], "AddOptions", version_of("ADD", dtype), potScaleInt16=False)
    window = {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2, "padding": Padding.VALID}
    b.op("AVERAGE_POOL_2D", [total], [pooled], "Pool2DOptions", version_of("AVERAGE_POOL_2D", dtype), **window)
    b.op("RESHAPE", [pooled, b.integers([1, prod([4, 4, 4])])], [flat], "ReshapeOptions", newShape=[1, 64])
    weights = b.filter([5, 64], dtype)
    version = version_of("FULLY_CONNECTED", dtype)
    b.op("FULLY_CONNECTED", [flat, weights, b.bias(flat, weights, 5, dtype)], [logits], "FullyConnectedOptions", version)
    b.op("SOFTMAX", [logits], [result], "SoftmaxOptions", version_of("SOFTMAX", dtype), beta=1.0)
    return b.finish([x], [result])
