"""Corrections that have to run the half-corrected model: propose, apply, measure, layer by layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layer_inputs import LAYERS, LayerInputs, tap_means
from tf_requant.corrections.bias import mean_output, wanted_bias
from tf_requant.errors import CalibrationError
from tf_requant.io.data import feed, load_samples
from tf_requant.model.graph import Graph, Model
from tf_requant.model.ops import info
from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.pipeline.host import Host
from tf_requant.pipeline.inputs import input_specs
from tf_requant.plan import Plan
from tf_requant.planning.constants import aligned
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Simulator
from tf_requant.targets import Target

MOST_SAMPLES = 200
HELD_BACK = 5
"""One sample in this many judges the correction and takes no part in it."""

Inputs = dict[int, NDArray[Any]]


@dataclass(frozen=True)
class Verdict:
    """Whether a correction helped, on samples that it did not see.

    Attributes:
        before: squared error of the outputs, in real units, summed.
        after: with the correction.
        samples: that judged; with none the correction is kept unjudged.
        asked: whether the user asked for it by name, and so gets it.
    """

    before: float
    after: float
    samples: int
    asked: bool = False

    @property
    def helps(self) -> bool:
        """Whether it is kept."""
        return self.asked or not self.samples or self.after < self.before

    def __str__(self) -> str:
        """One sentence."""
        if not self.samples:
            return "bias: kept without a judgement, since fewer than 5 samples leave none to hold back"
        word = "kept as asked" if self.asked else "kept" if self.helps else "left out"
        change = 10 * np.log10(self.after / self.before) if self.before and self.after else float("-inf")
        return (
            f"bias: {word}, the outputs' squared error changes by {change:+.1f} dB on {self.samples} samples held back"
        )


def correct_biases(
    source: Model,
    plan: Plan,
    target: Target,
    calibration: Any,
    rewrite: Callable[[Plan], Model],
    asked: bool = False,
) -> tuple[Plan, Verdict]:
    """Takes the mean error of every layer off its bias, in the order in which the model runs.

    Args:
        source: the model as it was.
        plan: what becomes of it.
        target: the accelerator: biases stay on its grid.
        calibration: what `load_samples` takes; the first 200 samples count.
        rewrite: applies a plan.
        asked: keep the correction whatever the verdict.

    Returns:
        The plan with corrected biases, or as it was where they don't help, and the verdict.

    Raises:
        CalibrationError: the data cannot be read or does not fit the model.
    """
    result = rewrite(plan)
    pairs = _paired_layers(source.main, result.main)
    samples = _samples(source, result, calibration)
    judges = samples[HELD_BACK - 1 :: HELD_BACK]
    learners = [s for n, s in enumerate(samples) if n % HELD_BACK != HELD_BACK - 1]
    gains = {t: activation.gain for t, activation in plan.graphs[0].activations.items()}
    host = Host(source)
    try:
        means = _source_means(source.main, [ours for ours, _ in learners], host)
    finally:
        host.close()
    graph_plan = plan.graphs[0]
    planned = {i: ours for i, ours in pairs.items() if (ours, _bias(source.main, ours)) in graph_plan.constants}
    corrected = _sequential(result, source.main, planned, means, gains, target, [theirs for _, theirs in learners])
    constants = dict(graph_plan.constants)
    for index, codes in corrected.items():
        key = (planned[index], _bias(source.main, planned[index]))
        reason = f"{constants[key].reason}; the mean error of {len(learners)} samples is taken off"
        constants[key] = constants[key].with_(codes=codes, reason=reason)
    refined = Plan(plan.target, (graph_plan.with_(constants=constants), *plan.graphs[1:]))
    verdict = replace(_judge(source, result, rewrite(refined), gains, judges), asked=asked)
    return (refined if verdict.helps else plan), verdict


def _samples(source: Model, result: Model, calibration: Any) -> list[tuple[Inputs, Inputs]]:
    """(source's inputs, result's inputs) by tensor index, of each sample."""
    ours, theirs = input_specs(source), input_specs(result)
    found = []
    for batch in islice(load_samples(calibration, ours).codes(1), MOST_SAMPLES):
        first = {t: batch[spec.name] for t, spec in zip(source.main.inputs, ours)}
        second = {t: feed(batch[a.name], a, b) for t, a, b in zip(result.main.inputs, ours, theirs)}
        found.append((first, second))
    if not found:
        raise CalibrationError("the calibration data holds no sample")
    return found


def _paired_layers(source: Graph, result: Graph) -> dict[int, int]:
    """Layers of the result -> the layer of the source that each comes from; a rewrite keeps their order."""
    ours, theirs = ([i for i, op in enumerate(g.ops) if op.code in LAYERS] for g in (source, result))
    if [source.ops[i].code for i in ours] != [result.ops[i].code for i in theirs]:
        return {}
    return {b: a for a, b in zip(ours, theirs) if _bias(source, a) < len(source.ops[a].inputs)}


def _bias(graph: Graph, index: int) -> int:
    row = info(graph.ops[index])
    return 0 if row is None or row.bias is None else row.bias


def _source_means(graph: Graph, samples: Sequence[Inputs], host: Host) -> LayerInputs:
    means, simulator = LayerInputs(graph), Simulator(graph, TFLITE_REF, execute_host=host)
    for sample in samples:
        for tensor, codes in simulator.walk(sample):
            for index in means.readers(tensor):
                means.add(index, codes)
    return means


def _sequential(
    result: Model,
    source: Graph,
    pairs: dict[int, int],
    means: LayerInputs,
    gains: dict[int, float],
    target: Target,
    samples: Sequence[Inputs],
) -> dict[int, NDArray[Any]]:
    """The corrected bias codes of the result's layers, each found behind the corrected ones before it."""
    host, graph = Host(result), result.main
    try:
        simulator = Simulator(graph, TFLITE_REF, execute_host=host)
        runs = [simulator.begin(sample) for sample in samples]
        found: dict[int, NDArray[Any]] = {}
        for index, op in enumerate(graph.ops):
            if index in pairs:
                data = op.inputs[0]
                seen = np.mean([tap_means(graph, op, run.values[data]) for run in runs], axis=0)
                found[index] = _new_bias(graph, index, source, pairs[index], seen, means, gains, target)
                tensors = list(graph.tensors)
                tensors[op.inputs[_bias(graph, index)]] = tensors[op.inputs[_bias(graph, index)]].with_(
                    data=found[index]
                )
                graph = graph.with_(tensors=tuple(tensors))
                simulator.revise(graph, index)
            for run in runs:
                simulator.step(index, run)
        return found
    finally:
        host.close()


