"""Statistics of a comparison: intervals for shares, and signal over noise."""

from math import inf, log10, sqrt

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927).

    >>> [round(x, 4) for x in wilson(95, 100)]
    [0.8882, 0.9785]
    """
    if not total:
        return 0.0, 1.0
    p, z2 = hits / total, Z95**2
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 * sqrt(p * (1 - p) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return centre - half, centre + half


def paired_difference(only_first: int, only_second: int, total: int) -> tuple[float, tuple[float, float]]:
    """The difference of two shares over the same samples, first less second, with its 95 % interval.

    Args:
        only_first: samples that only the first gets right.
        only_second: samples that only the second gets right.
        total: all samples.

    >>> difference, (low, high) = paired_difference(10, 6, 400)
    >>> round(difference, 4), round(low, 4), round(high, 4)
    (0.01, -0.0096, 0.0296)
    """
    if not total:
        return 0.0, (-1.0, 1.0)
    difference = (only_first - only_second) / total
    variance = (only_first + only_second) / total - difference**2
    half = Z95 * sqrt(max(variance, 0.0) / total)
    return difference, (difference - half, difference + half)


def decibels(signal: float, noise: float) -> float:
    """10 log10 of a ratio of powers; infinite where there is no noise.

    >>> decibels(100.0, 1.0)
    20.0
    """
    if noise == 0:
        return inf
    return 10 * log10(signal / noise) if signal > 0 else -inf


def power(x: NDArray[np.float64]) -> float:
    """The sum of squares."""
    flat = x.ravel()
    return float(flat @ flat)
