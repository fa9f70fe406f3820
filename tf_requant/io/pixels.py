"""What a pixel means to a source model, and how its candidate is fed the same real value."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import CalibrationError
from tf_requant.numerics.rounding import Rounding, round_real

_Stats = tuple[float, float]
_DEFAULT_STATS = (127.5, 127.5)


@dataclass(frozen=True)
class InputSpec:
    """A model's input: real = scale * (code - zero_point); scale 0.0 means not quantized. Axis 0 is the batch.

    `pixels` is the input that a pixel's meaning comes from, where that is another model's: the source's that this one was
    re-expressed from. None: its own.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0
    pixels: "InputSpec | None" = None


def source_codes(pixels: NDArray[Any], dtype: str, input_stats: _Stats = _DEFAULT_STATS) -> NDArray[Any]:
    """Turn uint8 pixels into input codes: p (uint8), p - 128 (int8), (p - mean) / std (float32).

    An array that is in the input's own dtype holds codes already and is returned as it is.

    Raises:
        CalibrationError: a pixel means nothing to such an input (int16, for example).

    >>> source_codes(np.array([0, 128, 255], np.uint8), "int8").tolist()
    [-128, 0, 127]

    """
    if pixels.dtype.name == dtype:
        return pixels
    if pixels.dtype == np.uint8 and dtype == "int8":
        return (pixels.astype(np.int16) - 128).astype(np.int8)
    if pixels.dtype == np.uint8 and dtype == "float32":
        mean, std = input_stats
        return ((pixels.astype(np.float64) - mean) / std).astype(np.float32)
    raise CalibrationError(f"{pixels.dtype} values mean nothing to an input of type {dtype}: give its {dtype} codes")


def feed(
    values: NDArray[Any], source: InputSpec, candidate: InputSpec, input_stats: _Stats = _DEFAULT_STATS
) -> NDArray[Any]:
    """Give the candidate the same real value: clamp(round_half_away(s_src * (code - z_src) / s_cand) + z_cand).

    Args:
        values: pixels, or the source's input codes.
        source: the source model's input.
        candidate: the candidate's; a float one gets the real value, one of equal scale an exact shift.
        input_stats: for pixels into a float source.

    """
    codes = source_codes(values, source.dtype, input_stats)
    if (source.dtype, source.scale, source.zero_point) == (candidate.dtype, candidate.scale, candidate.zero_point):
        return codes
    floating = [np.dtype(spec.dtype).kind == "f" for spec in (source, candidate)]
    if any(not spec.scale and not is_float for spec, is_float in zip((source, candidate), floating, strict=True)):
        raise CalibrationError(
            f"input '{source.name}' ({source.dtype}) has no real value in '{candidate.name}' ({candidate.dtype}): "
            "one of them is an integer without a scale"
        )
    if source.scale and source.scale == candidate.scale:
        return saturate(codes.astype(np.int64) - source.zero_point, candidate)
    real = codes.astype(np.float64)
    if source.scale:
        real = source.scale * (real - source.zero_point)
    return real.astype(candidate.dtype) if floating[1] else quantize(real, candidate)


def quantize(real: NDArray[np.float64], spec: InputSpec) -> NDArray[Any]:
    """The input's codes of real values."""
    return saturate(round_real(real / spec.scale, Rounding.HALF_AWAY), spec)


def saturate(steps: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """The input's codes of whole steps from real zero."""
    limits = np.iinfo(spec.dtype)
    return np.clip(steps + spec.zero_point, limits.min, limits.max).astype(spec.dtype)

