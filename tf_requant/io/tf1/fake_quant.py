"""The grid of a FakeQuant node: what `min`, `max`, `num_bits` and `narrow_range` mean, and the range that gives a grid.

TensorFlow computes it in float32 (tensorflow/core/kernels/fake_quant_ops_functor.h, `Nudge`): scale = (max - min) /
(highest - lowest code), the zero point is `lowest - min / scale` rounded half away from zero, and the range is nudged so
that zero is a code.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.io.tf1.nodes import attribute
from tf_requant.numerics.rounding import Rounding, round_real


@dataclass(frozen=True, eq=False)
class Range:
    """A FakeQuant node's range.

    Attributes:
        minimum: float32[1], or [C] for one a channel.
        maximum: the same shape.
        bits: its width.
        narrow: whether the lowest code is left out.
    """

    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    bits: int = 8
    narrow: bool = False

    @property
    def lowest(self) -> int:
        """The lowest code: 1 for a narrow range."""
        return int(self.narrow)

    @property
    def highest(self) -> int:
        """The highest code."""
        return (1 << self.bits) - 1

    def grid(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The scale, float32, and the zero point in codes from 0 that TensorFlow makes of it."""
        low, high = np.float32(self.lowest), np.float32(self.highest)
        scale, zero_point = (self.maximum - self.minimum) / (high - low), self._zero_point()
        zero_point = np.clip(np.nan_to_num(zero_point), low, high)
        return scale, round_real(zero_point.astype(np.float64), Rounding.HALF_AWAY).astype(np.int64)

    def _zero_point(self) -> NDArray[np.float32]:
        low, high = np.float32(self.lowest), np.float32(self.highest)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(low - self.minimum / ((self.maximum - self.minimum) / (high - low)), np.float32)

    def is_between_codes(self) -> bool:
        """Whether a zero point is so near to the middle of two codes that float32 and float64 round it differently."""
        share = np.abs(self._zero_point()) % 1
        return bool(np.any(np.abs(share - 0.5) < 1e-3))


def range_of(scale: NDArray[np.float32], zero_point: int, bits: int, narrow: bool) -> Range:
    """The range whose grid is the given one: exactly for a power of two, else with the nearest scale that float32 ends have.

    >>> range_of(np.float32([0.25]), 128, 8, True)
    Range(minimum=array([-31.75], dtype=float32), maximum=array([31.75], dtype=float32), bits=8, narrow=True)

    Args:
        scale: float32[1] or [C].
        zero_point: in codes from 0 (128 for an int8 code of 0).
        bits: the width.
        narrow: whether the lowest code is left out.
    """
    scale = np.atleast_1d(np.asarray(scale, np.float32))
    blank = Range(scale, scale, bits, narrow)
    ends = np.float32(blank.lowest - zero_point) * scale, np.float32(blank.highest - zero_point) * scale
    best, least = ends, np.full(scale.shape, np.inf)
    for low, high in sorted(((a, b) for a in range(-3, 4) for b in range(-3, 4)), key=lambda p: abs(p[0]) + abs(p[1])):
        made = Range(moved(ends[0], low), moved(ends[1], high), bits, narrow)
        found, zero = made.grid()
        error = np.where(zero == zero_point, np.abs(found.astype(np.float64) - scale), np.inf)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, made.minimum, best[0]), np.where(better, made.maximum, best[1])
    return Range(best[0].astype(np.float32), best[1].astype(np.float32), bits, narrow)


def moved(values: NDArray[np.float32], ulps: int) -> NDArray[np.float32]:
    """Each value so many float32 further up; zero stays."""
    for _ in range(abs(ulps) if values.any() else 0):  # an end at zero stays there
        values = np.nextafter(values, np.float32(np.copysign(np.inf, ulps)))
    return values


def quantized(values: NDArray[np.float32], held: Range, axis: int | None = None) -> NDArray[np.int64]:
    """The codes, from 0, that a FakeQuant node rounds real values to.

    Args:
        values: any shape.
        held: the node's range.
        axis: the dimension that a range per channel runs along.
    """
    scale, zero_point = held.grid()
    if scale.size > 1:
        assert axis is not None
        shape = [1] * values.ndim
        shape[axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    low, high = (held.lowest - zero_point) * scale, (held.highest - zero_point) * scale
    shifted = (np.clip(values, low, high) - low) / np.where(scale > 0, scale, np.float32(1))
    shifted = np.where(scale > 0, shifted, zero_point - held.lowest)  # a range of nothing holds zero alone
    return (np.floor(shifted.astype(np.float64) + 0.5) + held.lowest).astype(np.int64)


def range_from(node: Any, minimum: NDArray[np.float32], maximum: NDArray[np.float32]) -> Range:
    """The range of a node, whose ends were evaluated."""
    bits, narrow = attribute(node, "num_bits", "i", 8), attribute(node, "narrow_range", "b", False)
    return Range(np.float32(minimum).reshape(-1), np.float32(maximum).reshape(-1), int(bits), bool(narrow))
