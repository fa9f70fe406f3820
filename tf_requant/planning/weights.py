"""Scales of filters: the source's own grid where every value fits, by least error on the output elsewhere.

A filter of a quantization-aware trained model lies exactly on its grid; any other step costs as much
as quantizing anew (MRQ's setting, arXiv 2308.01867). So the source's step is the first candidate and
clipping a few rare outliers the second. Errors are relative to each output channel's energy: a channel
that uses three bits of a shared grid counts as much as one that uses seven.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.quant import QuantParams
from tf_requant.numerics.affine import reexpress
from tf_requant.plan import ConstantPlan
from tf_requant.planning.schemes import is_power_of_two, weight_dtype, weight_limits
from tf_requant.targets import Target

_CLIPPINGS = np.linspace(0.35, 1.0, 27)
_CEILING_SLACK = 1e-6  # a scale that is a power of two but for float32's last bit
_WORTH_CLIPPING = 1.3  # a power of two below: only where the outliers stick out by less


@dataclass(frozen=True, eq=False)
class Filter:
    """A filter as integers by output channel.

    Attributes:
        values: code - zero_point, int16[C, K].
        scale: float64[C], the source's scales times the gain ratio: the grid that the target would hold exactly.
        quant: the source's parameters.
        axis: the output-channel dimension in the file.
    """

    values: NDArray[np.int16]
    scale: NDArray[np.float64]
    quant: QuantParams
    axis: int

    @property
    def peak(self) -> NDArray[np.int64]:
        """max |v| of each channel."""
        return np.maximum(self.values.max(1, initial=0), -self.values.min(1, initial=0).astype(np.int64))


def by_channel(tensor: Tensor, axis: int, ratio: float) -> Filter:
    """Reads a filter into channels.

    Args:
        tensor: a constant with quantization.
        axis: its output-channel dimension.
        ratio: the gain of the op's output over that of its input.
    """
    assert tensor.data is not None and tensor.quant is not None
    quant = tensor.quant
    codes = tensor.data.reshape(-1, tensor.shape[-1]).T if axis == tensor.data.ndim - 1 else tensor.data.reshape(tensor.shape[0], -1)
    values = codes.astype(np.int16)
    values -= quant.zero_point.astype(np.int16)[:, None] if quant.per_channel else int(quant.zero_point[0])
    scale = np.broadcast_to(quant.scale.astype(np.float64) * ratio, (values.shape[0],))
    return Filter(values, scale, quant, axis)


def plan_filter(
    target: Target, tensor: Tensor, axis: int, ratio: float, per_channel: bool, least: NDArray[np.float64]
) -> ConstantPlan:
    """The new parameters of one filter.

    Args:
        target: the accelerator.
        tensor: the source's filter.
        axis: its output-channel dimension.
        ratio: the gain of the op's output over that of its input.
        per_channel: whether this op may have one scale per output channel.
        least: float64[C], scales below which the bias would leave its type.
    """
    assert tensor.quant is not None
    if _already_legal(target, tensor, ratio, per_channel):
        return ConstantPlan(tensor.quant, 1.0, "as in the source")
    filter_ = by_channel(tensor, axis, ratio)
    if not target.weight.symmetric:
        return _asymmetric(target, filter_)
    choose = _symmetric_per_channel if per_channel else _symmetric_per_tensor
    scale, reason, error = choose(target, filter_, least)
    params = QuantParams(weight_dtype(target), np.float32(scale), 0, axis if per_channel else 0)
    return _plan(target, filter_, params, reason, error)


def _plan(target: Target, filter_: Filter, params: QuantParams, reason: str, error: float = 0.0) -> ConstantPlan:
    step = filter_.scale / params.scale.astype(np.float64)
    shared = float(step[0]) if (step == step[0]).all() else step
    return ConstantPlan(params, shared, reason, error, weight_limits(target))


def _already_legal(target: Target, tensor: Tensor, ratio: float, per_channel: bool) -> bool:
    quant, scheme = tensor.quant, target.weight
    assert quant is not None and tensor.data is not None
    if ratio != 1.0 or quant.dtype != weight_dtype(target) or (quant.per_channel and not per_channel):
        return False
    if scheme.scale == "power_of_two" and not is_power_of_two(quant.scale).all():
        return False
    if not scheme.symmetric:
        return True
    low, high = weight_limits(target)
    return bool(not quant.zero_point.any() and tensor.data.min(initial=0) >= low and tensor.data.max(initial=0) <= high)


def relative_error(filter_: Filter, scale: NDArray[np.float64], low: int, high: int, zero_point: int = 0) -> NDArray[np.float64]:
    """Squared error over squared weight of each output channel, for one candidate scale a channel.

    Args:
        filter_: the filter.
        scale: float64[C] or [1], the candidate.
        low: the lowest code.
        high: the highest.
        zero_point: the candidate's zero point.
    """
    step = (filter_.scale / scale)[:, None]
    wanted = filter_.values * step
    error = reexpress(filter_.values, step, low - zero_point, high - zero_point)
    error -= wanted
    energy = np.einsum("ck,ck->c", wanted, wanted)
    return np.einsum("ck,ck->c", error, error) / np.maximum(energy, 1e-30)


def _symmetric_per_channel(
    target: Target, filter_: Filter, least: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str, float]:
    low, high = weight_limits(target)
    peak = filter_.peak
    if target.weight.scale == "power_of_two":
        return _power_of_two_per_channel(filter_, peak, low, high, least)
    scale = filter_.scale.copy()
    outside = np.flatnonzero(peak > high)
    error = np.zeros(scale.size)
    if outside.size:
        some = Filter(filter_.values[outside], scale[outside], filter_.quant, filter_.axis)
        fit = scale[outside] * peak[outside] / high
        candidates = [some.scale, *(fit * c for c in _CLIPPINGS)]
        errors = np.stack([relative_error(some, c, low, high) for c in candidates])
        best = errors.argmin(0)
        scale[outside] = np.stack(candidates)[best, np.arange(outside.size)]
        error[outside] = errors.min(0)
    scale = np.maximum(scale, least)
    reason = "exact at the source's step" if not outside.size else (
        f"exact at the source's step in {scale.size - outside.size} of {scale.size} channels, the others rescaled"
    )  # fmt: skip
    return scale, reason, float(error.mean())


def _power_of_two_per_channel(
    filter_: Filter, peak: NDArray[np.int64], low: int, high: int, least: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str, float]:
    # A channel of zeros keeps the source's magnitude: its scale only carries the bias.
    top = filter_.scale * np.where(peak > 0, peak / high, 1.0)
    exponent = np.ceil(np.log2(top) - _CEILING_SLACK)
    error = relative_error(filter_, 2.0**exponent, low, high)
    near = np.flatnonzero((peak > 0) & (top <= _WORTH_CLIPPING * 2.0 ** (exponent - 1)))
    if near.size:
        some = Filter(filter_.values[near], filter_.scale[near], filter_.quant, filter_.axis)
        finer = relative_error(some, 2.0 ** (exponent[near] - 1), low, high)
        better = finer < error[near]
        exponent[near[better]] -= 1
        error[near[better]] = finer[better]
    exponent = np.maximum(exponent, np.ceil(np.log2(np.maximum(least, 1e-300))))
    return 2.0**exponent, "power of two by channel, least error", float(error.mean())


def _symmetric_per_tensor(
    target: Target, filter_: Filter, least: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str, float]:
    low, high = weight_limits(target)
    if filter_.quant.per_channel:
        return _per_tensor_from_channels(target, filter_, low, high)
    peak, step = int(filter_.peak.max(initial=0)), float(filter_.scale[0])
    fit = step * max(peak, 1) / high
    if target.weight.scale == "power_of_two":
        candidates = 2.0 ** (np.ceil(np.log2(fit) - _CEILING_SLACK) + np.arange(-4, 1))
        label = "power of two"
    else:
        candidates, label = np.array([step, *(fit * _CLIPPINGS)]), "symmetric"
    if peak <= high and candidates[0] == step:
        return candidates[:1], "exact at the source's step", 0.0
    h, ratio = histogram(target, filter_), step / candidates[:, None]
    errors = (reexpress(h.values, ratio, low, high) / ratio - h.values) ** 2 @ h.weights
    best = int(np.argmin(errors))
    clipped = int((np.abs(filter_.values) > high * candidates[best] / step).sum())
    what = "the source's step" if candidates[best] == step else f"step {candidates[best] / step:.4g} times the source's"
    return candidates[best : best + 1], f"{label}, {what}, {clipped} weights clipped", float(errors[best])


@dataclass(frozen=True, eq=False)
class Histogram:
    """The distinct values of a filter with one scale, each weighted by its share of its channel's energy.

    Attributes:
        values: the distinct v = code - zero_point.
        weights: the mean over output channels of (count of v) / (sum of v^2): the error of a value times its
            weight is its part in the mean relative error.
        scale: the source's scale.
        low: the lowest code of the target.
        high: the highest.
    """

    values: NDArray[np.int64]
    weights: NDArray[np.float64]
    scale: float
    low: int
    high: int

    @property
    def peak(self) -> int:
        """max |v|."""
        return max(1, int(np.abs(self.values).max(initial=1)))


def histogram(target: Target, filter_: Filter) -> Histogram:
    """The weighted histogram of a filter whose source has one scale."""
    values = filter_.values
    energy = np.einsum("ck,ck->c", values, values, dtype=np.float64)
    share = 1.0 / np.maximum(energy, 1.0) / values.shape[0]
    counts = np.bincount((values + np.int16(256)).ravel(), weights=np.repeat(share, values.shape[1]), minlength=512)
    present = np.flatnonzero(counts)
    return Histogram(present - 256, counts[present], float(filter_.scale[0]), *weight_limits(target))


def _per_tensor_from_channels(
    target: Target, filter_: Filter, low: int, high: int
) -> tuple[NDArray[np.float64], str, float]:
    fit = float((filter_.scale * filter_.peak).max()) / high or float(filter_.scale.max())
    candidates = fit * _CLIPPINGS[::2]
    if target.weight.scale == "power_of_two":
        candidates = 2.0 ** (np.ceil(np.log2(fit) - _CEILING_SLACK) + np.arange(-3, 1))
    errors = [float(relative_error(filter_, np.array([c]), low, high).mean()) for c in candidates]
    best = int(np.argmin(errors))
    return candidates[best : best + 1], f"one scale for {filter_.scale.size} channels, least error", errors[best]


def _asymmetric(target: Target, filter_: Filter) -> ConstantPlan:
    """uint8 codes with a zero point, per tensor; the source's step where it is shared and its span fits."""
    low, high = weight_limits(target)
    smallest, largest = (filter_.scale * filter_.values.min(1)).min(), (filter_.scale * filter_.values.max(1)).max()
    smallest, largest = min(float(smallest), 0.0), max(float(largest), 0.0)
    step = float(filter_.scale[0])
    if not filter_.quant.per_channel and (largest - smallest) <= step * (high - low):
        zero_point = int(np.clip(128, low - round(smallest / step), high - round(largest / step)))
        return _plan(target, filter_, QuantParams("uint8", np.float32(step), zero_point), "exact at the source's step")
    best: tuple[float, float, int] | None = None
    for clipping in _CLIPPINGS[::2]:
        scale = (largest - smallest) * clipping / (high - low) or step
        zero_point = int(np.clip(round(low - smallest * clipping / scale), low, high))
        error = float(relative_error(filter_, np.array([scale]), low, high, zero_point).mean())
        if best is None or error < best[0]:
            best = (error, scale, zero_point)
    assert best is not None
    params = QuantParams("uint8", np.float32(best[1]), best[2])
    return _plan(target, filter_, params, f"one scale for {filter_.scale.size} channels, least error", best[0])
