"""Ops that compute on codes: sums, products, reductions, activations, changes of type."""

from math import frexp

from tf_requant.model.graph import Tensor
from tf_requant.model.legality.site import Site, broadcast, one_scale
from tf_requant.model.ops import OPS

_CODES = ("uint8", "int8", "int16")
_LARGEST_FACTOR = 2.0**127  # float32; kernels shift further than 31 places without complaint
_HEADROOM = {"uint8": 20, "int8": 20, "int16": 15}  # left shift of ADD's and SUB's inputs
_MOST_BROADCAST_DIMENSIONS = 4
_FINER = "widen the output's scale"
_QUANTIZE = {
    "float32": ("uint8", "int8", "int16"),
    "uint8": ("uint8", "int8"),
    "int8": ("uint8", "int8", "int16"),
    "int16": ("int8", "int16", "int32"),
    "int32": ("int8", "int16"),
}


def add(site: Site) -> None:
    """ADD and SUB: the inputs share a scale of twice the larger one, shifted left into the headroom."""
    first, second, output = site.input(0), site.input(1), site.outputs[0]
    if not _elementwise(site, (*_CODES, "float32", "int32", "int64")) or output.dtype not in _CODES:
        return
    larger, scale = max(one_scale(first), one_scale(second)), one_scale(output)
    shifted = 2.0 ** _HEADROOM[output.dtype] * scale
    near = 2 * larger < shifted < _LARGEST_FACTOR and larger < _LARGEST_FACTOR / 2
    site.need(near, f"the inputs' scale {larger:.6g} and the output's {scale:.6g} differ too much", "closer ones", _FINER)
    powers = [_exponent(one_scale(t)) for t in (first, second, output)]
    if output.dtype == "int16" and site.op.attrs.get("pot_scale_int16", True) and None not in powers:
        a, b, y = powers
        aligned = a is not None and b is not None and y is not None and max(a, b) <= y and y in (a, b)
        site.need(aligned, f"scales are 2^{powers}", "one input with the output's scale and none above it", _FINER)


def _exponent(scale: float) -> int | None:
    mantissa, exponent = frexp(scale)
    return exponent - 1 if mantissa == 0.5 else None


def mul(site: Site) -> None:
    """The product rescaled by s1 * s2 / s_out."""
    first, second, output = site.input(0), site.input(1), site.outputs[0]
    if _elementwise(site, (*_CODES, "float32", "int32", "int64")) and output.dtype in _CODES:
        _rescale(site, one_scale(first) * one_scale(second))


def maximum(site: Site) -> None:
    """MAXIMUM and MINIMUM compare raw codes."""
    _elementwise(site, (*_CODES, "float32", "int32", "int64"))


def _elementwise(site: Site, dtypes: tuple[str, ...]) -> bool:
    first, second, output = site.input(0), site.input(1), site.outputs[0]
    sound = site.dtype(first, *dtypes) and site.same_dtype(first, second, output)
    sound = sound and site.quantized(first, second, output) and site.fused()
    if site.op.code not in ("MAXIMUM", "MINIMUM"):
        sound = sound and site.symmetric_int16(first, second, output)
    shape = broadcast(first.shape, second.shape)
    shapes = f"inputs of shape {list(first.shape)} and {list(second.shape)}"
    if not site.need(shape is not None, shapes, "shapes that broadcast") or shape is None:
        return False
    low = first.shape == second.shape or len(shape) <= _MOST_BROADCAST_DIMENSIONS
    site.need(low, shapes, f"broadcasting in at most {_MOST_BROADCAST_DIMENSIONS} dimensions")
    return site.shape(output, shape) and sound


def _rescale(site: Site, scale: float) -> bool:
    """Whether scale / s_out can be coded as a multiplier and a shift."""
    output = one_scale(site.outputs[0])
    ratio = scale / output if output else 0.0
    return site.need(0 < ratio < _LARGEST_FACTOR, f"the rescale is by {ratio:.6g}", "a factor that float32 holds", _FINER)


def activation(site: Site) -> None:
    """An op that maps each code by itself: RELU, RELU6, LOGISTIC, HARD_SWISH and their like."""
    data, output = site.input(0), site.outputs[0]
    row_types = _CODES if site.op.code not in _EIGHT_BIT_ONLY else _CODES[:2]
    sound = site.dtype(data, *row_types, "float32") and site.same_dtype(data, output) and site.quantized(data, output)
    site.shape(output, data.shape)
    if not sound or data.dtype == "float32":
        return
    site.symmetric_int16(data, output)
    if site.op.code == "LEAKY_RELU":
        _rescale(site, one_scale(data))
        alpha = abs(float(site.op.attrs.get("alpha") or 0.0))
        site.need(alpha * one_scale(data) < _LARGEST_FACTOR * one_scale(output), f"alpha is {alpha}", "a smaller slope")
    elif site.op.code == "HARD_SWISH":
        ratio = one_scale(data) / one_scale(output)
        site.need(ratio < 128, f"input scale over output scale is {ratio:.6g}", "less than 128", _FINER)
    elif OPS[site.op.code].rule != "fixed":
        _rescale(site, one_scale(data))


