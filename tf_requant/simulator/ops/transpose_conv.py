"""TRANSPOSE_CONV: every input spreads the filter over the output; a convolution of the image with gaps in it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry, strides
from tf_requant.model.graph import Tensor
from tf_requant.model.ops import Padding
from tf_requant.simulator.filters import bias_codes, filter_codes, layer_of, operands, stage_of
from tf_requant.simulator.mac import Layer
from tf_requant.simulator.ops.conv_2d import convolve
from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one TRANSPOSE_CONV: inputs (output shape, filter [outputs, rows, columns, inputs], image, bias)."""
    data, weights, bias = operands(site, bias=3, data=2)
    if weights.data is None:
        raise CannotRun(f"the filter {weights.name!r} is computed at run time")
    ready = _layer(site, weights, bias, data)
    kernel = (weights.shape[1], weights.shape[2])
    stride, padding = strides(site.op), Padding(site.attrs["padding"])

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        shape, image = arrays[0], arrays[2]
        return [spread(image, ready, kernel, stride, padding, (int(shape[1]), int(shape[2])))]

    return run


def _layer(site: Site, weights: Tensor, bias: Tensor | None, data: Tensor) -> Layer:
    # Read backwards, the taps that reach an output lie in the order of a convolution's window.
    turned = filter_codes(weights, 0)[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    part = turned.reshape(-1, turned.shape[2], turned.shape[3])
    stage = stage_of(site, data, weights, bias)
    return layer_of(
        site, part, bias_codes(bias, part.shape[2]), stage, "" if bias is None else bias.dtype, data, turned=True
    )


def spread(
    codes: NDArray[Any],
    layer: Layer,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding | tuple[int, int],
    size: tuple[int, int],
) -> NDArray[Any]:
    """The integer core.

    Args:
        codes: [N, H, W, inputs].
        layer: filter [taps, inputs, outputs], turned by half a turn.
        kernel: the taps, (rows, columns).
        stride: how far apart neighbouring inputs spread.
        padding: which part of the spread image is kept: TFLite's rule for the forward convolution, or the rows and
            columns cut off ahead.
        size: the output's (rows, columns).

    Returns:
        codes [N, rows, columns, outputs].
    """
    batch, height, width, inputs = codes.shape
    forward = Geometry.of(size, kernel, stride, padding=padding)
    # Gaps hold the zero point, which adds nothing.
    edges = ((height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1)
    spaced = np.full((batch, *edges, inputs), layer.weights.zero_point, codes.dtype)
    spaced[:, :: stride[0], :: stride[1]] = codes
    ahead = (kernel[0] - 1 - forward.before[0], kernel[1] - 1 - forward.before[1])
    # A filter smaller than its crop reads nothing of the first inputs.
    spaced = spaced[:, max(-ahead[0], 0) :, max(-ahead[1], 0) :]
    geometry = Geometry.of(spaced.shape[1:3], kernel, padding=(max(ahead[0], 0), max(ahead[1], 0)), output=size)
    return convolve(spaced, [layer], geometry)
