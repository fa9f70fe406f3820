"""Layers with a filter as matrices: groups of output channels that see the same inputs.

CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED are all y[g, o] = sum_k w[g, o, k] x[g, k] + b: one group for a dense
layer, one an input channel for a depthwise one, and k runs over taps, then the group's input channels. Every method
that looks at a layer's inputs is written once, in this form.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry, dilations, strides
from tf_requant.model.graph import Graph, Op
from tf_requant.model.ops import Padding

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Ops of that form."""


def has_filter(graph: Graph, index: int) -> bool:
    """Whether an op is one of `LAYERS` whose filter is a quantized constant."""
    op = graph.ops[index]
    if op.code not in LAYERS:
        return False
    x, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    return weights.data is not None and weights.quant is not None and x.quant is not None


def grouped(op: Op, values: NDArray[Any], inputs: int) -> NDArray[Any]:
    """A filter, [O, kh, kw, I], [1, kh, kw, C * m] or [O, K], as [groups, outputs a group, taps * inputs a group].

    Args:
        op: the layer.
        values: its filter, in codes or reals.
        inputs: channels of its input.
    """
    if op.code == "DEPTHWISE_CONV_2D":
        return values.reshape(values.shape[1] * values.shape[2], inputs, -1).transpose(1, 2, 0)
    depth = values.shape[-1] if op.code == "CONV_2D" else inputs
    groups = inputs // depth
    return values.reshape(groups, values.shape[0] // groups, -1)


def ungrouped(op: Op, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of `grouped`: a filter in its file's order."""
    if op.code == "DEPTHWISE_CONV_2D":
        return np.ascontiguousarray(values.transpose(2, 0, 1)).reshape(shape)
    return np.ascontiguousarray(values).reshape(shape)


def input_channels(graph: Graph, op: Op) -> int:
    """Channels of a layer's input: of FULLY_CONNECTED, what one output sums over."""
    weights = graph.tensors[op.inputs[1]].shape
    return int(weights[1] if op.code == "FULLY_CONNECTED" else graph.tensors[op.inputs[0]].shape[3])


def rows(graph: Graph, op: Op, codes: NDArray[Any], most: int) -> NDArray[np.float32]:
    """What a layer's filter sees at some places of its window, evenly spaced, the border included.

    Args:
        graph: the graph around the op.
        op: one of `LAYERS`.
        codes: its input, [N, H, W, C] or [..., K].
        most: about how many places of each image.

    Returns:
        float32[groups, places, taps * inputs a group], code minus zero point, a copy.
    """
    point, shape = _zero_point(graph, op), graph.tensors[op.inputs[1]].shape
    if op.code == "FULLY_CONNECTED":
        found = codes.reshape(-1, shape[1])
        return np.asarray(found[:: max(1, found.shape[0] // most)][None] - np.float32(point), np.float32)
    windows = np.concatenate([_some(w, most) for w in _windows(op, codes, shape, point)])
    groups = codes.shape[3] if op.code == "DEPTHWISE_CONV_2D" else codes.shape[3] // shape[3]
    parts = windows.reshape(windows.shape[0], shape[1] * shape[2], groups, -1).transpose(2, 0, 1, 3)
    return np.asarray(parts.reshape(groups, windows.shape[0], -1) - np.float32(point), np.float32)


def tap_means(graph: Graph, op: Op, codes: NDArray[Any]) -> NDArray[np.float64]:
    """What each tap of a layer's filter sees on average over all places of its window, the border included.

    Args:
        graph: the graph around the op.
        op: one of `LAYERS`.
        codes: its input, [N, H, W, C] or [..., K].

    Returns:
        float64[groups, taps * inputs a group], code minus zero point.
    """
    point, shape = _zero_point(graph, op), graph.tensors[op.inputs[1]].shape
    if op.code == "FULLY_CONNECTED":
        return np.asarray(codes.reshape(-1, shape[1]).mean(axis=0, dtype=np.float64)[None] - point)
    taps = [
        [
            w[:, :, i, j].sum(axis=(0, 1), dtype=np.int64) / (w.shape[0] * w.shape[1])
            for i in range(shape[1])
            for j in range(shape[2])
        ]
        for w in _windows(op, codes, shape, point)
    ]
    means = np.mean(taps, axis=0) - point
    groups = codes.shape[3] if op.code == "DEPTHWISE_CONV_2D" else codes.shape[3] // shape[3]
    return np.asarray(means.reshape(len(means), groups, -1).transpose(1, 0, 2).reshape(groups, -1))


def _zero_point(graph: Graph, op: Op) -> int:
    quant = graph.tensors[op.inputs[0]].quant
    return 0 if quant is None else int(quant.zero_point[0])


def _windows(op: Op, codes: NDArray[Any], shape: tuple[int, ...], point: int) -> list[NDArray[Any]]:
    """Of each image, every window as a view [rows, columns, kernel rows, kernel columns, C]."""
    geometry = Geometry.of(
        (codes.shape[1], codes.shape[2]), (shape[1], shape[2]), strides(op), dilations(op), Padding(op.attrs["padding"])
    )
    return [geometry.windows(geometry.pad(image, point, image.dtype)) for image in codes]


def _some(windows: NDArray[Any], most: int) -> NDArray[Any]:
    """Evenly spaced windows of an image, [places, kernel rows, kernel columns, C]: a lattice that starts inside."""
    height, width = windows.shape[:2]
    step = max(1, int(np.ceil(np.sqrt(height * width / most))))
    found = windows[min((step - 1) // 2, height - 1) :: step, min(step // 2, width - 1) :: step]
    return found.reshape(-1, *found.shape[2:])


def per_input(graph: Graph, op: Op, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """One value an input channel, float64[C], as it applies to a grouped filter or to rows: [groups, 1, K or 1]."""
    if op.code == "DEPTHWISE_CONV_2D":
        return values[:, None, None]
    if op.code == "FULLY_CONNECTED":
        return values[None, None]
    _, rows_, columns, depth = graph.tensors[op.inputs[1]].shape
    return np.tile(values.reshape(-1, 1, depth), (1, 1, rows_ * columns))
