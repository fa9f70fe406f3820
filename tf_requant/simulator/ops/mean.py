"""MEAN: the sum over some axes times 1 / n, rescaled to the output."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.fixed_point import Q31, Rescale
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.simulator.ops.average_pool_2d import average
from tf_requant.simulator.site import Arrays, Finish, Kernel, Site, point, rescale_of, same_params, scale


def prepare(site: Site) -> Kernel:
    """The kernel of one MEAN: inputs (codes, axes)."""
    data, target = site.input(), site.output()
    site.codes(data, target)
    keep, zero_point = bool(site.attrs.get("keep_dims", False)), point(data)
    finish_for: dict[int, Finish] = {}
    mean_of(site, 1)  # so that what the requantizer cannot hold shows before the run

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, axes = arrays[0], arrays[1]
        over = tuple(sorted({int(a) % codes.ndim for a in np.atleast_1d(axes)}))
        count = int(np.prod([codes.shape[a] for a in over], dtype=np.int64))
        if count not in finish_for:
            finish_for[count] = mean_of(site, count)
        return [finish_for[count](codes.sum(axis=over, dtype=np.int64, keepdims=keep) - count * zero_point)]

    return run


@dataclass(frozen=True, eq=False)
class Steps:
    """How a sum of n codes becomes a code.

    Attributes:
        averaged: whether the sum is divided as the pool divides; else 1 / n is in the rescale.
        rescaled: whether what is left is rescaled; else input and output share their scale.
        stage: zero point, clamp, and that rescale.
    """

    averaged: bool
    rescaled: bool
    stage: OutputStage


def steps_of(site: Site, count: int) -> Steps:
    """The steps for n = count."""
    data, target, style = site.input(), site.output(), site.arithmetic.average_pool
    rule = site.requantizer(data)
    rescale = site.rescale((scale(data),), scale(target), rule)
    if style.style == "divide" and rule.kind == "multiplier_shift":
        return Steps(False, True, site.stage(_folded(rescale, count)))
    if style.style == "divide" and rule.kind in ("float32", "float64"):
        ratio = np.dtype(rule.kind).type(float(scale(data)) / (float(scale(target)) * count))
        return Steps(False, True, site.stage(rescale_of(ratio, rule)))
    return Steps(True, not same_params(data, target), site.stage(rescale))


def mean_of(site: Site, count: int) -> Finish:
    """The integer core for n = count: sums of (code - zero point), int64[...] -> codes."""
    steps, style = steps_of(site, count), site.arithmetic.average_pool
    stage, n, zero_point = steps.stage, np.asarray(count), point(site.input())
    if not steps.averaged:
        return lambda sums: site.finish(sums, stage)

    def finish(sums: NDArray[np.int64]) -> NDArray[Any]:
        # The pool's own mean is of raw codes, which a rounding that leans to zero tells apart.
        mean = average(sums + n * zero_point, n, style, zero_point) - zero_point
        if not steps.rescaled:
            return np.asarray((mean + stage.zero_point).clip(stage.low, stage.high).astype(stage.dtype))
        return site.finish(mean, stage)

    return finish


def _folded(rescale: Rescale, count: int) -> Rescale:
    """1 / n folded into the multiplier, as TFLite does: m' = (m << k) / n, k bits more to drop."""
    multiplier, shift = int(rescale.multiplier[0]), int(rescale.shift[0])
    bits = min(count.bit_length() - 1, Q31 + 1, Q31 - shift)
    return Rescale.of_integers((multiplier << bits) // count, -(shift + bits), rescale.requantizer)
