"""Hands a corrected plan to training, and takes back what it moved, if the simulator finds the scores nearer to the source's."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.statistics import Calibration
from tf_requant.corrections import DISTILLATION
from tf_requant.corrections.bias import accumulator_unit, bias_codes, has_bias
from tf_requant.corrections.filters import Layer
from tf_requant.errors import UnsupportedModelError, UsageError
from tf_requant.model.graph import Graph, Model
from tf_requant.model.quant import code_limits
from tf_requant.pipeline.correct import HELD_BACK, Corrected, Corrector, decibels, moves, with_indices_for_names
from tf_requant.pipeline.lanes import Inputs, in_reals, real_scores, scores
from tf_requant.pipeline.reconstruct import Pass, bias_position, rescaled, with_constant
from tf_requant.plan import ConstantPlan, GraphPlan
from tf_requant.training.distillation import Moved, Sample, Trained, distilled
from tf_requant.training.network import Network

OCTAVE = 2.0
"""A range moves no further than this either way."""


def refuse_untrainable(source: Model) -> None:
    """Tells ahead of minutes of work that training is not possible.

    Raises:
        UsageError: TensorFlow is missing.
        UnsupportedModelError: an op that the scores need has no gradient, or the model takes several samples at once.
    """
    for tensor in (source.main.tensors[t] for t in source.main.inputs):
        if tensor.shape[:1] not in ((), (1,)):
            raise UnsupportedModelError(
                f"training feeds one sample at a time, and input {tensor.name!r} takes {tensor.shape[0]}: choose without it"
            )
    Network(source.main, scores(source.main))


def distill(corrector: Corrector, corrected: Corrected, calibration: Calibration) -> Corrected:
    """The plan with filters and biases that training moved; as it was where the samples held back say so.

    Args:
        corrector: the source, the target, and how plans are made and applied.
        corrected: the plan that training starts from.
        calibration: samples; those that judge the corrections take no part in the training.

    Raises:
        UsageError: too few samples, or TensorFlow is missing.
        UnsupportedModelError: an op without a gradient.
    """
    if len(calibration) < HELD_BACK:
        raise UsageError(f"{DISTILLATION} learns from some samples and judges by others: give at least {HELD_BACK}")
    if not moves(corrected.plan):
        return corrected
    source = with_indices_for_names(corrector.source)
    plan = corrected.plan.graphs[0]
    result = corrector.rewrite(source, corrected.plan)
    places = {tensor.name: t for t, tensor in enumerate(result.main.tensors)}
    wanted = scores(source.main)
    run = Pass(source, result, plan, corrector.target, frozenset(), corrector.arithmetic)
    layers = {i: _layer(source.main, result.main, run, i, origin) for i, origin in run.pairs().items()}
    network = Network(result.main, [places[str(t)] for t in wanted])
    samples = corrector.samples(calibration)
    held = samples(result)
    feeds = [real_inputs(result.main, one) for one in held.result[held.judges :]]
    right = source_scores(source, held.source[held.judges :], plan)
    found = distilled(network, {i: layer for i, layer in layers.items() if i in network.ops}, feeds, right, corrector.progress)
    constants = dict(plan.constants)
    for index, layer in found.items():
        constants |= _constants(result.main, run, index, run.pairs()[index], layer)
    moved = replace(corrected.plan, graphs=(plan.with_(constants=constants), *corrected.plan.graphs[1:]))
    before, after = (float(corrector.judged_errors(p, samples).sum()) for p in (corrected.plan, moved))
    kept = after < before
    note = (
        f"{DISTILLATION}: {'kept' if kept else 'left out'}; the scores' squared error on {held.judges} samples held back goes from "
        f"{decibels(before)} to {decibels(after)} dB of their own"
    )
    notes = ". ".join(n for n in (corrected.note if corrector.asked else "", note) if n)
    if not kept:
        return replace(corrected, note=notes)
    applied = (*corrected.applied, DISTILLATION)
    return replace(corrected, plan=moved, applied=applied, note=notes, learned=True)


def _layer(source: Graph, graph: Graph, run: Pass, index: int, origin: int) -> Trained:
    op, planned = graph.ops[index], run.plan.constants[origin, 1]
    weights, written = graph.tensors[op.inputs[1]], graph.tensors[op.outputs[0]].quant
    assert weights.data is not None and weights.quant is not None
    scale, zero_point = weights.quant.along(len(weights.shape))
    codes = weights.data.astype(np.int64) - zero_point
    low, high = (limit - int(weights.quant.zero_point[0]) for limit in planned.limits or code_limits(weights.dtype))
    position, bias = bias_position(graph, index), None
    if has_bias(op, position) and (origin, position) in run.plan.constants:
        bias = (bias_codes(graph, op, position) * accumulator_unit(graph, op)).astype(np.float32)
    step = float(written.scale[0]) if written is not None else 1.0
    levels = None if planned.levels is None else np.unique(codes)
    multiples = None
    if levels is not None and not (bias is None and has_bias(op, position)):  # a bias that stays needs the unit that it has
        multiples = _multiples(run.layer(source, graph, index, origin, planned))
    return Trained(codes.astype(np.float32), np.asarray(scale, np.float32), (low, high), levels, bias, step, multiples)


def _multiples(layer: Layer) -> tuple[float, float] | None:
    """Between which multiples of its scale a codebook's range may move; None for a power of two, which moves by octaves."""
    if layer.power_of_two:
        return None
    least, most = max(layer.bias_share, layer.multiples[0], 1 / OCTAVE), min(layer.multiples[1], OCTAVE)
    return min(least, 1.0), max(most, 1.0)


