"""The extra `fast`: the two loops that take the time, compiled by numba; bit for bit the numpy code's results.

A register of 32 bits holds every value here: a layer comes only with the proof that its sums fit (`Layer`), and
whatever the two kernels don't cover stays with numpy.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry
from tf_requant.numerics.arithmetic import DOUBLE_ROUNDING
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.numerics.rounding import Rounding

NAME = "numba"

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


class FastStage:
    """An output stage on float32 or int32 sums without their bias; see `Screen`.

    Args:
        stage: the definition; `serves` has accepted it.
        bias: int64[C].
    """

    def __init__(self, stage: OutputStage, bias: NDArray[np.int64]) -> None:
        rescale, rule = stage.rescale, stage.rescale.requantizer
        channels = bias.size
        self.precision, self.tile = np.dtype(np.float32), 1
        self.twice = rule.stages == DOUBLE_ROUNDING
        self.bias = bias.astype(np.int32)
        self.multiplier = np.broadcast_to(rescale.multiplier, channels).astype(np.int32)
        self.left = np.broadcast_to(np.maximum(-rescale.shift, 0), channels).astype(np.int32)
        shift = np.maximum(rescale.shift, 0) if self.twice else rescale.shift + rule.multiplier_bits
        self.right = np.broadcast_to(shift, channels).astype(np.int32)
        self.limits = stage.zero_point, stage.low, stage.high

    @staticmethod
    def serves(stage: OutputStage, bias: NDArray[np.int64], bound: NDArray[np.int64]) -> bool:
        """Whether the compiled loop computes this stage: TFLite's two roundings, or one HALF_UP, within 32 bits."""
        rescale, rule = stage.rescale, stage.rescale.requantizer
        if rule.kind not in ("multiplier_shift", "shift") or stage.dtype not in ("uint8", "int8"):
            return False
        reach = (bound + np.abs(bias)).astype(np.float64)
        if (reach >= 2.0**31).any() or (bound >= 2**24).any() or (rescale.multiplier >= 2**31).any():
            return False
        if rule.stages == DOUBLE_ROUNDING and rule.multiplier_bits == 31:
            return bool((reach * 2.0 ** np.maximum(-rescale.shift, 0) < 2.0**31).all() and (rescale.shift <= 31).all())
        drop = rescale.shift + rule.multiplier_bits
        once = len(rule.stages) == 1 and rule.stages[0].rounding is Rounding.HALF_UP
        # The product and its half stay below 2^63: reach < 2^31, a multiplier < 2^31, a half of 2^61 at most.
        return bool(once and (drop >= 1).all() and (drop <= 62).all() and (reach * rescale.factor < 2.0**30).all())

    def apply(self, accumulator: NDArray[Any], out: NDArray[Any]) -> None:
        """Writes the codes of float32 or int32[n, C] sums without the bias into out[n, C]."""
        loop = _finish_twice if self.twice else _finish_once
        loop(accumulator, self.bias, self.multiplier, self.left, self.right, *self.limits, out)

    def settle(self) -> None:
        """Nothing is ever left in doubt."""


def depthwise(
    padded: NDArray[Any], weights: NDArray[np.int32], geometry: Geometry, stage: FastStage, out: NDArray[Any]
) -> None:
    """One image of DEPTHWISE_CONV_2D, row by row.

    Args:
        padded: codes [H, W, C] with their border.
        weights: int32[taps, C], zero points off.
        geometry: where the window falls.
        stage: the output stage.
        out: codes [rows, columns, C].
    """
    row = np.empty((out.shape[1], out.shape[2]), np.int32)
    for number in range(out.shape[0]):
        first = number * geometry.stride[0]
        _depthwise_row(padded, weights, first, geometry.kernel, geometry.stride[1], geometry.dilation, row)
        stage.apply(row, out[number])


@_jit
def _finish_twice(
    accumulator: Any, bias: Any, multiplier: Any, left: Any, right: Any, zero_point: int, low: int, high: int, out: Any
) -> None:
    half = np.int64(1 << 30)
    for i in range(accumulator.shape[0]):
        for c in range(accumulator.shape[1]):
            total = (np.int32(accumulator[i, c]) + bias[c]) << left[c]
            scaled = np.int32((np.int64(np.int32(total)) * np.int64(multiplier[c]) + half) >> 31)
            mask = np.int32((np.int64(1) << right[c]) - 1)
            rest = np.int32(scaled & mask)
            limit = np.int32(mask >> 1) + (1 if scaled < 0 else 0)
            code = np.int32(scaled >> right[c]) + (1 if rest > limit else 0) + zero_point
            out[i, c] = min(max(code, low), high)


@_jit
def _finish_once(
    accumulator: Any, bias: Any, multiplier: Any, left: Any, right: Any, zero_point: int, low: int, high: int, out: Any
) -> None:
    one = np.int64(1)
    for i in range(accumulator.shape[0]):
        for c in range(accumulator.shape[1]):
            total = np.int32(np.int32(accumulator[i, c]) + bias[c])
            product = np.int64(total) * np.int64(multiplier[c])
            code = np.int32((product + (one << (right[c] - 1))) >> right[c]) + zero_point
            out[i, c] = min(max(code, low), high)


@_jit
def _depthwise_row(padded: Any, weights: Any, first: int, kernel: Any, step: int, dilation: Any, row: Any) -> None:
    columns, channels = row.shape
    for x in range(columns):
        for c in range(channels):
            row[x, c] = 0
        for ky in range(kernel[0]):
            for kx in range(kernel[1]):
                tap = ky * kernel[1] + kx
                y, across = first + ky * dilation[0], x * step + kx * dilation[1]
                for c in range(channels):
                    row[x, c] += np.int32(padded[y, across, c]) * weights[tap, c]
