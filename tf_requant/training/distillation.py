"""Filters, codebooks and biases moved by gradient until the scores are the source's (distillation, without labels).

A filter's codes are the rounded values of variables that start at the codes at hand; with a codebook, its levels and its range
are variables too, as in DDQ (arXiv 2106.02295), and each value belongs to the nearest level. Rounding is straight-through.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.training.adam import Adam
from tf_requant.training.levels import LEVEL_RATE, RANGE_RATE, Levels, Range
from tf_requant.training.network import Network, straight_through, tensorflow

BATCH = 8
"""Samples whose gradients make one step."""
PASSES = 2
"""Times that each sample is seen."""
RATE, BIAS_RATE = 0.01, 0.01
"""Adam's, at first: of codes in steps of a filter, of biases in steps of what the layer writes; each falls to none."""

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
        multiples: of the scale: the smallest and the largest that its range may move to; None where it stays.
    """

    codes: NDArray[np.float32]
    scale: NDArray[np.float32]
    limits: tuple[int, int]
    levels: NDArray[np.integer] | None
    bias: NDArray[np.float32] | None
    step: float
    multiples: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Moved:
    """What training made of a layer.

    Attributes:
        codes: of its filter, code minus zero point, int64 in the file's layout.
        multiple: of its scale, float64 of as many as there are scales.
        bias: real values, float64[outputs], or None.
    """

    codes: NDArray[np.int64]
    multiple: NDArray[np.float64]
    bias: NDArray[np.float64] | None


def distilled(
    network: Network,
    layers: Mapping[int, Trained],
    inputs: Sequence[Sample],
    wanted: Sequence[Sequence[NDArray[np.floating]]],
    progress: Progress | None = None,
) -> dict[int, Moved]:
    """Each layer behind the training, by op.

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

    order, adam = np.random.default_rng(0), Adam(tf, every, rates)
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
        self.levels = None if layer.levels is None else Levels(tf, layer.levels, layer.limits)
        self.range = None if layer.multiples is None else Range(tf, layer.scale.shape, layer.multiples)
        self.bias = None if layer.bias is None else tf.Variable(layer.bias / layer.step, dtype=tf.float32)
        learned = ((self.levels, LEVEL_RATE), (self.range, RANGE_RATE))
        pairs = [(self.codes, RATE), *((v.variable, r) for v, r in learned if v is not None)]
        pairs += [] if self.bias is None else [(self.bias, BIAS_RATE)]
        self.every, self.rates = [v for v, _ in pairs], [r for _, r in pairs]

    def filter(self) -> Any:
        """In real units."""
        return self._rounded() * self._layer.scale * (1.0 if self.range is None else self.range())

    def real_bias(self) -> Any:
        return self.bias * self._layer.step

    def _rounded(self) -> Any:
        if self.levels is None:
            return straight_through(self._tf, self.codes, *self._layer.limits)
        # A value's gradient passes as if it were its level.
        return self.levels(self.codes) + self.codes - self._tf.stop_gradient(self.codes)

    def result(self) -> Moved:
        codes = round_real(self._rounded().numpy().astype(np.float64), Rounding.HALF_EVEN).astype(np.int64)
        multiple = np.ones(self._layer.scale.size) if self.range is None else np.ravel(self.range().numpy()).astype(np.float64)
        return Moved(codes, multiple, None if self.bias is None else self.real_bias().numpy().astype(np.float64))
