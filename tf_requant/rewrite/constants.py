"""Applies the plan of a constant to its codes."""

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.quant import code_limits
from tf_requant.numerics.affine import code_table, reexpress
from tf_requant.numerics.rounding import round_half_even
from tf_requant.plan import ConstantPlan

_BLOCK = 1 << 16  # elements


def is_unchanged(tensor: Tensor, plan: ConstantPlan) -> bool:
    """Whether the plan leaves codes and parameters as they are."""
    return plan.codes is None and plan.params is tensor.quant and plan.bits == tensor.bits


def requantized(tensor: Tensor, plan: ConstantPlan, axis: int) -> Tensor:
    """The constant on its new grid.

    Args:
        tensor: the source's constant.
        plan: its new parameters and step.
        axis: the dimension that a step per channel runs along.
    """
    codes = plan.codes if plan.codes is not None else _codes(tensor, plan, axis)
    return tensor.with_(dtype=plan.params.dtype, quant=plan.params, data=codes, trained=None, bits=plan.bits, packed=False)


def zeros(name: str, shape: tuple[int, ...], plan: ConstantPlan) -> Tensor:
    """A constant that the source does not have: a bias of zeros, or of the plan's codes."""
    codes = np.zeros(shape, plan.params.dtype) if plan.codes is None else plan.codes
    return Tensor(name, plan.params.dtype, shape, plan.params, codes)


def _codes(tensor: Tensor, plan: ConstantPlan, axis: int) -> NDArray[np.integer]:
    assert tensor.data is not None
    step = np.atleast_1d(np.asarray(plan.step, np.float64))
    if tensor.trained is not None and not (step == 1).all():
        return _from_floats(tensor.trained, plan, step, axis)
    shared = step.size == 1 and (tensor.quant is None or tensor.quant.zero_point.size == 1 or not tensor.quant.zero_point.any())
    if shared:
        return _shared_step(tensor, plan, float(step[0]))
    # Most channels of a filter keep their step: all bytes at once as if every one did, then the others anew.
    result = _shared_step(tensor, plan, 1.0) if (step == 1).any() else np.empty(tensor.data.shape, plan.params.dtype)
    _redo_channels(result, tensor, plan, step, axis)
    return result


def _from_floats(
    values: NDArray[np.float32], plan: ConstantPlan, step: NDArray[np.float64], axis: int
) -> NDArray[np.integer]:
    """The codes nearest to trained floats."""
    low, high = _limits(plan)
    new = int(plan.params.zero_point[0])
    shape = [1] * values.ndim
    shape[axis] = step.size
    wanted = values * step.reshape(shape)
    round_half_even(wanted, out=wanted)
    return (np.clip(wanted, low - new, high - new) + new).astype(plan.params.dtype)


def _shared_step(tensor: Tensor, plan: ConstantPlan, step: float) -> NDArray[np.integer]:
    """One step for every element: a table of 256 codes where the codes are bytes."""
    assert tensor.data is not None
    data, dtype, new = tensor.data, np.dtype(plan.params.dtype), int(plan.params.zero_point[0])
    old = 0 if tensor.quant is None else int(tensor.quant.zero_point[0])
    low, high = _limits(plan)
    if data.dtype.itemsize == 1:
        table = code_table(data.dtype.name, old, step, low, high, new).astype(dtype)
        if dtype.itemsize == 1:
            return np.frombuffer(data.tobytes().translate(table.tobytes()), dtype).reshape(data.shape).copy()
        return table[data.view(np.uint8)]
    shifted = reexpress(data.astype(np.int64) - old, step, low - new, high - new)
    return (shifted + new).astype(dtype)


def _redo_channels(
    result: NDArray[np.integer], tensor: Tensor, plan: ConstantPlan, step: NDArray[np.float64], axis: int
) -> None:
    """Writes the channels whose step isn't one, in blocks that stay in the cache."""
    assert tensor.data is not None
    low, high = _limits(plan)
    new = int(plan.params.zero_point[0])
    old = np.zeros(1) if tensor.quant is None else tensor.quant.zero_point.astype(np.float64)
    channels, target = np.moveaxis(tensor.data, axis, 0), np.moveaxis(result, axis, 0)
    # 8-bit values times a step: float32 is nearest to within 2^-16 of a step; biases and int16 need float64.
    work = np.float32 if tensor.data.dtype.itemsize == 1 else np.float64
    exact, step, old = step, step.astype(work), old.astype(work)
    step, old = np.broadcast_to(step, channels.shape[:1]), np.broadcast_to(old, channels.shape[:1])
    redo = np.flatnonzero((exact != 1) | (old != old[0]))
    rows = max(1, _BLOCK // max(1, channels[0].size))
    column = (slice(None), *(None,) * (channels.ndim - 1))
    for start in range(0, redo.size, rows):
        some = redo[start : start + rows]
        some = slice(some[0], some[-1] + 1) if some[-1] - some[0] + 1 == some.size else some
        values = channels[some].astype(work)
        values -= old[some][column]
        values *= step[some][column]
        round_half_even(values, out=values)
        np.clip(values, low - new, high - new, out=values)
        target[some] = values if new == 0 else values + new


def _limits(plan: ConstantPlan) -> tuple[int, int]:
    return plan.limits if plan.limits is not None else code_limits(plan.params.dtype)
