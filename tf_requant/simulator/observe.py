"""What a run counts while it computes: saturations, ties, accumulator bits."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.fixed_point import Rescale
from tf_requant.numerics.integers import limits, signed_bits
from tf_requant.numerics.output_stage import OutputStage


@dataclass
class Observation:
    """What one op did, over all runs so far.

    Attributes:
        op_index: where it stands.
        output: the tensor that it writes.
        elements: output codes computed.
        saturated: how many of them left their type's range, or the arithmetic's width, before the clamp (a fused
            activation's clamp inside the range is no saturation).
        ties: how many lay exactly between two codes when they were rounded for the last time.
        overflowed: how many sums did not fit the accumulator, or the intermediate register ahead of it.
        register_bits: the accumulator's width; None for an op that has no accumulator.
        worst_case_bits: the width that the worst input would need: sum |w| max |x| + |b|.
        lowest: the lowest sum seen.
        highest: the highest sum seen.
    """

    op_index: int
    output: str
    elements: int = 0
    saturated: int = 0
    ties: int = 0
    overflowed: int = 0
    register_bits: int | None = None
    worst_case_bits: int | None = None
    lowest: int = 0
    highest: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def observed_bits(self) -> int | None:
        """The width that the sums seen so far need."""
        return None if self.register_bits is None else signed_bits(self.lowest, self.highest)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        counts = {"op_index": self.op_index, "output": self.output, "elements": self.elements}
        counts |= {"saturated": self.saturated, "ties": self.ties}
        if self.register_bits is not None:
            counts |= {"overflowed": self.overflowed, "register_bits": self.register_bits}
            counts |= {"worst_case_bits": self.worst_case_bits, "observed_bits": self.observed_bits}
        return counts

    def sums(self, exact: NDArray[np.int64], bits: int) -> None:
        """Counts the sums of an accumulator, int64[...], before anything happened to them."""
        if not exact.size:
            return
        self.register_bits = bits
        self.lowest, self.highest = min(self.lowest, int(exact.min())), max(self.highest, int(exact.max()))
        low, high = limits(bits)
        self.overflowed += int(((exact < low) | (exact > high)).sum())

    def rounded(self, free: NDArray[Any], limits_of_type: tuple[int, int]) -> None:
        """Counts codes that a table's function gives, before they are held within their type."""
        low, high = limits_of_type
        self.elements += free.size
        self.saturated += int(((free < low) | (free > high)).sum())

    def codes(self, accumulator: NDArray[np.int64], stage: OutputStage) -> None:
        """Counts what the last rounding and the clamp do to accumulators, int64[..., C]."""
        free = stage.rescale.apply(accumulator) + stage.zero_point
        self.elements += free.size
        if not stage.meant[0]:
            self.saturated += int((free < stage.low).sum())
        if not stage.meant[1]:
            self.saturated += int((free > stage.high).sum())
        self.ties += int(is_tie(accumulator, stage.rescale).sum())


def is_tie(accumulator: NDArray[np.int64], rescale: Rescale) -> NDArray[np.bool_]:
    """Whether acc * M, M as the integers hold it, lies exactly between two integers; bool[..., C]."""
    rule = rescale.requantizer
    if rule.kind in ("float32", "float64"):
        kind = np.dtype(rule.kind).type
        real = accumulator.astype(kind) * rescale.real.astype(kind)
        return np.asarray(np.abs(real - np.trunc(real)) == 0.5)
    drop = rule.multiplier_bits + rescale.shift
    # acc * m is an odd multiple of 2^(drop - 1) exactly when the low `drop` bits are 1000..0; modulo 2^64 is enough.
    below = np.clip(drop, 0, 63)
    product = accumulator * rescale.multiplier
    mask = (np.int64(1) << below) - 1
    half = np.where(below > 0, np.int64(1) << np.maximum(below - 1, 0), -1)
    return np.asarray((product & mask) == half)
