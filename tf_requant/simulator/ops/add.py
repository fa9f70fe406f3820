"""ADD and SUB: both inputs brought to one scale, added, brought to the output's."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.numerics.arithmetic import AddStyle, Requantizer, Stage
from tf_requant.numerics.fixed_point import Rescale
from tf_requant.numerics.integers import largest, saturate
from tf_requant.numerics.rounding import Rounding
from tf_requant.simulator.site import Arrays, Finish, Kernel, Site, centered, rescale_of, scale
from tf_requant.simulator.tables import Function, all_codes, in_blocks, look_up

_INT16_LEFT_SHIFT = 15
_ENOUGH = 40


@dataclass(frozen=True, eq=False)
class ToCommon:
    """Codes of one input on the scale of the sum: saturate(rescale((code - zero point) << left_shift), bits).

    Attributes:
        tensor: the input.
        left_shift: bits.
        rescale: None where the shift is all.
        bits: width of the register; None does not limit it.
    """

    tensor: Tensor
    left_shift: int = 0
    rescale: Rescale | None = None
    bits: int | None = None

    def __call__(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """Codes of any shape -> int64."""
        value = centered(codes, self.tensor) << self.left_shift
        if self.rescale is not None:
            value = self.rescale.apply(value)
        return value if self.bits is None else saturate(value, self.bits)


def prepare(site: Site, sign: int = 1) -> Kernel:
    """The kernel of one ADD, or with sign -1 one SUB; broadcasts."""
    left, right = site.input(0), site.input(1)
    site.codes(left, right, site.output())
    to_common, rescale = common_scale(site, left, right)
    stage = site.stage(rescale)
    lefts, rights = (_tabulated(f, t) for f, t in zip(to_common, (left, right)))
    bound = sum(largest(f(all_codes(t.dtype))) for f, t in zip(to_common, (left, right)))
    finish = site.finisher(stage, bound)
    bits = sum_bits(site, rescale)

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        a, b = arrays[0], arrays[1]
        return [in_blocks(lambda p, q: add(lefts(p), rights(q), sign, bits, finish), a, b)]

    return run


def add(left: NDArray[np.int64], right: NDArray[np.int64], sign: int, bits: int | None, finish: Finish) -> NDArray[Any]:
    """The integer core.

    Args:
        left: int64[...] on the common scale.
        right: the same, broadcastable.
        sign: 1 to add, -1 to subtract.
        bits: width of the register of the sum; None does not limit it.
        finish: sums int64[...] -> codes.
    """
    total = left + right if sign > 0 else left - right
    return np.asarray(finish(total if bits is None else saturate(total, bits)))


def sum_bits(site: Site, rescale: Rescale) -> int | None:
    """Width of the register of the sum; None in float32, which does not limit it."""
    return None if rescale.requantizer.kind == "float32" else site.arithmetic.add.intermediate_bits


def common_scale(site: Site, left: Tensor, right: Tensor) -> tuple[tuple[ToCommon, ToCommon], Rescale]:
    """Two maps from codes to int64 on a common scale, and the rescale from there to the output."""
    style = site.arithmetic.add
    scales = [float(scale(t)) for t in (left, right, site.output())]
    if style.style == "float32":
        return _in_float32(site, left, right)
    if style.style == "shift_align" and all(np.frexp(s)[0] == 0.5 for s in scales):
        return _aligned(style, (left, right), scales)
    return _tflite(site, style, (left, right), scales)


def _tflite(
    site: Site, style: AddStyle, tensors: tuple[Tensor, Tensor], scales: list[float]
) -> tuple[tuple[ToCommon, ToCommon], Rescale]:
    """Headroom of L bits, both inputs rescaled to twice the larger scale."""
    left_shift = _INT16_LEFT_SHIFT if tensors[0].dtype == "int16" else style.left_shift
    rule = site.requantizer(tensors[0])
    if rule.kind != "multiplier_shift":
        rule = Requantizer()
    if style.rounding is not None:
        rule = replace(rule, stages=(Stage("rest", style.rounding),))
    twice = 2 * max(scales[:2])

    def to_common(tensor: Tensor, own: float) -> ToCommon:
        return ToCommon(tensor, left_shift, rescale_of(own / twice, rule))

    output = rescale_of(twice / (2.0**left_shift * scales[2]), rule)
    return (to_common(tensors[0], scales[0]), to_common(tensors[1], scales[1])), output


def _aligned(
    style: AddStyle, tensors: tuple[Tensor, Tensor], scales: list[float]
) -> tuple[tuple[ToCommon, ToCommon], Rescale]:
    """Powers of two: both inputs shifted left to the finer scale, one shift after the sum."""
    finer = min(scales[:2])

    def to_common(tensor: Tensor, own: float) -> ToCommon:
        return ToCommon(tensor, min(int(np.log2(own / finer)), _ENOUGH), bits=style.intermediate_bits)

    rounding = Rounding.HALF_UP if style.rounding is None else style.rounding
    rule = Requantizer("shift", 0, (-62, 62), (Stage("rest", rounding),))
    return (to_common(tensors[0], scales[0]), to_common(tensors[1], scales[1])), rescale_of(finer / scales[2], rule)


def _in_float32(site: Site, left: Tensor, right: Tensor) -> tuple[tuple[ToCommon, ToCommon], Rescale]:
    """Each code times float32 s / s_out, rounded to an integer on the output's scale."""
    rule = Requantizer("float32", 0, stages=(Stage("rest", Rounding.HALF_EVEN),), ratio="float32")

    def to_common(tensor: Tensor) -> ToCommon:
        return ToCommon(tensor, rescale=site.rescale((scale(tensor),), scale(site.output()), rule))

    return (to_common(left), to_common(right)), rescale_of(1.0, rule)


def _tabulated(function: Function, tensor: Tensor) -> Function:
    """A map of 8-bit codes as a table; of wider ones as it is."""
    if tensor.dtype == "int16":
        return function
    table = function(all_codes(tensor.dtype))
    return lambda codes: look_up(table, np.ascontiguousarray(codes))
