"""A quantized graph as a differentiable function of its filters and biases.

Real numbers take the place of codes, and every activation is rounded to its grid, so that the rounding that the device does is
seen; gradients pass through the rounding (a straight-through estimate) and stop where a code saturates. It is a stand-in for
training alone: what training finds is run by the simulator, bit for bit, before anything is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_requant.errors import UnsupportedModelError, UsageError
from tf_requant.model.geometry import dilations, strides
from tf_requant.model.graph import Graph, Op, Tensor
from tf_requant.model.ops import Activation, Padding, fused_activation

_BIASED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
Reals = Mapping[int, Any]
"""TensorFlow tensors, float32, by tensor index."""


def tensorflow() -> Any:
    """TensorFlow, imported now.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import tensorflow
    except ImportError as error:
        raise UsageError("training needs TensorFlow: pip install 'tf_requant[tensorflow]'") from error
    return tensorflow


class Network:
    """One run of one sample: real inputs to real scores.

    Args:
        graph: a quantized graph with static shapes.
        wanted: the tensors that are computed, and what they need.

    Raises:
        UnsupportedModelError: an op that has no derivative here.
    """

    def __init__(self, graph: Graph, wanted: Sequence[int]) -> None:
        self._tf = tensorflow()
        self.graph, self.wanted = graph, tuple(wanted)
        needed, waiting = set(), [t for t in wanted]
        while waiting:
            producer = graph.producers.get(waiting.pop())
            if producer is not None and producer not in needed:
                needed.add(producer)
                waiting += [t for t in graph.ops[producer].inputs if t >= 0]
        self.ops = sorted(needed)
        strange = sorted({graph.ops[i].name for i in self.ops if graph.ops[i].code not in _KERNELS})
        problems = [f"of {', '.join(strange)}"] if strange else []
        problems += [] if strange else [f"of {graph.where(i)}, {why}" for i in self.ops if (why := _beyond(graph, graph.ops[i]))]
        problems += [] if self.wanted else ["where no score is computed in integers"]
        if problems:
            raise UnsupportedModelError("\n".join(f"training knows no gradient {p}: choose without it" for p in problems))

    def __call__(self, inputs: Reals, filters: Reals, biases: Reals) -> list[Any]:
        """The wanted tensors.

        Args:
            inputs: the graph's, by tensor index.
            filters: by op index, in the file's layout; the file's own where there is none.
            biases: likewise.
        """
        values: dict[int, Any] = dict(inputs)
        for index in self.ops:
            op = self.graph.ops[index]
            replaced = {1: filters.get(index), _bias_at(op): biases.get(index)}
            arrays = [self._read(values, t) if replaced.get(p) is None else replaced[p] for p, t in enumerate(op.inputs)]
            outputs = _KERNELS[op.code](self._tf, self.graph, op, arrays)
            if "fused_activation_function" in op.attrs:
                outputs = _activated(self._tf, fused_activation(op), outputs)
            tensor = self.graph.tensors[op.outputs[0]]
            values[op.outputs[0]] = self._on_grid(tensor, self._tf.reshape(outputs, tensor.shape))
        return [values[t] for t in self.wanted]

    def _read(self, values: Reals, tensor: int) -> Any:
        if tensor < 0:
            return None
        held = self.graph.tensors[tensor]
        return values[tensor] if held.data is None else constant(held)

    def _on_grid(self, tensor: Tensor, reals: Any) -> Any:
        """Rounded to the tensor's codes."""
        if not tensor.is_activation or tensor.quant is None:
            return reals
        low, high = tensor.limits
        scale, zero_point = float(tensor.quant.scale[0]), float(tensor.quant.zero_point[0])
        return straight_through(self._tf, reals / scale, low - zero_point, high - zero_point) * scale


def _beyond(graph: Graph, op: Op) -> str:
    """What of an op TensorFlow's kernels on processors do not do; empty for nothing."""
    shapes = [graph.tensors[t].shape for t in (*op.inputs[:2], *op.outputs) if t >= 0]
    if op.code == "CONV_2D" and shapes[1][3] != shapes[0][3]:
        return "whose filter is grouped"
    if op.code == "DEPTHWISE_CONV_2D":
        (rows, columns), spread = strides(op), dilations(op)
        return "of these strides" if rows != columns or (spread != (1, 1) and rows != 1) else ""
    return ""


def straight_through(tf: Any, values: Any, low: Any, high: Any) -> Any:
    """Rounded and saturated, with the gradient of the saturation alone (Bengio et al., arXiv 1308.3432)."""
    held = tf.clip_by_value(values, low, high)
    return held + tf.stop_gradient(tf.round(held) - held)


