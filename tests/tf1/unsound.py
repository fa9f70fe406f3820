"""Nets that have no integer model, and what the refusal has to name: one function a net."""

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compat import v1

from tests.tf1.nets import Net


def dropout(net: Net) -> Any:
    x = net.conv(net.placeholder(), name="first")
    return net.conv(v1.nn.dropout(x, rate=0.5, name="dropout"), name="last")


def no_kernel(net: Net) -> Any:
    x = tf.math.lgamma(net.conv(net.placeholder(), name="first"), name="gamma")
    return net.conv(net.range_at(x, 0.0, 6.0, "gamma/act_quant"), name="last")


def no_range(net: Net) -> Any:
    return net.conv(net.conv(net.placeholder(), name="first", ranged=False), name="last")


def no_range_at_the_end(net: Net) -> Any:
    return net.conv(net.conv(net.placeholder(), name="first"), name="last", ranged=False)


def bare_filter(net: Net) -> Any:
    w = v1.constant(np.ones((3, 3, 3, 4), np.float32), name="conv/weights")
    return net.conv(net.placeholder(ranged=True), w=w)


def nothing_ranged(net: Net) -> Any:
    w = v1.constant(np.ones((3, 3, 3, 4), np.float32), name="conv/weights")
    return net.conv(net.placeholder(), w=w, ranged=False)


def four_bits(net: Net) -> Any:
    return net.quantized(net.conv(net.placeholder(), ranged=False), "conv", bits=4)


def norm_left(net: Net) -> Any:
    x = net.conv(net.placeholder(), bias=False, act="", ranged=False)
    ones, noughts = np.ones(4, np.float32), np.zeros(4, np.float32)
    x = v1.nn.fused_batch_norm(x, ones, noughts, noughts, ones, is_training=False, name="norm")[0]
    return net.quantized(x, "norm")


def norm_trains(net: Net) -> Any:
    x = net.conv(net.placeholder(), bias=False, act="", ranged=False)
    x = v1.nn.fused_batch_norm(x, np.ones(4, np.float32), np.zeros(4, np.float32), is_training=True, name="norm")[0]
    return net.quantized(x, "norm")


def lopsided_channels(net: Net) -> Any:
    held = np.random.default_rng(1).normal(size=(3, 3, 3, 4)).astype(np.float32)
    w = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        held, np.full(4, -1, np.float32), np.full(4, 3, np.float32), narrow_range=True, name="lopsided"
    )
    return net.conv(net.placeholder(), w=w)


def any_size(net: Net) -> Any:
    return net.conv(net.placeholder((None, None, None, 3), known=(1, 8, 8, 3)))


def two_ends(net: Net) -> Any:
    x = net.conv(net.placeholder(), name="first")
    net.conv(x, name="one")
    return net.conv(x, name="other")


def variable(net: Net) -> Any:
    held = v1.get_variable("conv/weights", (3, 3, 3, 4), use_resource=False)
    net.values_of = lambda _: np.float32([-1, 1])  # it has no value
    return net.conv(net.placeholder(), w=net.range_at(held, -1.0, 1.0, "conv/weights_quant", narrow=True))


def branches(net: Net) -> Any:
    x = net.conv(net.placeholder(), name="first")
    off, on = v1.raw_ops.Switch(data=x, pred=v1.constant(True), name="switch")
    return net.conv(v1.raw_ops.Merge(inputs=[off, on], name="merge")[0], name="last")


def empty_range(net: Net) -> Any:
    return net.range_at(net.conv(net.placeholder(), ranged=False), 0.0, 0.0, "conv/act_quant")


def inverted_range(net: Net) -> Any:
    return net.range_at(net.conv(net.placeholder(), ranged=False), 1.0, -1.0, "conv/act_quant")


def nan_range(net: Net) -> Any:
    return net.range_at(net.conv(net.placeholder(), ranged=False), 0.0, float("nan"), "conv/act_quant")


def nan_filter(net: Net) -> Any:
    held = v1.constant(np.full((3, 3, 3, 4), np.nan, np.float32), name="conv/weights")
    return net.range_at(
        net.conv(net.placeholder(), w=net.range_at(held, -1.0, 1.0, "conv/weights_quant", narrow=True), ranged=False),
        0.0, 1.0, "conv/act_quant",
    )  # fmt: skip


def fed_range(net: Net) -> Any:
    """A range that is an input itself."""
    net.feeds["top"] = np.float32([1.0])
    top = v1.placeholder(tf.float32, (), name="top")
    x = net.conv(net.placeholder(), ranged=False)
    return tf.quantization.fake_quant_with_min_max_vars(x, 0.0, top, name="conv/act_quant")


NETS = {
    name: made
    for name, made in list(globals().items())
    if callable(made) and getattr(made, "__module__", "") == __name__
}  # fmt: skip
NETS["unknown_size"] = NETS.pop("any_size")

NAMED = {
    "dropout": "dropout/random_uniform",
    "no_kernel": "gamma",
    "no_range": "first/Conv2D",
    "no_range_at_the_end": "last/Conv2D",
    "bare_filter": "conv/Conv2D",
    "nothing_ranged": "no FakeQuant",
    "four_bits": "conv/act_quant/FakeQuantWithMinMaxVars",
    "norm_left": "norm",
    "norm_trains": "norm",
    "lopsided_channels": "lopsided",
    "unknown_size": "--inputs=input:1x224x224x3",
    "two_ends": "one/act_quant/FakeQuantWithMinMaxVars, other/act_quant/FakeQuantWithMinMaxVars",
    "variable": "conv/weights",
    "branches": "switch",
    "empty_range": "conv/act_quant/FakeQuantWithMinMaxVars",
    "inverted_range": "conv/act_quant/FakeQuantWithMinMaxVars",
    "nan_range": "conv/act_quant/FakeQuantWithMinMaxVars",
    "nan_filter": "conv/weights_quant/FakeQuantWithMinMaxVars",
    "fed_range": "conv/act_quant",
}
