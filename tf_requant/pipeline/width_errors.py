"""What each layer does to the scores at each width of its weights, measured without labels.

Each layer is put to each width alone, behind and ahead of layers at the widest. Any change of a layer also lets the codes
behind it round otherwise; that part is as large for one bit as for four and does not add up over layers, so it is told apart:
what grows with the error of the layer's own output is the width's.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import grouped, input_channels, rows, tap_means
from tf_requant.calibration.moments import Moments, PairedMoments
from tf_requant.calibration.statistics import Calibration
from tf_requant.corrections.bias import has_bias, mean_output, wanted_bias
from tf_requant.corrections.filters import choose
from tf_requant.corrections.rounding import filter_codes
from tf_requant.errors import UsageError
from tf_requant.io.tflite_writer import save
from tf_requant.model.graph import Graph, Model
from tf_requant.model.ops import info
from tf_requant.model.quant import QuantParams
from tf_requant.pipeline.calibrate import products
from tf_requant.pipeline.correct import HELD_BACK, Corrector, arithmetic_of, with_indices_for_names
from tf_requant.pipeline.lanes import Inputs, Lane, in_reals, scores
from tf_requant.pipeline.reconstruct import PLACES, Pass, Progress, bias_position, with_constant
from tf_requant.planning.planner import plan_layer
from tf_requant.planning.schemes import narrowed
from tf_requant.targets import Target
from tf_requant.version import __version__

MEASURING, JUDGING, LEARNING = 8, 8, 48
"""Calibration samples that layers are measured on, others that exchanges are judged by, and others that filters are rounded by.

