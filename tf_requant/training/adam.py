"""Adam (arXiv 1412.6980) with a rate for each variable: codes, levels and ranges move in units of their own."""

from collections.abc import Sequence
from typing import Any


class Adam:
    """The means that it keeps of each variable's gradients.

    Args:
        tf: TensorFlow.
        variables: what moves.
        rates: of each.
    """

    def __init__(self, tf: Any, variables: Sequence[Any], rates: Sequence[float]) -> None:
        self._tf, self._variables, self._rates, self._count = tf, variables, rates, 0
        self._means = [tf.zeros_like(v) for v in variables]
        self._squares = [tf.zeros_like(v) for v in variables]

    def step(self, gradients: Sequence[Any], share: float = 1.0) -> None:
        """One step at a share of the rates."""
        self._count += 1
        for n, (variable, gradient, rate) in enumerate(zip(self._variables, gradients, self._rates)):
            self._means[n] = 0.9 * self._means[n] + 0.1 * gradient
            self._squares[n] = 0.999 * self._squares[n] + 0.001 * gradient**2
            mean, square = self._means[n] / (1 - 0.9**self._count), self._squares[n] / (1 - 0.999**self._count)
            variable.assign_sub(rate * share * mean / (self._tf.sqrt(square) + 1e-12))
