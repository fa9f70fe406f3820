"""Scales of filters: the source's own grid where every value fits, by least error on the output elsewhere.

A filter of a quantization-aware trained model lies exactly on its grid; any other step costs as much
as quantizing anew (MRQ's setting, arXiv 2308.01867). So the source's step is the first candidate and
clipping a few rare outliers the second. Errors are relative to each output channel's energy: a channel
that uses three bits of a shared grid counts as much as one that uses seven.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.quant import QuantParams
from tf_requant.numerics.affine import reexpress
from tf_requant.numerics.codebook import LEVEL_MULTIPLES, nearest, shared_levels
from tf_requant.plan import ConstantPlan
from tf_requant.planning.schemes import is_power_of_two, weight_dtype, weight_limits
from tf_requant.targets import Target

_CLIPPINGS = np.linspace(0.35, 1.0, 27)
_CHANNEL_CLIPPINGS = np.linspace(0.7, 1.0, 7)
_AT_ONCE = 1 << 20  # elements of a temporary
_SAMPLE = 1 << 13  # weights of one filter that its histogram looks at, besides all outliers
_CEILING_SLACK = 1e-6  # a scale that is a power of two but for float32's last bit


@dataclass(frozen=True, eq=False)
class Filter:
    """A filter by output channel.

    Attributes:
        codes: the source's 8-bit codes, [C, K].
        zero_point: int64[1 or C].
        scale: float64[C], the source's scales times the gain ratio: the grid that the target would hold exactly.
        quant: the source's parameters.
    """

    codes: NDArray[np.integer]
    zero_point: NDArray[np.int64]
    scale: NDArray[np.float64]
    quant: QuantParams

    @cached_property
    def values(self) -> NDArray[np.int16]:
        """Code - zero_point, int16[C, K]."""
        return self.codes.astype(np.int16) - self.zero_point.astype(np.int16)[:, None]

    @cached_property
    def peak(self) -> NDArray[np.int64]:
        """Max |v| of each channel."""
        top = self.codes.max(1, initial=np.iinfo(self.codes.dtype).min).astype(np.int64) - self.zero_point
        bottom = self.codes.min(1, initial=np.iinfo(self.codes.dtype).max).astype(np.int64) - self.zero_point
        return np.maximum(top, -bottom)

    def some(self, channels: NDArray[np.integer]) -> "Filter":
        """Only these channels."""
        zero_point = self.zero_point[channels] if self.zero_point.size > 1 else self.zero_point
        return Filter(self.codes[channels], zero_point, self.scale[channels], self.quant)


def by_channel(tensor: Tensor, axis: int, ratio: float) -> Filter:
    """Reads a filter into channels.

    Args:
        tensor: a constant with quantization.
        axis: its output-channel dimension.
        ratio: the gain of the op's output over that of its input.
    """
    assert tensor.data is not None and tensor.quant is not None
    quant, channels = tensor.quant, tensor.shape[axis]
    codes = tensor.data.reshape(-1, channels).T if axis == tensor.data.ndim - 1 else tensor.data.reshape(channels, -1)
    scale = np.full(channels, quant.scale.astype(np.float64) * ratio)
    return Filter(codes, quant.zero_point, scale, quant)


def plan_filter(
    target: Target,
    tensor: Tensor,
    axis: int,
    ratio: float,
    per_channel: bool,
    least: NDArray[np.float64],
    known: "Histogram | None" = None,
) -> ConstantPlan:
    """The new parameters of one filter.

    Args:
        target: the accelerator.
        tensor: the source's filter.
        axis: its output-channel dimension.
        ratio: the gain of the op's output over that of its input.
        per_channel: whether this op may have one scale per output channel.
        least: float64[C], scales below which the bias would leave its type.
        known: the filter's histogram where it was already taken.
    """
    assert tensor.quant is not None
    if _already_legal(target, tensor, ratio, per_channel):
        # A layer that was given fewer bits keeps to them, whatever a correction does.
        limits = weight_limits(target) if max(target.weight.bits) < 8 else None
        return ConstantPlan(tensor.quant, 1.0, "as in the source", limits=limits)
    filter_ = by_channel(tensor, axis, ratio)
    if not target.weight.symmetric:
        return _asymmetric(target, filter_, float(least.max(initial=0)))
    if per_channel:
        scale, reason, error = _symmetric_per_channel(target, filter_, least)
    else:
        scale, reason, error = _symmetric_per_tensor(target, filter_, known, float(least.max(initial=0)))
    params = QuantParams(weight_dtype(target), np.float32(scale), 0, axis if per_channel else 0)
    plan = _plan(target, filter_, params, reason, error)
    if target.weight.codebook is None:
        return plan
    return _with_levels(max(target.weight.codebook), tensor, axis, filter_, plan, least, target.weight.scale == "power_of_two")


def _with_levels(
    bits: int, tensor: Tensor, axis: int, filter_: Filter, plan: ConstantPlan, least: NDArray[np.float64], power_of_two: bool
) -> ConstantPlan:
    """The plan with every code one of the few levels that serve the tensor best, channels weighed by their energy."""
    assert plan.limits is not None and tensor.data is not None
    wanted = filter_.values * np.atleast_1d(np.asarray(plan.step, np.float64))[:, None]
    energy = np.maximum(np.einsum("ck,ck->c", wanted, wanted), 1e-30)[:, None]
    floor = least / plan.params.scale.astype(np.float64)
    floor = floor if plan.params.per_channel else floor.max(keepdims=True)
    # A smaller step would make a bias too large for its type.
    tried = np.stack([np.where(m >= floor, m, 1.0) for m in LEVEL_MULTIPLES[power_of_two]])
    levels, multiple = shared_levels(wanted, np.broadcast_to(1 / energy, wanted.shape), 2**bits, *plan.limits, tried)
    step = np.asarray(plan.step) / (multiple if multiple.size > 1 else multiple[0])
    params = QuantParams(plan.params.dtype, np.float32(plan.params.scale * multiple), 0, plan.params.axis)
    plan, found = plan.with_(params=params, step=step), nearest(wanted / multiple[:, None], levels)
    error = float((np.square(found * multiple[:, None] - wanted) / energy).sum(1).mean())
    moved = np.moveaxis(tensor.data, axis, 0).shape
    codes = np.ascontiguousarray(np.moveaxis(found.reshape(moved), 0, axis)).astype(plan.params.dtype)
    reason = f"{levels.size} levels, indices of {bits} bit{'s' if bits > 1 else ''}; ahead of them {plan.reason}"
    return plan.with_(codes=codes, error=error, levels=2**bits, reason=reason)


def _plan(target: Target, filter_: Filter, params: QuantParams, reason: str, error: float = 0.0) -> ConstantPlan:
    step = filter_.scale / params.scale.astype(np.float64)
    shared = float(step[0]) if (step == step[0]).all() else step
    return ConstantPlan(params, shared, reason, error, weight_limits(target))


def _already_legal(target: Target, tensor: Tensor, ratio: float, per_channel: bool) -> bool:
    quant, scheme = tensor.quant, target.weight
    assert quant is not None and tensor.data is not None
    if scheme.codebook is not None:
        return False
    if ratio != 1.0 or quant.dtype != weight_dtype(target) or (quant.per_channel and not per_channel):
        return False
    if scheme.scale == "power_of_two" and not is_power_of_two(quant.scale).all():
        return False
    if not scheme.symmetric:
        return True
    low, high = weight_limits(target)
    return bool(not quant.zero_point.any() and tensor.data.min(initial=0) >= low and tensor.data.max(initial=0) <= high)


def relative_error(
    filter_: Filter, scale: NDArray[np.float64], low: int, high: int, zero_point: int = 0
) -> NDArray[np.float64]:
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
        return _power_of_two_per_channel(filter_, peak, high, least)
    scale = filter_.scale.copy()
    outside = np.flatnonzero(peak > high)
    error = 0.0
    if outside.size:
        some = filter_.some(outside)
        fit = scale[outside] * peak[outside] / high
        candidates = np.stack([some.scale, *(fit * c for c in _CHANNEL_CLIPPINGS)])
        errors = _candidate_errors(some, candidates, low, high)
        scale[outside] = candidates[errors.argmin(0), np.arange(outside.size)]
        error = float(errors.min(0).sum()) / scale.size
    scale = np.maximum(scale, least)
    reason = "exact at the source's step" if not outside.size else (
        f"exact at the source's step in {scale.size - outside.size} of {scale.size} channels, the others rescaled"
    )  # fmt: skip
    return scale, reason, error


def _candidate_errors(
    filter_: Filter, candidates: NDArray[np.float64], low: int, high: int
) -> NDArray[np.float64]:
    """`relative_error` of several candidates a channel, float64[N, C] from scales float64[N, C]."""
    if candidates.shape[0] * filter_.values.size > _AT_ONCE:
        return np.stack([relative_error(filter_, c, low, high) for c in candidates])
    step = (filter_.scale / candidates)[:, :, None]
    error = reexpress(filter_.values, step, low, high) / step - filter_.values
    energy = np.einsum("ck,ck->c", filter_.values, filter_.values, dtype=np.float64)
    return np.asarray(np.einsum("nck,nck->nc", error, error) / np.maximum(energy, 1e-30))


def _power_of_two_per_channel(
    filter_: Filter, peak: NDArray[np.int64], high: int, least: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str, float]:
    # A channel of zeros keeps the source's magnitude: its scale only carries the bias.
    top = filter_.scale * np.where(peak > 0, peak / high, 1.0)
    exponent = np.ceil(np.log2(top) - _CEILING_SLACK)
    # Half the step takes three quarters of the rounding noise of step^2 / 12 a weight, and clips the peaks.
    half = 2.0 ** (exponent - 1) / filter_.scale
    saved = half**2 * filter_.codes.shape[1] / 4
    near = np.flatnonzero((peak > 0) & (np.maximum(peak - high * half, 0) ** 2 < saved))
    if near.size:
        exponent[near[_clipping_error(filter_.some(near), high * half[near]) < saved[near]]] -= 1
    exponent = np.maximum(exponent, np.ceil(np.log2(np.maximum(least, 1e-300))))
    noise = (2.0**exponent / (filter_.scale * np.maximum(peak, 1))) ** 2 / 12
    return 2.0**exponent, "power of two by channel, least error", float(noise.mean())


def _clipping_error(filter_: Filter, limit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over each channel of (|v| - limit)^2 where |v| > limit, float64[C]: few values, found by comparing bytes."""
    codes, bounds = filter_.codes, np.iinfo(filter_.codes.dtype)
    top = np.clip(np.floor(filter_.zero_point + limit), bounds.min, bounds.max).astype(codes.dtype)
    bottom = np.clip(np.ceil(filter_.zero_point - limit), bounds.min, bounds.max).astype(codes.dtype)
    where, beyond = np.nonzero((codes > top[:, None]) | (codes < bottom[:, None]))
    zero_point = np.broadcast_to(filter_.zero_point, limit.shape)
    excess = np.abs(codes[where, beyond].astype(np.int64) - zero_point[where]) - limit[where]
    return np.bincount(where, weights=excess**2, minlength=limit.size)


