"""What each layer does to the scores at each width of its weights, measured without labels.

Each layer is put to each width alone, behind and ahead of layers at the widest (of a target with codebooks: of layers without
one, so that no layer's own table is in what the others measure). Any change of a layer also lets the codes
behind it round otherwise; that part is as large for one bit as for four and does not add up over layers, so it is told apart:
what grows with the error of the layer's own output is the width's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import grouped, input_channels, rows, tap_means
from tf_requant.calibration.moments import Moments, PairedMoments
from tf_requant.calibration.statistics import Calibration
from tf_requant.corrections.bias import has_bias, mean_output, wanted_bias
from tf_requant.corrections.filters import choose
from tf_requant.corrections.rounding import filter_codes
from tf_requant.model.graph import Graph, Model
from tf_requant.model.ops import info
from tf_requant.model.quant import QuantParams
from tf_requant.pipeline.correct import Corrector
from tf_requant.pipeline.lanes import Inputs, Lane
from tf_requant.pipeline.reconstruct import PLACES, Pass, Progress, bias_position, with_constant
from tf_requant.pipeline.trials import Kept, Trials, of_widths
from tf_requant.plan import WEIGHTS, Plan
from tf_requant.planning.planner import plan_layer
from tf_requant.planning.schemes import narrowed, without_codebook

_METHODS = frozenset({"scale_search", "gptq"})
Constants = tuple[tuple[int, QuantParams, NDArray[Any]], ...]
"""(input position, parameters, codes) of a layer's filter and bias."""


def layers_of(model: Model, corrector: Corrector) -> dict[int, int]:
    """The layers whose widths can be chosen, with their number of weights: those with a filter on the accelerator."""
    plan, graph = corrector.planned(None, False).graphs[0], model.main
    found = {}
    for index, op in enumerate(graph.ops):
        row = info(op)
        if row is not None and row.filter is not None and plan.ops[index].on_accelerator:
            found[index] = graph.tensors[op.inputs[row.filter]].size
    return found


def at_the_widest(corrector: Corrector) -> Plan:
    """The plan that trials of weights start from: every layer at its widest, and none with a codebook."""
    return replace(corrector, target=without_codebook(corrector.target)).planned(None, False)


