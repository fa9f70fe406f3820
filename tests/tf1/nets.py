"""Small TF1 graphs trained for quantization, built in code as contrib.quantize writes them, and how to run them.

Needs TensorFlow: import it behind `pytest.importorskip("tensorflow")`. `build(name)` makes one net of `SOUND` or `UNSOUND`;
ranges are those of the graph's own values on random inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compat import v1

INPUT_STATS = (128.0, 128.0)
"""A mean that is a code, so that graph and file mean the same by an input."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A frozen graph: its GraphDef, and the shapes that its placeholders are fed with."""

    graph_def: Any
    shapes: dict[str, tuple[int, ...]]
    output: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.graph_def.SerializeToString()


class Net:
    """A graph in the making.

    Args:
        seed: what constants and the inputs that ranges are taken from are drawn from.
    """

    def __init__(self, seed: int = 0) -> None:
        self.random, self.graph, self.feeds = np.random.default_rng(seed), v1.Graph(), {}
        self.options: dict[str, Any] = {}

    def placeholder(self, shape=(None, 8, 8, 3), name="input", ranged=False, known=(1, 8, 8, 3)) -> Any:
        made = v1.placeholder(tf.float32, shape, name=name)
        fed = tuple(known) if None in shape[1:] else (1, *shape[1:])
        self.feeds[name] = self.random.uniform(-1, 127 / 128, (shape[0] or 8, *fed[1:])).astype(np.float32)
        return self.quantized(made, name) if ranged else made

    def values_of(self, tensor: Any) -> np.ndarray:
        with v1.Session(graph=self.graph) as session:
            return session.run(tensor, {f"{n}:0": x for n, x in self.feeds.items()})

    def range_at(self, x: Any, low: float, high: float, name: str, narrow=False, bits=8) -> Any:
        ends = v1.constant(low, tf.float32, name=f"{name}/min"), v1.constant(high, tf.float32, name=f"{name}/max")
        return tf.quantization.fake_quant_with_min_max_vars(
            x, *ends, num_bits=bits, narrow_range=narrow, name=f"{name}/FakeQuantWithMinMaxVars"
        )

    def quantized(self, x: Any, name: str, bits=8) -> Any:
        seen = self.values_of(x)
        return self.range_at(x, min(seen.min(), 0.0), max(seen.max(), 0.01), f"{name}/act_quant", bits=bits)

    def filter(self, shape, name: str, gains=None, per_channel=False) -> Any:
        """A filter out of its FakeQuant; with gains, folded as contrib.quantize folds batch norm."""
        fan_in = int(np.prod(shape[:-1]))
        held = self.random.normal(0, 1 / np.sqrt(fan_in), shape).astype(np.float32)
        weights = v1.identity(v1.constant(held, name=f"{name}/weights"), name=f"{name}/weights/read")
        if gains is not None:
            weights = v1.multiply(weights, gains, name=f"{name}/mul_fold")
            held = self.values_of(weights)
        stem = f"{name}/weights_quant"
        if per_channel:
            top = np.abs(held).reshape(-1, shape[-1]).max(0)
            ends = v1.constant(-top, name=f"{stem}/min"), v1.constant(top, name=f"{stem}/max")
            return tf.quantization.fake_quant_with_min_max_vars_per_channel(
                weights, *ends, narrow_range=True, name=f"{stem}/FakeQuantWithMinMaxVarsPerChannel"
            )
        return self.range_at(weights, held.min() * 1.05, held.max(), stem, narrow=True)

    def folded(self, channels: int, name: str) -> tuple[Any, Any]:
        """Gains and biases of a batch norm, as expressions: gamma * rsqrt(variance + epsilon), beta - mean * gain."""
        draw = {k: self.random.uniform(a, b, channels).astype(np.float32) for k, a, b in
                (("gamma", 0.5, 1.5), ("beta", -0.3, 0.3), ("moving_mean", -0.2, 0.2), ("moving_variance", 0.3, 2))}  # fmt: skip
        parts = {k: v1.identity(v1.constant(v, name=f"{name}/{k}"), name=f"{name}/{k}/read") for k, v in draw.items()}
        gain = v1.multiply(v1.rsqrt(parts["moving_variance"] + 1e-3), parts["gamma"], name=f"{name}/gain")
        return gain, v1.subtract(parts["beta"], parts["moving_mean"] * gain, name=f"{name}/bias")

    def finished(self, x: Any, channels: int, name: str, bias=True, act="relu6", fold=None, ranged=True) -> Any:
        if fold is not None:
            x = v1.add(x, fold, name=f"{name}/add_fold")
        elif bias:
            held = v1.constant(self.random.uniform(-0.3, 0.3, channels).astype(np.float32), name=f"{name}/biases")
            x = v1.nn.bias_add(x, v1.identity(held, name=f"{name}/biases/read"), name=f"{name}/BiasAdd")
        x = {"relu": tf.nn.relu, "relu6": tf.nn.relu6}[act](x, name=f"{name}/{act}") if act else x
        return self.quantized(x, name) if ranged else x

    def conv(self, x, channels=4, name="conv", kernel=3, stride=1, padding="SAME", dilation=1, w=None, norm=False,
             per_channel=False, **end) -> Any:  # fmt: skip
        gains, fold = self.folded(channels, f"{name}/BatchNorm") if norm else (None, None)
        if w is None:
            w = self.filter((kernel, kernel, x.shape[3], channels), name, gains, per_channel)
        x = tf.nn.conv2d(x, w, stride, padding, dilations=dilation, name=f"{name}/Conv2D")
        return self.finished(x, channels, name, fold=fold, **end)

    def depthwise(self, x, multiplier=1, name="depthwise", stride=1, per_channel=False, **end) -> Any:
        w = self.filter((3, 3, x.shape[3], multiplier), name, per_channel=per_channel)
        x = tf.nn.depthwise_conv2d(x, w, (1, stride, stride, 1), "SAME", name=f"{name}/depthwise")
        return self.finished(x, x.shape[3], name, **end)

    def dense(self, x, units=5, name="dense", transposed=False, act="", **end) -> Any:
        size = x.shape[1]
        w = self.filter((units, size) if transposed else (size, units), name)
        x = v1.matmul(x, w, transpose_b=transposed, name=f"{name}/MatMul")
        return self.finished(x, units, name, act=act, **end)

    def made(self, output: Any) -> Graph:
        shapes = {name: (1, *x.shape[1:]) for name, x in self.feeds.items()}
        return Graph(self.graph.as_graph_def(), shapes, output.op.name if hasattr(output, "op") else output, self.options)


def run_graph(content: bytes, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """A GraphDef's values, one sample a run, in a v1 session."""
    graph_def, graph = v1.GraphDef(), v1.Graph()
    graph_def.ParseFromString(content)
    with graph.as_default():
        v1.import_graph_def(graph_def, name="")
        with v1.Session(graph=graph) as session:
            count = len(next(iter(feeds.values())))
            runs = [
                session.run([f"{o}:0" for o in outputs], {f"{n}:0": x[i : i + 1] for n, x in feeds.items()})
                for i in range(count)
            ]
    return [np.concatenate(parts) for parts in zip(*runs)]


def build(name: str) -> Graph:
    """The named net."""
    from tests.tf1 import sound, unsound

    make: Callable[[Net], Any] = {**sound.NETS, **unsound.NETS}[name]
    net = Net(seed=len(name))
    with net.graph.as_default():
        return net.made(make(net))
