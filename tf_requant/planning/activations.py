"""Scales of activations: exact where the target can hold the source's own grid, by least error elsewhere."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.numerics.affine import reexpress
from tf_requant.planning.ranges import ValueRange, recentred
from tf_requant.planning.schemes import activation_dtype, activation_limits, is_narrow
from tf_requant.targets import Target

_CLIPPINGS = np.linspace(0.6, 1.0, 17)
_NARROW_CLIPPINGS = np.linspace(0.25, 1.0, 31)
"""With fewer levels, a finer step gains more than rare values lose."""
_EXPONENTS = (-2, -1, 0)


@dataclass(frozen=True, eq=False)
class Choice:
    """New parameters, why, and the mean squared error against the source's value in real units squared."""

    params: QuantParams
    reason: str
    error: float


def choose(target: Target, source: QuantParams, values: ValueRange, gain: float = 1.0, pinned: bool = False) -> Choice:
    """The best parameters that a target allows for one class of tensors.

    Args:
        target: the accelerator.
        source: the parameters of the class in the source model.
        values: the values that the class takes in the source.
        gain: the real value on the target over the source's.
        pinned: whether the range comes from the user, so that the source's own grid is no candidate.
    """
    dtype, scheme = activation_dtype(target), target.activation
    if not scheme.symmetric:
        return _asymmetric(dtype, source, values, pinned)
    if dtype == "int16" and scheme.scale == "any" and not pinned:
        if source.dtype == "int16":
            return Choice(source, "as in the source", 0.0)
        return Choice(QuantParams(dtype, source.scale, 0), "widened at the source's scale", 0.0)
    return _symmetric(target, dtype, values, gain, pinned)


def _asymmetric(dtype: str, source: QuantParams, values: ValueRange, pinned: bool) -> Choice:
    if not pinned and source.dtype == dtype:
        return Choice(source, "as in the source", 0.0)
    bottom, top = code_limits(dtype)
    if not pinned and source.dtype != "int16":
        return Choice(recentred(source, dtype), "recentred, every code exact", 0.0)
    low, high = min(values.low, 0) * values.scale, max(values.high, 0) * values.scale
    scale = np.float32((high - low) / (top - bottom))
    zero_point = int(np.clip(bottom + round(-low / float(scale)), bottom, top))
    reason = "the user's range" if pinned else "the source's range in 8 bits"
    return Choice(QuantParams(dtype, scale, zero_point), reason, float(scale) ** 2 / 12)


def limits(target: Target, values: ValueRange) -> tuple[int, int, int]:
    """Zero point, lowest and highest v = code - zero_point of a symmetric activation.

    Unsigned codes travel as int8 with zero point -128, which `interface.md` reads as unsigned, zero point 0.
    """
    dtype = activation_dtype(target)
    bottom, top = activation_limits(target)
    if dtype == "int8" and target.activation.unsigned_after_relu and values.rectified:
        return bottom, 0, top - bottom
    return 0, bottom, top


def _symmetric(target: Target, dtype: str, values: ValueRange, gain: float, pinned: bool) -> Choice:
    zero_point, lowest, highest = limits(target, values)
    step = values.scale * gain
    fit = step * max(values.high / highest, values.low / lowest if lowest and values.low < 0 else 0)
    fit = fit or step
    if target.activation.scale == "power_of_two":
        ceiling = np.ceil(np.log2(fit) - 1e-9)
        scales = 2.0 ** (ceiling + np.array((0,) if pinned else _exponents(target, values)))
    elif is_narrow(target) and values.counts is None:
        scales = np.float32([fit] if pinned or step < fit else [step]).astype(np.float64)
    else:
        # The source's own step first: among equals it wins, and where every value fits it is exact.
        clippings = _NARROW_CLIPPINGS if is_narrow(target) else _CLIPPINGS
        scales = np.float32([fit] if pinned else [step, *(fit * clippings)]).astype(np.float64)
    errors = _errors(values, np.array([step]), scales, lowest, highest)[0]
    best = int(np.argmin(errors))
    params = QuantParams(dtype, np.float32(scales[best]), zero_point)
    return Choice(params, _reason(values, step, scales[best], lowest, highest, gain), float(errors[best]) / gain**2)


def least_errors(target: Target, values: ValueRange, gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean squared error, in real units of the source squared, of the best power of two at each gain."""
    _, lowest, highest = limits(target, values)
    steps = values.scale * gains
    fit = values.scale * max(values.high / highest, values.low / lowest if lowest and values.low < 0 else 0)
    ceiling = np.ceil(np.log2((fit or values.scale) * gains) - 1e-9)
    scales = 2.0 ** (ceiling[:, None] + np.array(_exponents(target, values)))
    return _errors(values, steps, scales, lowest, highest).min(1) / gains**2


def _exponents(target: Target, values: ValueRange) -> tuple[int, ...]:
    """The powers of two to try, relative to the least that clips nothing.

    The file's type goes beyond a narrow width, so TFLite's kernels would not clip there: what they compute is the device's as
    long as every value fits. Data may say that what does not fit is rare.
    """
    return (0,) if is_narrow(target) and values.counts is None else _EXPONENTS


def _errors(
    values: ValueRange, steps: NDArray[np.float64], scales: NDArray[np.float64], lowest: int, highest: int
) -> NDArray[np.float64]:
    """float64[steps, scales]: mean squared error of v * step on each candidate scale, under the prior of v."""
    v, p = values.prior
    ratio = (steps[:, None] / np.atleast_2d(scales))[:, :, None]
    error = reexpress(v, ratio, lowest, highest) / ratio - v
    return ((error**2) @ p) * steps[:, None] ** 2


def _reason(values: ValueRange, step: float, scale: float, lowest: int, highest: int, gain: float) -> str:
    ratio = scale / step
    kind = "unsigned" if lowest == 0 else "symmetric"
    fits = values.low * step >= lowest * scale * (1 + 1e-6) and values.high * step <= highest * scale * (1 + 1e-6)
    clipped = "" if fits else f", clipping {values.low * step:.4g}..{values.high * step:.4g} to its range"
    folded = f" after a gain of {gain:.6g}" if gain != 1 else ""
    if abs(ratio - 1) < 1e-6:
        return f"{kind} at the source's step{folded}{clipped}"
    return f"{kind}, step {ratio:.4g} times the source's{folded}{clipped}"
