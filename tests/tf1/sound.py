"""Nets that have an integer model: one function a net, which returns its output."""

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compat import v1

from tests.tf1.nets import Net


def conv(net: Net, **how: Any) -> Any:
    return net.conv(net.placeholder(), **how)


def conv_space_to_batch(net: Net) -> Any:
    """Dilation as tf.nn.convolution of TF 1 writes it."""
    x = net.placeholder(ranged=True)
    w = net.filter((3, 3, 3, 4), "conv")
    x = tf.space_to_batch(x, [2, 2], [[2, 2], [2, 2]], name="conv/SpaceToBatchND")
    x = tf.nn.conv2d(x, w, 1, "VALID", name="conv/Conv2D")
    return net.finished(v1.batch_to_space_nd(x, [2, 2], [[0, 0], [0, 0]], name="conv/BatchToSpaceND"), 4, "conv")


def depthwise(net: Net, **how: Any) -> Any:
    return net.depthwise(net.placeholder(), **how)


def dense(net: Net, **how: Any) -> Any:
    return net.dense(net.placeholder((None, 12)), **how)


def conv_transpose(net: Net) -> Any:
    x, w = net.placeholder((1, 4, 4, 3), ranged=True), net.filter((3, 3, 5, 3), "up")
    x = tf.nn.conv2d_transpose(x, w, (1, 8, 8, 5), 2, "SAME", name="up/conv2d_transpose")
    return net.finished(x, 5, "up", bias=False, act="")


def residual(net: Net) -> Any:
    x = net.conv(net.placeholder(), name="stem")
    y = net.conv(x, name="branch", act="")
    return net.quantized(v1.add(x, y, name="add"), "post_activation_bypass_quant")


def residual_relu(net: Net) -> Any:
    x = net.conv(net.placeholder(), name="stem", act="")
    y = net.conv(x, name="branch", act="")
    return net.quantized(tf.nn.relu(v1.add(x, y, name="add"), name="add/Relu"), "post_activation_bypass_quant")


def residual_relu6(net: Net) -> Any:
    """A clamp behind an op that has no filter: on a grid where it is saturation, the sum's RELU6 becomes RELU."""
    x = net.conv(net.placeholder(), name="stem", act="")
    y = net.conv(x, name="branch", act="")
    x = net.range_at(tf.nn.relu6(v1.add(x, y, name="add"), name="add/Relu6"), 0.0, 6.0, "add/act_quant")
    return net.conv(x, name="last", act="")


def implied_relu(net: Net) -> Any:
    """A range from zero up behind no rectifier: codes of a signed grid let negative values pass that it did not."""
    x = net.range_at(net.conv(net.placeholder(), name="first", act="", ranged=False), 0.0, 1.0, "first/act_quant")
    return net.conv(x, name="last", act="")


def numbered_pools(net: Net) -> Any:
    """Names that a converter could have made of each other by adding a number."""
    x = net.conv(net.placeholder(), name="first")
    x = tf.nn.avg_pool2d(x, 2, 1, "SAME", name="pool1")
    x = net.conv(x, name="second", act="")
    return net.conv(tf.nn.avg_pool2d(x, 2, 1, "SAME", name="pool"), name="last", act="")


def concat(net: Net) -> Any:
    x = net.placeholder(ranged=True)
    one, other = net.conv(x, name="one"), net.conv(x, name="other", act="", kernel=1)
    return net.conv(net.quantized(tf.concat([one, other], 3, name="concat"), "concat"), name="last")


def max_pool(net: Net) -> Any:
    x = tf.nn.max_pool2d(net.conv(net.placeholder(), name="first"), 2, 2, "SAME", name="pool")
    return net.conv(x, name="last", act="")


def avg_pool(net: Net) -> Any:
    x = tf.nn.avg_pool2d(net.conv(net.placeholder(), name="first"), 8, 8, "VALID", name="pool")
    return net.dense(tf.reshape(x, (-1, 4), name="flat"))


def mean(net: Net) -> Any:
    x = tf.reduce_mean(net.conv(net.placeholder(), name="first"), (1, 2), name="pool")
    return net.dense(x)


def pad(net: Net) -> Any:
    x = v1.pad(net.placeholder(ranged=True), [[0, 0], [1, 1], [1, 1], [0, 0]], name="pad")
    return net.conv(x, padding="VALID", stride=2)


def resize(net: Net) -> Any:
    x = v1.image.resize_bilinear(net.conv(net.placeholder(), name="first"), (16, 16), name="resize")
    return net.conv(x, name="last", act="")


def ending(net: Net, op: str) -> Any:
    x = net.dense(net.placeholder((None, 12)))
    return {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid, "tanh": tf.nn.tanh}[op](x, name=op)


def input_ranged(net: Net) -> Any:
    return net.conv(net.placeholder(ranged=True))


