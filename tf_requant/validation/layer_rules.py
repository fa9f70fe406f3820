"""What a target demands of a layer: its weights, its bias, and what its sums are multiplied by."""

from functools import reduce
from math import frexp
from operator import or_

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.quant import QuantParams
from tf_requant.validation.rules import Rule, Site, Verdicts, bias_dtype, powers_of_two, weight_dtype, weight_limits


def constant_weights(site: Site) -> Verdicts:
    """Weights are quantized constants."""
    weights = _weights(site)
    kept = weights.quant is not None and weights.data is not None
    yield "" if kept else f"weights {weights.name!r} are not quantized constants"


def weight_type(site: Site) -> Verdicts:
    """Weights are {weight_dtype}."""
    weights, dtype = _weights(site), weight_dtype(site.target)
    yield "" if weights.dtype == dtype else f"weights {weights.name!r} are {weights.dtype}, expected {dtype}"


def weight_zero_point(site: Site) -> Verdicts:
    """Weights have zero point 0."""
    points = _quant(_weights(site)).zero_point
    yield f"weights {_weights(site).name!r} have zero point {int(points[0])}, expected 0" if points.any() else ""


def weight_range(site: Site) -> Verdicts:
    """Weight codes lie between {weight_low} and {weight_high}."""
    weights, (low, high) = _weights(site), weight_limits(site.target)
    assert weights.data is not None
    smallest, largest = int(weights.data.min(initial=0)), int(weights.data.max(initial=0))
    outside = smallest < low or largest > high
    yield f"weights {weights.name!r} hold codes {smallest}..{largest}, expected {low}..{high}" if outside else ""


def weight_codebook(site: Site) -> Verdicts:
    """The weights of a layer take at most 2^b different codes, b an index's width in {weight.codebook}."""
    weights, widths = _weights(site), site.target.weight.codebook
    assert weights.data is not None and widths is not None
    count, most = np.unique(weights.data).size, 2 ** max(widths)
    yield f"weights {weights.name!r} take {count} different codes, expected at most {most}" if count > most else ""


def weight_scales(site: Site) -> Verdicts:
    """Weights have {weight_scales}."""
    weights, scheme, axis = _weights(site), site.target.weight, site.row.channel_axis
    quant = _quant(weights)
    allowed = scheme.granularity == "channel" and site.op.code in scheme.per_channel_ops
    kept = not quant.per_channel or allowed and quant.scale.size == weights.shape[axis] and quant.axis == axis
    found = f"weights {weights.name!r} have {quant.scale.size} scales along axis {quant.axis}"
    yield "" if kept else f"{found}, expected one scale"


def power_of_two_weights(site: Site) -> Verdicts:
    """Every scale of the weights is a power of two."""
    weights = _weights(site)
    yield "" if powers_of_two(_quant(weights).scale) else f"weights {weights.name!r} have a scale that is no power of two"


def layer_parameters(site: Site) -> Verdicts:
    """The input and the output of a layer carry parameters."""
    data = site.input(site.row.data)
    known = data is not None and data.quant is not None and site.output.quant is not None
    yield "" if known else "input or output carries no parameters"


def bias_type(site: Site) -> Verdicts:
    """A bias is {bias_dtype}, the type that TFLite's kernels read."""
    bias, dtype = _bias(site), bias_dtype(site.target)
    if bias is not None:
        yield "" if bias.dtype == dtype else f"bias {bias.name!r} is {bias.dtype}, expected {dtype}"


def bias_mantissa(site: Site) -> Verdicts:
    """The biases of a layer are mantissas of {bias.bits} bits behind one left shift."""
    bias, bits = _bias(site), site.target.bias.bits
    if bias is None or bias.data is None:
        return
    codes = [int(c) for c in bias.data.reshape(-1)]
    # The lowest bit that any code sets: what all of them could be shifted by.
    used = reduce(or_, codes, 0)
    unit = used & -used or 1
    lowest, highest = min(codes, default=0), max(codes, default=0)
    kept = -(unit << (bits - 1)) <= lowest and highest < unit << (bits - 1)
    found = f"bias {bias.name!r} holds codes {lowest}..{highest} in steps of {unit}"
    yield "" if kept else f"{found}, expected mantissas of {bits} bits behind one left shift"


def bias_parameters(site: Site) -> Verdicts:
    """A bias has zero point 0 and as many scales as the weights."""
    bias, size = _bias(site), _unit(site).size
    if bias is not None:
        yield "" if _has_parameters(bias, size) else f"bias {bias.name!r} has {bias.quant}, expected {size} scales and zero point 0"


def bias_scale(site: Site) -> Verdicts:
    """A bias's scale is the input's times the weights'."""
    bias, unit = _bias(site), _unit(site)
    if bias is None or not _has_parameters(bias, unit.size):
        return
    # Both factors and the product are float32 in the file: two roundings of 2^-24 each, and TFLite's own check is wider.
    kept = np.allclose(_quant(bias).scale, unit, rtol=1e-6, atol=0)
    yield "" if kept else f"bias {bias.name!r} has another scale than input times weights"


def bias_present(site: Site) -> Verdicts:
    """A layer whose kernels in TFLite need a bias has one."""
    if site.row.needs_bias:
        yield "it has no bias, which TFLite's kernels need" if _bias(site) is None else ""


def shift_multiplier(site: Site) -> Verdicts:
    """What sums are multiplied by is a right shift between {requantizer.shift_range[0]} and {requantizer.shift_range[1]}."""
    lowest, highest = site.target.requantizer.shift_range
    for ratio in np.unique(_unit(site) / float(_quant(site.output).scale[0])):
        mantissa, exponent = frexp(float(ratio))
        kept = mantissa == 0.5 and lowest <= 1 - exponent <= highest
        yield "" if kept else f"its multiplier {float(ratio):.6g} is no right shift between {lowest} and {highest}"


LAYER_RULES: tuple[Rule[Site], ...] = (
    Rule(constant_weights, decisive=True),
    Rule(weight_type),
    Rule(weight_zero_point, lambda target: target.weight.symmetric),
    Rule(weight_range, lambda target: target.weight.symmetric),
    Rule(weight_codebook, lambda target: target.weight.codebook is not None),
    Rule(weight_scales),
    Rule(power_of_two_weights, lambda target: target.weight.scale == "power_of_two"),
    Rule(layer_parameters, decisive=True),
    Rule(bias_type),
    Rule(bias_mantissa, lambda target: target.bias.bits < 32),
    Rule(bias_parameters),
    Rule(bias_scale),
    Rule(bias_present),
    Rule(shift_multiplier, lambda target: target.requantizer.kind == "shift"),
)
"""Checked in this order at every op on the accelerator that has a filter."""


def _weights(site: Site) -> Tensor:
    weights = site.input(site.row.filter)
    assert weights is not None
    return weights


def _bias(site: Site) -> Tensor | None:
    return site.input(site.row.bias)


def _quant(tensor: Tensor) -> QuantParams:
    assert tensor.quant is not None
    return tensor.quant


def _has_parameters(bias: Tensor, size: int) -> bool:
    return bias.quant is not None and not bias.quant.zero_point.any() and bias.quant.scale.size == size


def _unit(site: Site) -> NDArray[np.float64]:
    """What one step of a sum of products is worth: s_in * s_w, one a channel where the weights have one."""
    data = site.input(site.row.data)
    assert data is not None
    return _quant(_weights(site)).scale.astype(np.float64) * float(_quant(data).scale[0])
