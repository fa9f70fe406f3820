"""Biases, and the constant operands of ADD, MUL, CONCATENATION and their like."""

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.numerics.affine import reexpress
from tf_requant.numerics.integers import limits
from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.plan import ActivationPlan, ConstantPlan
from tf_requant.planning.activations import choose
from tf_requant.planning.ranges import ValueRange
from tf_requant.planning.schemes import bias_dtype
from tf_requant.targets import Target

INT32 = 32
BIAS_LIMIT = 2**30
"""Half of int32: the other half is the accumulator's, which adds up beside the bias."""


def accumulator_scale(activation: QuantParams, weights: QuantParams) -> NDArray[np.float64]:
    """The real value of one accumulator unit, float64[1 or C]: what a bias code means to the kernel.

    A kernel adds the bias raw; the scale that the file stores for it is not used (`arithmetic.md` 1.3).
    """
    return activation.scale[0].astype(np.float64) * weights.scale.astype(np.float64)


def least_filter_scale(
    bias: Tensor | None, unit: NDArray[np.float64], gain: float, activation: QuantParams, channels: int
) -> NDArray[np.float64]:
    """The filter scales, float64[channels], below which the bias would not fit its type.

    Args:
        bias: the source's bias, or None.
        unit: the source's accumulator scale.
        gain: the gain of the op's output.
        activation: the new parameters of the op's input.
        channels: how many output channels.
    """
    if bias is None or bias.data is None or activation.dtype == "int16":
        return np.zeros(channels)
    return np.abs(bias.data.astype(np.float64)) * unit * gain / (float(activation.scale[0]) * BIAS_LIMIT)


def plan_bias(
    target: Target,
    bias: Tensor | None,
    unit: NDArray[np.float64],
    gain: float,
    activation: QuantParams,
    weights: QuantParams,
) -> ConstantPlan:
    """The bias of a layer in the new accumulator's units.

    Args:
        target: the accelerator.
        bias: the source's bias; None where the layer has none and needs one.
        unit: the source's accumulator scale, float64[1 or C].
        gain: the gain of the op's output.
        activation: the new parameters of the op's input.
        weights: the new parameters of the filter.
    """
    plan = _whole_bias(bias, unit, gain, accumulator_scale(activation, weights), bias_dtype(target))
    if target.bias.bits >= INT32 or bias is None or bias.data is None:
        return plan
    codes, shift = aligned(bias.data * np.asarray(plan.step, np.float64), target.bias.bits)
    if plan.params is bias.quant and np.array_equal(codes, bias.data):
        return plan
    reason = f"{plan.reason}; mantissas of {target.bias.bits} bits, shifted left by {shift}"
    return plan.with_(codes=codes.astype(plan.params.dtype), reason=reason)


def aligned(wanted: NDArray[np.float64], bits: int) -> tuple[NDArray[np.int64], int]:
    """Biases as mantissas of a few bits behind one left shift, the smallest at which every one fits.

    >>> aligned(np.array([1000.0, -129.0, 12.0]), 8)
    (array([1000, -128,   16]), 3)

    Args:
        wanted: the biases in accumulator units; beyond what a shifted mantissa reaches in 32 bits they saturate.
        bits: the mantissa's width.

    Returns:
        The codes, int64 multiples of 2^shift, and the shift.
    """
    low, high, most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1, INT32 - bits
    held = np.clip(wanted, float(low << most), float(high << most))

    def mantissas(shift: int) -> NDArray[np.int64]:
        return round_real(held / 2.0**shift, Rounding.HALF_AWAY).astype(np.int64)

    def fits(codes: NDArray[np.int64]) -> bool:
        return bool(codes.min(initial=0) >= low and codes.max(initial=0) <= high)

    shift = next(s for s in range(most + 1) if fits(mantissas(s)))
    return mantissas(shift) << shift, shift


def _whole_bias(
    bias: Tensor | None, unit: NDArray[np.float64], gain: float, new_unit: NDArray[np.float64], dtype: str
) -> ConstantPlan:
    """The bias with every bit of its type in the file."""
    step = np.broadcast_to(unit * gain / new_unit, np.broadcast_shapes(unit.shape, new_unit.shape))
    exact = bool((step == 1).all())
    if bias is not None and exact and bias.dtype == dtype and bias.quant is not None and _says(bias.quant, new_unit):
        return ConstantPlan(bias.quant, 1.0, "as in the source")
    params = QuantParams(dtype, new_unit.astype(np.float32), 0, 0)
    reason = "codes as in the source" if exact else "rounded once to input scale times filter scale"
    if bias is not None and bias.data is not None:
        peak = np.abs(bias.data.astype(np.float64) * step).max(initial=0)
        if peak > code_limits(dtype)[1]:
            reason += f", saturated: the largest code would be {peak:.3g}"
    return ConstantPlan(params, 1.0 if exact else step, reason if bias is not None else "a zero bias, which the kernels need")


def _says(stored: QuantParams, unit: NDArray[np.float64]) -> bool:
    """Whether a bias's stored scale is the accumulator's, up to how converters round the product."""
    return stored.scale.size == unit.size and bool(np.allclose(stored.scale, unit, rtol=1e-6, atol=0))


def plan_operand(target: Target, tensor: Tensor, gain: float, tied_to: ActivationPlan | None) -> ConstantPlan:
    """A constant operand that is no filter and no bias.

    Args:
        target: the accelerator.
        tensor: the source's constant.
        gain: what its real value is multiplied by.
        tied_to: the plan of the class whose parameters and width it must share, for ops that compare or copy raw codes.
    """
    assert tensor.quant is not None and tensor.data is not None
    quant = tensor.quant
    if tied_to is not None:
        params, bits = tied_to.params, tied_to.bits
        step, ends = float(quant.scale[0]) * gain / float(params.scale[0]), None if bits is None else limits(bits)
        return ConstantPlan(params, step, "shares the parameters of the op's other tensors", limits=ends, bits=bits)
    v = tensor.data.astype(np.int64) - int(quant.zero_point[0])
    values = ValueRange(float(quant.scale[0]), int(v.min(initial=0)), max(1, int(v.max(initial=0))), edges=True)
    choice = choose(target, quant, values, gain)
    return ConstantPlan(choice.params, float(quant.scale[0]) * gain / float(choice.params.scale[0]), choice.reason, choice.error)


def new_codes(tensor: Tensor, plan: ConstantPlan, channel_axis: int) -> NDArray[np.int64]:
    """The codes that a plan gives a small constant (a bias, an operand), saturated to its type."""
    assert tensor.data is not None
    low, high = code_limits(plan.params.dtype)
    step = plan.step
    if isinstance(step, np.ndarray) and tensor.data.ndim:
        shape = [1] * tensor.data.ndim
        shape[channel_axis] = step.size
        step = step.reshape(shape)
    zero_point = 0 if tensor.quant is None else int(tensor.quant.zero_point[0])
    shifted = reexpress(tensor.data.astype(np.int64) - zero_point, step, low - int(plan.params.zero_point[0]), high)
    return np.clip(shifted + int(plan.params.zero_point[0]), low, high).astype(np.int64)
