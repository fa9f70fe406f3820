"""What a codebook trains: its levels, whole numbers of steps, and its range, a multiple of the step (DDQ, arXiv 2106.02295)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.training.network import straight_through

LEVEL_RATE, RANGE_RATE = 0.05, 0.001
"""Adam's, at first: of levels in steps of a filter, of ranges in their logarithm."""


class Levels:
    """The levels of one filter as a variable.

    Args:
        tf: TensorFlow.
        levels: rising, in steps.
        limits: the lowest and highest allowed.
    """

    def __init__(self, tf: Any, levels: NDArray[np.integer], limits: tuple[int, int]) -> None:
        self._tf, self._limits = tf, limits
        self.variable = tf.Variable(levels, dtype=tf.float32)

    def __call__(self, values: Any) -> Any:
        """The level nearest to each value, of two the higher: its gradient is the sum over what belongs to it."""
        tf = self._tf
        levels = tf.sort(straight_through(tf, self.variable, *self._limits))
        middle = tf.stop_gradient((levels[1:] + levels[:-1]) / 2)
        places = tf.searchsorted(middle, tf.reshape(tf.stop_gradient(values), (-1,)), side="right")
        return tf.reshape(tf.gather(levels, places), tf.shape(values))


class Range:
    """A multiple of a filter's step, one for each of its scales, as a variable.

    Args:
        tf: TensorFlow.
        shape: of the scales, broadcast along the filter.
        multiples: the smallest and the largest allowed.
    """

    def __init__(self, tf: Any, shape: Sequence[int], multiples: tuple[float, float]) -> None:
        self._tf, self._limits = tf, tuple(float(np.log(m)) for m in multiples)
        self.variable = tf.Variable(tf.zeros(shape))

    def __call__(self) -> Any:
        """The multiples; where one would leave what is allowed, its gradient stops."""
        return self._tf.exp(self._tf.clip_by_value(self.variable, *self._limits))