def _constants(
    graph: Graph, run: Pass, index: int, origin: int, layer: Moved
) -> dict[tuple[int, int], ConstantPlan]:
    """The plans of a layer's filter and bias, with what training left."""
    op, position = graph.ops[index], bias_position(graph, index)
    weights = graph.tensors[op.inputs[1]]
    assert weights.quant is not None
    held, codes = run.plan.constants[origin, 1], (layer.codes + int(weights.quant.zero_point[0])).astype(weights.dtype)
    params = rescaled(weights.quant, weights.quant.scale * layer.multiple)
    step = np.asarray(held.step) / (layer.multiple if layer.multiple.size > 1 else layer.multiple[0])
    reason = f"{held.reason}; {DISTILLATION} moved {100 * float(np.mean(codes != weights.data)):.1f} % of the codes"
    least, most = f"{layer.multiple.min():.3f}", f"{layer.multiple.max():.3f}"
    if {least, most} != {"1.000"}:
        reason += f" and its range to {least}{'' if least == most else f'..{most}'} of what it was"
    found = {(origin, 1): held.with_(params=params, step=step, codes=codes, reason=reason)}
    if layer.bias is not None:
        bias = graph.tensors[op.inputs[position]].quant
        assert bias is not None
        changed = with_constant(graph, index, 1, params, codes)
        unit = accumulator_unit(changed, changed.ops[index])
        wanted = run.grid(graph, index, layer.bias / unit)
        found[origin, position] = run.plan.constants[origin, position].with_(params=rescaled(bias, unit), codes=wanted)
    return found


def real_inputs(graph: Graph, codes: Inputs) -> Sample:
    """A sample in real units, by tensor."""
    return {t: in_reals(array, graph, t).astype(np.float32) for t, array in codes.items()}


def source_scores(source: Model, inputs: Sequence[Inputs], plan: GraphPlan) -> list[list[NDArray[np.floating]]]:
    """What a result's scores should be on each sample: the source's, times the plan's gains."""
    wanted = scores(source.main)
    gains = {t: plan.activations[t].gains if t in plan.activations else 1.0 for t in wanted}
    return [[one[t] * gains[t] for t in wanted] for one in real_scores(source, inputs)]
