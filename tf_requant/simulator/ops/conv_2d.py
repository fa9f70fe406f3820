"""CONV_2D: a window's products summed over rows, columns and input channels; grouped where the filter is narrower."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry, dilations, strides
from tf_requant.model.graph import Tensor
from tf_requant.simulator.filters import bias_codes, channels, filter_codes, geometry, layer_of, operands, stage_of
from tf_requant.simulator.mac import Layer
from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site
from tf_requant.simulator.winograd import Winograd


def prepare(site: Site) -> Kernel:
    """The kernel of one CONV_2D: filter [outputs, rows, columns, inputs]."""
    data, weights, bias = operands(site, bias=2)
    geometry_of = geometry(site)
    layers = _groups(site, weights, bias, data) if weights.data is not None else None
    transformed = [Winograd(layer) for layer in layers] if layers is not None and _in_tiles(site, weights) else None

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        image, kernel = arrays[0], arrays[1]
        groups = layers or _groups(site, weights.with_(data=kernel), bias, data)
        return [convolve(image, groups, geometry_of(image.shape, (kernel.shape[1], kernel.shape[2])), transformed)]

    return run


def _in_tiles(site: Site, weights: Tensor) -> bool:
    """Whether the device computes this one by Winograd's transform; of a filter that is computed itself it has none."""
    square = weights.shape[1:3] == (3, 3) and strides(site.op) == (1, 1) and dilations(site.op) == (1, 1)
    return site.arithmetic.winograd is not None and square


def convolve(
    codes: NDArray[Any], groups: list[Layer], geometry: Geometry, transformed: Sequence[Winograd] | None = None
) -> NDArray[Any]:
    """The integer core.

    Args:
        codes: [N, H, W, inputs].
        groups: one layer for each group of channels, each with filter [taps, inputs / groups, outputs / groups].
        geometry: where the window falls.
        transformed: the groups' transforms, where they are computed in tiles.

    Returns:
        codes [N, rows, columns, outputs].
    """
    rows, columns = geometry.output
    outputs = sum(g.weights.filter.shape[2] for g in groups)
    result = np.empty((codes.shape[0], rows, columns, outputs), groups[0].stage.dtype)
    for image, out in zip(codes, result):
        first = 0
        for number, layer in enumerate(groups):
            width = layer.weights.filter.shape[1]
            part = image if len(groups) == 1 else image[:, :, number * width : (number + 1) * width]
            last = first + layer.weights.filter.shape[2]
            whole = out if len(groups) == 1 else np.empty((rows, columns, last - first), out.dtype)
            if transformed is not None:
                transformed[number].image(part, geometry, whole)
            else:
                _image(part, layer, geometry, whole)
            if whole is not out:
                out[:, :, first:last] = whole
            first = last
    return result


def _image(codes: NDArray[Any], layer: Layer, geometry: Geometry, out: NDArray[Any]) -> None:
    """One image and one group, by blocks of rows: [H, W, inputs] -> [rows, columns, outputs]."""
    rows, columns = geometry.output
    outputs = out.shape[2]
    dtype = layer.weights.dtype if layer.ordered else layer.precision
    if geometry.kernel == (1, 1) and geometry.stride == (1, 1) and codes.shape[:2] == geometry.output:
        flat, width = codes.reshape(rows * columns, -1), codes.shape[2]
        step = layer.rows(width, outputs)
        target = out.reshape(-1, outputs)
        for start in range(0, flat.shape[0], step):
            layer.from_windows(flat[start : start + step].astype(dtype), target[start : start + step])
        layer.settle()
        return
    padded = geometry.pad(codes, layer.weights.pad, codes.dtype)
    depth = geometry.kernel[0] * geometry.kernel[1] * codes.shape[2]
    step = max(1, layer.rows(depth, outputs) // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        # Only these rows leave the codes' own type.
        block = geometry.windows(geometry.slab(padded, start, count).astype(dtype), count)
        layer.from_windows(block.reshape(-1, depth), out[start : start + count].reshape(-1, outputs))
    layer.settle()


def _groups(site: Site, weights: Tensor, bias: Tensor | None, data: Tensor) -> list[Layer]:
    """The layers of a filter [outputs, rows, columns, inputs]."""
    codes = filter_codes(weights, 0)
    outputs, inputs = codes.shape[0], codes.shape[3]
    depth = data.shape[3]
    if depth % inputs or outputs % (depth // inputs):
        raise CannotRun(f"{depth} image channels and a filter of {outputs} by {inputs} channels make no groups")
    count = depth // inputs
    each = outputs // count
    stage = stage_of(site, data, weights, bias)
    biases = bias_codes(bias, outputs)
    result = []
    for group in range(count):
        chosen = np.arange(group * each, (group + 1) * each)
        part = codes[chosen].transpose(1, 2, 3, 0).reshape(-1, inputs, each)
        result.append(
            layer_of(site, part, biases[chosen], channels(stage, chosen), "" if bias is None else bias.dtype, data)
        )
    return result
