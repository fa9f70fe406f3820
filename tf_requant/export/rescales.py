"""The simulator's own rescales, output stages and windows, written down as a program's."""

from typing import Any

from tf_requant.export.kinds import REST, OutputStage, Rescale, RescaleKind, Stage, Window
from tf_requant.model.geometry import Geometry
from tf_requant.numerics import fixed_point, output_stage


def rescale(source: fixed_point.Rescale) -> Rescale:
    """A rescale's constants: integers for the integer kinds, reals for the float ones."""
    rule = source.requantizer
    stages = tuple(Stage(REST if s.drop == "rest" else int(s.drop), s.rounding) for s in rule.stages)
    kind = RescaleKind(rule.kind)
    if kind in (RescaleKind.FLOAT32, RescaleKind.FLOAT64):
        return Rescale(kind, 0, stages, real=tuple(source.real.tolist()))
    return Rescale(kind, rule.multiplier_bits, stages, tuple(source.multiplier.tolist()), tuple(source.shift.tolist()))


def output(source: output_stage.OutputStage, rescaled: bool = True) -> OutputStage:
    """An output stage; not `rescaled`, its zero point and clamp alone."""
    return OutputStage(rescale(source.rescale) if rescaled else None, source.zero_point, source.low, source.high)


def window(geometry: Geometry) -> Window:
    """A window as it falls on one image."""
    pairs: tuple[Any, ...] = (geometry.kernel, geometry.stride, geometry.dilation, geometry.before)
    return Window(*(int(n) for pair in pairs for n in pair))
