"""AVERAGE_POOL_2D, MAX_POOL_2D and MEAN."""

from collections.abc import Iterable

import numpy as np

from tf_requant.export import rescales
from tf_requant.export.kinds import Average, AveragePool, MaxPool, Mean, OutputStage, Reciprocal
from tf_requant.model.geometry import Geometry, pool_geometry
from tf_requant.model.ops import fused_activation
from tf_requant.simulator.ops import average_pool_2d, mean
from tf_requant.simulator.site import CannotRun, Site, activation_limits, point


def average_pool(site: Site) -> AveragePool:
    """AVERAGE_POOL_2D."""
    geometry, shape = _geometry(site), site.input().shape
    counts = np.unique(geometry.taps_inside((shape[1], shape[2])))
    return AveragePool(rescales.window(geometry), _average(site, counts.tolist()), _clamp(site))


def max_pool(site: Site) -> MaxPool:
    """MAX_POOL_2D."""
    return MaxPool(rescales.window(_geometry(site)), _clamp(site))


def mean_over(site: Site) -> Mean:
    """MEAN."""
    shape, axes = site.input().shape, site.constant(1)
    over = tuple(sorted({int(a) % len(shape) for a in np.atleast_1d(axes)}))
    count = int(np.prod([shape[a] for a in over], dtype=np.int64))
    if not count:
        raise CannotRun(f"{site.input().name!r} is empty")
    steps = mean.steps_of(site, count)
    average = _average(site, [count]) if steps.averaged else None
    return Mean(over, count, average, rescales.output(steps.stage, steps.rescaled))


def _average(site: Site, counts: Iterable[int]) -> Average:
    style = site.arithmetic.average_pool
    zero_point = point(site.input())
    if style.style == "divide" and not style.table:
        return Average(zero_point, style.rounding, ())
    reciprocals = []
    for count in counts:
        multiplier, bits = average_pool_2d.reciprocal(np.asarray(count, np.int64), style)
        reciprocals.append(Reciprocal(count, int(multiplier), int(bits)))
    return Average(zero_point, style.rounding, tuple(reciprocals))


def _geometry(site: Site) -> Geometry:
    # A pool's geometry only looks at the shape.
    return pool_geometry(site.op)(np.broadcast_to(np.int8(0), site.input().shape))


def _clamp(site: Site) -> OutputStage:
    low, high = activation_limits(fused_activation(site.op), site.output())
    return OutputStage(None, point(site.output()), low, high)
