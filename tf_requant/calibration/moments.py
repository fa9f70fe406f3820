"""Second moments of what a layer sees in the source and in the result: all that the error of its output depends on."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.rounding import Rounding, round_real

_BATCH = 4096
"""Places that wait before they are multiplied: a product of few rows costs little more than the sum it is added to."""


@dataclass
class PairedMoments:
    """Sums over places of the result's inputs x, and of the source's inputs y in the same units.

    Attributes:
        full: whether E[y y^T] is wanted too, so that errors come out in absolute terms.
    """

    full: bool = False
    _shift: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    _waiting: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    _count: int = 0
    _sums: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Counts the places of one sample.

        Args:
            x: float32[groups, places, K], the result's input, code minus zero point.
            y: the source's at the same places, in the result's steps.
        """
        if self._shift is None:
            # Covariances don't care, and products of codes far from zero would lose them in float32.
            self._shift = (_rounded_mean(x), _rounded_mean(y))
        self._waiting.append((x - self._shift[0], y - self._shift[1]))
        if sum(a.shape[1] for a, _ in self._waiting) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        x = np.concatenate([a for a, _ in self._waiting], axis=1)
        y = np.concatenate([b for _, b in self._waiting], axis=1)
        self._waiting.clear()
        turned = np.ascontiguousarray(x.transpose(0, 2, 1))
        new = [turned @ x, turned @ y, x.sum(axis=1, dtype=np.float64), y.sum(axis=1, dtype=np.float64)]
        if self.full:
            new.append(np.ascontiguousarray(y.transpose(0, 2, 1)) @ y)
        self._count += x.shape[1]
        if not self._sums:
            self._sums = [a.astype(np.float64) for a in new]
            return
        for total, part in zip(self._sums, new):
            total += part

    def centred(self) -> "Moments":
        """The moments around the means, which a bias takes care of."""
        self._flush()
        xx, xy, x, y, *rest = (a / self._count for a in self._sums)
        yy = rest[0] - y[:, :, None] * y[:, None] if rest else None
        return Moments(xx - x[:, :, None] * x[:, None], xy - x[:, :, None] * y[:, None], yy)


def _rounded_mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean over places to the nearest integer, float32[groups, 1, K]: codes minus it stay integers."""
    return round_real(values.mean(axis=1, keepdims=True, dtype=np.float64), Rounding.HALF_EVEN).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Moments:
    """Covariances of a layer's inputs, by group.

    Attributes:
        xx: float64[groups, K, K], of the result's inputs: the Hessian of the output's squared error.
        xy: float64[groups, K, K], of the result's inputs with the source's.
        yy: float64[groups, K, K], of the source's inputs, or None.
    """

    xx: NDArray[np.float64]
    xy: NDArray[np.float64]
    yy: NDArray[np.float64] | None = None

    def rounding_error(self, change: NDArray[np.float64]) -> NDArray[np.float64]:
        """E[(c x)^2] of a change of the filter, float64[groups, outputs]."""
        return np.asarray(np.einsum("gok,gok->go", change @ self.xx, change))

    def error(self, codes: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        """E[(q x - w y)^2], the variance of the output's error, float64[groups, outputs]; needs `yy`.

        Args:
            codes: q, the result's filter, code minus zero point, float64[groups, outputs, K].
            wanted: w, the source's filter in the result's steps.
        """
        return self.against(wanted)(codes)

    def against(self, wanted: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
        """`error` for many q and one w: what does not depend on q is computed once."""
        reached, signal = wanted @ self.xy.transpose(0, 2, 1), self.signal(wanted)

        def error(codes: NDArray[np.float64]) -> NDArray[np.float64]:
            found = np.einsum("gok,gok->go", codes @ self.xx - 2 * reached, codes) + signal
            return np.asarray(np.maximum(found, 0.0))

        return error

    def signal(self, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        """E[(w y)^2], the variance of the source's output, float64[groups, outputs]; needs `yy`."""
        assert self.yy is not None
        return np.asarray(np.einsum("gok,gok->go", wanted @ self.yy, wanted))
