"""Filters, codebooks and biases moved by gradient until the scores are the source's (distillation, without labels).

A filter's codes are the rounded values of variables that start at the codes at hand; with a codebook, its levels are variables
too, as in DDQ (arXiv 2106.02295), and each value belongs to the nearest. Rounding is straight-through.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.training.network import Network, straight_through, tensorflow

BATCH = 8
"""Samples whose gradients make one step."""
PASSES = 2
"""Times that each sample is seen."""
RATE, LEVEL_RATE, BIAS_RATE = 0.01, 0.05, 0.01
"""Adam's, at first: of codes and of levels in steps of a filter, of biases in steps of what the layer writes; falls to none."""

Progress = Callable[[int, int], None]
Sample = Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Trained:
    """A layer that is moved.

    Attributes:
        codes: of its filter, code minus zero point, float32 in the file's layout.
        scale: of those, broadcast along it.
        limits: the lowest and highest.
        levels: the only ones allowed, rising; None for every integer.
        bias: real values, float32[outputs], or None.
        step: of what it writes, in real units.
    """

    codes: NDArray[np.float32]
    scale: NDArray[np.float32]
    limits: tuple[int, int]
    levels: NDArray[np.integer] | None
    bias: NDArray[np.float32] | None
    step: float


def distilled(
    network: Network,
    layers: Mapping[int, Trained],
    inputs: Sequence[Sample],
    wanted: Sequence[Sequence[NDArray[np.floating]]],
    progress: Progress | None = None,
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float64] | None]]:
    """(codes minus zero point, real bias) of each layer behind the training, by op.

    Args:
        network: the result.
        layers: what may move, by op.
        inputs: real values of the graph's inputs, a sample each.
        wanted: the source's scores on each, in the order of the network's.
        progress: called with (steps done, in all).
    """
    tf = tensorflow()
    tf.keras.utils.set_random_seed(0)
    variables = {i: _Variables(tf, layer) for i, layer in layers.items()}
    every = [v for held in variables.values() for v in held.every]
    rates = [r for held in variables.values() for r in held.rates]
    power = max(float(np.mean([sum(float((y**2).sum()) for y in one) for one in wanted])), 1e-12)

    @tf.function(reduce_retracing=True)
    def gradients(feeds: Any, right: Any) -> Any:
        with tf.GradientTape() as tape:
            filters = {i: held.filter() for i, held in variables.items()}
            biases = {i: held.real_bias() for i, held in variables.items() if held.bias is not None}
            found = network(feeds, filters, biases)
            loss = tf.add_n([tf.reduce_sum((y - x) ** 2) for y, x in zip(found, right)]) / power
        return tape.gradient(loss, every, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    order, adam = np.random.default_rng(0), _Adam(tf, every, rates)
    steps = PASSES * -(-len(inputs) // BATCH)
    done = 0
    for _ in range(PASSES):
        shuffled = order.permutation(len(inputs))
        for start in range(0, len(inputs), BATCH):
            part = shuffled[start : start + BATCH]
            total = None
            for n in part:
                feeds = {t: tf.constant(x) for t, x in inputs[n].items()}
                found = gradients(feeds, [tf.constant(y, tf.float32) for y in wanted[n]])
                total = found if total is None else [a + b for a, b in zip(total, found)]
            assert total is not None
            adam.step([g / len(part) for g in total], 1 - done / steps)
            done += 1
            if progress is not None:
                progress(done, steps)
    return {i: held.result() for i, held in variables.items()}


class _Variables:
    """The variables of one layer."""

    def __init__(self, tf: Any, layer: Trained) -> None:
        self._tf, self._layer = tf, layer
        self.codes = tf.Variable(layer.codes, dtype=tf.float32)
        self.levels = None if layer.levels is None else tf.Variable(layer.levels, dtype=tf.float32)
        self.bias = None if layer.bias is None else tf.Variable(layer.bias / layer.step, dtype=tf.float32)
        pairs = ((self.codes, RATE), (self.levels, LEVEL_RATE), (self.bias, BIAS_RATE))
        self.every = [v for v, _ in pairs if v is not None]
        self.rates = [r for v, r in pairs if v is not None]

    def filter(self) -> Any:
        """In real units."""
        return self._rounded() * self._layer.scale

    def real_bias(self) -> Any:
        return self.bias * self._layer.step

    def _rounded(self) -> Any:
        tf, (low, high) = self._tf, self._layer.limits
        if self.levels is None:
            return straight_through(tf, self.codes, low, high)
        # A level's gradient is the sum over what belongs to it; a value's passes as if it were its level.
        levels = tf.sort(straight_through(tf, self.levels, low, high))
        middle = tf.stop_gradient((levels[1:] + levels[:-1]) / 2)
        places = tf.searchsorted(middle, tf.reshape(tf.stop_gradient(self.codes), (-1,)), side="right")
        return tf.reshape(tf.gather(levels, places), self.codes.shape) + self.codes - tf.stop_gradient(self.codes)

    def result(self) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        codes = round_real(self._rounded().numpy().astype(np.float64), Rounding.HALF_EVEN).astype(np.int64)
        return codes, None if self.bias is None else self.real_bias().numpy().astype(np.float64)


class _Adam:
    """Adam (arXiv 1412.6980) with a rate for each variable."""

    def __init__(self, tf: Any, variables: Sequence[Any], rates: Sequence[float]) -> None:
        self._tf, self._variables, self._rates, self._count = tf, variables, rates, 0
        self._means = [tf.zeros_like(v) for v in variables]
        self._squares = [tf.zeros_like(v) for v in variables]

    def step(self, gradients: Sequence[Any], share: float) -> None:
        """One step at a share of the rates."""
        self._count += 1
        for n, (variable, gradient, rate) in enumerate(zip(self._variables, gradients, self._rates)):
            self._means[n] = 0.9 * self._means[n] + 0.1 * gradient
            self._squares[n] = 0.999 * self._squares[n] + 0.001 * gradient**2
            mean, square = self._means[n] / (1 - 0.9**self._count), self._squares[n] / (1 - 0.999**self._count)
            variable.assign_sub(rate * share * mean / (self._tf.sqrt(square) + 1e-12))
