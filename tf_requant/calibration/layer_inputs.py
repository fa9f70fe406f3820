"""The mean input of every layer with a filter, tap by tap: all that the mean of its output depends on."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry, dilations, strides
from tf_requant.model.graph import Graph, Op
from tf_requant.model.ops import Padding

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Ops whose mean output is a product of filter and mean input."""


@dataclass
class LayerInputs:
    """Running means, by op index.

    Attributes:
        graph: the graph that is observed.
        sums: by op index, float64[taps, inputs]: sums over samples of each tap's mean over all places.
        count: samples seen, by op index.
    """

    graph: Graph
    sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    count: dict[int, int] = field(default_factory=dict)

    def readers(self, tensor: int) -> list[int]:
        """The layers that read a tensor as their data."""
        ops = self.graph.ops
        return [i for i in self.graph.consumers.get(tensor, ()) if ops[i].code in LAYERS and ops[i].inputs[0] == tensor]

    def add(self, op_index: int, codes: NDArray[Any]) -> None:
        """Counts one sample's input of a layer."""
        means = tap_means(self.graph, self.graph.ops[op_index], codes)
        self.sums[op_index] = self.sums.get(op_index, 0.0) + means
        self.count[op_index] = self.count.get(op_index, 0) + 1

    def mean(self, op_index: int) -> NDArray[np.float64]:
        """The mean input of a layer, code minus zero point, float64[taps, inputs]."""
        return np.asarray(self.sums[op_index] / self.count[op_index])


def tap_means(graph: Graph, op: Op, codes: NDArray[Any]) -> NDArray[np.float64]:
    """What each tap of a layer's filter sees on average over all places of its window, the border included.

    Args:
        graph: the graph around the op.
        op: one of `LAYERS`.
        codes: its input, [N, H, W, C] or [..., K].

    Returns:
        float64[taps, inputs], code minus zero point.
    """
    quant, shape = graph.tensors[op.inputs[0]].quant, graph.tensors[op.inputs[1]].shape
    point = 0 if quant is None else int(quant.zero_point[0])
    if op.code == "FULLY_CONNECTED":
        return np.asarray(codes.reshape(-1, shape[1]).mean(axis=0, dtype=np.float64)[None] - point)
    geometry = Geometry.of(
        (codes.shape[1], codes.shape[2]), (shape[1], shape[2]), strides(op), dilations(op), Padding(op.attrs["padding"])
    )
    means = [
        geometry.windows(geometry.pad(image, point, image.dtype)).mean(axis=(0, 1), dtype=np.float64) for image in codes
    ]
    return np.asarray(np.mean(means, axis=0).reshape(shape[1] * shape[2], -1) - point)
