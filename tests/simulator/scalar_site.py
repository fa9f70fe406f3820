"""The plain-integer oracle's numbers and its view of one op: rounding, registers, multipliers, codes by index."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.ops import Activation, Padding
from tf_requant.numerics.arithmetic import Arithmetic, Requantizer, Stage

Index = tuple[int, ...]
Results = list[list[int]]

LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-(2**15), 2**15 - 1)}
REAL_BOUNDS: dict[str, tuple[float, float]] = {"RELU": (0, math.inf), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}


def round_ratio(p: int, q: int, rounding: str) -> int:
    """p / q, q > 0, rounded by a rule's name."""
    low, rest = divmod(p, q)
    up = {
        "FLOOR": False,
        "TRUNCATE": rest > 0 and p < 0,
        "HALF_UP": 2 * rest >= q,
        "HALF_DOWN": 2 * rest > q,
        "HALF_AWAY": 2 * rest > q or (2 * rest == q and p > 0),
        "HALF_EVEN": 2 * rest > q or (2 * rest == q and low % 2 == 1),
    }
    return low + up[rounding]


def round_float(x: float, rounding: str) -> int:
    """A float, exactly as it stands, rounded by a rule's name."""
    return round_ratio(*float(x).as_integer_ratio(), rounding)


def round_shift(x: int, bits: int, rounding: str) -> int:
    """x / 2^bits, rounded; a left shift where bits <= 0."""
    return x << -bits if bits <= 0 else round_ratio(x, 1 << bits, rounding)


def clamp(x: int, low: int, high: int) -> int:
    """The nearest number between two."""
    return max(low, min(high, x))


def register(x: int, bits: int, overflow: str) -> int:
    """What a two's complement register makes of x."""
    half = 1 << (bits - 1)
    kept = (x + half) % (2 * half) - half if overflow == "wrap" else clamp(x, -half, half - 1)
    if overflow == "error" and kept != x:
        raise OverflowError(f"{x} doesn't fit {bits} bits")
    return kept


def f32(x: float) -> float:
    """The nearest float32."""
    return float(np.float32(x))


def exponent(x: float) -> int | None:
    """k where x is 2^k, else None."""
    fraction, power = math.frexp(x)
    return power - 1 if fraction == 0.5 else None


@cache
def encode(real: float, bits: int) -> tuple[int, int]:
    """(m, shift) with real ~ m * 2^-(bits + shift); for 15 bits, m is cut from the 31-bit one."""
    if bits == 15:
        m, shift = encode(real, 31)
        return ((m + 2**15) >> 16 if m < 0x7FFF0000 else 0x7FFF), shift
    fraction, power = math.frexp(real)
    m = round_float(fraction * 2**bits, "HALF_AWAY")
    if m == 1 << bits:
        m, power = m // 2, power + 1
    return (0, 0) if power < -31 else (m, -power)


def within(m: int, shift: int, rule: Requantizer) -> tuple[int, int]:
    """A multiplier whose shift is in the requantizer's range: beyond the highest, m gives up the bits itself."""
    low, high = rule.shift_range
    if shift < low:
        raise ValueError(f"a shift to the left by {-shift} is more than {-low}")
    return (m, shift) if shift <= high else (round_shift(m, shift - high, "HALF_AWAY"), high)


def rescale(x: int, m: int, shift: int, bits: int, stages: Sequence[Stage]) -> int:
    """x * m less bits + shift bits, stage by stage; several stages first shift left in 32 bits where shift < 0."""
    if shift < 0 and len(stages) > 1:
        x, shift = register(x << -shift, 32, "wrap"), 0
    result, left = x * m, bits + shift
    for stage in stages:
        drop = left if stage.drop == "rest" else min(left, stage.drop)
        result, left = round_shift(result, drop, stage.rounding.value), left - drop
    return result


def requant(x: int, scales: Sequence[float], output: float, rule: Requantizer) -> int:
    """round(x * M), M = the product of the scales / the output's."""
    real = math.prod(scales)
    real = (f32(real) if rule.scale_product == "float32" else real) / output
    real = f32(real) if rule.ratio == "float32" else real
    rounding = rule.stages[-1].rounding.value
    if rule.kind == "multiplier_shift":
        return rescale(x, *within(*encode(real, rule.multiplier_bits), rule), rule.multiplier_bits, rule.stages)
    if rule.kind == "shift":
        k = exponent(real)
        if k is None:
            raise ValueError(f"a shift can't multiply by {real!r}, which is no power of two")
        m, shift = within(1, -k, rule)
        return round_shift(x * m, shift, rounding)
    return round_float(float(x) * real if rule.kind == "float64" else np.float32(x) * np.float32(real), rounding)