def input_args(net: Net) -> Any:
    """A range in attributes rather than in nodes."""
    x = tf.quantization.fake_quant_with_min_max_args(net.placeholder(), -1.0, 1.0, name="input/act_quant/FakeQuantWithMinMaxArgs")
    return net.conv(x)


def input_unit_range(net: Net) -> Any:
    """The range of most inputs; -1 lies half way between two codes."""
    return net.conv(net.range_at(net.placeholder(), -1.0, 1.0, "input/act_quant"))


def symmetric_range(net: Net) -> Any:
    """A range whose zero lies half way between two codes in the middle of a net."""
    x = net.range_at(net.conv(net.placeholder(), act="", ranged=False), -2.0, 2.0, "conv/act_quant")
    return net.conv(x, name="last")


def shared_filter(net: Net) -> Any:
    x = net.conv(net.placeholder((None, 8, 8, 4)), name="first", norm=False)
    w = net.filter((3, 3, 4, 4), "tied")
    return net.conv(net.conv(x, name="second", w=w), name="third", w=w, act="")


def two_inputs(net: Net) -> Any:
    one = net.conv(net.placeholder(name="left", ranged=True), name="one")
    other = net.conv(net.placeholder(name="right", ranged=True), name="other", act="")
    return net.quantized(v1.add(one, other, name="add"), "sum")


def early_output(net: Net) -> Any:
    """An Identity named as the output that stands before the last FakeQuant."""
    x = net.conv(net.placeholder(), name="first")
    y = net.conv(x, name="last", act="", ranged=False)
    tf.identity(y, name="output")
    return net.quantized(y, "last")


def lone_relu(net: Net) -> Any:
    """A Relu that stands between a FakeQuant and the next layer."""
    x = tf.nn.relu(net.conv(net.placeholder(), name="first", act=""), name="lone")
    return net.conv(x, name="last", act="")


def any_size(net: Net) -> Any:
    net.options["inputs"] = ("input:1x8x8x3",)
    return net.conv(net.placeholder((None, None, None, 3), known=(1, 8, 8, 3)))


def dead_branch(net: Net) -> Any:
    """A layer that nothing fetches beside the one that is, without ranges, as training leaves it."""
    x = net.placeholder()
    tf.nn.conv2d(x, v1.constant(np.ones((1, 1, 3, 2), np.float32)), 1, "SAME", name="left_behind")
    return net.conv(x)


def wide(net: Net) -> Any:
    """Three layers of several channels."""
    x = net.conv(net.placeholder(), 8, "first", norm=True, stride=2)
    x = net.depthwise(x, name="second")
    return net.conv(x, 16, "third", kernel=1, norm=True, act="")


def range_behind_pool(net: Net) -> Any:
    x = tf.nn.max_pool2d(net.conv(net.placeholder(), name="first", ranged=False), 2, 2, "SAME", name="pool")
    return net.conv(net.quantized(x, "pool"), name="last", act="")


NETS = {
    "conv_same": conv,
    "conv_valid": lambda n: conv(n, padding="VALID"),
    "conv_stride": lambda n: conv(n, stride=2),
    "conv_dilated": lambda n: conv(n, dilation=2),
    "conv_space_to_batch": conv_space_to_batch,
    "conv_relu": lambda n: conv(n, act="relu"),
    "conv_linear": lambda n: conv(n, act=""),
    "conv_no_bias": lambda n: conv(n, bias=False),
    "conv_per_channel": lambda n: conv(n, per_channel=True),
    "conv_batch_norm": lambda n: conv(n, norm=True),
    "depthwise": depthwise,
    "depthwise_multiplier": lambda n: depthwise(n, multiplier=2),
    "dense": dense,
    "dense_transposed": lambda n: dense(n, transposed=True),
    "dense_no_bias": lambda n: dense(n, bias=False),
    "conv_transpose": conv_transpose,
    "residual": residual,
    "residual_relu": residual_relu,
    "residual_relu6": residual_relu6,
    "implied_relu": implied_relu,
    "numbered_pools": numbered_pools,
    "concat": concat,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "mean": mean,
    "pad": pad,
    "resize": resize,
    "softmax": lambda n: ending(n, "softmax"),
    "sigmoid": lambda n: ending(n, "sigmoid"),
    "tanh": lambda n: ending(n, "tanh"),
    "input_ranged": input_ranged,
    "input_args": input_args,
    "input_unit_range": input_unit_range,
    "symmetric_range": symmetric_range,
    "shared_filter": shared_filter,
    "two_inputs": two_inputs,
    "early_output": early_output,
    "lone_relu": lone_relu,
    "any_size": any_size,
    "dead_branch": dead_branch,
    "wide": wide,
    "range_behind_pool": range_behind_pool,
}
