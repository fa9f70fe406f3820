"""A filter that gets another scale, and the bias that goes by it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import ungrouped
from tf_requant.corrections.scale_search import scale_multiples
from tf_requant.model.graph import Graph
from tf_requant.model.ops import info
from tf_requant.model.quant import QuantParams
from tf_requant.plan import ConstantPlan, GraphPlan
from tf_requant.targets import Target

_BIAS_LIMIT = 2**30


@dataclass(frozen=True, eq=False)
class Refit:
    """What a layer's filter becomes.

    Attributes:
        index: the layer, with one of `calibration.layers`' filters.
        scale: of the filter, float64[1 or outputs].
        codes: its codes, float64[groups, outputs, K].
        written: what its outputs' real values are multiplied by, float64[1 or outputs].
        inputs: what its inputs' real values were multiplied by in all, float64[inputs]; None for nothing.
        reason: why, in one clause.
    """

    index: int
    scale: NDArray[np.float64]
    codes: NDArray[np.float64]
    written: NDArray[np.float64]
    inputs: NDArray[np.float64] | None
    reason: str


def refitted(graph: Graph, plan: GraphPlan, new: Refit, target: Target) -> dict[tuple[int, int], ConstantPlan] | None:
    """The plans of a filter with another scale and of its bias, by (op, input position).

    None where the bias would leave its type or the rescale its range, and where planning chose the bias's codes, since
    the target holds it in fewer bits.

    Args:
        graph: the source's graph.
        plan: its plan.
        new: what the filter becomes.
        target: the accelerator, for what its rescale can hold.
    """
    op, row, filter_ = graph.ops[new.index], info(graph.ops[new.index]), plan.constants[new.index, 1]
    assert row is not None and row.bias is not None
    old, shrunk = filter_.params, filter_.params.scale.astype(np.float64) / new.scale
    x, y = plan.activations[op.inputs[0]].params, plan.activations[op.outputs[0]].params
    unit = float(x.scale[0]) * old.scale.astype(np.float64) / float(y.scale[0])
    least, most = scale_multiples(unit, target.arithmetic.requantizer_of(op.code).shift_range)
    if (1 / shrunk).min() < least or (1 / shrunk).max() > most:
        return None
    changed = filter_.with_(
        params=QuantParams(old.dtype, np.float32(new.scale), old.zero_point, old.axis),
        step=_one_or_many(np.asarray(filter_.step) * shrunk * new.written),
        codes=ungrouped(op, new.codes, graph.tensors[op.inputs[1]].shape).astype(old.dtype),
        input_gains=new.inputs,
        reason=f"{filter_.reason}; {new.reason}",
    )
    result = {(new.index, 1): changed}
    bias = plan.constants.get((new.index, row.bias))
    if bias is None:
        return result
    held = graph.tensors[op.inputs[row.bias]].data if len(op.inputs) > row.bias and op.inputs[row.bias] >= 0 else None
    step = np.asarray(bias.step) * shrunk * new.written
    if bias.codes is not None or (held is not None and np.abs(held * step).max(initial=0.0) > _BIAS_LIMIT):
        return None
    params = QuantParams(bias.params.dtype, np.float32(bias.params.scale / shrunk), bias.params.zero_point, bias.params.axis)
    result[new.index, row.bias] = bias.with_(params=params, step=_one_or_many(step))
    return result


def _one_or_many(step: NDArray[np.float64]) -> float | NDArray[np.float64]:
    return float(step.reshape(-1)[0]) if step.size == 1 else step