@dataclass
class Codes:
    """The elements of a tensor in row-major order; s and z are its scale and zero point, or its channels' first."""

    shape: Index = ()
    dtype: str = ""
    s: float = math.nan
    z: int = 0
    channels: list[tuple[float, int]] = field(default_factory=list)
    flat: list[int] = field(default_factory=list)
    bits: int | None = None  # the width that the tensor names for itself

    def at(self, *index: int) -> int:
        """The element at an index."""
        offset = 0
        for i, n in zip(index, self.shape, strict=True):
            offset = offset * n + i
        return self.flat[offset]

    def spread(self, index: Index) -> int:
        """The element that broadcasting puts at an index of the larger shape."""
        own = index[len(index) - len(self.shape) :]
        return self.at(*(0 if n == 1 else i for i, n in zip(own, self.shape)))


def codes_of(tensor: Tensor, values: NDArray[Any] | None) -> Codes:
    """A tensor with these values, or none yet."""
    flat = [] if values is None else np.ravel(values).tolist()
    if tensor.quant is None:
        return Codes(tensor.shape, tensor.dtype, flat=flat)
    pairs = list(zip(tensor.quant.scale.tolist(), tensor.quant.zero_point.tolist()))
    return Codes(tensor.shape, tensor.dtype, *pairs[0], pairs, flat, tensor.bits)


def width(tensor: Codes, arithmetic: Arithmetic) -> int:
    """The bits that a device gives an activation like this one: its own, where the device has such, or everyone's."""
    return tensor.bits if tensor.bits in arithmetic.activation_widths else arithmetic.activation_bits or 8


def held(tensor: Codes, arithmetic: Arithmetic) -> tuple[int, int]:
    """The codes that a device has of an activation: those of fewer bits in int8 with zero point 0 are its own width's."""
    bits = width(tensor, arithmetic)
    if bits >= 8 or tensor.dtype != "int8" or tensor.z or len(tensor.channels) > 1:
        return LIMITS[tensor.dtype]
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def read(tensor: Codes, arithmetic: Arithmetic) -> Codes:
    """An activation as the device reads it."""
    if tensor.dtype not in LIMITS or not tensor.channels:
        return tensor
    low, high = held(tensor, arithmetic)
    return replace(tensor, flat=[clamp(q, low, high) for q in tensor.flat])


def indices(shape: Sequence[int]) -> Iterator[Index]:
    """Every index of a shape in row-major order."""
    return product(*map(range, shape))


@dataclass
class Site:
    """One op: its name, its options, what it reads (an empty tensor where optional), shells of what it writes."""

    name: str
    attrs: Mapping[str, Any]
    x: list[Codes]
    outputs: list[Codes]
    arithmetic: Arithmetic

    def __post_init__(self) -> None:
        """Names the first output, the sides of a window, and the requantizer of all but the multiplying ops."""
        self.y = self.outputs[0]
        self.steps = [self.attrs.get(f"stride_{side}", 1) for side in "hw"]
        self.gaps = [self.attrs.get(f"dilation_{side}_factor", 1) for side in "hw"]
        self.rule = self.arithmetic.requantizer_of(self.name, self.x[0].dtype)

    def bounds(self) -> tuple[int, int]:
        """The lowest and highest code that the type and the activation, fused or the op itself, let through."""
        low, high = held(self.y, self.arithmetic)
        name = (
            self.name if self.name in REAL_BOUNDS else Activation(self.attrs.get("fused_activation_function", 0)).name
        )
        bottom, top = REAL_BOUNDS.get(name, (-math.inf, math.inf))
        if bottom > -math.inf:
            low = max(low, self.y.z + round_float(np.float32(bottom) / np.float32(self.y.s), "HALF_AWAY"))
        if top < math.inf:
            high = min(high, self.y.z + round_float(np.float32(top) / np.float32(self.y.s), "HALF_AWAY"))
        return low, high

    def put(self, centred: Iterable[int]) -> Results:
        """The output's codes for numbers at its scale, zero point not yet added."""
        low, high = self.bounds()
        return [[clamp(v + self.y.z, low, high) for v in centred]]

    def before(self, side: int, size: int, window: int) -> int:
        """How many rows (side 0) or columns (1) SAME padding puts before the first."""
        stride, reach = self.steps[side], (window - 1) * self.gaps[side] + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        return total // 2 if self.attrs["padding"] == Padding.SAME else 0

    def taps(self, window: Sequence[int], output: Index) -> Iterator[tuple[Index, Index, bool]]:
        """((filter row, column), (image row, column), whether inside) under an output index, in the filter's order."""
        size = self.x[0].shape[1:3]
        start = [output[d + 1] * self.steps[d] - self.before(d, size[d], window[d]) for d in (0, 1)]
        for k in indices(window):
            row, column = (start[d] + k[d] * self.gaps[d] for d in (0, 1))
            yield k, (row, column), 0 <= row < size[0] and 0 <= column < size[1]
