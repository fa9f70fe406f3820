"""A layer's filter and bias beside its source's, in the same units: what re-expressing them changed."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Op, Tensor
from tf_requant.model.ops import OpInfo, info
from tf_requant.validation.correspondence import Correspondence, Gain

Array = NDArray[np.float64]


def filters(meet: Correspondence, index: int) -> tuple[Array, Array] | None:
    """The real values of a layer's filter, (the source's with the gains around it, the candidate's); None where one is unread.

    Args:
        meet: the candidate held against its source.
        index: the candidate's op.
    """
    found = _operands(meet, index, "filter")
    if found is None:
        return None
    op, row, weights, others = found
    if not (_readable(weights) and _readable(others) and weights.shape == others.shape and op.outputs[0] in meet.gains):
        return None
    out_gain, in_gain = meet.gains[op.outputs[0]], meet.gains.get(op.inputs[row.data], np.asarray(1.0))
    last = len(weights.shape) - 1
    if out_gain.size not in (1, weights.shape[row.channel_axis]) or in_gain.size not in (1, weights.shape[last]):
        return None
    factor = _along(out_gain, row.channel_axis, weights) / _along(in_gain, last, weights)
    return _reals(others) * factor, _reals(weights)


def bias_moves(meet: Correspondence, index: int) -> Array | None:
    """The candidate's bias less the source's with its gain, in steps of the layer's output, float64[C]; None where unread.

    Args:
        meet: the candidate held against its source.
        index: the candidate's op.
    """
    found = _operands(meet, index, "bias")
    if found is None:
        return None
    op, _, bias, other = found
    output, gain = meet.result.tensors[op.outputs[0]].quant, meet.gains.get(op.outputs[0])
    if not (_readable(bias) and _readable(other)) or output is None or gain is None:
        return None
    wanted, got = _reals(other).reshape(-1), _reals(bias).reshape(-1)
    if wanted.size != got.size or gain.size not in (1, wanted.size):
        return None
    return np.asarray((got - wanted * gain) / float(output.scale[0]))


def _operands(meet: Correspondence, index: int, name: Literal["filter", "bias"]) -> tuple[Op, OpInfo, Tensor, Tensor] | None:
    """A layer, its row, and that operand of the candidate and of the source; None where one of them has none."""
    if index not in meet.ops:
        return None
    op, own = meet.result.ops[index], meet.source.ops[meet.ops[index]]
    row = info(op)
    position = None if row is None else getattr(row, name)
    if row is None or position is None or min(len(op.inputs), len(own.inputs)) <= position:
        return None
    if op.inputs[position] < 0 or own.inputs[position] < 0:
        return None
    return op, row, meet.result.tensors[op.inputs[position]], meet.source.tensors[own.inputs[position]]


def _readable(constant: Tensor) -> bool:
    return constant.data is not None and constant.quant is not None and constant.data.shape == constant.shape


def _reals(constant: Tensor) -> Array:
    """A constant's real values, float64 of its shape."""
    assert constant.quant is not None and constant.data is not None
    scale, point = constant.quant.along(len(constant.shape))
    return np.asarray((constant.data.astype(np.float64) - point) * scale)


def _along(gain: Gain, axis: int, weights: Tensor) -> Array:
    shape = [1] * len(weights.shape)
    if gain.size > 1:
        shape[axis] = gain.size
    return gain.reshape(shape)