def _symmetric_per_tensor(
    target: Target, filter_: Filter, known: "Histogram | None", least: float
) -> tuple[NDArray[np.float64], str, float]:
    low, high = weight_limits(target)
    if filter_.quant.per_channel:
        return _per_tensor_from_channels(target, filter_, low, high, least)
    peak, step = int(filter_.peak.max(initial=0)), float(filter_.scale[0])
    # A filter of zeros keeps the source's magnitude: its scale only carries the bias.
    fit = step * peak / high or step
    if target.weight.scale == "power_of_two":
        candidates = _powers_of_two(fit, 4 if peak else 0, least)
        label = "power of two"
    else:
        candidates, label = np.maximum([step, *(fit * _CLIPPINGS)], least), "symmetric"
    if peak <= high and candidates[0] == step:
        return candidates[:1], "exact at the source's step", 0.0
    h, ratio = known or histogram(target, filter_), step / candidates[:, None]
    errors = (reexpress(h.values, ratio, low, high) / ratio - h.values) ** 2 @ h.weights
    best = int(np.argmin(errors))
    what = "the source's step" if candidates[best] == step else f"step {candidates[best] / step:.4g} times the source's"
    clipped = f", weights beyond {high * candidates[best] / step:.4g} source steps clipped" if fit > candidates[best] else ""
    return candidates[best : best + 1], f"{label}, {what}{clipped}", float(errors[best])


