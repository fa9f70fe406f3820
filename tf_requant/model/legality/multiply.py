"""CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, TRANSPOSE_CONV: filters, biases and their scales.

Rules measured on LiteRT 2.3.0; where a kernel reads what it does not check (a bias of another width, a
zero point that it takes for granted), the rule is stricter than the interpreter.
"""

from math import prod

from tf_requant.model.graph import Tensor
from tf_requant.model.legality.site import LARGEST_GEOMETRY, Site, one_scale
from tf_requant.model.ops import OPS, Padding

_FILTERS = {"uint8": ("uint8",), "int8": ("int8", "int4"), "int16": ("int8", "int4")}
_INT32_BIAS_TYPE, _INT64_BIAS_TYPE = 2, 4  # TensorType in the schema
_LARGEST_MULTIPLIER = 256.0  # XNNPACK's limit on s_in * s_w / s_out; it fails the whole model above
_BIAS_TOLERANCE = 0.02  # kernel_util.cc: |s_bias - s_in * s_w| / s_out


def conv_2d(site: Site) -> None:
    """Output[n, h, w, o] of input[n, H, W, c * groups] and filter[o, kh, kw, c]."""
    data, filters, output = site.input(0), site.input(1), site.outputs[0]
    _types(site, data, filters, site.inputs[2], filters.shape[:1])
    if not (site.rank(data, 4) and site.rank(filters, 4) and _geometry(site, dilated=True)):
        return
    count, _, _, depth = filters.shape
    groups = data.shape[3] // depth if depth else 0
    fits = depth > 0 and data.shape[3] % depth == 0 and groups > 0 and count % groups == 0
    if fits:
        _windowed(site, output, data, filters.shape[1:3], count)
    else:
        shapes = f"input {list(data.shape)} and filter {list(filters.shape)}"
        site.need(False, f"{shapes} do not fit", "equal channels, or whole groups of them")


def depthwise_conv_2d(site: Site) -> None:
    """Output[n, h, w, c * m] of input[n, H, W, c] and filter[1, kh, kw, c * m]."""
    data, filters, output = site.input(0), site.input(1), site.outputs[0]
    _types(site, data, filters, site.inputs[2], filters.shape[3:])
    if not (site.rank(data, 4) and site.rank(filters, 4) and _geometry(site, dilated=True)):
        return
    if not site.positive("depth_multiplier"):
        return
    expected = (1, *filters.shape[1:3], data.shape[3] * site.number("depth_multiplier"))
    if site.shape(filters, expected):
        _windowed(site, output, data, filters.shape[1:3], filters.shape[3])


