"""What is known of a tensor's values without running anything: its code range, its clamps, a prior."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Graph
from tf_requant.model.ops import Activation, fused_activation, info
from tf_requant.model.quant import QuantParams, code_limits

_COMPARE = ("SOFTMAX", "LOG_SOFTMAX", "ARG_MAX", "ARG_MIN")
_SAMPLES = 129
UNSEEN = 0.01
"""Of values that data never had, which a clip would cut off: errors of one sign, that cost more than their squares."""
RANGE_OVER_DEVIATION = 9.5
"""A training-time range is the extreme of some 10^5 to 10^6 near-normal values: about 4.75 deviations a side."""


@dataclass(frozen=True, eq=False)
class ValueRange:
    """The values that a source tensor can take, as multiples v = code - zero_point of its scale.

    Attributes:
        scale: the source's scale.
        low: the lowest v.
        high: the highest v that the source can produce, its clamp included.
        clamp: the v at which a fused RELU6 clamps, where that is what bounds `high`; else None.
        rectified: whether a RELU or RELU6 wrote it, so that a target may hold it unsigned.
        edges: whether extreme values are common (inputs, rectified tensors) or decisive (scores), and not rare tails.
        counts: how often each code of the source occurred on data, from the type's lowest code on, in any unit; None without
            data.
        lowest: v of the type's lowest code, which `counts` starts at.
        unseen: the probability that the assumption keeps beside data.
    """

    scale: float
    low: int
    high: int
    clamp: int | None = None
    rectified: bool = False
    edges: bool = False
    counts: NDArray[np.float64] | None = None
    lowest: int = 0
    unseen: float = UNSEEN

    @property
    def key(self) -> tuple[object, ...]:
        """What two equal ranges have in common."""
        counted = None if self.counts is None else self.counts.tobytes()
        return self.scale, self.low, self.high, self.clamp, self.rectified, self.edges, counted, self.unseen

    @property
    def span(self) -> float:
        """The width of the range in real units."""
        return self.scale * max(self.high - self.low, 1)

    @cached_property
    def prior(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values v and their probabilities: counted on data, else uniform where edges are common, normal elsewhere."""
        assumed = self._assumed
        if self.counts is None or not self.counts.sum():
            return assumed
        seen = np.flatnonzero(self.counts)
        # What the samples never reached may still come: the assumption keeps a small share.
        values = np.concatenate([seen + float(self.lowest), assumed[0]])
        share = self.counts[seen] / self.counts.sum()
        return values, np.concatenate([(1 - self.unseen) * share, self.unseen * assumed[1]])

    @property
    def variance(self) -> float:
        """Of the values, in real units squared: of the data, or of the range that training left."""
        if self.counts is None or not self.counts.sum():
            return (self.span / RANGE_OVER_DEVIATION) ** 2
        v, p = self.prior
        return float((v**2 @ p - (v @ p) ** 2) * self.scale**2)

    @property
    def _assumed(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        v = np.unique(np.linspace(float(self.low), float(self.high), min(self.high - self.low + 1, _SAMPLES)).round())
        if self.edges or v.size < 3:
            return v, np.full(v.size, 1 / v.size)
        centre, deviation = (self.low + self.high) / 2, (self.high - self.low) / RANGE_OVER_DEVIATION
        p = np.exp(-0.5 * ((v - centre) / deviation) ** 2)
        return v, p / p.sum()


def unseen_share(counts: NDArray[np.int64]) -> float:
    """The probability that the next code is one that never occurred: that of those that occurred once (Good 1953; Turing).

    >>> unseen_share(np.array([0, 1, 5, 2, 1]))
    0.3

    Args:
        counts: how often each code occurred; one more counts as once, so that none is impossible.
    """
    return float((counts == 1).sum() + 1) / float(counts.sum() + 1)


def value_range(graph: Graph, tensor: int, pinned: tuple[float, float] | None = None) -> ValueRange:
    """The range of a source tensor from its type, zero point, fused activation and the user's pin.

    Args:
        graph: the source graph.
        tensor: the index of a quantized activation.
        pinned: (minimum, maximum) in real units, from the user.
    """
    quant = graph.tensors[tensor].quant
    assert quant is not None
    scale, zero_point = float(quant.scale[0]), int(quant.zero_point[0])
    bottom, top = graph.tensors[tensor].limits
    low, high = bottom - zero_point, top - zero_point
    if pinned is not None:
        return ValueRange(scale, int(np.floor(pinned[0] / scale)), max(1, int(np.ceil(pinned[1] / scale))), edges=True)
    activation = implied_activation(graph, tensor)
    clamp = None
    if activation in (Activation.RELU, Activation.RELU6):
        low = max(low, 0)
    if activation is Activation.RELU6:
        high = clamp = min(high, int(np.floor(6 / scale + 0.5)))
    if high <= low:
        low, high = min(low, high - 1), high
    rectified = activation in (Activation.RELU, Activation.RELU6)
    return ValueRange(scale, low, high, clamp, rectified, edges=low >= 0 or tensor in graph.inputs)


def recentred(quant: QuantParams, dtype: str) -> QuantParams:
    """The same map on another 8-bit type: the codes move with the zero point.

    >>> str(recentred(QuantParams("uint8", np.float32(0.5), 128), "int8"))
    'int8 scale 0.5 zero point 0'
    """
    shift = code_limits(dtype)[0] - code_limits(quant.dtype)[0]
    return QuantParams(dtype, quant.scale, quant.zero_point + shift, quant.axis)


def is_compared(graph: Graph, tensor: int) -> bool:
    """Whether a tensor's largest values decide the result, so that clipping them would tie the best two.

    Such are graph outputs (scores), and what SOFTMAX and ARG_MAX read.
    """
    readers = (graph.ops[i].code for i in graph.consumers.get(tensor, ()))
    return tensor in graph.outputs or any(code in _COMPARE for code in readers)


def implied_activation(graph: Graph, tensor: int) -> Activation:
    """The activation that the op writing a tensor applies, fused, stand-alone or by saturation.

    A converter may drop a RELU or RELU6 whose clamp is where the type ends: a zero point at the lowest code
    cuts negative values off by itself. On a grid that goes below zero the RELU has to be written down.
    """
    producer = graph.producers.get(tensor)
    if producer is None:
        return Activation.NONE
    op, quant = graph.ops[producer], graph.tensors[tensor].quant
    if op.code in ("RELU", "RELU6"):
        return Activation[op.code]
    fused, row = fused_activation(op), info(op)
    computes = row is not None and row.rule == "free" and "fused_activation_function" in op.attrs
    if fused is Activation.NONE and computes and quant is not None:
        cuts = int(quant.zero_point[0]) == code_limits(quant.dtype)[0] and quant.dtype != "int16"
        return Activation.RELU if cuts else fused
    return fused
