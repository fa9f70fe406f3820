"""A layer's filter, and the choice among what the methods propose for it, by the error on samples held back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.moments import Moments
from tf_requant.corrections.error_folding import RIDGES, folded
from tf_requant.corrections.gptq import Rounder, compensated, within
from tf_requant.corrections.scale_search import best_scale, candidates
from tf_requant.numerics.codebook import LEVEL_MULTIPLES, nearest, shared_levels

_INTEGRAL = 1e-4
"""A filter is exact where every value is this near to an integer: float32's scales leave that much."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A filter in steps of its planned scale, grouped as `calibration.layers` says.

    Attributes:
        wanted: the source's values, float64[groups, outputs, K]; gains and scales are in it.
        planned: the codes at hand, code minus zero point.
        limits: the lowest and highest code minus zero point.
        power_of_two: whether scales move by octaves only.
        per_channel: whether each output channel has its own scale.
        bias_share: the largest |bias| over the largest one allowed: a smaller scale makes it grow.
        multiples: the smallest and the largest multiple of the scale that the rescale can hold.
        levels: how many different codes the filter may have; None for every integer within the limits.
        steps: the real value of one step of each output, float64[groups * outputs]; None where all are alike.
    """

    wanted: NDArray[np.float64]
    planned: NDArray[np.float64]
    limits: tuple[int, int]
    power_of_two: bool
    per_channel: bool
    bias_share: float = 0.0
    multiples: tuple[float, float] = (0.0, np.inf)
    levels: int | None = None
    steps: NDArray[np.float64] | None = None

    @property
    def exact(self) -> bool:
        """Whether the planned codes are the source's values."""
        return bool(np.abs(self.wanted - self.planned).max(initial=0.0) < _INTEGRAL)


@dataclass(frozen=True, eq=False)
class Choice:
    """What a filter becomes.

    Attributes:
        multiple: of its planned scale, float64[channels or 1].
        codes: code minus zero point, float64[groups, outputs, K].
        error: predicted error of the layer's output over its variance, upstream errors included.
        reason: which method, and what it brings.
    """

    multiple: NDArray[np.float64]
    codes: NDArray[np.float64]
    error: float
    reason: str


def choose(
    layer: Layer, learned: Moments, judged: Moments, methods: frozenset[str], named: bool = False
) -> Choice | None:
    """The proposal of least error on the samples held back; None where that is what was planned.

    Args:
        layer: the filter.
        learned: moments of the samples that the methods may look at.
        judged: moments of those held back, `yy` included.
        methods: names of corrections: `scale_search`, `gptq`, `error_folding`.
        named: whether the user asked for them, so that one of them is taken.
    """
    proposals = _proposals(layer, learned, methods)
    if not proposals:
        return None
    signal = max(float(judged.signal(layer.wanted).sum()), 1e-30)
    squared = judged.against(layer.wanted)

    def error(multiple: NDArray[np.float64], codes: NDArray[np.float64]) -> float:
        return float(squared(codes * _by_output(multiple, layer)).sum()) / signal

    ones = np.ones(layer.wanted.shape[0] * layer.wanted.shape[1] if layer.per_channel else 1)
    before = error(ones, layer.planned)
    scored = [(error(multiple, codes), number) for number, (_, multiple, codes) in enumerate(proposals)]
    best, number = min(scored)
    if best >= before and not named:
        return None
    name, multiple, codes = proposals[number]
    reason = f"{name}, predicted output error {_decibels(before)} -> {_decibels(best)} dB"
    return Choice(multiple, codes, best, reason)


def _proposals(
    layer: Layer, learned: Moments, methods: frozenset[str]
) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """(name, multiple of the scale, codes) of every combination that was asked for."""
    groups, outputs, _ = layer.wanted.shape
    ones = np.ones(groups * outputs if layer.per_channel else 1)
    multiples = [("", ones)]
    if "scale_search" in methods and not layer.exact and layer.levels is None and layer.limits[0] < 0 < layer.limits[1]:
        found = _searched(layer, learned)
        if (found != 1).any():
            multiples.append(("scale_search, ", found))
    rounds = "gptq" in methods
    found_proposals = []
    for label, multiple in multiples:
        to_codes = within(*layer.limits)
        if layer.levels is not None:
            to_codes, multiple = _from_levels(layer, learned)
        wanted = layer.wanted / _by_output(multiple, layer)
        goals = [("", wanted)] if rounds or label else []
        if "error_folding" in methods:
            goals += [(f"error_folding at a ridge of {r:g}", folded(wanted, learned, r)) for r in RIDGES]
        if not goals:
            continue
        stacked = np.concatenate([goal for _, goal in goals], axis=1)
        codes = compensated(stacked, learned.xx, to_codes) if rounds else to_codes(stacked)
        for (name, _), part in zip(goals, np.split(codes, len(goals), axis=1)):
            parts = [label.removesuffix(", "), "gptq" if rounds else "", name]
            found_proposals.append((", ".join(p for p in parts if p), multiple, part))
    return found_proposals


def _from_levels(layer: Layer, learned: Moments) -> tuple[Rounder, NDArray[np.float64]]:
    """Rounding to the levels that serve the weights best by the power of what they multiply, and each scale's multiple."""
    assert layer.levels is not None
    groups, outputs, inputs = layer.wanted.shape
    rows = layer.wanted.reshape(groups * outputs, inputs)
    power = np.repeat(np.maximum(np.einsum("gkk->gk", learned.xx), 1e-6), outputs, axis=0)
    # In a filter with a scale a channel, one step means more in one channel than in another.
    size = 1.0 if layer.steps is None else np.square(layer.steps / layer.steps.mean())[:, None]
    ones = np.ones(rows.shape[0] if layer.per_channel else 1)
    least, most = max(layer.bias_share, layer.multiples[0]), max(layer.multiples[1], 1.0)
    tried = np.stack([ones * (m if least <= m <= most else 1.0) for m in LEVEL_MULTIPLES[layer.power_of_two]])
    levels, multiple = shared_levels(rows, power * size, layer.levels, *layer.limits, tried)
    return lambda values: nearest(values, levels), multiple


def _searched(layer: Layer, learned: Moments) -> NDArray[np.float64]:
    """The scale of least output error that neither the bias nor the rescale forbids."""
    rows = layer.wanted.reshape(-1, layer.wanted.shape[2])
    tried = candidates(rows, layer.limits[1], layer.power_of_two, layer.per_channel)
    least, most = layer.multiples
    tried = np.where((tried >= max(layer.bias_share, least)) & (tried <= max(most, 1.0)), tried, 1.0)
    return best_scale(layer.wanted, learned, tried, *layer.limits)


def _by_output(multiple: NDArray[np.float64], layer: Layer) -> NDArray[np.float64]:
    groups, outputs, _ = layer.wanted.shape
    return np.broadcast_to(multiple, (groups * outputs,)).reshape(groups, outputs, 1)


def _decibels(error: float) -> str:
    return f"{10 * np.log10(max(error, 1e-12)):.1f}"
