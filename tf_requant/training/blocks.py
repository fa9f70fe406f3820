"""Bit widths by gradient: HMQ's blocks (arXiv 2007.09952), taught by the source's scores instead of labels.

A layer's quantizer is a mixture over its widths: with p drawn from a Gumbel softmax of the block's parameters, the step is
sum p[b] * step[b] and the threshold sum p[b] * threshold[b]. Widths of indices into codebooks are learned likewise, the
mixture being of the filters that each width's codebook makes; its levels and its range learn beside (DDQ, arXiv 2106.02295,
learns levels, range and width together, the width by gates that merge neighbouring levels). The loss is the scores' squared
error for the source's, plus a penalty where what the widths are expected to take is beyond the budget, which is tightened in
steps. Filters stay as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tf_requant.training.adam import Adam
from tf_requant.training.distillation import Progress, Sample
from tf_requant.training.levels import LEVEL_RATE, RANGE_RATE, Levels, Range
from tf_requant.training.network import Network, straight_through, tensorflow

STEPS, BATCH = 80, 4
"""Steps of training, and samples in each."""
STAGES = 4
"""In so many steps the budget goes from everything at its widest to what was asked for."""
RATE, PENALTY, LEAST_TEMPERATURE = 0.1, 32.0, 0.5
"""Adam's rate of the blocks' parameters (the paper's 1e-2 is for epochs of labelled data), the paper's gamma and tau."""


class Mixture(Protocol):
    """A layer's filter behind its quantizers at once.

    Attributes:
        learned: variables that learn beside the widths, each with its rate.
    """

    learned: Sequence[tuple[Any, float]]

    def __call__(self, chances: Sequence[Any]) -> Any:
        """The filter, each width as much as its chance says."""


class Widths(Protocol):
    """A layer whose width is learned.

    Attributes:
        costs: by width, narrowest first: what it takes.
    """

    @property
    def costs(self) -> Sequence[float]:
        """As above."""

    def start(self, tf: Any) -> Mixture:
        """Its variables, as they are at first."""


@dataclass(frozen=True, eq=False)
class Block:
    """A layer of uniform codes whose width is learned.

    Attributes:
        reals: its filter, float32 in the file's layout.
        steps: by width, narrowest first: the scale, broadcast along the filter.
        tops: by width: the highest code.
        costs: by width: what it takes.
    """

    reals: NDArray[np.float32]
    steps: Sequence[NDArray[np.float32]]
    tops: Sequence[int]
    costs: Sequence[float]

    def start(self, tf: Any) -> Mixture:
        """Nothing learns beside the width."""
        return _Uniform(tf, self)


@dataclass(frozen=True, eq=False)
class Codebooks:
    """A layer with a codebook whose index width is learned, and each width's levels and range with it.

    Attributes:
        reals: its filter, float32 in the file's layout.
        steps: by width of an index, narrowest first: the scale, broadcast along the filter.
        levels: by width: the levels at first, rising, in steps.
        limits: the lowest and highest level allowed.
        multiples: the smallest and the largest multiple of its scale that a range may move to; None where it stays.
        costs: by width: what it takes.
    """

    reals: NDArray[np.float32]
    steps: Sequence[NDArray[np.float32]]
    levels: Sequence[NDArray[np.integer]]
    limits: tuple[int, int]
    multiples: tuple[float, float] | None
    costs: Sequence[float]

    def start(self, tf: Any) -> Mixture:
        """With the levels at hand."""
        return _Coded(tf, self)


class _Uniform:
    """HMQ's: one quantizer, its step and threshold mixtures of the widths'."""

    def __init__(self, tf: Any, block: Block) -> None:
        self._tf, self._block = tf, block
        self.learned: Sequence[tuple[Any, float]] = ()

    def __call__(self, chances: Sequence[Any]) -> Any:
        tf, block = self._tf, self._block
        step = tf.add_n([chances[n] * s for n, s in enumerate(block.steps)])
        top = tf.add_n([chances[n] * s * float(t) for n, (s, t) in enumerate(zip(block.steps, block.tops))]) / step
        return straight_through(tf, block.reals / step, -top, top) * step


class _Coded:
    """The mixture of what each width's codebook makes of the filter: tables of different sizes have no common step."""

    def __init__(self, tf: Any, block: Codebooks) -> None:
        self._tf, self._block = tf, block
        self._levels = [Levels(tf, levels, block.limits) for levels in block.levels]
        self._ranges = [None if block.multiples is None else Range(tf, step.shape, block.multiples) for step in block.steps]
        self.learned = [(one.variable, LEVEL_RATE) for one in self._levels]
        self.learned += [(one.variable, RANGE_RATE) for one in self._ranges if one is not None]

    def __call__(self, chances: Sequence[Any]) -> Any:
        found = []
        for step, levels, range_ in zip(self._block.steps, self._levels, self._ranges):
            moved = step if range_ is None else step * range_()
            found.append(levels(self._block.reals / moved) * moved)
        return self._tf.add_n([chances[n] * one for n, one in enumerate(found)])


def learned_widths(
    network: Network,
    blocks: Mapping[int, Widths],
    budget: float,
    inputs: Sequence[Sample],
    wanted: Sequence[Sequence[NDArray[np.floating]]],
    progress: Progress | None = None,
) -> dict[int, NDArray[np.float64]]:
    """The probability of each width, narrowest first, by op.

    Args:
        network: the model at its widest.
        blocks: the layers, by op.
        budget: what all of them may take.
        inputs: real values of the graph's inputs, a sample each.
        wanted: the source's scores on each, in the order of the network's.
        progress: called with (steps done, in all).
    """
    tf = tensorflow()
    tf.keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    order = list(blocks)
    # The widest is the likeliest at first, as in the paper, whose blocks start where the float model is.
    parameters = [tf.Variable(np.linspace(0.0, 1.0, len(blocks[i].costs)), dtype=tf.float32) for i in order]
    power = max(float(np.mean([sum(float((y**2).sum()) for y in one) for one in wanted])), 1e-12)
    most = sum(max(blocks[i].costs) for i in order)
    mixtures = {i: blocks[i].start(tf) for i in order}
    learned = [(p, RATE) for p in parameters] + [pair for i in order for pair in mixtures[i].learned]
    variables = [v for v, _ in learned]
    adam = Adam(tf, variables, [rate for _, rate in learned])

    @tf.function(reduce_retracing=True)
    def gradients(feeds: Any, right: Any, noise: Any, temperature: Any, limit: Any) -> Any:
        with tf.GradientTape() as tape:
            chances = [tf.nn.softmax((tf.nn.log_softmax(p) + g) / temperature) for p, g in zip(parameters, noise)]
            filters = {i: mixtures[i](p) for i, p in zip(order, chances)}
            found = network(feeds, filters, {})
            loss = tf.add_n([tf.reduce_sum((y - x) ** 2) for y, x in zip(found, right)]) / power
            # The paper's (R* - R) / R* with compression R = whole / expected: one less what is expected over the limit.
            expected = tf.add_n([tf.reduce_sum(tf.nn.softmax(p) * np.float32(blocks[i].costs)) for i, p in zip(order, parameters)])
            loss += PENALTY * tf.nn.relu(1.0 - limit / expected) ** 2
        return tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    for step in range(STEPS):
        stage = min(STAGES, 1 + step * STAGES // max(1, STEPS // 2))
        limit = tf.constant(most + (budget - most) * stage / STAGES, tf.float32)
        temperature = tf.constant(max(LEAST_TEMPERATURE, float(np.exp(-4 * step / STEPS))), tf.float32)
        total: Any = None
        for n in random.choice(len(inputs), min(BATCH, len(inputs)), replace=False):
            noise = [tf.constant(random.gumbel(size=len(blocks[i].costs)), tf.float32) for i in order]
            feeds = {t: tf.constant(x) for t, x in inputs[n].items()}
            found = gradients(feeds, [tf.constant(y, tf.float32) for y in wanted[n]], noise, temperature, limit)
            total = found if total is None else [a + b for a, b in zip(total, found)]
        adam.step([g / min(BATCH, len(inputs)) for g in total])
        if progress is not None:
            progress(step + 1, STEPS)
    return {i: tf.nn.softmax(p).numpy().astype(np.float64) for i, p in zip(order, parameters)}
