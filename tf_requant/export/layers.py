"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED, from the layers that the simulator makes of them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tf_requant.export import rescales
from tf_requant.export.kinds import (
    NONE,
    Accumulator,
    Check,
    Convolution,
    DepthwiseConvolution,
    FullyConnected,
    Kind,
    Layer,
    Overflow,
    TransposeConvolution,
    Window,
)
from tf_requant.model.geometry import Geometry, strides
from tf_requant.model.graph import Tensor
from tf_requant.model.ops import Padding
from tf_requant.model.quant import INT_BITS
from tf_requant.numerics.integers import limits, signed_bits
from tf_requant.simulator import mac
from tf_requant.simulator.filters import bias_codes, filter_codes, geometry, layer_of, operands, stage_of
from tf_requant.simulator.site import CannotRun, Site

Layered = Convolution | DepthwiseConvolution | TransposeConvolution | FullyConnected


def convolution(site: Site) -> Convolution:
    """CONV_2D."""
    data, weights, bias = _constants(site)
    outputs, rows, columns, inputs = weights.shape
    taps = filter_codes(weights, 0).transpose(1, 2, 3, 0).reshape(-1, inputs, outputs)
    return Convolution(_window(site, data, (rows, columns)), data.shape[3] // inputs, _layer(site, taps, data, weights, bias))


def depthwise(site: Site) -> DepthwiseConvolution:
    """DEPTHWISE_CONV_2D."""
    data, weights, bias = _constants(site)
    _, rows, columns, outputs = weights.shape
    taps = filter_codes(weights, 3).reshape(-1, 1, outputs)
    layer = _layer(site, taps, data, weights, bias)
    return DepthwiseConvolution(_window(site, data, (rows, columns)), outputs // data.shape[3], layer)


def transposed(site: Site) -> TransposeConvolution:
    """TRANSPOSE_CONV."""
    data, weights, bias = _constants(site, data=2, bias=3)
    outputs, rows, columns, inputs = weights.shape
    # Where the forward convolution's window falls on what is the output here.
    size, padding = site.output().shape[1:3], Padding(site.attrs["padding"])
    forward = Geometry.of((size[0], size[1]), (rows, columns), strides(site.op), padding=padding)
    taps = filter_codes(weights, 0).transpose(1, 2, 3, 0).reshape(-1, inputs, outputs)
    return TransposeConvolution(rescales.window(forward), _layer(site, taps, data, weights, bias, turned=True))


def fully_connected(site: Site) -> FullyConnected:
    """FULLY_CONNECTED."""
    data, weights, bias = _constants(site)
    return FullyConnected(_layer(site, filter_codes(weights, 0).T[None], data, weights, bias))


def with_mantissas(kind: Kind, site: Site, bits: int) -> Kind:
    """A layer as a device with biases of fewer bits stores it: mantissas behind the smallest shift that holds them all."""
    if not isinstance(kind, Layered) or bits >= kind.layer.bias_bits:
        return kind
    bias = None if kind.layer.bias == NONE else site.graph.tensors[kind.layer.bias]
    codes = bias_codes(bias, 0 if bias is None else bias.size)
    low, high = limits(bits)
    for shift in range(kind.layer.bias_bits):
        mantissas = codes >> shift
        if mantissas.min(initial=0) >= low and mantissas.max(initial=0) <= high:
            if (mantissas << shift != codes).any():
                break
            return replace(kind, layer=replace(kind.layer, bias_shift=shift, bias_bits=bits))
    return kind


def _constants(site: Site, data: int = 0, bias: int = 2) -> tuple[Tensor, Tensor, Tensor | None]:
    image, weights, addend = operands(site, bias=bias, data=data)
    if weights.data is None:
        raise CannotRun(f"its filter {weights.name!r} is computed at run time")
    return image, weights, addend


def _window(site: Site, data: Tensor, kernel: tuple[int, int]) -> Window:
    return rescales.window(geometry(site)(data.shape, kernel))


def _layer(
    site: Site, taps: NDArray[np.int16], data: Tensor, weights: Tensor, bias: Tensor | None, turned: bool = False
) -> Layer:
    dtype = "" if bias is None else bias.dtype
    stage = stage_of(site, data, weights, bias)
    source = layer_of(site, taps, bias_codes(bias, taps.shape[2]), stage, dtype, data, turned)
    filter_, addend = site.op.inputs[1], NONE if bias is None else site.op.inputs[3 if turned else 2]
    return Layer(
        filter_, addend, 0, INT_BITS[dtype or "int32"], source.weights.pad, _accumulator(source), rescales.output(stage)
    )


def _accumulator(layer: mac.Layer) -> Accumulator:
    register, worst = layer.accumulator, layer.weights.worst_case
    overflow, check = Overflow(register.overflow), Check(register.when)
    return Accumulator(register.bits, overflow, check, register.output_bits or 0, signed_bits(-worst, worst))
