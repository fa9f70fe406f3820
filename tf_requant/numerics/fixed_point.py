"""The rescale of an accumulator to an output scale, exactly as a requantizer is described, in whole arrays."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_requant.numerics.arithmetic import Requantizer
from tf_requant.numerics.integers import largest, wrap
from tf_requant.numerics.rounding import Rounding, round_real, shift_right

Q31 = 31
FLUSH_BELOW = -31
"""TFLite's encoded exponent under which a multiplier becomes 0 (QuantizeMultiplier)."""
_REGISTER = 32
_WIDEST_PRODUCT = 63


def quantize_multiplier(real: ArrayLike, bits: int = Q31) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """M = multiplier * 2^-(bits + shift), multiplier in [2^(bits-1), 2^bits): TFLite's QuantizeMultiplier.

    The mantissa is rounded half away from zero; one that rounds up to 2^bits is halved. An M below 2^-32 becomes
    (0, 0). TFLite's 16-bit multiplier (15 bits; int16 convolutions with an int64 bias) is the 31-bit one rounded
    half up, held at 0x7FFF.

    >>> quantize_multiplier([0.5, 0.75, 1.0, 3.0])
    (array([1073741824, 1610612736, 1073741824, 1610612736]), array([ 0,  0, -1, -2]))
    >>> quantize_multiplier(1 - 2.0**-40), quantize_multiplier(2.0**-33)
    ((array(1073741824), array(-1)), (array(0), array(0)))

    Args:
        real: float64[...], M >= 0.
        bits: fraction bits of the multiplier, 1 to 52.

    Returns:
        (multiplier int64[...], shift int64[...]), the shift right if > 0.
    """
    mantissa, exponent = np.frexp(np.asarray(real, np.float64))
    # 53 mantissa bits times 2^31 is exact, so this rounds once.
    wide = round_real(mantissa * 2.0**Q31, Rounding.HALF_AWAY).astype(np.int64)
    carried = wide == 1 << Q31
    wide, exponent = np.where(carried, wide // 2, wide), exponent.astype(np.int64) + carried
    if bits == 15:
        multiplier = narrowed(wide)
    elif bits == Q31:
        multiplier = wide
    else:
        multiplier = round_real(mantissa * 2.0**bits, Rounding.HALF_AWAY).astype(np.int64)
        exponent = np.frexp(np.asarray(real, np.float64))[1].astype(np.int64) + (multiplier == 1 << bits)
        multiplier = np.where(multiplier == 1 << bits, multiplier // 2, multiplier)
    flushed = (exponent < FLUSH_BELOW) | (wide == 0)
    return np.where(flushed, 0, multiplier), np.where(flushed, 0, -exponent)


def narrowed(multiplier: ArrayLike) -> NDArray[np.int64]:
    """A 31-bit multiplier in 15 bits, rounded half up and held at 0x7FFF: TFLite's and CMSIS-NN's int16 one."""
    wide = np.asarray(multiplier, np.int64)
    return np.where(wide < 0x7FFF0000, (wide + (1 << 15)) >> 16, 0x7FFF)


def scale_ratio(inputs: tuple[ArrayLike, ...], output: ArrayLike, requantizer: Requantizer) -> NDArray[np.float64]:
    """M = product of the input scales / output scale, in the precision in which the requantizer's maker forms it.

    Args:
        inputs: float32 scales, scalar or [C].
        output: float32 scale.
        requantizer: its `scale_product` and `ratio`.

    Returns:
        float64 of the broadcast shape.
    """
    product_type = np.dtype(requantizer.scale_product).type
    product = np.asarray(inputs[0], product_type)
    for scale in inputs[1:]:
        product = product * np.asarray(scale, product_type)
    # A float32 quotient of float32 operands is the float64 quotient rounded once more (double rounding is
    # innocuous from 53 to 24 bits).
    quotient = np.asarray(product, np.float64) / np.asarray(output, np.float64)
    return np.asarray(quotient.astype(requantizer.ratio), np.float64)


class NotExpressible(ValueError):
    """A ratio that a requantizer cannot hold, in one sentence."""


@dataclass(frozen=True, eq=False)
class Rescale:
    """A requantizer with its constants: y = round(x * M), per tensor or per channel of the last axis.

    Attributes:
        requantizer: the rule.
        multiplier: int64[1 | C] for `multiplier_shift`; ones for `shift`.
        shift: int64[1 | C], right if > 0: M = multiplier * 2^-(multiplier_bits + shift).
        real: float64[1 | C]: M of the float kinds.
    """

    requantizer: Requantizer
    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]
    real: NDArray[np.float64]

    @classmethod
    def of_ratio(cls, ratio: ArrayLike, requantizer: Requantizer) -> "Rescale":
        """The constants for a real M.

        Raises:
            NotExpressible: a `shift` requantizer and an M that is no power of two, or a shift out of its range.
        """
        real = np.atleast_1d(np.asarray(ratio, np.float64))
        ones = np.ones(real.shape, np.int64)
        if requantizer.kind in ("float32", "float64"):
            return cls(requantizer, ones, ones * 0, real)
        if requantizer.kind == "multiplier_shift":
            multiplier, shift = quantize_multiplier(real, requantizer.multiplier_bits)
        else:
            mantissa, exponent = np.frexp(real)
            if (mantissa != 0.5).any():
                worst = float(real[mantissa != 0.5][0])
                raise NotExpressible(f"it rescales by {worst:.9g}, and a shift only holds powers of two")
            multiplier, shift = ones, 1 - exponent.astype(np.int64)
        low, high = requantizer.shift_range
        if (shift < low).any():
            raise NotExpressible(f"it shifts left by {-int(shift.min())} bits, and the requantizer by {-low} at most")
        # A shift beyond the range is made up by a smaller multiplier: 0 in the end, as TFLite flushes it.
        beyond = np.maximum(shift - high, 0)
        multiplier, shift = shift_right(multiplier, beyond, Rounding.HALF_AWAY), shift - beyond
        return cls(requantizer, multiplier, shift, real)

    @classmethod
    def of_integers(cls, multiplier: ArrayLike, shift: ArrayLike, requantizer: Requantizer) -> "Rescale":
        """The constants as another tool encoded them.

        Args:
            multiplier: int[1 | C].
            shift: int[1 | C], left if > 0, as TFLite and CMSIS-NN store it.
            requantizer: of kind `multiplier_shift` or `shift`.
        """
        m, s = np.atleast_1d(np.asarray(multiplier, np.int64)), -np.atleast_1d(np.asarray(shift, np.int64))
        return cls(requantizer, m, s, m * 2.0 ** -(requantizer.multiplier_bits + s))

    @cached_property
    def factor(self) -> NDArray[np.float64]:
        """M as the integers hold it, float64[1 | C]; exact."""
        if self.requantizer.kind in ("float32", "float64"):
            return self.real
        return np.asarray(self.multiplier * 2.0 ** -(self.requantizer.multiplier_bits + self.shift).astype(np.float64))

    def channels(self, index: NDArray[np.integer[Any]]) -> "Rescale":
        """The constants of some channels, one for each index."""
        if self.factor.size == 1:
            return self
        if self.requantizer.kind in ("float32", "float64"):
            return Rescale(self.requantizer, self.multiplier, self.shift, self.real[index])
        return Rescale(self.requantizer, self.multiplier[index], self.shift[index], self.real)

    def apply(self, x: ArrayLike) -> NDArray[np.int64]:
        """round(x * M), before the zero point and the clamp.

        Args:
            x: int64[..., C], scale s_in * s_w.

        Returns:
            int64[..., C], scale s_out.
        """
        value, rule = np.asarray(x, np.int64), self.requantizer
        last = rule.stages[-1].rounding
        if rule.kind == "float32":
            return _integers(value.astype(np.float32) * self.real.astype(np.float32), last)
        if rule.kind == "float64":
            return _integers(value.astype(np.float64) * self.real, last)
        if len(rule.stages) == 1:
            return _scaled(value, self.multiplier, rule.multiplier_bits + self.shift, last)
        # TFLite shifts left in the 32-bit register first, and loses what leaves it. Beyond 31 bits C leaves the
        # shift undefined; x86 takes the amount modulo 32, and real models (a degenerate scale) depend on it.
        left = np.maximum(-self.shift, 0) % _REGISTER
        if left.any():
            value = np.where(left > 0, wrap(value << left, _REGISTER), value)
        first, *others = self.drops
        value = _scaled(value, self.multiplier, first, rule.stages[0].rounding)
        for bits, stage in zip(others, rule.stages[1:]):
            value = shift_right(value, bits, stage.rounding)
        return value

    @cached_property
    def drops(self) -> tuple[NDArray[np.int64], ...]:
        """The bits that each of several stages drops, at most what is left; scalar where all channels agree.

        A scalar shift is quicker.
        """
        left = self.requantizer.multiplier_bits + np.maximum(self.shift, 0)
        drops = []
        for stage in self.requantizer.stages:
            bits = left if stage.drop == "rest" else np.minimum(left, int(stage.drop))
            drops.append(bits[0] if (bits == bits[0]).all() else bits)
            left = left - bits
        return tuple(np.asarray(d) for d in drops)


def _scaled(
    value: NDArray[np.int64], multiplier: NDArray[np.int64], drop: NDArray[np.int64], rounding: Rounding
) -> NDArray[np.int64]:
    """round(value * multiplier / 2^drop), exact also where the product needs more than 64 bits."""
    left = max(-int(drop.min()), 0)
    if largest(value).bit_length() + largest(multiplier).bit_length() + left < _WIDEST_PRODUCT:
        product = value * multiplier
        if left:
            product <<= np.maximum(-drop, 0)
        return shift_right(product, np.maximum(drop, 0), rounding)
    return _scaled_wide(value, multiplier, drop, rounding)


def _scaled_wide(
    value: NDArray[np.int64], multiplier: NDArray[np.int64], drop: NDArray[np.int64], rounding: Rounding
) -> NDArray[np.int64]:
    """`_scaled` in two 32-bit halves of the multiplicand: value = high * 2^32 + low.

    The dropped part only matters as: above, at, or below a half. A product is split at 2^drop into a quotient and
    a remainder by Python's integers, one vectorized step at a time.
    """
    product = value.astype(object) * multiplier.astype(object)
    bits = np.broadcast_to(drop, product.shape)
    power = np.asarray([1 << max(int(b), 0) for b in bits.reshape(-1)], object).reshape(product.shape)
    product = product * np.asarray([1 << max(-int(b), 0) for b in bits.reshape(-1)], object).reshape(product.shape)
    quotient, rest = product // power, product % power
    # Four fraction bits keep the order of the remainder against 0 and against a half.
    eighths = (rest * 8 // power) | ((rest * 8 % power) != 0).astype(object)
    small = np.asarray(eighths, np.int64)
    exact = np.asarray(np.clip(quotient, -(2**59), 2**59), np.int64)
    return shift_right((exact << 3) + small, 3, rounding)


def _integers(real: NDArray[Any], rounding: Rounding) -> NDArray[np.int64]:
    """Rounded and held within 2^62, where every clamp of a code has long been reached."""
    return np.asarray(np.clip(round_real(real, rounding), -(2.0**62), 2.0**62), np.float64).astype(np.int64)
