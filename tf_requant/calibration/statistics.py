"""Calibration: what a source model does on data, exact and in integers, collected once and used for every target."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import CalibrationError
from tf_requant.version import __version__

KEY = "tf_requant_calibration"
"""The array that tells a saved calibration from data."""


_PEAK = "peak_"
_PEAKS = 11
"""Of so many samples the peak is kept: ten above a threshold, which is the eleventh."""
_BLIND = 1.25
"""How far beyond the one peak that is known a channel may go."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """A source model's behaviour on calibration samples.

    Attributes:
        model: SHA-256 of the model that was run.
        inputs: the samples, as the source's input codes, [samples, ...] by input name.
        histograms: how often each code occurred, int64[256] by tensor index of the main graph; 8-bit tensors only.
        noise: by tensor index, what unit noise on a tensor's codes does to the model's scores: squared error over
            squared value (`calibration.sensitivity`).
        peaks: the largest |code - zero point| of each channel in the samples where it was largest, int64[C, samples] by
            tensor index, falling; 8-bit tensors only.
    """

    model: str
    inputs: Mapping[str, NDArray[Any]]
    histograms: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)
    noise: Mapping[int, float] = field(default_factory=dict)
    peaks: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()), ()))

    @property
    def digests(self) -> tuple[str, ...]:
        """One short hash a sample, for proving that no evaluation sample is among them."""
        return tuple(digest({name: codes[n] for name, codes in self.inputs.items()}) for n in range(len(self)))

    def without_repeats(self) -> "Calibration":
        """Itself with each sample once, so that none is both learned from and judged by; what was counted stays."""
        first = {digest: n for n, digest in reversed([*enumerate(self.digests)])}
        if len(first) == len(self):
            return self
        return replace(self, inputs={name: codes[sorted(first.values())] for name, codes in self.inputs.items()})

    def to_bytes(self) -> bytes:
        """An `.npz` file, the same bytes for the same content."""
        arrays: dict[str, NDArray[Any]] = {
            KEY: np.frombuffer(json.dumps({"version": __version__, "model": self.model}).encode(), np.uint8),
            "histogram_tensors": np.array(sorted(self.histograms), np.int64),
            "histogram_counts": np.array([self.histograms[t] for t in sorted(self.histograms)], np.int64),
            "noise_tensors": np.array(sorted(self.noise), np.int64),
            "noise_values": np.array([self.noise[t] for t in sorted(self.noise)], np.float64),
            "input_names": np.frombuffer(json.dumps(list(self.inputs)).encode(), np.uint8),
        }
        arrays |= {f"input_{n}": codes for n, codes in enumerate(self.inputs.values())}
        arrays |= {f"{_PEAK}{t}": self.peaks[t] for t in sorted(self.peaks)}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_bytes` to a .npz file, which `requantize` takes as calibration."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Calibration":
        """What `to_bytes` wrote.

        Raises:
            CalibrationError: arrays are missing or damaged.
        """
        try:
            header = json.loads(arrays[KEY].tobytes())
            names = json.loads(arrays["input_names"].tobytes())
            inputs = {name: arrays[f"input_{n}"] for n, name in enumerate(names)}
            if len({len(codes) for codes in inputs.values()}) != 1:
                raise ValueError("its inputs hold different numbers of samples")
            if not len(next(iter(inputs.values()))):
                raise ValueError("it holds no sample")
            if len(arrays["histogram_counts"]) and arrays["histogram_counts"].shape[1:] != (256,):
                raise ValueError("a histogram does not have 256 bins")
            return cls(
                str(header["model"]),
                inputs,
                dict(zip(arrays["histogram_tensors"].tolist(), arrays["histogram_counts"], strict=True)),
                dict(zip(arrays["noise_tensors"].tolist(), arrays["noise_values"].tolist(), strict=True)),
                {int(n.removeprefix(_PEAK)): _by_sample(arrays[n]) for n in arrays if n.startswith(_PEAK)},
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CalibrationError(f"the saved calibration is damaged: {error}") from error


def _by_sample(peaks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Peaks as they are held today: there are saved calibrations with one a channel."""
    if peaks.ndim not in (1, 2) or not peaks.size or not np.issubdtype(peaks.dtype, np.integer):
        raise ValueError("the peaks of a tensor are no integers by channel and sample")
    return peaks.reshape(len(peaks), -1)


def digest(sample: Mapping[str, NDArray[Any]]) -> str:
    """A sample's hash, 16 hexadecimal digits of SHA-256 over its input codes."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(sample[n]).tobytes() for n in sorted(sample))).hexdigest()[:16]


def count_codes(counts: NDArray[np.int64] | None, codes: NDArray[Any]) -> NDArray[np.int64]:
    """Adds 8-bit codes to a histogram, int64[256] from the type's lowest code on."""
    found = np.bincount(codes.reshape(-1).view(np.uint8), minlength=256)
    if codes.dtype == np.int8:
        found = np.roll(found, 128)
    return np.asarray(found if counts is None else counts + found)


def larger(peaks: NDArray[np.int64] | None, codes: NDArray[Any], zero_point: int) -> NDArray[np.int64]:
    """The largest |code - zero point| of each channel (the last axis) with one sample more, int64[C, samples], falling."""
    rows = codes.reshape(-1, codes.shape[-1])
    found = np.maximum(rows.max(axis=0).astype(np.int64) - zero_point, zero_point - rows.min(axis=0).astype(np.int64))[:, None]
    every = found if peaks is None else np.concatenate([peaks, found], axis=1)
    return np.asarray(-np.sort(-every, axis=1)[:, :_PEAKS])


def reach(peaks: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far a channel goes on data that were not seen, in steps, float64[C].

    Beyond a high level peaks fall off exponentially (Pickands-Balkema-de Haan, shape 0), by as much as the highest lie
    above the last of them on average: one such length beyond the highest is left.

    Args:
        peaks: of each channel in the samples where it was largest, int64[C, samples], falling.
    """
    if peaks.shape[1] < 2:
        return np.asarray(peaks[:, 0] * _BLIND)
    return np.asarray(peaks[:, 0] + (peaks[:, :-1] - peaks[:, -1:]).mean(axis=1))
