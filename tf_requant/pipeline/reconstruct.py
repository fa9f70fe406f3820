"""One pass over two models side by side: every layer of the result is mended behind the mended ones before it.

A correction that has to *run* the half-corrected model lives in `corrections` as mathematics; this is the loop that
proposes, applies and measures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import (
    LAYERS,
    grouped,
    has_filter,
    input_channels,
    per_input,
    rows,
    tap_means,
    ungrouped,
)
from tf_requant.calibration.moments import PairedMoments
from tf_requant.corrections.alignment import offsets
from tf_requant.corrections.bias import accumulator_unit, bias_codes, has_bias, mean_output, wanted_bias
from tf_requant.corrections.equalization import wanted_codes
from tf_requant.corrections.filters import Choice, Layer, choose
from tf_requant.corrections.scale_search import scale_multiples
from tf_requant.model.graph import Graph, Model, Op
from tf_requant.model.ops import info
from tf_requant.model.quant import QuantParams
from tf_requant.numerics.arithmetic import Arithmetic
from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.pipeline.lanes import Inputs, Lane, Meeting, scores
from tf_requant.plan import ConstantPlan, GraphPlan
from tf_requant.planning.constants import BIAS_LIMIT, aligned
from tf_requant.planning.schemes import weight_limits
from tf_requant.targets import Target

PLACES = 256
"""About how many places of each image a layer's covariances are taken from: neighbours see nearly the same."""
MOST_COVARIANCES = 1 << 22
"""Inputs of a layer, squared, times its groups: a layer with more only gets a bias, since memory grows with the square."""
MEASURED = 8
"""Samples on which every tensor's error is measured."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Samples:
    """Inputs of both models by tensor index, and which of the samples only judge.

    Attributes:
        source: of the source model.
        result: of the result: the same real values.
        judges: how many samples at the front judge and take no part in a correction.
    """

    source: Sequence[Inputs]
    result: Sequence[Inputs]
    judges: int

    def only_judges(self) -> "Samples":
        """The samples that judge; all of them where none was held back."""
        count = self.judges or len(self.source)
        return Samples(self.source[:count], self.result[:count], count)


@dataclass
class Outcome:
    """What a pass did.

    Attributes:
        constants: the new plan of each constant that changed, by (source op, input position).
        errors: squared error of the scores on each of the judging samples, over the squared value of all, float64[samples].
        tensors: measured relative squared error of each compared tensor, by name.
    """

    constants: dict[tuple[int, int], ConstantPlan] = field(default_factory=dict)
    errors: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    tensors: dict[str, float] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """Squared error of the scores on the judging samples, over their squared value."""
        return float(self.errors.sum())


@dataclass(frozen=True)
class Pass:
    """One run of both models over the samples.

    Args:
        source: the source model.
        result: the model that the plan makes of it.
        plan: the plan of the main graph.
        target: the accelerator.
        methods: the corrections to apply, by name; none: only measures.
        arithmetic: what the result runs in.
        named: whether the user asked for the corrections by name, so that doing nothing is no choice.
    """

    source: Model
    result: Model
    plan: GraphPlan
    target: Target
    methods: frozenset[str]
    arithmetic: Arithmetic
    named: bool = False

    def run(self, samples: Samples, progress: Progress | None = None) -> Outcome:
        """Runs every op once on every sample; layers are mended on the way."""
        gains = {self.source.main.tensors[t].name: a.gains for t, a in self.plan.activations.items()}
        names = {self.source.main.tensors[t].name for t in self.plan.activations}
        judging = scores(self.source.main)
        meeting = Meeting(gains, names, min(MEASURED, samples.judges))
        verdict = Meeting(gains, {self.source.main.tensors[t].name for t in judging}, samples.judges)
        ours, theirs = Lane(self.source, samples.source), Lane(self.result, samples.result, self.arithmetic)
        outcome, pairs = Outcome(), self.pairs()
        last = {t.name: i for i, t in enumerate(self.result.main.tensors)}
        judged = [self.source.main.tensors[t].name for t in judging]
        needed = [self.result.main.producers.get(last.get(n, -1), -1) for n in judged]
        stop = max([*needed, *(pairs if self.methods else ())], default=-1) + 1

        def advance(until: int) -> None:
            while ours.position < until:
                outputs = ours.step()
                meeting.bring(0, ours.graph, outputs)
                verdict.bring(0, ours.graph, outputs)

        try:
            for index in range(stop):
                if index in pairs:
                    advance(pairs[index])
                if index in pairs and self.methods:
                    graph, found = self._mend(ours, theirs, index, pairs[index], samples.judges)
                    outcome.constants.update(found)
                    theirs.revise(graph)
                outputs = theirs.step()
                meeting.bring(1, theirs.graph, outputs)
                verdict.bring(1, theirs.graph, outputs)
                if progress is not None:
                    progress(index + 1, stop)
            advance(max((self.source.main.producers.get(t, -1) for t in judging), default=-1) + 1)
        finally:
            ours.close()
            theirs.close()
        outcome.errors = verdict.by_sample()
        outcome.tensors = meeting.relative()
        return outcome

    def pairs(self) -> dict[int, int]:
        """Layers of the result -> the layer of the source that each comes from; a rewrite keeps their order."""
        ours, theirs = (
            [i for i, op in enumerate(g.ops) if op.code in LAYERS] for g in (self.source.main, self.result.main)
        )
        if [self.source.main.ops[i].code for i in ours] != [self.result.main.ops[i].code for i in theirs]:
            return {}
        return {
            b: a
            for a, b in zip(ours, theirs)
            if (a, 1) in self.plan.constants
            and has_filter(self.source.main, a)
            and has_filter(self.result.main, b)
            and _bias_is_constant(self.result.main, b)
        }

    def _mend(
        self, ours: Lane, theirs: Lane, index: int, origin: int, judges: int
    ) -> tuple[Graph, dict[tuple[int, int], ConstantPlan]]:
        """The result's graph with a mended layer, and the plan of its constants."""
        found: dict[tuple[int, int], ConstantPlan] = {}
        graph = theirs.graph
        if self.methods - {"bias"} and self.fits(graph, index):
            graph, plan = self._mend_filter(ours, theirs, index, origin, judges)
            if plan is not None:
                found[origin, 1] = plan
        position = bias_position(graph, index)
        if (origin, position) not in self.plan.constants or not has_bias(graph.ops[index], position):
            return graph, found
        constant = self.plan.constants[origin, position]
        if "bias" in self.methods:
            codes = self._new_bias(graph, ours, theirs, index, origin, judges)
            wide = "" if self.methods == {"bias"} or self.fits(graph, index) else " (too wide for its filter to be mended)"
            constant = constant.with_(codes=codes, reason=f"{constant.reason}; the layer's mean error is taken off{wide}")
        elif found:
            codes = self.grid(graph, index, bias_codes(graph, graph.ops[index], position))
            constant = constant.with_(codes=codes)
        else:
            return graph, found
        unit = accumulator_unit(graph, graph.ops[index])
        constant = constant.with_(params=rescaled(constant.params, unit))
        found[origin, position] = constant
        return with_constant(graph, index, position, constant.params, codes), found

    def fits(self, graph: Graph, index: int) -> bool:
        """Whether the covariances of a layer's inputs can be held."""
        weights, op = graph.tensors[graph.ops[index].inputs[1]], graph.ops[index]
        groups = input_channels(graph, op) if op.code == "DEPTHWISE_CONV_2D" else 1
        taps = weights.shape[1] * weights.shape[2] if op.code == "DEPTHWISE_CONV_2D" else weights.size // weights.shape[0]
        return groups * taps**2 <= MOST_COVARIANCES

    def _mend_filter(
        self, ours: Lane, theirs: Lane, index: int, origin: int, judges: int
    ) -> tuple[Graph, ConstantPlan | None]:
        graph, op, constant = theirs.graph, theirs.graph.ops[index], self.plan.constants[origin, 1]
        layer = self.layer(ours.graph, graph, index, origin, constant)
        if layer.exact and "error_folding" not in self.methods:
            return graph, None
        ratio = self._input_ratio(ours.graph, graph, index, origin)
        learning, judging = PairedMoments(full=not judges), PairedMoments(full=True)
        for sample in range(len(theirs.runs)):
            x = rows(graph, op, theirs.input_of(index, sample), PLACES)
            y = rows(ours.graph, ours.graph.ops[origin], ours.input_of(origin, sample), PLACES) * ratio
            (judging if sample < judges else learning).add(x, y)
        learned = learning.centred()
        choice = choose(layer, learned, judging.centred() if judges else learned, self.methods, self.named)
        if choice is None:
            return graph, None
        return self.with_filter(ours.graph, graph, index, origin, constant, choice)

    def with_filter(
        self, source: Graph, graph: Graph, index: int, origin: int, constant: ConstantPlan, choice: Choice
    ) -> tuple[Graph, ConstantPlan]:
        """The result's graph with a chosen filter, its bias in the new units, and the filter's plan.

        Args:
            source: the source's graph.
            graph: the result's.
            index: the layer there.
            origin: the layer in the source.
            constant: what was planned for the filter.
            choice: what it becomes.
        """
        op = graph.ops[index]
        weights = graph.tensors[op.inputs[1]]
        scale = weights.quant.scale * choice.multiple if weights.quant is not None else choice.multiple
        params = rescaled(constant.params, scale)
        codes = ungrouped(op, choice.codes, weights.shape) + int(params.zero_point[0])
        codes = codes.astype(weights.dtype)
        step = np.asarray(constant.step) / (choice.multiple if choice.multiple.size > 1 else choice.multiple[0])
        plan = constant.with_(
            params=params, step=step, codes=codes, error=choice.error, reason=f"{constant.reason}; {choice.reason}"
        )
        graph = with_constant(graph, index, 1, params, codes)
        position = bias_position(graph, index)
        if has_bias(op, position):
            held = graph.tensors[op.inputs[position]]
            assert held.quant is not None
            kept = self._exact_bias(source, graph, index, origin) / choice.multiple
            unit = rescaled(held.quant, accumulator_unit(graph, graph.ops[index]))
            graph = with_constant(graph, index, position, unit, self.grid(graph, index, kept))
        return graph, plan

    def layer(self, source: Graph, graph: Graph, index: int, origin: int, constant: ConstantPlan) -> Layer:
        """The layer in steps of its planned scale."""
        op = graph.ops[index]
        weights, channels = graph.tensors[op.inputs[1]], input_channels(graph, op)
        assert weights.data is not None and weights.quant is not None
        zero_point = int(weights.quant.zero_point[0])
        low, high = constant.limits or weight_limits(self.target)
        position, bias = bias_position(graph, index), np.zeros(1)
        if has_bias(op, position) and graph.tensors[op.inputs[position]].dtype == "int32":
            bias = np.abs(bias_codes(graph, op, position))
        return Layer(
            wanted_codes(source, origin, constant),
            grouped(op, weights.data.astype(np.float64) - zero_point, channels),
            (low - zero_point, high - zero_point),
            self.target.weight.scale == "power_of_two",
            weights.quant.per_channel,
            float(bias.max(initial=0.0)) / BIAS_LIMIT,
            self._multiples(graph, op),
            constant.levels,
            weights.quant.scale.astype(np.float64) if weights.quant.per_channel else None,
        )

    def _multiples(self, graph: Graph, op: Op) -> tuple[float, float]:
        """Between which multiples of the filter's scale the rescale's shift stays in the target's range."""
        y = graph.tensors[op.outputs[0]].quant
        if y is None:
            return 0.0, np.inf
        ratios = accumulator_unit(graph, op) / float(y.scale[0])
        return scale_multiples(ratios, self.target.arithmetic.requantizer_of(op.code).shift_range)

    def _input_ratio(self, source: Graph, graph: Graph, index: int, origin: int) -> NDArray[np.float32]:
        """A step of the source's input in steps of the result's, to be multiplied with rows."""
        x, new = source.ops[origin].inputs[0], graph.tensors[graph.ops[index].inputs[0]].quant
        old = source.tensors[x].quant
        assert old is not None and new is not None
        step = np.asarray(float(old.scale[0]) * self._gain(x) / float(new.scale[0]))
        return np.float32(per_input(graph, graph.ops[index], step) if step.size > 1 else step)

    def _gain(self, tensor: int) -> float | NDArray[np.float64]:
        held = self.plan.activations.get(tensor)
        return 1.0 if held is None else held.gains

    def _new_bias(self, graph: Graph, ours: Lane, theirs: Lane, index: int, origin: int, judges: int) -> NDArray[Any]:
        op, old, position = graph.ops[index], ours.graph.ops[origin], bias_position(graph, index)
        learners = range(judges, len(theirs.runs))
        seen = np.mean([tap_means(graph, op, theirs.input_of(index, n)) for n in learners], axis=0)
        meant = np.mean([tap_means(ours.graph, old, ours.input_of(origin, n)) for n in learners], axis=0)
        wanted = self._wanted_output(ours.graph, old, meant, bias_position(ours.graph, origin))
        if floors(self.arithmetic):
            # floor(a + 1/2) rounds: half a step of the output, in the accumulator's units, is part of the bias.
            written = graph.tensors[op.outputs[0]].quant
            assert written is not None
            wanted = wanted + float(written.scale[0]) / 2
        moved = wanted_bias(graph, op, position, wanted, mean_output(graph, op, seen, position))
        return self.grid(graph, index, moved)

    def _wanted_output(self, source: Graph, op: Op, means: NDArray[np.float64], bias: int) -> NDArray[np.float64]:
        """The mean output that the result's layer should have, in its own real units, float64[outputs]."""
        found, held = mean_output(source, op, means, bias), self.plan.activations.get(op.outputs[0])
        if held is None:
            return found
        quant = source.tensors[op.outputs[0]].quant
        assert quant is not None
        return np.asarray(held.gains * (found + offsets(held) * float(quant.scale[0])))

    def _exact_bias(self, source: Graph, graph: Graph, index: int, origin: int) -> NDArray[np.float64]:
        """The source's bias in the plan's units, ahead of rounding."""
        op, position = source.ops[origin], bias_position(source, origin)
        if not has_bias(op, position) or source.tensors[op.inputs[position]].data is None:
            return bias_codes(graph, graph.ops[index], bias_position(graph, index))
        return np.asarray(bias_codes(source, op, position) * np.asarray(self.plan.constants[origin, position].step))

    def grid(self, graph: Graph, index: int, wanted: NDArray[np.float64]) -> NDArray[Any]:
        """Biases on the target's grid."""
        bias = graph.tensors[graph.ops[index].inputs[bias_position(graph, index)]]
        if self.target.bias.bits < 32:
            wanted = aligned(wanted, self.target.bias.bits)[0].astype(np.float64)
        return round_real(wanted, Rounding.HALF_AWAY).astype(bias.dtype).reshape(bias.shape)


