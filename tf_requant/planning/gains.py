"""Folds the residual of a power-of-two scale along the graph: one gain a class of tied tensors.

A gain a > 0 on a tensor (real values times a, scale times a) leaves its codes as they are when the
filter that writes it is multiplied by a and every filter that reads it by 1/a (gauge freedom, exact
through RELU, pools, moves and sums that share the gain). A class with a fused RELU6 has one gain that
a TFLite file can express: the one that puts the clamp on the type's highest code, where saturation is
the clamp and RELU6 becomes RELU. Other classes take the gain of least predicted error.
"""

from collections.abc import Mapping

import numpy as np

from tf_requant.model.quant import QuantParams
from tf_requant.planning.activations import choose, limits
from tf_requant.planning.classes import Partition
from tf_requant.planning.ranges import ValueRange
from tf_requant.targets import Target

_GRID = 2.0 ** (np.arange(-16, 16) / 32)
_CLAMP_TOLERANCE = 0.005
"""Relative spread of clamps in one class that is still one clamp: half a code of 127."""

ClassValues = Mapping[int, tuple[QuantParams, ValueRange]]


def choose_gains(
    target: Target, gains: Partition, parameters: Partition, values: ClassValues, pinned: Mapping[int, str]
) -> dict[int, float]:
    """The gain of each gain class, by its representative; empty when the target has no use for gains.

    Args:
        target: the accelerator.
        gains: the gain classes.
        parameters: the parameter classes, each inside one gain class.
        values: source parameters and range of each parameter class, by its representative.
        pinned: the gain classes whose gain is one.
    """
    if target.activation.scale != "power_of_two":
        return {}
    members: dict[int, list[int]] = {}
    for representative in parameters.classes():
        members.setdefault(gains.find(representative), []).append(representative)
    return {
        root: 1.0 if root in pinned else _gain(target, [values[m] for m in inside]) for root, inside in members.items()
    }


def _gain(target: Target, inside: list[tuple[QuantParams, ValueRange]]) -> float:
    clamps = [v for _, v in inside if v.clamp is not None]
    if clamps:
        tops = np.array([v.scale * v.high for v in clamps])
        if np.ptp(tops) > _CLAMP_TOLERANCE * tops.max():
            return 1.0  # two clamps cannot both lie on the highest code: RELU6 stays, at real 6
        highest = limits(target, clamps[0])[2]
        gain = highest / tops.max()
        return float(gain * 2.0 ** -np.round(np.log2(gain)))
    own = [2.0 ** np.round(np.log2(v.scale)) / v.scale for _, v in inside]
    candidates = [*own, *_GRID]
    costs = [sum(choose(target, q, v, g).error / v.span**2 for q, v in inside) for g in candidates]
    return float(candidates[int(np.argmin(costs))])