What is measured on the samples that a filter was rounded by flatters it: eight rows fit a fully connected layer exactly.
"""
_LEAST = 0.02
"""Of what the narrowest width does to the scores, the share that is the width's at least: wider is never as bad."""
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
        products: of each in one run.
    """

    corrector: Corrector
    widths: tuple[int, ...]
    calibration: Calibration
    state: Path | None = None
    progress: Progress | None = None
    errors: dict[int, dict[int, float]] = field(default_factory=dict, init=False)
    _found: dict[int, dict[int, float]] = field(default_factory=dict, init=False)
    _outputs: dict[tuple[int, int], float] = field(default_factory=dict, init=False)
    _candidates: dict[tuple[int, int], Constants] = field(default_factory=dict, init=False)
    _right: list[Inputs] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Plans and makes the model at the widest width, which every measurement starts from."""
        corrector = self.corrector
        self.source: Model = with_indices_for_names(corrector.source)
        self.target: Target = corrector.target
        self.plan = corrector.planned(None, False)
        self.result = corrector.rewrite(self.source, self.plan)
        self.elements = layers_of(self.source, corrector)
        self.products = {i: products(self.source.main, i) for i in self.elements}
        places = {tensor.name: t for t, tensor in enumerate(self.result.main.tensors)}
        self.judged = tuple(places[str(t)] for t in scores(self.source.main))
        self._pass = Pass(self.source, self.result, self.plan.graphs[0], self.target, _METHODS, arithmetic_of(self.target), True)
        self._stop = max((self.result.main.producers.get(t, -1) for t in self.judged), default=-1) + 1

    def parts(self) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Of the calibration: the samples that measure, that judge, that are learned from."""
        # Those that judge the corrections later take no part.
        free = [n for n in range(len(self.calibration)) if n % HELD_BACK != HELD_BACK - 1]
        measuring, judging = (min(most, max(1, len(free) // 4)) for most in (MEASURING, JUDGING))
        return free[:measuring], free[measuring : measuring + judging], free[measuring + judging :][:LEARNING]

    def _lane(self, graph: Graph, samples: Iterable[int]) -> Lane:
        inputs = self.corrector.samples(self.calibration, 0)(self.result).result
        model = self.result.with_(graphs=(graph, *self.result.graphs[1:]))
        return Lane(model, [inputs[n] for n in samples], arithmetic_of(self.target))

    def _scores(self, graph: Graph, samples: Iterable[int]) -> list[Inputs]:
        """The judged tensors of a graph, of each sample."""
        lane = self._lane(graph, samples)
        try:
            return lane.branch(graph, self._stop, self.judged)
        finally:
            lane.close()

    def _source_scores(self, samples: Iterable[int]) -> list[Inputs]:
        """The same of the source, in real units of the result."""
        graph, gains = self.source.main, self.plan.graphs[0].activations
        wanted = scores(graph)
        stop = max((graph.producers.get(t, -1) for t in wanted), default=-1) + 1
        inputs = self.corrector.samples(self.calibration, 0)(self.result).source
        lane = Lane(self.source, [inputs[n] for n in samples])
        try:
            found = lane.branch(graph, stop, wanted)
        finally:
            lane.close()
        gain = {t: gains[t].gains if t in gains else 1.0 for t in wanted}
        return [{j: in_reals(one[t], graph, t) * gain[t] for t, j in zip(wanted, self.judged)} for one in found]

    def _relative(self, found: Sequence[Inputs], right: Sequence[Inputs]) -> float:
        graph, error, power = self.result.main, 0.0, 0.0
        for one, other in zip(found, right):
            for t in self.judged:
                x = other[t] if other[t].dtype.kind == "f" else in_reals(other[t], graph, t)
                y = in_reals(one[t], graph, t)
                error, power = error + float(((y - x) ** 2).sum()), power + float((x**2).sum())
        return error / max(power, 1e-30)

    def measure(self) -> None:
        """What each layer at each width does to the scores; what a file has is not measured again."""
        if self.errors:
            return
        key = self._key()
        self._load(key)
        widest = max(self.target.weight.bits)
        pairs = self._pass.pairs()
        for origin in set(pairs.values()) & self.elements.keys():
            self._found.setdefault(origin, {})
        measuring, _, learning = self.parts()
        lane, right = self._lane(self.result.main, (*measuring, *learning)), None
        try:
            for index in range(self._stop):
                if index in pairs:
                    moments, right = self._moments(lane, index), right or self._scores(self.result.main, measuring)
                    for bits in self.widths:
                        self._try(lane, index, pairs[index], bits, moments, right)
                    self._keep(key)
                lane.step()
                if self.progress is not None:
                    self.progress(index + 1, self._stop)
        finally:
            lane.close()
        # A layer of a form that no pass mends stays as wide as it is.
        # So does one that no score needs.
        tried = {origin for origin, _ in self._outputs}
        self.errors = {i: self._of_widths(i) if i in tried else {widest: 0.0} for i in self.elements}

    def _of_widths(self, origin: int) -> dict[int, float]:
        """What each width of a layer adds: of the scores' error the part that goes with the error of the layer's output."""
        narrow = sorted(b for b in self.widths if (origin, b) in self._outputs)
        found = {b: 0.0 for b in self.widths if b not in narrow}
        if narrow:
            x = np.array([self._outputs[origin, b] for b in narrow])
            y = np.array([self._found[origin][b] for b in narrow])
            found |= dict(zip(narrow, (slope_beside_a_floor(x, y) * x).tolist()))
        return found

    def _try(
        self, lane: Lane, index: int, origin: int, bits: int, moments: tuple[Moments, Moments] | None, right: Sequence[Inputs]
    ) -> None:
        """One layer at one width: its constants, and the error of the scores behind it."""
        if bits == max(self.target.weight.bits):
            return
        self._candidates[origin, bits] = self._constants(lane, index, origin, bits, moments)
        if bits not in self._found[origin]:
            graph = _with(lane.graph, index, self._candidates[origin, bits])
            found = lane.branch(graph, self._stop, self.judged, len(right))
            # What the branch does not compute is as it was.
            self._found[origin][bits] = self._relative([{**r, **f} for r, f in zip(right, found)], right)

    def _moments(self, lane: Lane, index: int) -> tuple[Moments, Moments] | None:
        """Of a layer's inputs: on the samples that are learned from, and on those that measure; None where it is too wide."""
        if not self._pass.fits(lane.graph, index):
            return None
        measuring, _, learning = self.parts()
        found, op = (PairedMoments(full=True), PairedMoments(full=True)), lane.graph.ops[index]
        for sample in range(len(lane.runs)):
            x = rows(lane.graph, op, lane.input_of(index, sample), PLACES)
            found[int(sample < len(measuring) and bool(learning))].add(x, x)
        learned = found[0].centred()
        return learned, found[1].centred() if learning else learned

    def _constants(self, lane: Lane, index: int, origin: int, bits: int, moments: tuple[Moments, Moments] | None) -> Constants:
        """A layer's filter at a width, rounded by what its inputs are, with the bias that keeps its mean."""
        source, graph, plan = self.source.main, lane.graph, self.plan.graphs[0]
        target = narrowed(self.target, bits)
        planned = plan_layer(source, target, origin, plan.activations)
        op, filter_plan = graph.ops[index], planned[origin, 1]
        row = info(op)
        assert row is not None
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

    def measured(self, chosen: Mapping[int, int]) -> float:
        """The error of the scores against the source's, every layer at its width, on the samples that judge."""
        graph, widest = self.result.main, max(self.target.weight.bits)
        for index, origin in self._pass.pairs().items():
            if chosen[origin] != widest:
                graph = _with(graph, index, self._candidates[origin, chosen[origin]])
        judging = self.parts()[1]
        self._right = self._right or self._source_scores(judging)
        return self._relative(self._scores(graph, judging), self._right)

    def _key(self) -> str:
        """What a measurement depends on."""
        digest = hashlib.sha256(f"{__version__} {self.calibration.model} {self.target} {self.calibration.digests}".encode())
        plan = self.plan.graphs[0]
        for constant in (*plan.constants.values(), *plan.activations.values()):
            digest.update(constant.params.scale.tobytes() + constant.params.zero_point.tobytes())
        digest.update(repr(plan.ops).encode())
        return digest.hexdigest()

    def _load(self, key: str) -> None:
        if self.state is None or not self.state.exists():
            return
        try:
            held = json.loads(self.state.read_text())
            errors = dict(held["errors"])
            if held["key"] == key:
                self._found = {int(i): {int(b): float(e) for b, e in row.items()} for i, row in errors.items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(f"{self.state} is no file of a search: {error}") from error

    def _keep(self, key: str) -> None:
        if self.state is not None:
            save(self.state, json.dumps({"key": key, "errors": self._found}).encode(), overwrite=True)


def slope_beside_a_floor(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The slope of y = slope * x + floor, neither below zero, by least squares.

    >>> slope_beside_a_floor(np.array([1.0, 4.0, 16.0]), np.array([2.5, 4.0, 10.0]))
    0.5

    Args:
        x: what the floor does not depend on, narrowest width first.
        y: what was measured.
    """
    if not x.any():
        return 0.0
    spread = x - x.mean()
    slope = float((spread * y).sum() / (spread**2).sum()) if (spread**2).sum() > 0 else np.inf
    if y.mean() < slope * x.mean():
        slope = float((x * y).sum() / (x**2).sum())  # a floor below zero is none
    return max(slope, _LEAST * float(y[0]) / float(x.max()))


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
