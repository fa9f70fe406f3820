"""Rounding that lets each weight mend what the weights before it did to the layer's output (GPTQ, arXiv 2210.17323).

Of all integer filters q near w, the one that moves the output least minimizes tr((q - w) H (q - w)^T), H the covariance
of the layer's inputs behind the re-quantized layers before it. Column by column, in falling order of H's diagonal, the
nearest integer is taken and the columns to come are moved by the error times a row of the Cholesky factor of H^-1.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.rounding import Rounding, round_real

DAMPING = 0.01
"""Added to H's diagonal, as a share of its mean: few samples leave H singular."""

_FLOOR = 1e-3
"""And at least so many steps squared: a channel that never fires has no say."""
_BLOCK = 64
"""Columns whose effect on those behind them is applied in one product."""


Rounder = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def within(low: int, high: int) -> Rounder:
    """Rounding to the integers between two."""
    return lambda values: np.clip(round_real(values, Rounding.HALF_EVEN), low, high)


def damped(hessian: NDArray[np.float64], share: float = DAMPING) -> NDArray[np.float64]:
    """H with a ridge on its diagonal, float64[groups, K, K]."""
    diagonal = np.einsum("gkk->gk", hessian)
    ridge = np.maximum(share * diagonal.mean(axis=1), _FLOOR)
    return hessian + ridge[:, None, None] * np.eye(hessian.shape[1])


def compensated(
    wanted: NDArray[np.float64], hessian: NDArray[np.float64], to_codes: Rounder, share: float = DAMPING
) -> NDArray[np.float64]:
    """Integers near `wanted` whose summed effect on the output is small.

    >>> compensated(np.array([[[0.4, 0.4]]]), np.array([[[1.0, 0.99], [0.99, 1.0]]]), within(-127, 127)).tolist()
    [[[0.0, 1.0]]]

    Args:
        wanted: the filter in the target's steps, float64[groups, outputs, K].
        hessian: covariance of the inputs, float64[groups, K, K].
        to_codes: the nearest code of each value; what a clipped weight leaves over, the columns behind it take up.
        share: the damping.

    Returns:
        float64 of the same shape. An integral `wanted` inside the limits comes back as it is.
    """
    columns = wanted.shape[2]
    order = np.argsort(-np.einsum("gkk->gk", hessian), axis=1, kind="stable")
    groups = np.arange(wanted.shape[0])[:, None]
    sorted_hessian = damped(hessian, share)[groups[:, :, None], order[:, :, None], order[:, None, :]]
    factor = np.linalg.cholesky(np.linalg.inv(sorted_hessian)).transpose(0, 2, 1)
    rest = wanted.transpose(0, 2, 1)[groups, order]  # [groups, K, outputs]
    codes = np.empty_like(rest)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty((rest.shape[0], stop - start, rest.shape[2]))
        for k in range(start, stop):
            codes[:, k] = to_codes(rest[:, k])
            error = (rest[:, k] - codes[:, k]) / factor[:, k, k, None]
            errors[:, k - start] = error
            rest[:, k + 1 : stop] -= factor[:, k, k + 1 : stop, None] * error[:, None]
        rest[:, stop:] -= factor[:, start:stop, stop:].transpose(0, 2, 1) @ errors
    result = np.empty_like(codes)
    result[groups, order] = codes
    return np.ascontiguousarray(result.transpose(0, 2, 1))