def _powers_of_two(fit: float, octaves: int, least: float) -> NDArray[np.float64]:
    """The first 2^k that reaches `fit` and those up to `octaves` below it, none below `least`."""
    exponents = np.ceil(np.log2(fit) - _CEILING_SLACK) + np.arange(-octaves, 1)
    return np.asarray(2.0 ** np.maximum(exponents, np.ceil(np.log2(max(least, 1e-300)))))


@dataclass(frozen=True, eq=False)
class Histogram:
    """The distinct magnitudes of a filter with one scale, each weighted by its share of its channel's energy.

    Attributes:
        values: the distinct |v|, v = code - zero_point.
        weights: the mean over output channels of (count of v) / (sum of v^2): the error of a value times its
            weight is its part in the mean relative error.
        scale: the source's scale.
        low: the lowest code of the target.
        high: the highest.
        energy: the mean over output channels of the sum of v^2.
    """

    values: NDArray[np.int64]
    weights: NDArray[np.float64]
    scale: float
    low: int
    high: int
    energy: float = 0.0

    @property
    def peak(self) -> int:
        """Max |v|."""
        return max(1, int(self.values.max(initial=1)))


def histogram(target: Target, filter_: Filter) -> Histogram:
    """The weighted histogram of |v| of a filter whose source has one scale.

    The bulk comes from an evenly spaced sample of each channel; the rare values that a clip would
    touch are all counted.
    """
    low, high = weight_limits(target)
    zero_point, size = int(filter_.zero_point[0]), filter_.codes.shape[1]
    every = max(1, filter_.codes.size // _SAMPLE)
    stride = next(s for s in range(min(every, size), 0, -1) if size % s or s == 1)
    bulk = np.abs(filter_.codes[:, ::stride].astype(np.int16) - np.int16(zero_point))
    energy = np.einsum("ck,ck->c", bulk, bulk, dtype=np.float32) * (size / bulk.shape[1])
    share = 1.0 / np.maximum(energy, 1.0) / energy.size
    counts = np.bincount(bulk.ravel(), weights=np.repeat(share, bulk.shape[1]), minlength=512) * (size / bulk.shape[1])
    if stride > 1 and filter_.peak.max() > high:
        rows = np.flatnonzero(filter_.peak > high)
        outliers = np.abs(filter_.codes[rows].astype(np.int16) - np.int16(zero_point))
        counts[high + 1 :] = 0
        where, beyond = np.nonzero(outliers > high)
        np.add.at(counts, outliers[where, beyond], share[rows[where]])
    present = np.flatnonzero(counts)
    return Histogram(present, counts[present], float(filter_.scale[0]), low, high, float(energy.mean()))


def _per_tensor_from_channels(
    target: Target, filter_: Filter, low: int, high: int, least: float
) -> tuple[NDArray[np.float64], str, float]:
    fit = float((filter_.scale * filter_.peak).max()) / high or float(filter_.scale.max())
    candidates = np.maximum(fit * _CLIPPINGS[::2], least)
    if target.weight.scale == "power_of_two":
        candidates = _powers_of_two(fit, 3 if filter_.peak.any() else 0, least)
    errors = [float(relative_error(filter_, np.array([c]), low, high).mean()) for c in candidates]
    best = int(np.argmin(errors))
    return candidates[best : best + 1], f"one scale for {filter_.scale.size} channels, least error", errors[best]


def _asymmetric(target: Target, filter_: Filter, least: float) -> ConstantPlan:
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
        scale = max((largest - smallest) * clipping / (high - low) or step, least)
        zero_point = int(np.clip(round(low - smallest * clipping / scale), low, high))
        error = float(relative_error(filter_, np.array([scale]), low, high, zero_point).mean())
        if best is None or error < best[0]:
            best = (error, scale, zero_point)
    assert best is not None
    params = QuantParams("uint8", np.float32(best[1]), best[2])
    return _plan(target, filter_, params, f"one scale for {filter_.scale.size} channels, least error", best[0])
