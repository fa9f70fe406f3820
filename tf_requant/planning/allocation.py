"""One option an item, so that errors add up to the least that a budget allows: the exact answer, not a greedy one.

The bit widths of a network's layers are such a choice (a multiple-choice knapsack): each width of a layer has a cost and
an error, costs and errors add up. Partial choices that another beats in both are dropped, and so are those whose error
with the best relaxed rest (each layer at a mixture of two options, solved by slopes) already exceeds a known answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_SLACK = 1e-12
"""Of all errors together: a bound is summed in another order than what it bounds."""


@dataclass(frozen=True, eq=False)
class Item:
    """What is chosen among.

    Attributes:
        costs: of each option, float64[options].
        errors: of each option, float64[options].
    """

    costs: Array
    errors: Array


def allocate(items: Sequence[Item], budget: float) -> tuple[int, ...] | None:
    """The option of each item of least summed error whose summed cost is within the budget.

    >>> allocate([Item(np.array([1.0, 2.0]), np.array([5.0, 0.0])), Item(np.array([1.0, 2.0]), np.array([3.0, 0.0]))], 3.0)
    (1, 0)

    Args:
        items: what is chosen among.
        budget: the most that costs may add up to.

    Returns:
        One option an item; None where even the cheapest exceed the budget.
    """
    # A budget that just fits may seem short by the last bits of a sum.
    slack = _SLACK * max(1.0, abs(budget), sum(float(item.costs.max()) for item in items))
    budget += slack
    if sum(float(item.costs.min()) for item in items) > budget:
        return None
    order = sorted(range(len(items)), key=lambda i: -float(np.ptp(items[i].costs)))
    rests = _relaxed([items[i] for i in order])
    known = _rounded([items[i] for i in order], budget) + _SLACK * sum(float(item.errors.max()) for item in items)
    costs, errors = np.zeros(1), np.zeros(1)
    steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for place, i in enumerate(order):
        item = items[i]
        cost = (costs[:, None] + item.costs).reshape(-1)
        error = (errors[:, None] + item.errors).reshape(-1)
        bound = error + rests[place + 1].least(budget - cost, slack)
        live = np.flatnonzero(bound <= known)
        kept = live[_unbeaten(cost[live], error[live])]
        steps.append((kept // item.costs.size, kept % item.costs.size))
        costs, errors = cost[kept], error[kept]
    at, chosen = int(np.argmin(errors)), [0] * len(items)
    for (parents, options), i in zip(reversed(steps), reversed(order)):
        chosen[i], at = int(options[at]), int(parents[at])
    return tuple(chosen)


def _unbeaten(costs: Array, errors: Array) -> NDArray[np.int64]:
    """The places of those that no other beats in cost and error; of equals one."""
    if not costs.size:
        return np.zeros(0, np.int64)
    order = np.lexsort((errors, costs))
    best = np.minimum.accumulate(errors[order])
    return np.asarray(order[np.r_[True, errors[order][1:] < best[:-1]]])


@dataclass(frozen=True, eq=False)
class _Relaxed:
    """The least error of some items where each may be a mixture of options: piecewise linear and convex in the budget.

    Attributes:
        costs: where the pieces meet, rising.
        errors: there.
    """

    costs: Array
    errors: Array

    def least(self, budgets: Array, slack: float) -> Array:
        """For each budget; infinite where it is too small by more than some slack."""
        short = budgets < self.costs[0] - slack
        return np.asarray(np.where(short, np.inf, np.interp(budgets, self.costs, self.errors)))


def _relaxed(items: Sequence[Item]) -> list[_Relaxed]:
    """Of all items from each place on, the empty rest included."""
    found, pieces = [_Relaxed(np.zeros(1), np.zeros(1))], np.zeros((0, 2))
    cost = error = 0.0
    for item in reversed(items):
        hull = _hull(item)
        cost, error = cost + float(hull[0, 0]), error + float(hull[0, 1])
        pieces = np.concatenate([pieces, np.diff(hull, axis=0)])
        pieces = pieces[np.argsort(pieces[:, 1] / pieces[:, 0], kind="stable")]
        ends = np.cumsum(np.concatenate([[[cost, error]], pieces]), axis=0)
        found.append(_Relaxed(ends[:, 0], ends[:, 1]))
    return found[::-1]


def _hull(item: Item) -> Array:
    """The options on the lower convex hull that cost more and err less than the one before, float64[points, 2]."""
    points = np.stack([item.costs, item.errors], axis=1)[_unbeaten(item.costs, item.errors)]
    kept: list[Array] = []
    for point in points:
        while len(kept) > 1 and _turns_up(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    return np.array(kept)


def _turns_up(first: Array, middle: Array, last: Array) -> bool:
    """Whether the middle lies on or above the line between the others."""
    a, b = middle - first, last - first
    return bool(a[0] * b[1] - a[1] * b[0] <= 0)


def _rounded(items: Sequence[Item], budget: float) -> float:
    """The error of a good choice: the cheapest, and the best slopes that still fit."""
    hulls = [_hull(item) for item in items]
    cost, error = sum(float(h[0, 0]) for h in hulls), sum(float(h[0, 1]) for h in hulls)
    pieces = [
        ((h[k + 1, 1] - h[k, 1]) / (h[k + 1, 0] - h[k, 0]), i, k) for i, h in enumerate(hulls) for k in range(len(h) - 1)
    ]
    reached = [0] * len(items)
    for _, i, k in sorted(pieces):
        more = float(hulls[i][k + 1, 0] - hulls[i][k, 0])
        if reached[i] == k and cost + more <= budget:
            cost, error, reached[i] = cost + more, error + float(hulls[i][k + 1, 1] - hulls[i][k, 1]), k + 1
    return error
