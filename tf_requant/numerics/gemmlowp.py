"""gemmlowp's fixed-point exp, logistic, tanh and reciprocal (its `fixedpoint.h`), in int16 or int32, on int64 arrays.

A raw value with k integer bits in a register of B bits stands for raw * 2^(k - B + 1). Products are
SaturatingRoundingDoublingHighMul: the integer bits of the factors add.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tf_requant.numerics.integers import limits, saturate
from tf_requant.numerics.rounding import Rounding, shift_right

Ints = NDArray[np.int64]

# Q0.31 and Q2.29 constants; the int16 forms are these, rounded to 16 bits.
_EXP_MINUS_EIGHTH = 1895147668
_THIRD = 715827883
_48_OVER_17 = 1515870810
_MINUS_32_OVER_17 = -1010580540
_BARREL = {-2: 1672461947, -1: 1302514674, 0: 790015084, 1: 290630308, 2: 39332535, 3: 720401, 4: 242}
"""exponent e -> exp(-2^e) in Q0.31."""
_NEWTON_STEPS = 3
_NEGLIGIBLE_BITS = 5
"""Above 5 integer bits an argument under -32 gives 0."""


@dataclass(frozen=True)
class FixedPoint:
    """Fixed-point functions in registers of a width.

    Attributes:
        bits: 16 or 32.
    """

    bits: int

    @property
    def one(self) -> int:
        """The largest raw value, which stands for 1 with no integer bits."""
        return limits(self.bits)[1]

    def multiply(self, a: Ints, b: Ints | int) -> Ints:
        """round(a * b / 2^(bits - 1)), ties up; -2^(bits-1) squared saturates."""
        return saturate(shift_right(a * b, self.bits - 1, Rounding.HALF_UP), self.bits)

    def shift(self, a: Ints, exponent: int) -> Ints:
        """A * 2^exponent, saturated to the left, rounded half away to the right."""
        if exponent < 0:
            return shift_right(a, -exponent, Rounding.HALF_AWAY)
        return saturate(a << exponent, self.bits)

    def constant(self, raw: int) -> int:
        """A 32-bit constant in this width."""
        return raw if self.bits == 32 else int(saturate(shift_right(raw, 16, Rounding.HALF_UP), 16))

    def exp_of_negative(self, a: Ints, integer_bits: int) -> Ints:
        """exp(a) for a <= 0 with `integer_bits` integer bits; the result has none."""
        fraction = self.bits - 1 - integer_bits
        quarter = 1 << (fraction - 2)
        folded = (a & (quarter - 1)) - quarter
        result = self._exp_near_zero(self.shift(folded, integer_bits))
        remainder = folded - a
        for exponent, raw in _BARREL.items():
            if integer_bits > exponent:
                bit = (remainder >> (fraction + exponent)) & 1
                result = np.where(bit != 0, self.multiply(result, self.constant(raw)), result)
        if integer_bits > _NEGLIGIBLE_BITS:
            result = np.where(a < -(32 << fraction), 0, result)
        return np.where(a == 0, self.one, result)

    def _exp_near_zero(self, a: Ints) -> Ints:
        """exp(a) for a in [-1/4, 0), no integer bits: a Taylor series about -1/8."""
        base = self.constant(_EXP_MINUS_EIGHTH)
        x = a + (1 << (self.bits - 4))
        x2 = self.multiply(x, x)
        x3, x4 = self.multiply(x2, x), self.multiply(x2, x2)
        tail = self.shift(self.multiply(self.shift(x4, -2) + x3, self.constant(_THIRD)) + x2, -1)
        return base + self.multiply(x + tail, base)

    def _reciprocal(self, half_denominator: Ints) -> Ints:
        """1 / denominator by Newton's method, two integer bits, for a half denominator in [1/2, 1]."""
        x = self.constant(_48_OVER_17) + self.multiply(half_denominator, self.constant(_MINUS_32_OVER_17))
        for _ in range(_NEWTON_STEPS):
            error = (1 << (self.bits - 3)) - self.multiply(half_denominator, x)
            x = x + self.shift(self.multiply(x, error), 2)
        return x

    def _half_of_one_plus(self, a: Ints) -> Ints:
        total = a + self.one
        return np.where(total >= 0, total + 1, total - 1 + 1) >> 1

    def one_over_one_plus(self, a: Ints) -> Ints:
        """1 / (1 + a) for a in [0, 1], no integer bits."""
        return self.shift(self._reciprocal(self._half_of_one_plus(a)), 1)

    def logistic(self, a: Ints, integer_bits: int) -> Ints:
        """1 / (1 + exp(-a)); the result has no integer bits."""
        positive = self.one_over_one_plus(self.exp_of_negative(-np.abs(a), integer_bits))
        result = np.where(a > 0, positive, self.one - positive)
        return np.where(a == 0, 1 << (self.bits - 2), result)

    def tanh(self, a: Ints, integer_bits: int) -> Ints:
        """The hyperbolic tangent of a; the result has no integer bits."""
        # exp(-2 |a|) is the same raw value read with one integer bit more.
        x = self._reciprocal(self._half_of_one_plus(self.exp_of_negative(-np.abs(a), integer_bits + 1)))
        size = self.shift(x - (1 << (self.bits - 3)), 2)
        return np.where(a == 0, 0, np.where(a > 0, size, -size))


INT16 = FixedPoint(16)
INT32 = FixedPoint(32)
