"""A second implementation of fixed-point inference, for the simulator to be compared with: plain integers, one by one.

Each op is written as its definition, on Python's own integers, lists and fractions. Nothing is shared with
`tf_requant.numerics` or `tf_requant.simulator` but the dataclasses that describe a graph and an arithmetic.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.simulator.scalar_moves import MOVES
from tests.simulator.scalar_site import (
    LIMITS,
    Codes,
    Index,
    Results,
    Site,
    clamp,
    codes_of,
    encode,
    exponent,
    f32,
    indices,
    read,
    register,
    requant,
    rescale,
    round_float,
    round_ratio,
    round_shift,
    width,
    within,
)
from tf_requant.model.graph import Graph
from tf_requant.numerics.arithmetic import Arithmetic, Requantizer, Stage


def accumulate(products: Iterable[int], bias: Codes, o: int, arithmetic: Arithmetic) -> int:
    """The register after all products and the bias of output channel o."""
    rule, total = arithmetic.accumulator, 0
    bits = 64 if bias.dtype == "int64" and (rule.bits, rule.overflow) == (32, "wrap") else rule.bits
    if rule.intermediate is not None:
        every, size, narrow = list(products), rule.intermediate.products, rule.intermediate.bits
        products = [register(sum(every[k : k + size]), narrow, "wrap") for k in range(0, len(every), size)]
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
    share, outside = w.shape[0] // (x.shape[3] // w.shape[3]), 0 if site.arithmetic.pad == "zero" else x.z

    def terms(index: Index) -> Iterator[tuple[int, int]]:
        n, _, _, o = index
        for k, at, inside in site.taps(w.shape[1:3], index):
            for c in range(w.shape[3]):
                yield x.at(n, *at, o // share * w.shape[3] + c) if inside else outside, w.at(o, *k, c)

    return multiply(site, 0, 2, terms)


def depthwise_conv_2d(site: Site) -> Results:
    """y[n,i,j,o] = sum over the window of channel o / multiplier; filter [1, row, column, o]."""
    x, w = site.x[:2]
    multiplier, outside = w.shape[3] // x.shape[3], 0 if site.arithmetic.pad == "zero" else x.z

    def terms(index: Index) -> Iterator[tuple[int, int]]:
        n, _, _, o = index
        for k, at, inside in site.taps(w.shape[1:3], index):
            yield x.at(n, *at, o // multiplier) if inside else outside, w.at(0, *k, o)

    return multiply(site, 0, 2, terms)


def transpose_conv(site: Site) -> Results:
    """Input (r, c) adds to output (r * stride - pad + filter row, ...); the padding is of the *output*'s size."""
    w, x = site.x[1:3]
    pads = [site.before(d, site.y.shape[d + 1], w.shape[d + 1]) for d in (0, 1)]

    def terms(index: Index) -> Iterator[tuple[int, int]]:
        for k in indices(w.shape[1:3]):
            (row, r), (column, c) = (divmod(index[d + 1] + pads[d] - k[d], site.steps[d]) for d in (0, 1))
            there = r == c == 0 and 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
            for d in range(w.shape[3]):
                yield x.at(index[0], row, column, d) if there else x.z, w.at(index[3], *k, d)

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
        return rescale(x, *within(*encode(real, rule.multiplier_bits), rule), rule.multiplier_bits, stages)

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
    fixed = site.name != "HARD_SWISH" and y.dtype == "int8" and width(y, site.arithmetic) < 8
    if site.name not in unit.ops or x.dtype == "int16" or not whole or fixed:
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
            m, shift = within(*encode(x.s / y.s, rule.multiplier_bits), rule)
            k = min(n.bit_length() - 1, 32, 31 - shift)
            return rescale(sum(codes) - n * x.z, (m << k) // n, shift + k, rule.multiplier_bits, rule.stages)
        centred = average(codes, x.z, site.arithmetic)
        return centred if x.s == y.s else requant(centred, (x.s,), y.s, rule)

    kept = indices([1 if a in axes else size for a, size in enumerate(x.shape)])
    run = list(indices([size if a in axes else 1 for a, size in enumerate(x.shape)]))
    return site.put(one([x.at(*map(sum, zip(fixed, moving))) for moving in run]) for fixed in kept)


def dequantized(site: Site) -> list[list[Any]]:
    """DEQUANTIZE: float32 of the scale times the code without its zero point."""
    x = site.x[0]
    return [[np.float32(q - x.z) * np.float32(x.s) for q in x.flat]]


KERNELS: dict[Callable[[Site], Results], str] = {
    conv_2d: "CONV_2D", depthwise_conv_2d: "DEPTHWISE_CONV_2D", transpose_conv: "TRANSPOSE_CONV",
    fully_connected: "FULLY_CONNECTED", add: "ADD SUB", mul: "MUL", extremum: "MAXIMUM MINIMUM",
    rescaled: "QUANTIZE RELU RELU6 RELU_N1_TO_1", leaky_relu: "LEAKY_RELU", prelu: "PRELU",
    looked_up: "LOGISTIC TANH HARD_SWISH", pool: "AVERAGE_POOL_2D MAX_POOL_2D", mean: "MEAN",
    dequantized: "DEQUANTIZE", **MOVES,
}  # fmt: skip
OPS_WITH_FILTER = dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"), 1)
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
        x = [known[t] if t >= 0 else Codes() for t in op.inputs]
        if op.code != "QUANTIZE":
            filter_ = OPS_WITH_FILTER.get(op.code)
            x = [codes if k == filter_ else read(codes, arithmetic) for k, codes in enumerate(x)]
        site = Site(op.code, op.attrs, x, shells, arithmetic)
        for t, flat in zip(op.outputs, OPS[op.code](site), strict=True):
            tensor = graph.tensors[t]
            results[t] = np.array(flat, tensor.dtype).reshape(tensor.shape)
            known[t] = codes_of(tensor, results[t])
    return results
