"""Applies the plan of a constant to its codes."""

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.quant import code_limits
from tf_requant.numerics.affine import code_table, reexpress
from tf_requant.plan import ConstantPlan


def is_unchanged(tensor: Tensor, plan: ConstantPlan) -> bool:
    """Whether the plan leaves codes and parameters as they are."""
    return plan.codes is None and plan.params is tensor.quant


def requantized(tensor: Tensor, plan: ConstantPlan, axis: int) -> Tensor:
    """The constant on its new grid.

    Args:
        tensor: the source's constant.
        plan: its new parameters and step.
        axis: the dimension that a step per channel runs along.
    """
    codes = plan.codes if plan.codes is not None else _codes(tensor, plan, axis)
    return tensor.with_(dtype=plan.params.dtype, quant=plan.params, data=codes)


def zeros(name: str, shape: tuple[int, ...], plan: ConstantPlan) -> Tensor:
    """A constant that the source does not have: a bias of zeros, or of the plan's codes."""
    codes = np.zeros(shape, plan.params.dtype) if plan.codes is None else plan.codes
    return Tensor(name, plan.params.dtype, shape, plan.params, codes)


def _codes(tensor: Tensor, plan: ConstantPlan, axis: int) -> NDArray[np.integer]:
    assert tensor.data is not None
    data, quant, new = tensor.data, tensor.quant, plan.params
    dtype, zero_point = np.dtype(new.dtype), int(new.zero_point[0])
    low, high = _limits(plan)
    step = plan.step
    per_channel = isinstance(step, np.ndarray) and step.size > 1 or (quant is not None and quant.zero_point.any() and quant.per_channel)
    if not per_channel:
        step = float(np.ravel(step)[0])
        old = 0 if quant is None else int(quant.zero_point[0])
        if data.dtype.itemsize == 1:
            table = code_table(data.dtype.name, old, step, low, high, zero_point).astype(dtype)
            return np.take(table, data.view(np.uint8))
        shifted = reexpress(data.astype(np.int64) - old, step, low - zero_point, high - zero_point)
        return (shifted + zero_point).astype(dtype)
    return _by_channel(tensor, np.asarray(step, np.float64), axis, low, high, zero_point).astype(dtype)


def _by_channel(
    tensor: Tensor, step: NDArray[np.float64], axis: int, low: int, high: int, zero_point: int
) -> NDArray[np.integer]:
    """Channels whose step is one are copied as integers; only the others are multiplied and rounded."""
    assert tensor.data is not None
    shape = [1] * tensor.data.ndim
    shape[axis] = -1
    old = np.zeros(1, np.int64) if tensor.quant is None else tensor.quant.zero_point
    work = np.int16 if tensor.data.dtype.itemsize == 1 else np.int64
    values = tensor.data.astype(work) - old.astype(work).reshape(shape)
    step = np.broadcast_to(step, (tensor.data.shape[axis],))
    result = np.clip(values, low - zero_point, high - zero_point)
    inexact = np.flatnonzero(step != 1)
    if inexact.size:
        where = (slice(None),) * axis + (inexact,)
        new = reexpress(values[where], step[inexact].reshape(shape), low - zero_point, high - zero_point)
        result[where] = new
    return result + zero_point if zero_point else result


def _limits(plan: ConstantPlan) -> tuple[int, int]:
    return plan.limits if plan.limits is not None else code_limits(plan.params.dtype)
