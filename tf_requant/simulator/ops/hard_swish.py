"""HARD_SWISH: x * relu6(x + 3) / 6, by the table unit or in TFLite's 16-bit fixed point."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.quant import code_limits
from tf_requant.numerics.fixed_point import quantize_multiplier
from tf_requant.numerics.integers import saturate
from tf_requant.numerics.rounding import Rounding, shift_right
from tf_requant.simulator.site import Kernel, Site, centered, point, scale
from tf_requant.simulator.tables import real_function, unary

_RELUISH = np.float32(3.0) / np.float32(32768.0)


def prepare(site: Site) -> Kernel:
    """The kernel of one HARD_SWISH."""
    data, target = site.input(), site.output()
    site.codes(data, target, dtypes=("uint8", "int8"))
    if "HARD_SWISH" in site.arithmetic.lookup.ops:
        return unary(site, real_function(site, real))
    return unary(site, lambda codes: np.asarray(fixed_point(codes, data, target).clip(*site.limits(target))))


def real(x: NDArray[Any]) -> NDArray[Any]:
    """The function itself."""
    return np.asarray(x * np.clip(x + 3, 0, 6) / 6)


def fixed_point(codes: NDArray[Any], data: Tensor, target: Tensor) -> NDArray[Any]:
    """TFLite's reference HardSwish: codes of any shape -> codes."""
    fine = scale(data) * (np.float32(1) / np.float32(128))
    output_multiplier, output_left = _int16(float(fine / scale(target)))
    relu_multiplier, relu_left = _int16(float(fine / _RELUISH))
    value = centered(codes, data) << 7
    on_output = _high_mul(value, output_multiplier)
    gate = value
    if relu_left > 0:
        gate = saturate(gate << (relu_left - 1), 16)
    gate = _high_mul(gate, relu_multiplier)
    if relu_left > 0:
        gate = saturate(gate << 1, 16)
    if relu_left < 0:
        gate = shift_right(gate, -relu_left, Rounding.HALF_AWAY)
    gate = (gate + (1 << 15)) >> 1
    product = saturate(shift_right(gate * on_output, 15, Rounding.TRUNCATE), 16)
    result = shift_right(product, -output_left, Rounding.HALF_AWAY) + point(target)
    return np.asarray(result.clip(*code_limits(target.dtype)).astype(target.dtype))


def _int16(real: float) -> tuple[int, int]:
    """(16-bit multiplier, left shift) of a real multiplier."""
    multiplier, shift = quantize_multiplier(real)
    return min((int(multiplier) + (1 << 15)) >> 16, 32767), -int(shift)


def _high_mul(a: NDArray[np.int64], b: int) -> NDArray[np.int64]:
    return saturate(shift_right(a * b, 15, Rounding.HALF_UP), 16)
