"""Layer by layer: the candidate's tensors against the source's, in real units, by name."""

from collections.abc import Iterable, Mapping
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


@dataclass(frozen=True)
class LayerPart:
    """What one sample adds to a layer table: sums that can be counted anywhere and put together in the order of the samples.

    Attributes:
        start: the sample's number.
        sums: tensor name -> (sum of the source's squared values, of squared differences, largest difference in steps).
    """

    start: int
    sums: Mapping[str, tuple[float, float, float]]


@dataclass(eq=False)
class LayerTable:
    """Accumulates differences over samples; the source's values are multiplied by the candidate's gains first."""

    reference: Mapping[str, Tensor]
    candidate: Mapping[str, Tensor]
    gains: Mapping[str, float | list[float]]
    parts: list[LayerPart] = field(default_factory=list)
    start: int = 0

    def add(self, wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> None:
        """Compares the codes of every tensor that both runs observed."""
        sums = {}
        for name in wanted.keys() & got.keys() & self.reference.keys() & self.candidate.keys():
            x = real_values(wanted[name], self.reference[name]) * np.asarray(self.gains.get(name, 1.0))
            y = real_values(got[name], self.candidate[name])
            if x.shape != y.shape:
                continue
            difference = y - x
            quant = self.candidate[name].quant
            step = 1.0 if quant is None else float(quant.scale[0])
            sums[name] = power(x), power(difference), float(np.abs(difference).max(initial=0)) / step
        self.parts.append(LayerPart(self.start + len(self.parts), sums))

    def rows(self) -> tuple[TensorQuality, ...]:
        """One row a tensor, in the order of the candidate's graph."""
        return fold_layers(self.parts, self.candidate)


def fold_layers(parts: Iterable[LayerPart], names: Iterable[str]) -> tuple[TensorQuality, ...]:
    """The layer table over all parts, the same whatever order they come in.

    Args:
        parts: of every sample.
        names: of the candidate's tensors, in the order of the rows.
    """
    found: dict[str, tuple[float, float, float]] = {}
    for part in sorted(parts, key=lambda p: p.start):
        for name, (signal, noise, largest) in part.sums.items():
            before = found.get(name, (0.0, 0.0, 0.0))
            found[name] = before[0] + signal, before[1] + noise, max(before[2], largest)
    return tuple(
        TensorQuality(name, decibels(*found[name][:2]), found[name][2]) for name in names if name in found
    )


def comparable(model: Model) -> dict[str, Tensor]:
    """The quantized activations of the main graph by name."""
    return {t.name: t for t in model.main.tensors if t.is_activation}


def real_values(codes: NDArray[Any], tensor: Tensor) -> NDArray[np.float64]:
    """The real values of a tensor's codes; values of a tensor without parameters are real already."""
    if tensor.quant is None:
        return codes.astype(np.float64)
    scale, zero_point = tensor.quant.along(codes.ndim)
    return (codes.astype(np.float64) - zero_point) * scale
