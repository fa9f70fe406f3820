"""Rounding that keeps each output channel's sum of weights, without data.

Nearest rounding leaves each output channel with a summed error of about sqrt(K/12) steps. Inputs behind
a ReLU are non-negative and alike, so that sum is a constant shift of the output, and shifts add up
through a network. Flipping the few roundings nearest to a tie makes the sum vanish to half a step, each
code staying one of its two neighbours (SQuant, arXiv 2202.07471, its channel-wise case).
"""

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Graph, Model, Tensor
from tf_requant.model.ops import info
from tf_requant.model.quant import code_limits
from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.plan import ConstantPlan, GraphPlan, Plan


def preserve_channel_sums(model: Model, plan: Plan) -> Plan:
    """Fixes the codes of every filter whose new grid does not hold the old values exactly.

    Args:
        model: the source model.
        plan: a plan for it; exact filters and those with codes already chosen are left alone.
    """
    return Plan(plan.target, tuple(_refine(g, p) for g, p in zip(model.graphs, plan.graphs)))


def _refine(graph: Graph, plan: GraphPlan) -> GraphPlan:
    constants = dict(plan.constants)
    for (i, position), constant in plan.constants.items():
        row = info(graph.ops[i])
        if row is None or position != row.filter or constant.codes is not None or np.all(np.equal(constant.step, 1.0)):
            continue
        tensor = graph.tensors[graph.ops[i].inputs[position]]
        codes = filter_codes(tensor, constant, row.channel_axis)
        constants[i, position] = constant.with_(codes=codes, reason=f"{constant.reason}; rounding keeps channel sums")
    return plan.with_(constants=constants)


def filter_codes(tensor: Tensor, plan: ConstantPlan, axis: int) -> NDArray[np.integer]:
    """The codes of one filter, rounded so that every output channel keeps its sum.

    Args:
        tensor: the source's filter.
        plan: its new parameters and step.
        axis: its output-channel dimension.
    """
    assert tensor.data is not None and tensor.quant is not None
    channels = np.moveaxis(tensor.steps(), axis, 0)
    values = channels.reshape(channels.shape[0], -1).astype(np.float32)
    wanted = values * np.atleast_1d(plan.step).astype(np.float32)[:, None]
    low, high = plan.limits or code_limits(plan.params.dtype)
    zero_point = int(plan.params.zero_point[0])
    kept = balanced(wanted, low - zero_point, high - zero_point) + zero_point
    codes = np.moveaxis(kept.reshape(channels.shape), 0, axis)
    return np.ascontiguousarray(codes).astype(plan.params.dtype)


def balanced(wanted: NDArray[np.float32], low: int, high: int) -> NDArray[np.float32]:
    """Rounds each row to integers whose sum is the row's own sum to half a step, where its limits allow.

    >>> balanced(np.float32([[0.4, 0.4, 0.4, 0.3]]), -127, 127).astype(int).tolist()
    [[1, 1, 0, 0]]

    Args:
        wanted: float32[C, K].
        low: the lowest integer.
        high: the highest.
    """
    codes = np.clip(round_real(wanted, Rounding.HALF_EVEN), low, high).astype(np.float32)
    error = codes - wanted
    flips = round_real(error.sum(1, dtype=np.float64), Rounding.HALF_EVEN)
    sign = np.sign(flips).astype(np.float32)[:, None]
    excess = error * sign  # what a flip against the sum's sign would gain
    movable = (excess > 0) & (codes - sign >= low) & (codes - sign <= high)
    excess[~movable] = -1
    count = np.minimum(np.abs(flips).astype(np.int64), movable.sum(1))
    order = np.argsort(-excess, axis=1, kind="stable")
    first = np.arange(wanted.shape[1]) < count[:, None]
    rows = np.broadcast_to(np.arange(wanted.shape[0])[:, None], order.shape)[first]
    codes[rows, order[first]] -= np.broadcast_to(sign, order.shape)[first]
    return codes
