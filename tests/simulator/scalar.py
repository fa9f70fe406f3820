"""A second implementation of fixed-point inference, for the simulator to be compared with: plain integers, one by one.

Each op is written as its definition, on Python's own integers, lists and fractions. Nothing is shared with
`tf_requant.numerics` or `tf_requant.simulator` but the dataclasses that describe a graph and an arithmetic.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Graph, Tensor
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
        return rescale(x, *encode(real, rule.multiplier_bits), rule.multiplier_bits, rule.stages)
    if rule.kind == "shift":
        k = exponent(real)
        if k is None:
            raise ValueError(f"a shift can't multiply by {real!r}, which is no power of two")
        return round_shift(x, -k, rounding)
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
    return Codes(tensor.shape, tensor.dtype, *pairs[0], pairs, flat)


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
        low, high = LIMITS[self.y.dtype]
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


def accumulate(products: Iterable[int], bias: Codes, o: int, arithmetic: Arithmetic) -> int:
    """The register after all products and the bias of output channel o."""
    rule, total = arithmetic.accumulator, 0
    bits = 64 if bias.dtype == "int64" and (rule.bits, rule.overflow) == (32, "wrap") else rule.bits
    for value in products:
        total = register(total + value, bits, rule.overflow) if rule.when == "each_step" else total + value
    total = register(total + (bias.flat[o] if bias.dtype else 0), bits, rule.overflow)
    return total if rule.output_bits is None else register(total, rule.output_bits, "saturate")


def multiply(site: Site, data: int, bias: int, terms: Callable[[Index], Iterator[tuple[int, int]]]) -> Results:
    """sum((x - zx) * (w - zw)) + bias, requantized; `terms` gives the pairs of codes x, w of an output index."""
    x, w, b = site.x[data], site.x[1], site.x[bias] if bias < len(site.x) else Codes()
    rule = site.arithmetic.requantizer_of(site.name, x.dtype, b.dtype)

    def one(index: Index) -> int:
        scale, zero = w.channels[index[-1] % len(w.channels)]
        products = ((q - x.z) * (v - zero) for q, v in terms(index))
        return requant(accumulate(products, b, index[-1], site.arithmetic), (x.s, scale), site.y.s, rule)

    return site.put(one(index) for index in indices(site.y.shape))


def conv_2d(site: Site) -> Results:
    """y[n,i,j,o] = sum over the window and the input channels of o's group; filter [o, row, column, channel]."""
    x, w = site.x[:2]
    share = w.shape[0] // (x.shape[3] // w.shape[3])

    def terms(index: Index) -> Iterator[tuple[int, int]]:
        n, _, _, o = index
        for k, at, inside in site.taps(w.shape[1:3], index):
            if inside or site.arithmetic.pad == "zero":
                for c in range(w.shape[3]):
                    yield x.at(n, *at, o // share * w.shape[3] + c) if inside else 0, w.at(o, *k, c)

    return multiply(site, 0, 2, terms)


def depthwise_conv_2d(site: Site) -> Results:
    """y[n,i,j,o] = sum over the window of channel o / multiplier; filter [1, row, column, o]."""
    x, w = site.x[:2]
    multiplier = w.shape[3] // x.shape[3]

    def terms(index: Index) -> Iterator[tuple[int, int]]:
        n, _, _, o = index
        for k, at, inside in site.taps(w.shape[1:3], index):
            if inside or site.arithmetic.pad == "zero":
                yield x.at(n, *at, o // multiplier) if inside else 0, w.at(0, *k, o)

    return multiply(site, 0, 2, terms)


def transpose_conv(site: Site) -> Results:
    """Input (r, c) adds to output (r * stride - pad + filter row, ...); the padding is of the *output*'s size."""
    w, x = site.x[1:3]
    pads = [site.before(d, site.y.shape[d + 1], w.shape[d + 1]) for d in (0, 1)]

    def terms(index: Index) -> Iterator[tuple[int, int]]:
        for k in indices(w.shape[1:3]):
            (row, r), (column, c) = (divmod(index[d + 1] + pads[d] - k[d], site.steps[d]) for d in (0, 1))
            if r == c == 0 and 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                for d in range(w.shape[3]):
                    yield x.at(index[0], row, column, d), w.at(index[3], *k, d)

    return multiply(site, 2, 3, terms)


def fully_connected(site: Site) -> Results:
    """y[n,o] = sum over d of x[n,d] * w[o,d], whatever the leading dimensions of x and y."""
    x, (units, depth) = site.x[0], site.x[1].shape
    site.y.shape = len(x.flat) // depth, units
    return multiply(site, 0, 2, lambda i: ((x.flat[i[0] * depth + d], site.x[1].at(i[1], d)) for d in range(depth)))


def add(site: Site) -> Results:
    """ADD and SUB: a +- b at one common scale, as the arithmetic's style has it."""
    (a, b), y, style, sign = site.x, site.y, site.arithmetic.add, -1 if site.name == "SUB" else 1
    pairs = [(a.spread(i) - a.z, b.spread(i) - b.z) for i in indices(y.shape)]
    powers = exponent(a.s), exponent(b.s), exponent(y.s)
    if style.style == "float32":
        ratios = [np.float32(x.s) / np.float32(y.s) for x in (a, b)]
        parts = ([round_float(np.float32(q) * ratio, "HALF_EVEN") for q, ratio in zip(pair, ratios)] for pair in pairs)
        return site.put(p + sign * q for p, q in parts)
    if style.style == "shift_align" and None not in powers:
        ka, kb, ky = (k or 0 for k in powers)
        finer, rounding = min(ka, kb), (style.rounding or site.rule.stages[-1].rounding).value

        def aligned(p: int, q: int) -> int:
            p, q = (register(v << (k - finer), style.intermediate_bits, "saturate") for v, k in ((p, ka), (q, kb)))
            return register(p + sign * q, style.intermediate_bits, "saturate")

        return site.put(round_shift(aligned(p, q), ky - finer, rounding) for p, q in pairs)
    left, twice = 15 if a.dtype == "int16" else style.left_shift, f32(2 * max(a.s, b.s))
    rule = site.rule if site.rule.kind == "multiplier_shift" else Requantizer()
    stages = rule.stages if style.rounding is None else (Stage("rest", style.rounding),)

    def times(x: int, real: float) -> int:
        return rescale(x, *encode(real, rule.multiplier_bits), rule.multiplier_bits, stages)

    sums = (times(p << left, a.s / twice) + sign * times(q << left, b.s / twice) for p, q in pairs)
    return site.put(times(total, twice / (2**left * y.s)) for total in sums)


def mul(site: Site) -> Results:
    """(a - za) * (b - zb), requantized."""
    (a, b), y = site.x, site.y
    products = ((a.spread(i) - a.z) * (b.spread(i) - b.z) for i in indices(y.shape))
    return site.put(requant(v, (a.s, b.s), y.s, site.rule) for v in products)


def extremum(site: Site) -> Results:
    """MAXIMUM, MINIMUM: the larger, the smaller raw code."""
    pick = max if site.name == "MAXIMUM" else min
    return [[pick(x.spread(i) for x in site.x) for i in indices(site.y.shape)]]


def rescaled(site: Site) -> Results:
    """QUANTIZE from codes to codes, RELU, RELU6, RELU_N1_TO_1: q - zx, requantized, then clamped."""
    x = site.x[0]
    if x.dtype not in LIMITS:
        raise NotImplementedError(site.name)
    return site.put(requant(q - x.z, (x.s,), site.y.s, site.rule) for q in x.flat)


def leaky_relu(site: Site) -> Results:
    """q - zx, requantized; M has the factor alpha where it is negative."""
    x, alpha = site.x[0], f32(site.attrs["alpha"])
    return site.put(requant(q - x.z, (x.s,) if q >= x.z else (x.s, alpha), site.y.s, site.rule) for q in x.flat)


def prelu(site: Site) -> Results:
    """q - zx, requantized; where it is negative, times the code of alpha, whose scale joins M."""
    (x, a), y = site.x, site.y
    pairs = ((x.spread(i) - x.z, a.spread(i) - a.z) for i in indices(y.shape))
    terms = ((q, (x.s,)) if q >= 0 else (q * slope, (x.s, a.s)) for q, slope in pairs)
    return site.put(requant(v, scales, y.s, site.rule) for v, scales in terms)


def looked_up(site: Site) -> Results:
    """LOGISTIC, TANH, HARD_SWISH: round(f(s * (q - z)) / sy), f in float64, one table entry a code."""
    x, y, unit = site.x[0], site.y, site.arithmetic.lookup
    whole = (unit.entries, unit.interpolation, unit.precision) == (256, "none", "float64")
    if site.name not in unit.ops or x.dtype == "int16" or not whole:
        raise NotImplementedError(site.name)

    def f(v: float) -> float:
        if site.name == "HARD_SWISH":
            return v * min(max(v + 3, 0), 6) / 6
        return math.tanh(v) if site.name == "TANH" else 1 / (1 + math.exp(-max(v, -700.0)))

    return site.put(round_float(f(x.s * (q - x.z)) / y.s, unit.rounding.value) for q in x.flat)


def average(codes: Sequence[int], zero: int, arithmetic: Arithmetic) -> int:
    """The rounded mean of the codes, less the zero point; a table's entry comes before any style."""
    style, n, rounding = arithmetic.average_pool, len(codes), arithmetic.average_pool.rounding.value
    m, bits = next(((m, bits) for count, m, bits in style.table if count == n), (0, 0))
    if not m and style.style == "divide":
        return round_ratio(sum(codes), n, rounding) - zero
    if not m:
        extra = 0 if style.style == "multiply_shift" else (n - 1).bit_length()
        one, bits = 1 << style.multiplier_bits, style.multiplier_bits + extra
        m = ((one + 1) << extra) // n if style.style == "reciprocal" else round_ratio(one, n, "HALF_UP")
    return round_shift((sum(codes) - n * zero) * m, bits, rounding)


def pool(site: Site) -> Results:
    """AVERAGE_POOL_2D, MAX_POOL_2D: the mean, the largest of the raw codes inside the window and the image."""
    x, window = site.x[0], (site.attrs["filter_height"], site.attrs["filter_width"])

    def one(index: Index) -> int:
        seen = [x.at(index[0], *at, index[3]) for _, at, inside in site.taps(window, index) if inside]
        return max(seen) if site.name == "MAX_POOL_2D" else average(seen, x.z, site.arithmetic) + x.z

    low, high = site.bounds()
    return [[clamp(one(index), low, high) for index in indices(site.y.shape)]]


def mean(site: Site) -> Results:
    """The mean over some axes, rescaled.

    A dividing arithmetic with multipliers does as TFLite: sum * (m << k) // n, with the k bits that keep m precise.
    One that rescales in floats does as XNNPACK: sum * (s / (s_out * n)). Any other takes the pool's mean and
    requantizes that where the scales differ.
    """
    (x, along), y, rule, style = site.x, site.y, site.rule, site.arithmetic.average_pool
    axes = {a % len(x.shape) for a in along.flat}
    n = math.prod(x.shape[a] for a in axes)
    divides = style.style == "divide" and all(row[0] != n for row in style.table)

    def one(codes: list[int]) -> int:
        if divides and rule.kind in ("float32", "float64"):
            return requant(sum(codes) - n * x.z, (x.s / (y.s * n),), 1.0, rule)
        if divides and rule.kind == "multiplier_shift":
            m, shift = encode(x.s / y.s, rule.multiplier_bits)
            k = min(n.bit_length() - 1, 32, 31 - shift)
            return rescale(sum(codes) - n * x.z, (m << k) // n, shift + k, rule.multiplier_bits, rule.stages)
        centred = average(codes, x.z, site.arithmetic)
        return centred if x.s == y.s else requant(centred, (x.s,), y.s, rule)

    kept = indices([1 if a in axes else size for a, size in enumerate(x.shape)])
    run = list(indices([size if a in axes else 1 for a, size in enumerate(x.shape)]))
    return site.put(one([x.at(*map(sum, zip(fixed, moving))) for moving in run]) for fixed in kept)


def reshape(site: Site) -> Results:
    """RESHAPE, SQUEEZE, EXPAND_DIMS: the elements stay in order."""
    return [list(site.x[0].flat)]


def moved(site: Site) -> Results:
    """Ops that copy: each output element is the input's at an index that the op computes."""
    x, p = site.x[0], site.x[1].flat
    axis, batch = (
        site.attrs.get("axis", 0) % len(x.shape),
        site.attrs.get("batch_dims", 0) % max(len(site.x[1].shape), 1),
    )
    last = axis + len(site.x[1].shape) - batch
    sources: dict[str, Callable[[Index], Iterable[int]]] = {
        "TRANSPOSE": lambda i: [i[p.index(d)] for d in range(len(i))],
        "SLICE": lambda i: [begin + k for begin, k in zip(p, i)],
        "TILE": lambda i: [k % n for k, n in zip(i, x.shape)],
        "GATHER": lambda i: [*i[:axis], site.x[1].at(*i[:batch], *i[axis:last]), *i[last:]],
        "RESIZE_NEAREST_NEIGHBOR": lambda i: [i[0], nearest(site, 1, i[1]), nearest(site, 2, i[2]), i[3]],
    }
    return [[x.at(*sources[site.name](index)) for index in indices(site.y.shape)]]


def nearest(site: Site, d: int, place: int) -> int:
    """RESIZE_NEAREST_NEIGHBOR along one dimension: floor (round, with aligned corners) of a float32 coordinate."""
    old, new, corners = site.x[0].shape[d], site.y.shape[d], site.attrs["align_corners"]
    less = 1 if corners and new > 1 else 0
    centre = 0.5 if site.attrs["half_pixel_centers"] else 0.0
    value = np.float32(place + centre) * (np.float32(old - less) / np.float32(new - less))
    return clamp(round_float(value, "HALF_AWAY" if corners else "FLOOR"), 0, old - 1)


def resize_bilinear(site: Site) -> Results:
    """Signed codes: coordinates with 10 fraction bits, the 20-bit sum of products rounded half away from zero."""
    x, y = site.x[0], site.y
    if x.dtype == "uint8":
        raise NotImplementedError(site.name)

    def neighbours(place: int, old: int, new: int) -> tuple[tuple[int, int], tuple[int, int]]:
        less = 1 if site.attrs["align_corners"] and new > 1 else 0
        step = (1024 * (old - less) + (new - less) // 2) // (new - less)
        value = place * step + (step // 2 - 512 if site.attrs["half_pixel_centers"] else 0)
        low, high = max(round_ratio(value, 1024, "TRUNCATE"), 0), round_ratio(value + 1023, 1024, "TRUNCATE")
        return (low, 1024 * (low + 1) - value), (min(high, old - 1), value - 1024 * low)

    def one(n: int, i: int, j: int, c: int) -> int:
        pairs = product(neighbours(i, x.shape[1], y.shape[1]), neighbours(j, x.shape[2], y.shape[2]))
        return round_shift(sum(x.at(n, r, k, c) * u * v for (r, u), (k, v) in pairs), 20, "HALF_AWAY")

    return [[one(*index) for index in indices(y.shape)]]


def concatenation(site: Site) -> Results:
    """Inputs one behind the other; uint8 codes of other parameters are brought to the output's as TFLite does."""
    y, axis = site.y, site.attrs["axis"] % len(site.y.shape)

    def brought(q: int, x: Codes) -> int:
        if (x.s, x.z) == (y.s, y.z):
            return q
        if x.dtype != "uint8":
            raise NotImplementedError("CONCATENATION of other parameters")
        scale = np.float32(x.s) * (np.float32(1) / np.float32(y.s))
        value = round_float(np.float32(q) * scale + np.float32(-x.z) * scale, "HALF_AWAY")
        return clamp(value + y.z, *LIMITS[y.dtype])

    places = [(x, k) for x in site.x for k in range(x.shape[axis])]

    def one(index: Index) -> int:
        x, k = places[index[axis]]
        return brought(x.at(*index[:axis], k, *index[axis + 1 :]), x)

    return [[one(index) for index in indices(y.shape)]]


def pad(site: Site) -> Results:
    """PAD, PADV2: the input with a frame of real 0, of the third input's code."""
    x, widths = site.x[:2]
    fill = site.x[2].flat[0] if site.name == "PADV2" else site.y.z
    inner = ([k - widths.at(d, 0) for d, k in enumerate(index)] for index in indices(site.y.shape))
    return [[x.at(*i) if all(0 <= k < n for k, n in zip(i, x.shape)) else fill for i in inner]]


def strided_slice(site: Site) -> Results:
    """Python's x[begin:end:stride] in each dimension; a shrunk dimension is x[begin]."""
    x, mask = site.x[0], {k: site.attrs[f"{k}_mask"] for k in ("begin", "end", "shrink_axis", "ellipsis", "new_axis")}
    if mask["ellipsis"] or mask["new_axis"]:
        raise NotImplementedError(site.name)
    picks = [range(size) for size in x.shape]
    for d, (begin, end, stride) in enumerate(zip(*(limits.flat for limits in site.x[1:]))):
        end += begin if site.attrs.get("offset") else 0
        cut = slice(None if mask["begin"] >> d & 1 else begin, None if mask["end"] >> d & 1 else end, stride)
        picks[d] = picks[d][begin:][:1] if mask["shrink_axis"] >> d & 1 else picks[d][cut]
    return [[x.at(*index) for index in product(*picks)]]


def split(site: Site) -> Results:
    """Equal parts along an axis."""
    axis, size = site.x[0].flat[0] % len(site.y.shape), site.y.shape[site.x[0].flat[0]]
    return [
        [site.x[1].at(*i[:axis], i[axis] + part * size, *i[axis + 1 :]) for i in indices(site.y.shape)]
        for part in range(len(site.outputs))
    ]


def pack(site: Site) -> Results:
    """Inputs side by side along a new axis."""
    axis = site.attrs["axis"] % len(site.y.shape)
    return [[site.x[i[axis]].at(*i[:axis], *i[axis + 1 :]) for i in indices(site.y.shape)]]


def unpack(site: Site) -> Results:
    """One output for each place along an axis, which goes."""
    x, axis = site.x[0], site.attrs["axis"] % len(site.x[0].shape)
    return [[x.at(*i[:axis], k, *i[axis:]) for i in indices(site.y.shape)] for k in range(x.shape[axis])]


KERNELS: dict[Callable[[Site], Results], str] = {
    conv_2d: "CONV_2D", depthwise_conv_2d: "DEPTHWISE_CONV_2D", transpose_conv: "TRANSPOSE_CONV",
    fully_connected: "FULLY_CONNECTED", add: "ADD SUB", mul: "MUL", extremum: "MAXIMUM MINIMUM",
    rescaled: "QUANTIZE RELU RELU6 RELU_N1_TO_1", leaky_relu: "LEAKY_RELU", prelu: "PRELU",
    looked_up: "LOGISTIC TANH HARD_SWISH", pool: "AVERAGE_POOL_2D MAX_POOL_2D", mean: "MEAN",
    reshape: "RESHAPE SQUEEZE EXPAND_DIMS", moved: "TRANSPOSE SLICE TILE GATHER RESIZE_NEAREST_NEIGHBOR",
    resize_bilinear: "RESIZE_BILINEAR", concatenation: "CONCATENATION", pad: "PAD PADV2", split: "SPLIT", pack: "PACK",
    strided_slice: "STRIDED_SLICE", unpack: "UNPACK",
}  # fmt: skip
OPS = {name: kernel for kernel, names in KERNELS.items() for name in names.split()}


def execute(graph: Graph, inputs: Mapping[int, NDArray[Any]], arithmetic: Arithmetic) -> dict[int, NDArray[Any]]:
    """Runs a graph op by op.

    Args:
        graph: quantized tensors of static shape.
        inputs: the codes of the graph's inputs by tensor index, of the tensors' own shapes.
        arithmetic: what is run.

    Returns:
        The codes of the inputs and of every op's outputs by tensor index, in the tensors' dtypes and shapes.

    Raises:
        NotImplementedError: an op, or a type of codes for it, that has no definition here; its name.
        OverflowError: an accumulator overflows where the arithmetic calls that an error.
        ValueError: a scale ratio that a shift can't express.
    """
    known = {i: codes_of(t, t.data) for i, t in enumerate(graph.tensors) if t.data is not None}
    known |= {i: codes_of(graph.tensors[i], codes) for i, codes in inputs.items()}
    results = dict(inputs)
    for op in graph.ops:
        if op.code not in OPS:
            raise NotImplementedError(op.name)
        shells = [codes_of(graph.tensors[t], None) for t in op.outputs]
        site = Site(op.code, op.attrs, [known[t] if t >= 0 else Codes() for t in op.inputs], shells, arithmetic)
        for t, flat in zip(op.outputs, OPS[op.code](site), strict=True):
            tensor = graph.tensors[t]
            results[t] = np.array(flat, tensor.dtype).reshape(tensor.shape)
            known[t] = codes_of(tensor, results[t])
    return results