def _new_bias(
    graph: Graph,
    index: int,
    source: Graph,
    origin: int,
    seen: NDArray[np.float64],
    means: LayerInputs,
    gains: dict[int, float],
    target: Target,
) -> NDArray[Any]:
    op, old, position = graph.ops[index], source.ops[origin], _bias(graph, index)
    wanted = gains.get(old.outputs[0], 1.0) * mean_output(source, old, means.mean(origin), _bias(source, origin))
    codes = wanted_bias(graph, op, position, wanted, mean_output(graph, op, seen, position))
    if target.bias.bits < 32:
        codes = aligned(codes, target.bias.bits)[0].astype(np.float64)
    bias = graph.tensors[op.inputs[position]]
    return round_real(codes, Rounding.HALF_AWAY).astype(bias.dtype).reshape(bias.shape)


def _judge(
    source: Model, before: Model, after: Model, gains: dict[int, float], samples: Sequence[tuple[Inputs, Inputs]]
) -> Verdict:
    """Squared errors of the outputs against the source's, on samples held back."""
    if not samples:
        return Verdict(0.0, 0.0, 0)
    truth = _all_outputs(source, [a for a, _ in samples])
    scale = [gains.get(t, 1.0) for t in source.main.outputs]
    errors = []
    for model in (before, after):
        rows = _all_outputs(model, [b for _, b in samples])
        errors.append(
            sum(
                float(((o / s - t) ** 2).sum()) for row, right in zip(rows, truth) for o, t, s in zip(row, right, scale)
            )
        )
    return Verdict(errors[0], errors[1], len(samples))


def _all_outputs(model: Model, samples: Sequence[Inputs]) -> list[list[NDArray[np.float64]]]:
    """The outputs of each sample in real values, by the reference rules."""
    graph, host = model.main, Host(model)
    try:
        simulator = Simulator(graph, TFLITE_REF, execute_host=host)
        rows = []
        for sample in samples:
            codes = simulator.run(sample)
            rows.append([_real(codes[t], graph, t) for t in graph.outputs])
        return rows
    finally:
        host.close()


def _real(codes: NDArray[Any], graph: Graph, tensor: int) -> NDArray[np.float64]:
    quant = graph.tensors[tensor].quant
    real = codes.astype(np.float64)
    if quant is None or codes.dtype.kind == "f":
        return real
    return (real - float(quant.zero_point[0])) * float(quant.scale[0])
