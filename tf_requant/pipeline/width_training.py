"""Widths of weights, or of indices into codebooks, by training: blocks say how likely each is, and the search takes the likeliest.

The blocks are HMQ's (arXiv 2007.09952); a codebook's levels and range learn beside its width, as in DDQ (arXiv 2106.02295).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.statistics import Calibration
from tf_requant.pipeline.correct import Corrector
from tf_requant.pipeline.distill import OCTAVE, real_inputs, source_scores
from tf_requant.pipeline.reconstruct import Pass, Progress
from tf_requant.pipeline.trials import Trials
from tf_requant.pipeline.width_errors import at_the_widest, layers_of
from tf_requant.planning.planner import plan_layer
from tf_requant.planning.schemes import narrowed, weight_limits
from tf_requant.training.blocks import Block, Codebooks, Widths, learned_widths
from tf_requant.training.network import Network, constant

_UNLIKELY = 1e-6


@dataclass
class TrainedWidths:
    """The layers of one model and target at their widths, as `pipeline.widths.Candidates` has them.

    Args:
        corrector: the source, the target and how plans are made and applied.
        widths: the widths to choose among.
        calibration: samples; those that judge take no part in the training.
        budget: share of the widest width's bytes.
        costs: by op of the source and width: what it takes.
        progress: called with (steps done, in all).

    Attributes:
        errors: by op of the source and width, minus the logarithm of its probability; empty until trained.
        elements: weights of each of those ops.
        widest: the target's widest width.
    """

    corrector: Corrector
    widths: tuple[int, ...]
    calibration: Calibration
    budget: float
    costs: Mapping[int, Mapping[int, float]]
    progress: Progress | None = None
    errors: dict[int, dict[int, float]] = field(default_factory=dict, init=False)
    predicts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Plans and makes the model at the widest width."""
        self.widest = max(self.corrector.target.weight.widths)
        self.elements = layers_of(self.corrector.source, self.corrector)
        self.trials = Trials(self.corrector, self.calibration, at_the_widest(self.corrector))

    @property
    def how(self) -> str:
        """The widths are found, in a few words."""
        return "learned by training on calibration samples"

    def measure(self) -> None:
        """Trains the blocks, once.

        Raises:
            UsageError: TensorFlow is missing.
            UnsupportedModelError: an op without a gradient.
        """
        if self.errors:
            return
        trials, corrector = self.trials, self.corrector
        network = Network(trials.result.main, trials.judged)
        run = Pass(trials.source, trials.result, trials.plan.graphs[0], corrector.target, frozenset(), trials.arithmetic)
        origins = {i: origin for i, origin in run.pairs().items() if i in network.ops and origin in self.elements}
        blocks = {i: self._block(i, origin) for i, origin in origins.items()}
        _, judging, learning = trials.parts()
        samples = corrector.samples(self.calibration, 0)(trials.result)
        chosen = [n for n in range(len(samples.source)) if n in set(learning)] or list(judging)
        feeds = [real_inputs(trials.result.main, samples.result[n]) for n in chosen]
        right = source_scores(trials.source, [samples.source[n] for n in chosen], trials.plan.graphs[0])
        # What cannot be narrowed keeps its share of the budget.
        fixed = sum(row[self.widest] for i, row in self.costs.items() if i not in origins.values())
        limit = self.budget * sum(row[self.widest] for row in self.costs.values()) - fixed
        found = learned_widths(network, blocks, limit, feeds, right, self.progress)
        self.errors = {i: {self.widest: 0.0} for i in self.elements}
        for index, chances in found.items():
            unlikely = -np.log(np.maximum(chances, _UNLIKELY))
            self.errors[origins[index]] = dict(zip(sorted(self.widths), unlikely.tolist()))

    def _block(self, index: int, origin: int) -> Widths:
        source, graph, plan = self.trials.source.main, self.trials.result.main, self.trials.plan.graphs[0]
        weights, widths = graph.tensors[graph.ops[index].inputs[1]], sorted(self.widths)
        targets = [narrowed(self.corrector.target, bits) for bits in widths]
        planned = [plan_layer(source, target, origin, plan.activations)[origin, 1] for target in targets]
        steps = [np.asarray(one.params.along(len(weights.shape))[0], np.float32) for one in planned]
        costs = [self.costs[origin][bits] for bits in widths]
        if self.corrector.target.weight.codebook is not None:
            levels, limits = [np.unique(one.codes) for one in planned], weight_limits(self.corrector.target)
            multiples = None if self.corrector.target.weight.scale == "power_of_two" else (1 / OCTAVE, OCTAVE)
            return Codebooks(constant(weights), steps, levels, limits, multiples, costs)
        # Where the widest keeps the source's one scale, narrower ones may have one a channel.
        return Block(constant(weights), np.broadcast_arrays(*steps), [weight_limits(target)[1] for target in targets], costs)

    def measured(self, chosen: Mapping[int, int]) -> NDArray[np.float64]:
        """The error of the scores against the source's, every layer at its width, on the samples that judge."""
        corrector = replace(self.corrector, wishes=replace(self.corrector.wishes, widths=dict(chosen)))
        plan = corrector.planned(None, False)
        return self.trials.against_source(corrector.rewrite(self.trials.source, plan), plan)