def floors(arithmetic: Arithmetic) -> bool:
    """Whether a device's rescale ends in a bare shift, which leaves every output half a step low on average."""
    return arithmetic.requantizer.stages[-1].rounding is Rounding.FLOOR


def rescaled(params: QuantParams, scale: NDArray[np.floating[Any]]) -> QuantParams:
    """Parameters with another scale, and nothing of what a file stored beside the old one."""
    if np.array_equal(params.scale, np.float32(scale)):
        return params
    return QuantParams(params.dtype, np.float32(scale), params.zero_point, params.axis)


def _bias_is_constant(graph: Graph, index: int) -> bool:
    position = bias_position(graph, index)
    inputs = graph.ops[index].inputs
    return not has_bias(graph.ops[index], position) or graph.tensors[inputs[position]].data is not None


def bias_position(graph: Graph, index: int) -> int:
    """Where among its inputs an op reads its bias."""
    row = info(graph.ops[index])
    return 0 if row is None or row.bias is None else row.bias


def with_constant(graph: Graph, index: int, position: int, params: QuantParams, codes: NDArray[Any]) -> Graph:
    """The graph with another constant for one op alone: a tensor that ops share stays theirs."""
    op = graph.ops[index]
    held = graph.tensors[op.inputs[position]]
    new = held.with_(quant=params, data=codes, trained=None)
    inputs = tuple(len(graph.tensors) if p == position else t for p, t in enumerate(op.inputs))
    ops = (*graph.ops[:index], op.with_(inputs=inputs), *graph.ops[index + 1 :])
    return graph.with_(tensors=(*graph.tensors, new), ops=ops)
