"""Codebooks: the few integer levels that serve many values best, found exactly.

DDQ (arXiv 2106.02295) learns non-uniform levels while it trains. For given values and weights, the levels of least squared
error are k-means in one dimension, which dynamic programming solves exactly where levels are integers (as the codes of a
file are): between two neighbouring levels each value belongs to the nearer one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.rounding import Rounding, round_real

Array = NDArray[np.float64]
_PARTS = 16
"""Bins a step: values within a sixteenth of a step count as one."""
LEVEL_MULTIPLES = {False: (1.0, *np.linspace(0.6, 1.2, 13).tolist()), True: (1.0, 0.5)}
"""Multiples of a step worth trying where scales are free, and where they are powers of two."""
_ROUNDS = 4
"""Turns of levels and steps: more change little."""


def best_levels(values: Array, weights: Array, count: int, low: int, high: int) -> NDArray[np.int64]:
    """The integers of least weighted squared error, rising.

    >>> best_levels(np.array([-7.0, 0.1, 3.0, 3.2]), np.ones(4), 3, -127, 127)
    array([-7,  0,  3])

    Args:
        values: what is to be represented, in steps; beyond the limits they count as the limits.
        weights: of each value, not negative.
        count: how many levels there may be.
        low: the lowest level allowed.
        high: the highest.

    Returns:
        At most `count` of them; no more than the values need.
    """
    bins = np.clip(_nearest_integer((values.ravel() - low) * _PARTS), 0, (high - low) * _PARTS).astype(np.int64)
    mass = np.bincount(bins, weights=weights.ravel(), minlength=(high - low) * _PARTS + 1)
    places = low + np.arange(mass.size) / _PARTS
    used = np.unique(_nearest_integer(places[mass > 0])).astype(np.int64)
    if used.size <= count and np.isin(places[mass > 0], used).all():
        return used if used.size else np.zeros(1, np.int64)
    # Sums up to each place, from which every interval's error around a level follows.
    sums = np.stack([np.concatenate([[0.0], np.cumsum(mass * places**power)]) for power in range(3)])
    levels = np.arange(low, high + 1)
    inner = _between(levels, sums, low)
    best, steps = _error(levels, sums, np.zeros_like(levels), (levels - low) * _PARTS), []
    right = _error(levels, sums, (levels - low) * _PARTS, np.full_like(levels, mass.size))
    totals = [best + right]
    for _ in range(1, min(count, levels.size)):
        reached = best[:, None] + inner
        steps.append(reached.argmin(axis=0))
        best = reached.min(axis=0)
        totals.append(best + right)
    number = int(np.argmin([total.min() for total in totals]))
    found = [int(totals[number].argmin())]
    for step in reversed(steps[:number]):
        found.append(int(step[found[-1]]))
    return np.unique(levels[found])


def shared_levels(
    rows: Array, weights: Array, count: int, low: int, high: int, multiples: Array
) -> tuple[NDArray[np.int64], Array]:
    """Levels that rows share, and the multiple of its step at which each row meets them best.

    Each in turn, the other held: neither step can make the error larger.

    Args:
        rows: the values in steps, float64[R, K].
        weights: of each value's squared error, float64[R, K].
        count: how many levels there may be.
        low: the lowest level.
        high: the highest.
        multiples: what is tried, float64[N, R], or float64[N, 1] for one multiple of all rows; the first is one.

    Returns:
        The levels, and the multiples, float64[R or 1].
    """
    columns = np.arange(multiples.shape[1])
    chosen = multiples[0]
    levels = best_levels(rows, weights, count, low, high)
    for _ in range(_ROUNDS):
        errors = []
        for multiple in multiples:
            step = multiple[:, None]
            error = (weights * (nearest(rows / step, levels) * step - rows) ** 2).sum(axis=1)
            errors.append(error if columns.size > 1 else error.sum(keepdims=True))
        found = multiples[np.argmin(errors, axis=0), columns]
        if np.array_equal(found, chosen):
            break
        chosen, step = found, found[:, None]
        levels = best_levels(rows / step, weights * step**2, count, low, high)
    return levels, chosen


def nearest(values: Array, levels: NDArray[np.integer]) -> Array:
    """Each value's nearest level; of two, the higher.

    Args:
        values: any shape.
        levels: rising.
    """
    middle = (levels[1:] + levels[:-1]) / 2
    return np.asarray(levels[np.searchsorted(middle, values, side="right")], np.float64)


def index_width(levels: int, widths: Sequence[int]) -> int:
    """Bits of an index into so many levels: the smallest width that there is for it.

    >>> index_width(5, (2, 4)), index_width(5, ())
    (4, 3)

    Args:
        levels: how many.
        widths: those that a decoder knows; where none holds the levels, what they need.
    """
    needed = max(1, (levels - 1).bit_length())
    return min((width for width in widths if width >= needed), default=needed)


def _nearest_integer(values: Array) -> Array:
    return round_real(values, Rounding.HALF_EVEN)


def _error(levels: NDArray[np.int64], sums: Array, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Array:
    """The squared error of the bins from start up to stop around each level."""
    mass, first, second = (row[stop] - row[start] for row in sums)
    return np.asarray(np.maximum(second - 2 * levels * first + levels**2 * mass, 0.0))


def _between(levels: NDArray[np.int64], sums: Array, low: int) -> Array:
    """The error of what lies between any two levels, each value at the nearer; infinite where they do not rise."""
    a, b = np.meshgrid(levels, levels, indexing="ij")
    rising = a < b
    start, stop = (a - low) * _PARTS, (b - low) * _PARTS
    # The middle of two integers is a bin of its own where bins divide a half; it belongs to the higher.
    middle = np.maximum((start + stop) // 2, start)
    found = _error(a, sums, start, np.where(rising, middle, start)) + _error(b, sums, np.where(rising, middle, stop), stop)
    return np.where(rising, found, np.inf)
