"""CONCATENATION: raw codes side by side; a uint8 input of other parameters is first brought to the output's."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.ops import fused_activation
from tf_requant.model.quant import code_limits
from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site, point, same_params, scale
from tf_requant.simulator.tables import all_codes, look_up


def prepare(site: Site) -> Kernel:
    """The kernel of one CONCATENATION."""
    parts = [site.input(i) for i in range(len(site.op.inputs))]
    target = site.output()
    site.codes(*parts, target)
    if fused_activation(site.op):
        raise CannotRun("it has a fused activation")
    axis = int(site.attrs["axis"])
    maps = [_to_output(part, target) for part in parts]

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        return [np.concatenate([m(a) for m, a in zip(maps, arrays) if a is not None], axis=axis)]

    return run


def _to_output(part: Tensor, target: Tensor) -> Callable[[NDArray[Any]], NDArray[Any]]:
    table = table_of(part, target)
    return lambda codes: codes if table is None else look_up(table, np.ascontiguousarray(codes))


def table_of(part: Tensor, target: Tensor) -> NDArray[Any] | None:
    """The output code of each code of an input; None where they are copied."""
    if same_params(part, target):
        return None
    if part.dtype != "uint8":
        raise CannotRun(f"{part.name!r} has other parameters than the output, and {part.dtype} codes are only copied")
    return affine(all_codes(part.dtype), part, target)


def affine(codes: NDArray[Any], part: Tensor, target: Tensor) -> NDArray[Any]:
    """TFLite's ConcatenationWithScaling, in float32: round(q (s_in / s_out) - z_in (s_in / s_out)) + z_out."""
    ratio = scale(part) * (np.float32(1) / scale(target))
    offset = np.float32(-point(part)) * ratio
    real = codes.astype(np.float32) * ratio + offset
    return np.asarray(
        (round_real(real, Rounding.HALF_AWAY) + point(target)).clip(*code_limits(target.dtype)), target.dtype
    )