def constant(tensor: Tensor) -> Any:
    """A constant's real values, float32; of what is no code, its values."""
    assert tensor.data is not None
    if not tensor.is_quantized or tensor.quant is None:
        return tensor.data
    scale, zero_point = tensor.quant.along(len(tensor.shape))
    return ((tensor.data.astype(np.float64) - zero_point) * scale).astype(np.float32)


def _bias_at(op: Op) -> int:
    return 2 if op.code in _BIASED else -1


def _activated(tf: Any, activation: Activation, values: Any) -> Any:
    if activation is Activation.RELU:
        return tf.nn.relu(values)
    if activation is Activation.RELU6:
        return tf.nn.relu6(values)
    if activation is Activation.RELU_N1_TO_1:
        return tf.clip_by_value(values, -1.0, 1.0)
    return tf.tanh(values) if activation is Activation.TANH else values


def _window(op: Op) -> dict[str, Any]:
    return {"padding": Padding(op.attrs["padding"]).name}


def _conv(tf: Any, graph: Graph, op: Op, arrays: list[Any]) -> Any:
    x, w = arrays[:2]
    y = tf.nn.conv2d(x, tf.transpose(w, (1, 2, 3, 0)), strides(op), **_window(op), dilations=dilations(op))
    return _with_bias(arrays, y)


def _depthwise(tf: Any, graph: Graph, op: Op, arrays: list[Any]) -> Any:
    (rows, columns), spread = strides(op), dilations(op)
    x, w = arrays[:2]
    kernel = tf.reshape(w, (*w.shape[1:3], x.shape[3], -1))
    return _with_bias(arrays, tf.nn.depthwise_conv2d(x, kernel, (1, rows, columns, 1), **_window(op), dilations=spread))


def _dense(tf: Any, graph: Graph, op: Op, arrays: list[Any]) -> Any:
    x, w = arrays[:2]
    return _with_bias(arrays, tf.matmul(tf.reshape(x, (-1, w.shape[1])), w, transpose_b=True))


def _with_bias(arrays: list[Any], y: Any) -> Any:
    return y if len(arrays) < 3 or arrays[2] is None else y + arrays[2]


def _pool(kind: str) -> Callable[..., Any]:
    def run(tf: Any, graph: Graph, op: Op, arrays: list[Any]) -> Any:
        size = int(op.attrs["filter_height"]), int(op.attrs["filter_width"])
        pooled = tf.nn.avg_pool2d if kind == "average" else tf.nn.max_pool2d
        return pooled(arrays[0], size, strides(op), **_window(op))

    return run


def _mean(tf: Any, graph: Graph, op: Op, arrays: list[Any]) -> Any:
    return tf.reduce_mean(arrays[0], axis=[int(a) for a in np.ravel(arrays[1])])


def _elementwise(function: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    return lambda tf, graph, op, arrays: function(tf, arrays[0], arrays[1])


def _unary(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda tf, graph, op, arrays: function(tf, arrays[0])


def _pad(tf: Any, graph: Graph, op: Op, arrays: list[Any]) -> Any:
    return tf.pad(arrays[0], np.asarray(arrays[1], np.int32))


def _gather(tf: Any, graph: Graph, op: Op, arrays: list[Any]) -> Any:
    return tf.gather(*arrays[:2], axis=int(op.attrs.get("axis", 0)), batch_dims=int(op.attrs.get("batch_dims", 0)))


_KERNELS: dict[str, Callable[..., Any]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "AVERAGE_POOL_2D": _pool("average"),
    "MAX_POOL_2D": _pool("max"),
    "MEAN": _mean,
    "ADD": _elementwise(lambda tf, a, b: a + b),
    "SUB": _elementwise(lambda tf, a, b: a - b),
    "MUL": _elementwise(lambda tf, a, b: a * b),
    "CONCATENATION": lambda tf, graph, op, arrays: tf.concat(arrays, int(op.attrs["axis"])),
    "PAD": _pad,
    "GATHER": _gather,
    "RELU": _unary(lambda tf, x: tf.nn.relu(x)),
    "RELU6": _unary(lambda tf, x: tf.nn.relu6(x)),
    "LOGISTIC": _unary(lambda tf, x: tf.sigmoid(x)),
    "TANH": _unary(lambda tf, x: tf.tanh(x)),
    "HARD_SWISH": _unary(lambda tf, x: x * tf.nn.relu6(x + 3.0) / 6.0),
} | dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "QUANTIZE", "DEQUANTIZE"), _unary(lambda tf, x: x))
"""Each gives its first output in reals, of the output's shape or one that is as long."""
