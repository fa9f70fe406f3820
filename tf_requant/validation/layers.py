"""What one layer does wrong, counted over samples: of the running candidate, and of the layer alone."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.quant import code_limits
from tf_requant.validation.correspondence import Gain
from tf_requant.validation.metrics import decibels

_BLOCK = 1 << 15
"""Elements that are compared at a time, so that their float64 values stay in the cache."""
_BINS = 256



@dataclass(eq=False)
class Difference:
    """A tensor of the candidate less the source's, in steps of the candidate, by channel (the last axis).

    Attributes:
        count: elements of each channel.
        free: elements that are not at the same end of the tensor's values in both models, where a clamp hides what
            differs, int64[C].
        mean_sum: sums of the free elements' differences, float64[C].
        free_square_sum: sums of their squares, float64[C].
        square_sum: sums of the squares of all, float64[C].
        largest: the largest |difference|.
    """

    channels: int
    count: int = 0
    free: NDArray[np.int64] = field(init=False)
    mean_sum: NDArray[np.float64] = field(init=False)
    free_square_sum: NDArray[np.float64] = field(init=False)
    square_sum: NDArray[np.float64] = field(init=False)
    largest: float = 0.0

    def __post_init__(self) -> None:
        """Starts at zero."""
        self.mean_sum, self.free_square_sum, self.square_sum = (np.zeros(self.channels) for _ in range(3))
        self.free = np.zeros(self.channels, np.int64)

    def add(self, difference: NDArray[np.float64], clamped: NDArray[np.bool_]) -> None:
        """Counts rows of differences, float64[R, C], of which some stand at the same end in both models."""
        self.count += len(difference)
        self.free += len(difference) - np.count_nonzero(clamped, axis=0)
        self.square_sum += np.einsum("ij,ij->j", difference, difference)
        if difference.size:
            self.largest = max(self.largest, float(difference.max()), -float(difference.min()))
        # The ends of two grids differ by less than a step, and many such elements would outweigh the few that are free.
        free = np.where(clamped, 0.0, difference)
        self.mean_sum += free.sum(axis=0)
        self.free_square_sum += np.einsum("ij,ij->j", free, free)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Root of each channel's share of elements that no clamp hides, float64[C]."""
        return np.asarray(np.sqrt(self.free / max(self.count, 1)))

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean difference of each channel over what no clamp hides, float64[C]."""
        return np.asarray(self.mean_sum / np.maximum(self.free, 1))

    @property
    def squares(self) -> NDArray[np.float64]:
        """Mean squared difference of each channel over what no clamp hides, float64[C]."""
        return np.asarray(self.free_square_sum / np.maximum(self.free, 1))


@dataclass(eq=False)
class LayerStatistics:
    """One tensor of the candidate against the source's, over samples.

    Args:
        source: the source's tensor.
        result: the candidate's.
        gain: the candidate's real values over the source's, one or one a channel.
        channels: length of the last axis, as it is when the model runs; the file's where it is left out.
    """

    source: Tensor
    result: Tensor
    gain: Gain
    channels: int = 0
    signal: float = 0.0
    saturated: int = 0
    running: Difference = field(init=False)
    isolated: Difference = field(init=False)
    source_counts: NDArray[np.int64] = field(init=False)
    result_counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Starts at zero."""
        self.channels = self.channels or (self.result.shape[-1] if self.result.shape else 1)
        self.running, self.isolated = Difference(self.channels), Difference(self.channels)
        self.source_counts, self.result_counts = np.zeros(_BINS, np.int64), np.zeros(_BINS, np.int64)

    @property
    def ratio(self) -> NDArray[np.float64]:
        """One step of the source in steps of the candidate."""
        assert self.source.quant is not None and self.result.quant is not None
        return self.gain * (float(self.source.quant.scale[0]) / float(self.result.quant.scale[0]))

    def add(self, source: NDArray[np.integer], running: NDArray[np.integer], isolated: NDArray[np.integer] | None) -> None:
        """Counts one sample.

        Args:
            source: the source's codes, [..., C].
            running: the candidate's.
            isolated: the candidate's layer alone, fed the source's own inputs; None where it cannot be.
        """
        assert self.source.quant is not None and self.result.quant is not None
        channels = self.channels
        x, y = source.reshape(-1, channels), running.reshape(-1, channels)
        alone = None if isolated is None else isolated.reshape(-1, channels)
        zero, ratio, point = int(self.source.quant.zero_point[0]), self.ratio, int(self.result.quant.zero_point[0])
        low, high = (limit - point for limit in self.result.limits)
        # Codes as they come: a fused activation's clamp is wherever the lowest and the highest stand.
        ends = [(int(a.min()), int(a.max())) if a.size else (0, 0) for a in (x, y)]
        alone_ends = (0, 0) if alone is None or not alone.size else (int(alone.min()), int(alone.max()))
        step = max(1, _BLOCK // channels)
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            wanted = (x[rows].astype(np.float64) - zero) * ratio
            self.signal += float(np.vdot(wanted, wanted))
            got = y[rows].astype(np.float64) - point
            beyond = ((got == high) & (wanted > high + 0.5)) | ((got == low) & (wanted < low - 0.5))
            self.saturated += int(np.count_nonzero(beyond))
            self.running.add(got - wanted, _clamped(x[rows], ends[0], y[rows], ends[1]))
            if alone is not None:
                hidden = _clamped(x[rows], ends[0], alone[rows], alone_ends)
                self.isolated.add(alone[rows].astype(np.float64) - (point + wanted), hidden)
        self.source_counts += _counts(source, self.source.dtype)
        self.result_counts += _counts(running, self.result.dtype)

    @property
    def sqnr(self) -> float:
        """Signal over difference of the running candidate, dB."""
        return decibels(self.signal, float(self.running.square_sum.sum()))

    @property
    def isolated_sqnr(self) -> float | None:
        """The same of the layer alone; None where it was not run alone."""
        return decibels(self.signal, float(self.isolated.square_sum.sum())) if self.isolated.count else None

    @property
    def saturation(self) -> float:
        """Share of codes at a limit of the type where the source's value lies beyond it."""
        return self.saturated / max(self.running.count * self.channels, 1)

    def edges(self, of_result: bool) -> NDArray[np.float64]:
        """The real values between the bins of a histogram, float64[257], in the units of the tensor's own model."""
        tensor = self.result if of_result else self.source
        assert tensor.quant is not None
        low, high = code_limits(tensor.dtype)
        codes = np.linspace(low, high + 1, _BINS + 1) - 0.5 - int(tensor.quant.zero_point[0])
        return codes * float(tensor.quant.scale[0])


def _clamped(
    source: NDArray[np.integer], limits: tuple[int, int], result: NDArray[np.integer], others: tuple[int, int]
) -> NDArray[np.bool_]:
    """Where both stand at their lowest code, or both at their highest."""
    low = (source == limits[0]) & (result == others[0])
    return np.asarray(low | ((source == limits[1]) & (result == others[1])))


def _counts(codes: NDArray[np.integer], dtype: str) -> NDArray[np.int64]:
    """How often each code occurs, or each 256th part of a wider type's codes, int64[256]."""
    low, high = code_limits(dtype)
    wide = high - low >= _BINS
    bins = (codes.reshape(-1).astype(np.int32) - low) >> 8 if wide else codes.reshape(-1).astype(np.int16) - low
    return np.bincount(bins, minlength=_BINS).astype(np.int64)
