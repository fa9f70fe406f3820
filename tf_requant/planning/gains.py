"""Folds the residual of a power-of-two scale along the graph: one gain a class of tied tensors.

A gain a > 0 on a tensor (real values times a, scale times a) leaves its codes as they are when the
filter that writes it is multiplied by a and every filter that reads it by 1/a (gauge freedom, exact
through RELU, pools, moves and sums that share the gain). A class with a fused RELU6 has one gain that
a TFLite file can express: the one that puts the clamp on the type's highest code, where saturation is
the clamp and RELU6 becomes RELU. The other classes take the gain of least predicted error, counting
their own tensors and every filter that reads or writes them: which of them stays exact is the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.partition import Partition
from tf_requant.model.quant import QuantParams
from tf_requant.numerics.affine import reexpress
from tf_requant.planning.activations import least_errors, limits
from tf_requant.planning.ranges import ValueRange
from tf_requant.planning.schemes import is_narrow
from tf_requant.planning.weights import Histogram
from tf_requant.targets import Target

_OCTAVE = 16
"""Candidate gains per octave; the errors repeat with every octave, since scales are powers of two."""

_GRID = 2.0 ** (np.arange(_OCTAVE) / _OCTAVE - 0.5)
_SWEEPS = 2
_CLAMP_TOLERANCE = 0.005
"""Relative spread of clamps in one class that is still one clamp: half a code of 127."""

ClassValues = Mapping[int, tuple[QuantParams, ValueRange]]


@dataclass(frozen=True, eq=False)
class Link:
    """A filter between two gain classes: its scale is multiplied by gain(writes) / gain(reads).

    Attributes:
        reads: the gain class of its input.
        writes: the gain class of its output.
        histogram: its values, where one power of two has to serve the whole filter.
        weight: what a relative error of one costs, in the unit of the classes' own costs.
    """

    reads: int
    writes: int
    histogram: Histogram
    weight: float = 1.0


def choose_gains(
    targets: Mapping[int, Target],
    gains: Partition,
    parameters: Partition,
    values: ClassValues,
    pinned: Mapping[int, str],
    links: list[Link],
    noise: Mapping[int, float] | None = None,
) -> dict[int, float]:
    """The gain of each gain class, by its representative; empty when the target has no use for gains.

    Args:
        targets: the accelerator as each parameter class sees it, by its representative.
        gains: the gain classes.
        parameters: the parameter classes, each inside one gain class.
        values: source parameters and range of each parameter class, by its representative.
        pinned: the gain classes whose gain is one.
        links: the filters whose error depends on gains.
        noise: what an error of one, in the source's real units squared, of each parameter class does to the scores;
            without it an error counts by its share of the class's own variance.
    """
    if all(target.activation.scale != "power_of_two" for target in targets.values()):
        return {}
    members: dict[int, list[tuple[Target, ValueRange]]] = {}
    weights: dict[int, list[float]] = {}
    for representative in parameters.classes():
        inside = values[representative][1]
        members.setdefault(gains.find(representative), []).append((targets[representative], inside))
        weight = noise.get(representative, 0.0) if noise else 1 / max(inside.variance, 1e-30)
        weights.setdefault(gains.find(representative), []).append(weight)
    chosen = {root: _dictated_gain(inside, root in pinned) for root, inside in members.items()}
    free = [root for root, gain in chosen.items() if gain is None]
    result = {root: 1.0 if gain is None else gain for root, gain in chosen.items()}
    curves = [_Curve(link) for link in links]
    own = {root: _own_costs(members[root], weights[root]) for root in free}
    touching = {root: [c for c in curves if root in (c.link.reads, c.link.writes)] for root in free}
    for _ in range(_SWEEPS):
        for root in free:
            result[root] = _best(root, own[root], touching[root], result)
    return result


def _dictated_gain(inside: list[tuple[Target, ValueRange]], pinned: bool) -> float | None:
    """The one gain that a class can have, or None where it is free."""
    if pinned:
        return 1.0
    clamps = [v for _, v in inside if v.clamp is not None]
    if not clamps:
        return None
    if any(is_narrow(target) for target, _ in inside):
        return 1.0  # TFLite saturates beyond the width's highest code, so RELU6 stays, at real 6
    tops = np.array([v.scale * v.high for v in clamps])
    if np.ptp(tops) > _CLAMP_TOLERANCE * tops.max():
        return 1.0  # two clamps cannot both lie on the highest code: RELU6 stays, at real 6
    gain = limits(inside[0][0], clamps[0])[2] / tops.max()
    return float(gain * 2.0 ** -np.round(np.log2(gain)))


def _own_costs(
    inside: list[tuple[Target, ValueRange]], weights: list[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Candidate gains, and the weighted error of the class's own tensors at each."""
    exact = [2.0 ** np.round(np.log2(v.scale)) / v.scale for _, v in inside]
    candidates = np.array([*exact, *_GRID])
    costs = [least_errors(target, v, candidates) * weight for (target, v), weight in zip(inside, weights)]
    return candidates, np.sum(costs, axis=0)


def _best(
    root: int,
    own: tuple[NDArray[np.float64], NDArray[np.float64]],
    curves: list["_Curve"],
    gains: Mapping[int, float],
) -> float:
    candidates, costs = own
    # Besides the grid: the gains at which one neighbouring filter keeps its codes exactly.
    extra = np.array([c.exact_gain(root, gains) for c in curves if c.link.reads != c.link.writes])
    if extra.size:
        nearest = np.abs(np.log2(candidates) - np.log2(extra)[:, None]).argmin(1)
        candidates, costs = np.concatenate([candidates, extra]), np.concatenate([costs, costs[nearest]])
    total = costs + sum((c.errors(root, candidates, gains) for c in curves), np.zeros(candidates.size))
    return float(candidates[int(np.argmin(total))])


class _Curve:
    """The error of one filter over the mantissa of its scale, in steps of 1/16 octave."""

    def __init__(self, link: Link) -> None:
        self.link = link
        h = link.histogram
        steps = 2.0 ** (np.arange(_OCTAVE) / _OCTAVE)
        exponents = np.ceil(np.log2(h.peak / h.high)) + np.arange(-3, 1)
        step = (steps[:, None] / 2.0**exponents)[:, :, None]
        error = reexpress(h.values, step, h.low, h.high) / step - h.values
        self._errors = ((error**2) @ h.weights).min(1)

    def exact_gain(self, root: int, gains: Mapping[int, float]) -> float:
        """The gain of one of its classes, within an octave around one, that makes its scale a power of two."""
        other = self._scale(root, np.ones(1), gains)[0]
        gain = 1 / other if root == self.link.writes else other
        return float(gain * 2.0 ** -np.round(np.log2(gain)))

    def errors(self, root: int, candidates: NDArray[np.float64], gains: Mapping[int, float]) -> NDArray[np.float64]:
        """Its relative error at each candidate gain of one of its classes."""
        position = np.log2(self._scale(root, candidates, gains)) * _OCTAVE
        index = np.round(position).astype(np.int64)
        # Next to a power of two is as bad as far from it: only the very point is exact.
        missed = (index % _OCTAVE == 0) & (np.abs(position - index) > 1e-6)
        return self.link.weight * self._errors[(index + np.where(missed, np.where(position > index, 1, -1), 0)) % _OCTAVE]

    def _scale(self, root: int, candidates: NDArray[np.float64], gains: Mapping[int, float]) -> NDArray[np.float64]:
        writes = candidates if root == self.link.writes else gains[self.link.writes]
        reads = candidates if root == self.link.reads else gains[self.link.reads]
        return self.link.histogram.scale * writes / np.asarray(reads)