@dataclass
class WidthErrors:
    """The layers of one model and target at their widths.

    Args:
        corrector: the source, the target and how plans are made and applied.
        widths: the widths to measure.
        calibration: samples.
        state: a file that keeps what was measured, so that a measurement that was broken off goes on; None for none.
        progress: called with (ops done, in all).

    Attributes:
        errors: by op of the source and width, what the width adds to the scores' squared error, over their squared value;
            empty until measured.
        elements: weights of each of those ops.
        widest: the target's widest width.
    """

    corrector: Corrector
    widths: tuple[int, ...]
    calibration: Calibration
    state: Path | None = None
    progress: Progress | None = None
    errors: dict[int, dict[int, float]] = field(default_factory=dict, init=False)
    predicts: ClassVar[bool] = True
    _found: dict[int, dict[int, float]] = field(default_factory=dict, init=False)
    _outputs: dict[tuple[int, int], float] = field(default_factory=dict, init=False)
    _candidates: dict[tuple[int, int], Constants] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Plans and makes the model at the widest width, which every measurement starts from."""
        corrector = self.corrector
        self.trials = Trials(corrector, self.calibration, at_the_widest(corrector))
        self.target, self.widest = corrector.target, max(corrector.target.weight.widths)
        self.elements = layers_of(corrector.source, corrector)
        source, result, graph_plan = self.trials.source, self.trials.result, self.trials.plan.graphs[0]
        self._pass = Pass(source, result, graph_plan, self.target, _METHODS, self.trials.arithmetic, True)

    @property
    def how(self) -> str:
        """The widths are found, in a few words."""
        return f"measured on {len(self.trials.parts()[0])} calibration samples"

    def measure(self) -> None:
        """What each layer at each width does to the scores; what a file has is not measured again."""
        if self.errors:
            return
        kept, trials = Kept(self.state, WEIGHTS, self.trials.key()), self.trials
        pairs = self._pass.pairs()
        self._found = {origin: {} for origin in set(pairs.values()) & self.elements.keys()} | kept.load()
        measuring, _, learning = trials.parts()
        lane, right = trials.lane((*measuring, *learning)), None
        try:
            for index in range(trials.stop):
                if index in pairs:
                    moments, right = self._moments(lane, index), right or trials.scores(measuring)
                    for bits in self.widths:
                        self._try(lane, index, pairs[index], bits, moments, right)
                    kept.save(self._found)
                lane.step()
                if self.progress is not None:
                    self.progress(index + 1, trials.stop)
        finally:
            lane.close()
        # A layer of a form that no pass mends stays as wide as it is.
        # So does one that no score needs.
        tried = {origin for origin, _ in self._outputs}
        self.errors = {i: self._of_widths(i) if i in tried else {self.widest: 0.0} for i in self.elements}

    def _of_widths(self, origin: int) -> dict[int, float]:
        changes = {b: x for (i, b), x in self._outputs.items() if i == origin}
        return of_widths(changes, self._found[origin], self.widths)

    def _try(
        self, lane: Lane, index: int, origin: int, bits: int, moments: tuple[Moments, Moments] | None, right: Sequence[Inputs]
    ) -> None:
        """One layer at one width: its constants, and the error of the scores behind it."""
        if bits == self.widest and self.target.weight.codebook is None:
            return
        self._candidates[origin, bits] = self._constants(lane, index, origin, bits, moments)
        if bits not in self._found[origin]:
            graph = _with(lane.graph, index, self._candidates[origin, bits])
            found = lane.branch(graph, self.trials.stop, self.trials.judged, len(right))
            self._found[origin][bits] = self.trials.relative(found, right)

    def _moments(self, lane: Lane, index: int) -> tuple[Moments, Moments] | None:
        """Of a layer's inputs: on the samples that are learned from, and on those that measure; None where it is too wide."""
        if not self._pass.fits(lane.graph, index):
            return None
        measuring, _, learning = self.trials.parts()
        found, op = (PairedMoments(full=True), PairedMoments(full=True)), lane.graph.ops[index]
        for sample in range(len(lane.runs)):
            x = rows(lane.graph, op, lane.input_of(index, sample), PLACES)
            found[int(sample < len(measuring) and bool(learning))].add(x, x)
        learned = found[0].centred()
        return learned, found[1].centred() if learning else learned

    def _constants(self, lane: Lane, index: int, origin: int, bits: int, moments: tuple[Moments, Moments] | None) -> Constants:
        """A layer's filter at a width, rounded by what its inputs are, with the bias that keeps its mean."""
        source, graph, plan = self.trials.source.main, lane.graph, self.trials.plan.graphs[0]
        target = narrowed(self.target, bits)
        planned = plan_layer(source, target, origin, plan.activations)
        op, filter_plan = graph.ops[index], planned[origin, 1]
        row = info(op)
        assert row is not None
        codes = filter_plan.codes  # those of a codebook
        if codes is None:
            codes = filter_codes(source.tensors[source.ops[origin].inputs[1]], filter_plan, row.channel_axis)
        mended = with_constant(graph, index, 1, filter_plan.params, codes)
        narrow = replace(self._pass, plan=plan.with_(constants={**plan.constants, **planned}), target=target)
        position = bias_position(graph, index)
        if (origin, position) in planned and has_bias(op, position):
            held = planned[origin, position].params
            mended = with_constant(mended, index, position, held, np.asarray(mended.tensors[op.inputs[position]].data))
        if moments is not None:
            choice = choose(narrow.layer(source, mended, index, origin, filter_plan), *moments, _METHODS)
            if choice is not None:
                mended, _ = narrow.with_filter(source, mended, index, origin, filter_plan, choice)
        self._outputs[origin, bits] = _output_error(graph, mended, index, moments)
        if has_bias(op, position):
            means = np.mean([tap_means(graph, op, lane.input_of(index, n)) for n in range(len(lane.runs))], axis=0)
            goal = mean_output(graph, op, means, position)
            new = mended.ops[index]
            wanted = wanted_bias(mended, new, position, goal, mean_output(mended, new, means, position))
            params = mended.tensors[new.inputs[position]].quant
            assert params is not None
            mended = with_constant(mended, index, position, params, narrow.grid(mended, index, wanted))
        return _constants_of(mended, index)

    def measured(self, chosen: Mapping[int, int]) -> NDArray[np.float64]:
        """The error of the scores against the source's, every layer at its width, on the samples that judge."""
        result = self.trials.result
        graph = result.main
        for index, origin in self._pass.pairs().items():
            if (origin, chosen[origin]) in self._candidates:
                graph = _with(graph, index, self._candidates[origin, chosen[origin]])
        return self.trials.against_source(result.with_(graphs=(graph, *result.graphs[1:])), self.trials.plan)


def _output_error(graph: Graph, narrow: Graph, index: int, moments: tuple[Moments, Moments] | None) -> float:
    """The squared error of a layer's output for its new filter, in real units; of the filter where inputs are unknown."""
    op, reals = graph.ops[index], []
    for g in (graph, narrow):
        weights = g.tensors[g.ops[index].inputs[1]]
        assert weights.quant is not None and weights.data is not None
        scale, zero_point = weights.quant.along(len(weights.shape))
        reals.append(grouped(op, (weights.data - zero_point) * scale, input_channels(graph, op)))
    change = reals[1] - reals[0]
    return float((np.square(change) if moments is None else moments[1].rounding_error(change)).sum())


def _with(graph: Graph, index: int, constants: Constants) -> Graph:
    """The graph with other constants for one layer."""
    for position, params, codes in constants:
        graph = with_constant(graph, index, position, params, codes)
    return graph


def _constants_of(graph: Graph, index: int) -> Constants:
    op, position = graph.ops[index], bias_position(graph, index)
    found = []
    for p in (1, position) if has_bias(op, position) else (1,):
        tensor = graph.tensors[op.inputs[p]]
        assert tensor.quant is not None and tensor.data is not None
        found.append((p, tensor.quant, tensor.data))
    return tuple(found)