def fully_connected(site: Site) -> None:
    """Output[batch, o] of input[..., k] and filter[o, k]; batch gathers what k leaves."""
    data, filters, output = site.input(0), site.input(1), site.outputs[0]
    bias = site.inputs[2] if len(site.inputs) > 2 else None
    _types(site, data, filters, bias, filters.shape[:1])
    site.fused()
    site.need(not site.number("weights_format"), "the weights are shuffled", "the default weights_format")
    if not site.rank(filters, 2):
        return
    units, depth = filters.shape
    size = prod(data.shape)
    shapes = f"input {list(data.shape)} and filter {list(filters.shape)}"
    if not site.need(depth > 0 and len(data.shape) > 0 and size % depth == 0, f"{shapes} do not fit", "equal depth"):
        return
    if not site.number("keep_num_dims"):
        site.shape(output, (size // depth, units))
    elif site.need(data.shape[-1] == depth, f"{shapes} do not fit", "equal depth"):
        site.shape(output, (*data.shape[:-1], units))


def transpose_conv(site: Site) -> None:
    """Output[n, H, W, o], whose convolution with filter[o, kh, kw, c] has the input's [n, h, w, c]."""
    filters, data, output = site.input(1), site.input(2), site.outputs[0]
    bias = site.inputs[3] if len(site.inputs) > 3 else None
    _types(site, data, filters, bias, filters.shape[:1])
    site.dtype(site.input(0), "int32")
    if not (site.rank(data, 4) and site.rank(filters, 4) and site.rank(output, 4) and _geometry(site, dilated=False)):
        return
    declared = site.integers(0)
    if declared is not None and not site.shape(output, declared):
        return
    shapes = f"input {list(data.shape)}, filter {list(filters.shape)} and output {list(output.shape)} do not fit"
    edges = _output_edges(site, output, filters.shape[1:3])
    fits = output.shape[0] == data.shape[0] and filters.shape[3] == data.shape[3] and filters.shape[0] == output.shape[3]
    site.need(fits and edges == list(data.shape[1:3]) and min(output.shape) > 0, shapes, "the shapes of a convolution reversed")


def window_edges(edge: int, window: int, stride: int, dilation: int, padding: int) -> int:
    """The number of output positions along one edge (`ComputeOutSize` in padding.h)."""
    reach = (window - 1) * dilation + 1
    return -(-edge // stride) if padding == Padding.SAME else (edge + stride - reach) // stride


def _geometry(site: Site, dilated: bool) -> bool:
    names = ("stride_w", "stride_h", "dilation_w_factor", "dilation_h_factor") if dilated else ("stride_w", "stride_h")
    padding = site.number("padding")
    if padding not in (0, 1):
        site.need(False, f"padding is {padding}", "0 (SAME) or 1 (VALID)")
        return False
    return site.positive(*names) and site.fused()


def _output_edges(site: Site, data: Tensor, window: tuple[int, ...]) -> list[int]:
    padding, (height, width) = site.number("padding"), data.shape[1:3]
    return [
        window_edges(height, window[0], site.number("stride_h"), site.number("dilation_h_factor") or 1, padding),
        window_edges(width, window[1], site.number("stride_w"), site.number("dilation_w_factor") or 1, padding),
    ]


def _windowed(site: Site, output: Tensor, data: Tensor, window: tuple[int, ...], channels: int) -> None:
    reach = max(window[0] * site.number("dilation_h_factor"), window[1] * site.number("dilation_w_factor"))
    if not (min(window) > 0 and reach < LARGEST_GEOMETRY):
        site.need(False, f"the filter spans {list(window)}, dilated {reach}", "a window of at least 1 by 1")
        return
    edges = _output_edges(site, data, window)
    if min(edges) > 0:
        site.shape(output, (data.shape[0], *edges, channels))
    else:
        site.need(False, f"the filter {list(window)} leaves no output position", "a filter inside the image")


def _types(site: Site, data: Tensor, filters: Tensor, bias: Tensor | None, channels: tuple[int, ...]) -> None:
    """Types, parameters and lengths of a family: data and output, filter, bias."""
    output, width = site.outputs[0], site.number("quantized_bias_type")
    if width not in (0, _INT32_BIAS_TYPE, _INT64_BIAS_TYPE):
        site.need(False, f"quantized_bias_type is {width}", "0, 2 (int32) or 4 (int64)")
    if bias is not None and bias.shape != channels and (prod(bias.shape[:-1]) != 1 or bias.shape[-1:] != channels):
        site.need(False, f"bias {bias.name!r} has shape {list(bias.shape)}", f"{list(channels)}, the output channels")
    if data.dtype == "float32":
        if filters.dtype == "float32" and bias is not None:
            site.dtype(bias, "float32")
        site.dtype(output, "float32")
        return
    if not (site.dtype(data, *_FILTERS) and site.dtype(filters, *_FILTERS[data.dtype])):
        return
    whole = site.same_dtype(data, output) & site.quantized(data, output) & _filter_params(site, data, filters, channels)
    if not whole:
        return
    site.symmetric_int16(data, output)
    if bias is not None:
        _bias(site, data, filters, bias)
    _multiplier(site, data, filters)


def _filter_params(site: Site, data: Tensor, filters: Tensor, channels: tuple[int, ...]) -> bool:
    quant = filters.quant
    if quant is None:
        return site.need(False, f"filter {filters.name!r} carries no scale", "a scale and zero point")
    axis = OPS[site.op.code].channel_axis
    if quant.per_channel:
        rule = "one scale" if data.dtype == "uint8" else f"one scale, or one for each output channel along axis {axis}"
        legal = data.dtype != "uint8" and quant.axis == axis and (quant.scale.size,) == channels
        if not site.need(legal, f"filter {filters.name!r} has {quant.scale.size} scales along axis {quant.axis}", rule):
            return False
    offset = bool(quant.zero_point[0]) or (quant.per_channel and bool(quant.zero_point.any()))
    asymmetric = data.dtype == "uint8" or (site.op.code == "FULLY_CONNECTED" and not quant.per_channel)
    if asymmetric or not offset:
        return True
    return site.need(False, f"filter {filters.name!r} of type {filters.dtype} has a zero point", "zero point 0")


def _bias(site: Site, data: Tensor, filters: Tensor, bias: Tensor) -> None:
    width = site.number("quantized_bias_type")
    expected = "int32"
    if data.dtype == "int16" and (site.op.code == "DEPTHWISE_CONV_2D" or width != _INT32_BIAS_TYPE):
        expected = "int64"
    if not site.dtype(bias, expected):
        return
    number = {"int32": _INT32_BIAS_TYPE, "int64": _INT64_BIAS_TYPE}[expected]
    if width not in (0, number):
        site.need(False, f"quantized_bias_type is {width}", f"0 or {number} for an {expected} bias")
    checked = data.dtype == "uint8" or site.op.code == "FULLY_CONNECTED"
    if not checked or filters.quant is None or filters.quant.per_channel or data.quant is None:
        return
    product, stored = float(data.quant.scale[0] * filters.quant.scale[0]), one_scale(bias)
    if abs(product - stored) > _BIAS_TOLERANCE * one_scale(site.outputs[0]):
        expected = f"input scale times filter scale, {product:.6g}"
        site.need(False, f"bias {bias.name!r} has scale {stored:.6g}", expected)


def _multiplier(site: Site, data: Tensor, filters: Tensor) -> None:
    output = site.outputs[0]
    if data.quant is None or filters.quant is None or output.quant is None:
        return
    weight = filters.quant.scale.max() if filters.quant.per_channel else filters.quant.scale[0]
    largest = one_scale(data) * float(weight) / one_scale(output)
    limit = _LARGEST_MULTIPLIER if data.dtype != "int16" else 2.0**30
    if not largest < limit:
        got = f"input scale times filter scale over output scale is {largest:.6g}"
        site.need(False, got, f"less than {limit:g}", "widen the output's scale")
