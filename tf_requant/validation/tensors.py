"""Layer by layer: the candidate's tensors against the source's, in real units, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Model, Tensor
from tf_requant.validation.metrics import decibels, power


@dataclass(frozen=True)
class TensorQuality:
    """One tensor.

    Attributes:
        name: its name in both models.
        sqnr: signal over difference, dB.
        largest: the largest difference, in steps of the candidate.
    """

    name: str
    sqnr: float
    largest: float


@dataclass(eq=False)
class LayerTable:
    """Accumulates differences over samples; the source's values are multiplied by the candidate's gains first."""

    reference: Mapping[str, Tensor]
    candidate: Mapping[str, Tensor]
    gains: Mapping[str, float | list[float]]
    _signal: dict[str, float] = field(default_factory=dict)
    _noise: dict[str, float] = field(default_factory=dict)
    _largest: dict[str, float] = field(default_factory=dict)

    def add(self, wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> None:
        """Compares the codes of every tensor that both runs observed."""
        for name in wanted.keys() & got.keys() & self.reference.keys() & self.candidate.keys():
            x = real_values(wanted[name], self.reference[name]) * np.asarray(self.gains.get(name, 1.0))
            y = real_values(got[name], self.candidate[name])
            if x.shape != y.shape:
                continue
            difference = y - x
            quant = self.candidate[name].quant
            step = 1.0 if quant is None else float(quant.scale[0])
            self._signal[name] = self._signal.get(name, 0.0) + power(x)
            self._noise[name] = self._noise.get(name, 0.0) + power(difference)
            largest = float(np.abs(difference).max(initial=0)) / step
            self._largest[name] = max(self._largest.get(name, 0.0), largest)

    def rows(self) -> tuple[TensorQuality, ...]:
        """One row a tensor, in the order of the candidate's graph."""
        seen = [n for n in self.candidate if n in self._noise]
        return tuple(TensorQuality(n, decibels(self._signal[n], self._noise[n]), self._largest[n]) for n in seen)


def comparable(model: Model) -> dict[str, Tensor]:
    """The quantized activations of the main graph by name."""
    return {t.name: t for t in model.main.tensors if t.is_activation}


def real_values(codes: NDArray[Any], tensor: Tensor) -> NDArray[np.float64]:
    """The real values of a tensor's codes; values of a tensor without parameters are real already."""
    if tensor.quant is None:
        return codes.astype(np.float64)
    scale, zero_point = tensor.quant.along(codes.ndim)
    return (codes.astype(np.float64) - zero_point) * scale
