"""DEPTHWISE_CONV_2D: each output channel sums the window of one input channel; any channel multiplier."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry
from tf_requant.model.graph import Tensor
from tf_requant.numerics.output_stage import BLOCK
from tf_requant.simulator.filters import bias_codes, filter_codes, geometry, layer_of, operands, stage_of
from tf_requant.simulator.mac import Layer
from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one DEPTHWISE_CONV_2D: filter [1, rows, columns, inputs * multiplier]."""
    data, weights, bias = operands(site, bias=2)
    geometry_of = geometry(site)
    prepared = _layer(site, weights, bias, data) if weights.data is not None else None

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        image, kernel = arrays[0], arrays[1]
        ready = prepared or _layer(site, weights.with_(data=kernel), bias, data)
        return [convolve(image, ready, geometry_of(image.shape, (kernel.shape[1], kernel.shape[2])))]

    return run


def _layer(site: Site, weights: Tensor, bias: Tensor | None, data: Tensor) -> Layer:
    codes = filter_codes(weights, 3)
    outputs = codes.shape[3]
    if outputs % data.shape[3]:
        raise CannotRun(f"its filter has {outputs} channels, no multiple of the image's {data.shape[3]}")
    part = codes.reshape(-1, 1, outputs)
    stage = stage_of(site, data, weights, bias)
    return layer_of(site, part, bias_codes(bias, outputs), stage, "" if bias is None else bias.dtype, data)


def convolve(codes: NDArray[Any], layer: Layer, geometry: Geometry) -> NDArray[Any]:
    """The integer core.

    Args:
        codes: [N, H, W, inputs].
        layer: filter [taps, 1, inputs * multiplier]; output channel i * multiplier + j reads input channel i.
        geometry: where the window falls.

    Returns:
        codes [N, rows, columns, inputs * multiplier].
    """
    outputs = layer.weights.filter.shape[2]
    result = np.empty((codes.shape[0], *geometry.output, outputs), layer.stage.dtype)
    for image, out in zip(codes, result):
        wide = image if image.shape[2] == outputs else np.repeat(image, outputs // image.shape[2], axis=2)
        _image(wide, layer, geometry, out)
    return result


def _image(codes: NDArray[Any], layer: Layer, geometry: Geometry, out: NDArray[Any]) -> None:
    """One image, by blocks of rows: every tap is one multiply and one add of whole rows."""
    rows, columns = geometry.output
    channels, lane = out.shape[2], out.shape[1] * out.shape[2]
    if layer.fast is not None:
        padded = geometry.pad(codes, layer.weights.pad, codes.dtype)
        layer.fast.depthwise(padded, layer.weights.filter[:, 0].astype(np.int32), geometry, layer.screen, out)
        return
    dtype = np.int64 if layer.ordered else layer.precision
    padded = geometry.pad(codes, layer.weights.pad, codes.dtype)
    taps = layer.weights.filter[:, 0]
    # Weights laid along a whole row, so that the innermost loop is long even for few channels.
    weights = np.tile(taps.astype(dtype), (1, columns))
    step = max(1, BLOCK // lane)
    total, product = np.empty((step, lane), dtype), np.empty((step, lane), dtype)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        # Only these rows leave the codes' own type.
        phases = _phases(geometry.slab(padded, start, count).astype(dtype), geometry.stride[1])
        target = out[start : start + count].reshape(-1, channels)
        if layer.ordered:
            every = [_tap(phases, geometry, t, count).reshape(-1) for t in range(len(taps))]
            _ordered(np.stack(every, axis=1), layer, target)
            continue
        for t, row in enumerate(weights):
            part = _tap(phases, geometry, t, count).reshape(count, lane)
            np.multiply(part, row, out=product[:count] if t else total[:count])
            if t:
                np.add(total[:count], product[:count], out=total[:count])
        layer.finish(total[:count].reshape(-1, channels), target)
    layer.settle()


def _phases(padded: NDArray[Any], stride: int) -> list[NDArray[Any]]:
    """The image's columns by their remainder modulo the stride, so that a tap's columns lie side by side."""
    return [padded] if stride == 1 else [np.ascontiguousarray(padded[:, p::stride]) for p in range(stride)]


def _tap(phases: list[NDArray[Any]], geometry: Geometry, tap: int, count: int) -> NDArray[Any]:
    """What one tap sees in the output rows of a slab: a view [count, columns * channels]."""
    row, column = divmod(tap, geometry.kernel[1])
    (down, right), (dilate_rows, dilate_columns) = geometry.stride, geometry.dilation
    offset, phase = divmod(column * dilate_columns, right)
    source = phases[phase]
    first = row * dilate_rows
    lines = source.reshape(source.shape[0], -1)[first : first + (count - 1) * down + 1 : down]
    channels = source.shape[2]
    return lines[:, offset * channels : (offset + geometry.output[1]) * channels]


def _ordered(windows: NDArray[Any], layer: Layer, out: NDArray[Any]) -> None:
    """Registers that overflow on the way: windows [n * channels, taps]."""
    channels, taps = out.shape[1], layer.weights.filter[:, 0]

    def product(step: int) -> NDArray[np.int64]:
        return np.asarray((windows[:, step] - layer.weights.zero_point) * np.tile(taps[step], len(windows) // channels))

    held = layer.in_order(product, (windows.shape[0],))
    layer.finish_exact(layer.add(held.reshape(-1, channels), layer.weights.bias), out)