_EIGHT_BIT_ONLY = ("HARD_SWISH", "RELU_N1_TO_1", "L2_NORMALIZATION", "LOG_SOFTMAX")


def normalization(site: Site) -> None:
    """SOFTMAX, LOG_SOFTMAX, L2_NORMALIZATION: along the last axis."""
    data = site.input(0)
    activation(site)
    highest = 4 if site.op.code != "LOG_SOFTMAX" else 6
    site.rank(data, *range(1, highest + 1))
    if site.op.code == "L2_NORMALIZATION":
        site.fused(allowed=(0,))
        return
    beta = float(site.op.attrs.get("beta") or 0.0) if site.op.code == "SOFTMAX" else 1.0
    if site.op.code == "SOFTMAX":
        site.need(0 < beta < float("inf"), f"beta is {beta}", "a positive number")
    if data.dtype in _CODES[:2] and data.quant is not None:
        gain = beta * one_scale(data) * 2**26
        site.need(gain > 1, f"beta times the input scale is {gain / 2**26:.3g}", "more than 2^-26", "widen the input's scale")


def prelu(site: Site) -> None:
    """Negative inputs times alpha, which broadcasts to the input."""
    data, alpha, output = site.input(0), site.input(1), site.outputs[0]
    sound = site.dtype(data, *_CODES[:2], "float32") and site.same_dtype(data, alpha, output)
    sound = sound and site.quantized(data, alpha, output)
    fits = broadcast(data.shape, alpha.shape) == data.shape and len(data.shape) <= _MOST_BROADCAST_DIMENSIONS
    site.need(fits, f"alpha has shape {list(alpha.shape)}", f"one that broadcasts to the input's {list(data.shape)}")
    site.shape(output, data.shape)
    if sound and data.dtype != "float32" and _rescale(site, one_scale(data)):
        _rescale(site, one_scale(data) * one_scale(alpha))


def reduce(site: Site) -> None:
    """MEAN, REDUCE_MAX and REDUCE_MIN over constant axes."""
    data, output = site.input(0), site.outputs[0]
    sound = site.dtype(data, *_CODES, "float32", "int32", "int64") and site.same_dtype(data, output)
    if data.dtype in _CODES and sound and site.quantized(data, output):
        if site.op.code == "MEAN":
            site.symmetric_int16(data, output)
            _rescale(site, one_scale(data))
        else:
            site.same_params(data, output)
    site.dtype(site.input(1), "int32")
    axes, rank = site.integers(1), len(data.shape)
    if axes is None:
        return
    bad = [a for a in axes if not -rank <= a < rank]
    if site.need(not bad, f"axes are {axes}", f"each from -{rank} to {rank - 1}"):
        reduced = {a % rank for a in axes}
        keep = bool(site.number("keep_dims"))
        site.shape(output, [1 if i in reduced else d for i, d in enumerate(data.shape) if keep or i not in reduced])


def arg_max(site: Site) -> None:
    """ARG_MAX and ARG_MIN: the index along one axis, int32 or int64 as `output_type` says."""
    data, output = site.input(0), site.outputs[0]
    site.dtype(data, *_CODES[:2], "float32", "int32", "bool")
    kind = site.number("output_type")
    if site.need(kind in (2, 4), f"output_type is {kind}", "2 (int32) or 4 (int64)"):
        site.dtype(output, "int32" if kind == 2 else "int64")
    site.dtype(site.input(1), "int32", "int64")
    axes = site.integers(1, "int32", "int64")
    if axes is None or not site.need(len(axes) == 1 and data.size > 0, f"axes are {axes}", "one axis"):
        return
    axis = site.axis(axes[0], len(data.shape))
    if axis is not None:
        site.shape(output, data.shape[:axis] + data.shape[axis + 1 :])


def quantize(site: Site) -> None:
    """Float to codes, or codes to codes of other parameters."""
    data, output = site.input(0), site.outputs[0]
    site.shape(output, data.shape)
    if not (site.dtype(data, *_QUANTIZE) and site.dtype(output, *_QUANTIZE[data.dtype])):
        return
    if data.dtype == "float32" and output.quant is not None and output.quant.per_channel:
        return
    scaled: list[Tensor] = [t for t in (data, output) if t.dtype != "float32"]
    missing = [t.name for t in scaled if t.quant is None]
    if not site.need(not missing, f"{missing} carry no scale", "a scale and zero point") or not site.quantized(*scaled):
        return
    if data.dtype != "float32":
        site.symmetric_int16(data, output)
        _rescale(site, one_scale(data))


def dequantize(site: Site) -> None:
    """Codes (or float16 constants) to float32."""
    data, output = site.input(0), site.outputs[0]
    site.shape(output, data.shape)
    site.dtype(output, "float32")
    if site.dtype(data, *_CODES, "int4", "float16", "int32") and data.dtype != "float16":
        site.need(data.quant is not None, f"{data.name!r} carries no scale", "a scale and zero point")
        site.symmetric_int16(data)
