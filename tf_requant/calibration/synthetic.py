"""Inputs for a model when there are none: noise with the spectrum of natural signals.

Natural images, and spectrograms, have amplitudes that fall as 1 / frequency (Field, 1987), and channels that move
together. Such noise drives a network's channels to means near those of real data, where white noise averages out in
the first layer. Everything is drawn from fixed seeds: the same model gets the same inputs.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.quant import code_limits

_CONTRAST = 0.235
"""Standard deviation of a sample, as a share of the code range: that of photographs."""
_BRIGHTNESS = 0.1
"""And of the samples' means."""
_SHARED = 0.9
"""The share of the variance that the channels have in common."""


def synthetic_codes(shape: tuple[int, ...], dtype: str, count: int, seed: int = 0) -> list[NDArray[Any]]:
    """Input codes of some samples, each of the input's shape.

    Args:
        shape: [1, H, W, C] or any other; every dimension but the first and the last is taken for an extent along which
            neighbours resemble each other.
        dtype: uint8, int8 or int16.
        count: how many samples.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    low, high = code_limits(dtype)
    middle, span = (low + high) / 2, float(high - low)
    found = []
    for _ in range(count):
        field = _correlated(rng, shape)
        level = middle + rng.normal() * _BRIGHTNESS * span
        found.append(np.clip(level + _CONTRAST * span * field, low, high).astype(dtype))
    return found


def _correlated(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    extents, channels = shape[1:-1], shape[-1] if len(shape) > 1 else 1
    if not [e for e in extents if e > 1]:
        return rng.normal(size=shape)
    common = _pink(rng, extents)
    parts = [np.sqrt(_SHARED) * common + np.sqrt(1 - _SHARED) * _pink(rng, extents) for _ in range(channels)]
    return np.broadcast_to(np.stack(parts, axis=-1), shape)


def _pink(rng: np.random.Generator, extents: tuple[int, ...]) -> NDArray[np.float64]:
    """Noise of amplitude 1 / frequency, mean 0, standard deviation 1."""
    grid = np.meshgrid(*(np.fft.fftfreq(extent) for extent in extents), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid))
    amplitude = 1 / np.maximum(radius, 1 / max(extents))
    field = np.fft.ifftn(np.fft.fftn(rng.normal(size=extents)) * amplitude).real
    field -= field.mean()
    deviation = float(field.std())
    return np.asarray(field / deviation if deviation else field)
