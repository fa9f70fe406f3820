"""The end of a layer: accumulators to output codes, exact and at the speed of whole-array float arithmetic.

`OutputStage.exact` is the definition: integers all the way. `Screen` gives the same codes from accumulators held
in float32 or float64 (as BLAS leaves them): it computes acc * M + offset in that type, whose error is bounded, and
rounds. Where the result lies so near a half that the bound, or a rounding stage before the last, could decide
otherwise, that element alone is computed by the definition. No element is ever rounded on trust.
"""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.fixed_point import Rescale
from tf_requant.numerics.rounding import Rounding, round_half_even

FLOAT32_EXACT = 2**24
"""Below it every integer, hence every partial sum of integers so bounded, is a float32."""
FLOAT64_EXACT = 2**53
BLOCK = 1 << 16
"""Elements of a working block: it should stay in the second-level cache."""

_HALVES = (Rounding.HALF_UP, Rounding.HALF_DOWN, Rounding.HALF_AWAY, Rounding.HALF_EVEN)
_TOO_WIDE = 0.04
"""A screen sends twice this share of the elements to the definition; above it, the definition for all is sooner done."""
_LANE = 768
"""Elements that the innermost loop should run over at least; narrower channel vectors are tiled to it."""


_buffers = threading.local()


def _scratch(shape: tuple[int, ...], precision: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two buffers that every screen of a thread uses in turn: fresh memory would cost more than the arithmetic."""
    size = int(np.prod(shape)) * precision.itemsize
    if getattr(_buffers, "bytes", np.empty((2, 0))).shape[1] < size:
        _buffers.bytes = np.empty((2, size), np.uint8)
    first, second = (half[:size].view(precision).reshape(shape) for half in _buffers.bytes)
    return first, second


@dataclass(frozen=True, eq=False)
class OutputStage:
    """codes = clamp(round(acc * M) + zero_point, low, high).

    Attributes:
        rescale: the rounding and its constants.
        zero_point: of the output.
        low: the lowest code that comes out, the fused activation included.
        high: the highest.
        dtype: of the output codes.
        meant: whether the lowest and the highest code are a fused activation's bounds, so that a clamp there is
            meant and no saturation.
    """

    rescale: Rescale
    zero_point: int
    low: int
    high: int
    dtype: str
    meant: tuple[bool, bool] = (False, False)

    def exact(self, accumulator: NDArray[np.int64]) -> NDArray[Any]:
        """The codes of int64[..., C] accumulators, bias included."""
        codes = self.rescale.apply(accumulator)
        codes += self.zero_point
        return np.asarray(np.clip(codes, self.low, self.high, out=codes).astype(self.dtype))


class Screen:
    """An output stage for accumulators in float32 or float64, C channels; bit for bit `OutputStage.exact`.

    Args:
        stage: the definition.
        bias: int64[C], added to every accumulator.
        bound: int64[C], the largest |accumulator| without the bias.
        precision: of the accumulators: float32 (bound < 2^24) or float64 (bound < 2^53).
    """

    def __init__(self, stage: OutputStage, bias: NDArray[np.int64], bound: NDArray[np.int64], precision: Any) -> None:
        self.stage, self.bias, self.precision = stage, bias, np.dtype(precision)
        self.tile = max(1, -(-_LANE // bias.size))
        rescale, rule = stage.rescale, stage.rescale.requantizer
        factor = np.broadcast_to(rescale.factor, bias.shape)
        offset = bias * factor + stage.zero_point
        self.floor = False
        self.threshold = 0.0
        if rule.stages[-1].rounding is Rounding.FLOOR:
            offset = offset - 0.5
        if self._shifts_exactly(factor, bound):
            self.floor, offset = True, offset + 0.5
        else:
            self.threshold = 0.5 - self._doubt(factor, offset, bound)
        self._vectors = {1: self._typed(factor, offset, 1), self.tile: self._typed(factor, offset, self.tile)}
        self.threshold = self.precision.type(self.threshold)
        self._pending: list[tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]] = []

    @classmethod
    def of(
        cls, stage: OutputStage, bias: NDArray[np.int64], bound: NDArray[np.int64], precision: Any
    ) -> "Screen | None":
        """A screen, where one computes this stage and leaves little enough to the definition; else None."""
        rule, rescale = stage.rescale.requantizer, stage.rescale
        if rule.kind == "float32" or rule.stages[-1].rounding is Rounding.TRUNCATE:
            return None
        if rule.kind != "float64" and len(rule.stages) > 1:
            # Where the last stage finds nothing left to drop, an earlier one decides, and must decide alike.
            alike = all(part.rounding in _HALVES for part in rule.stages)
            if not alike and (rescale.drops[-1] == 0).any():
                return None
            left = np.maximum(-rescale.shift, 0).astype(np.float64)
            # TFLite's left shift may leave the register.
            if ((left > 0) & ((bound + np.abs(bias)) * 2.0**left >= 2.0**31)).any():
                return None
        screen = cls(stage, bias, bound, precision)
        return screen if screen.floor or screen.threshold >= 0.5 - _TOO_WIDE else None

    def _shifts_exactly(self, factor: NDArray[np.float64], bound: NDArray[np.int64]) -> bool:
        """Whether floor(acc * 2^-s + half) has no rounding error: one HALF_UP stage, powers of two, room for all bits."""
        rule, mantissa = self.stage.rescale.requantizer, 2 ** (24 if self.precision == np.float32 else 53)
        if (
            len(rule.stages) > 1
            or rule.stages[0].rounding is not Rounding.HALF_UP
            or rule.kind not in ("shift", "multiplier_shift")
        ):
            return False
        if (np.frexp(factor)[0] != 0.5).any():
            return False
        # In units of the accumulator's last bit, or of the half where M > 1/2.
        unit = np.minimum(factor, 0.5)
        room = ((bound + np.abs(self.bias)) * factor + abs(self.stage.zero_point) + 1) / unit
        return bool((room < mantissa).all())

    def _doubt(self, factor: NDArray[np.float64], offset: NDArray[np.float64], bound: NDArray[np.int64]) -> float:
        """How far acc * M + offset, as computed, may be from the real number that the last stage rounds."""
        stage, rule = self.stage, self.stage.rescale.requantizer
        epsilon = 2.0**-24 if self.precision == np.float32 else 2.0**-53
        reach = max(abs(stage.low), abs(stage.high)) + 1.0
        # M and offset to the type, the product, the sum; twice over.
        error = 2 * epsilon * (3 * bound * factor + 2 * np.abs(offset) + reach)
        if rule.kind in ("multiplier_shift", "shift"):
            left = rule.multiplier_bits + np.maximum(stage.rescale.shift, 0)
            for part, bits in list(zip(rule.stages, stage.rescale.drops))[:-1]:
                left = left - bits
                error = error + np.where(
                    bits > 0, 2.0 ** -left.astype(np.float64) * (0.5 if part.rounding in _HALVES else 1), 0
                )
        elif rule.kind == "float64":
            error = error + 2.0**-50 * (bound + np.abs(self.bias)) * factor
        return float(np.max(error)) * (1 + 2.0**-10)

    def _typed(self, factor: NDArray[np.float64], offset: NDArray[np.float64], tile: int) -> tuple[NDArray[Any], ...]:
        return np.tile(factor, tile).astype(self.precision), np.tile(offset, tile).astype(self.precision)

    def apply(self, accumulator: NDArray[Any], out: NDArray[Any]) -> None:
        """Writes the codes; those in doubt only when `settle` is called.

        Args:
            accumulator: float32|float64[n, C], integral, without the bias; C-contiguous, left as it is.
            out: the stage's dtype [n, C], C-contiguous.
        """
        n, channels = accumulator.shape
        whole = n // self.tile * self.tile
        if whole:
            lane = self.tile * channels
            self._block(accumulator[:whole].reshape(-1, lane), out[:whole].reshape(-1, lane), self.tile)
        if whole < n:
            self._block(accumulator[whole:], out[whole:], 1)

    def _block(self, accumulator: NDArray[Any], out: NDArray[Any], tile: int) -> None:
        factor, offset = self._vectors[tile]
        real, code = _scratch(accumulator.shape, self.precision)
        np.multiply(accumulator, factor, out=real)
        np.add(real, offset, out=real)
        np.clip(real, self.stage.low, self.stage.high, out=real)
        if self.floor:
            np.floor(real, out=real)
            np.copyto(out, real, casting="unsafe")
            return
        round_half_even(real, out=code)
        np.copyto(out, code, casting="unsafe")
        np.subtract(real, code, out=real)
        np.abs(real, out=real)
        doubtful = np.flatnonzero(real > self.threshold)
        if doubtful.size:
            self._pending.append((out.reshape(-1), doubtful, accumulator.reshape(-1)[doubtful]))

    def settle(self) -> None:
        """Computes what `apply` left in doubt, all at once, since each numpy call has a price of its own."""
        if not self._pending:
            return
        parts, self._pending, stage = self._pending, [], self.stage
        channel = np.concatenate([index for _, index, _ in parts]) % self.bias.size
        exact = np.concatenate([values for *_, values in parts]).astype(np.int64) + self.bias[channel]
        codes = (stage.rescale.channels(channel).apply(exact) + stage.zero_point).clip(stage.low, stage.high)
        start = 0
        for out, index, _ in parts:
            out[index] = codes[start : start + index.size]
            start += index.size
