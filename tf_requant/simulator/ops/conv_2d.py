"""CONV_2D: a window's products summed over rows, columns and input channels; grouped where the filter is narrower."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.ops import Padding
from tf_requant.model.quant import code_limits
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.simulator.geometry import Geometry, dilations, strides
from tf_requant.simulator.mac import Layer, Weights, register_of
from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site, point, quant_of, scale


def prepare(site: Site) -> Kernel:
    """The kernel of one CONV_2D: filter [outputs, rows, columns, inputs]."""
    data, weights, bias = operands(site, bias=2)
    geometry_of = geometry(site)
    layers = _groups(site, weights, bias, data) if weights.data is not None else None

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        image, kernel = arrays[0], arrays[1]
        groups = layers or _groups(site, weights.with_(data=kernel), bias, data)
        return [convolve(image, groups, geometry_of(image.shape, (kernel.shape[1], kernel.shape[2])))]

    return run


def convolve(codes: NDArray[Any], groups: list[Layer], geometry: Geometry) -> NDArray[Any]:
    """The integer core.

    Args:
        codes: [N, H, W, inputs].
        groups: one layer for each group of channels, each with filter [taps, inputs / groups, outputs / groups].
        geometry: where the window falls.

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
            if len(groups) == 1:
                _image(part, layer, geometry, out)
            else:
                whole = np.empty((rows, columns, last - first), out.dtype)
                _image(part, layer, geometry, whole)
                out[:, :, first:last] = whole
            first = last
    return result


def _image(codes: NDArray[Any], layer: Layer, geometry: Geometry, out: NDArray[Any]) -> None:
    """One image and one group, by blocks of rows: [H, W, inputs] -> [rows, columns, outputs]."""
    rows, columns = geometry.output
    outputs = out.shape[2]
    dtype = layer.weights.dtype if layer.stepwise else layer.precision
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


def layer(
    site: Site,
    filter_: NDArray[np.int16],
    bias: NDArray[np.int64],
    stage: OutputStage,
    bias_dtype: str,
    data: Tensor,
    turned: bool = False,
) -> Layer:
    """A layer of this op.

    Args:
        site: the op.
        filter_: int16[taps, inputs, outputs], zero point off.
        bias: int64[outputs].
        stage: the output stage of those outputs.
        bias_dtype: of the bias tensor, "" without one.
        data: the image's tensor.
        turned: whether the taps are a transposed convolution's, in reverse; outside its image there is nothing.
    """
    pad = 0 if site.arithmetic.pad == "zero" and not turned else point(data)
    low, high = code_limits(data.dtype)
    weights = Weights(filter_, bias, point(data), min(max(pad, low), high), data.dtype, turned)
    return Layer(weights, stage, register_of(site.arithmetic.accumulator, bias_dtype), site.observation, site.fast)


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
            layer(site, part, biases[chosen], channels(stage, chosen), "" if bias is None else bias.dtype, data)
        )
    return result


def channels(stage: OutputStage, chosen: NDArray[np.int64]) -> OutputStage:
    """The output stage of some channels."""
    return replace(stage, rescale=stage.rescale.channels(chosen))


def operands(site: Site, bias: int, data: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
    """(image, filter, bias), their types checked.

    Raises:
        CannotRun: TFLite has no such kernel.
    """
    image, weights, addend = site.input(data), site.input(1), site.optional(bias)
    site.codes(image, site.output())
    expected = "uint8" if image.dtype == "uint8" else "int8"
    if weights.dtype != expected:
        raise CannotRun(f"the filter {weights.name!r} is {weights.dtype}; {image.dtype} codes take {expected}")
    quant_of(weights)
    if addend is not None and addend.dtype not in (("int32", "int64") if image.dtype == "int16" else ("int32",)):
        raise CannotRun(f"the bias {addend.name!r} is {addend.dtype}")
    if addend is not None and addend.data is None:
        raise CannotRun(f"the bias {addend.name!r} is computed at run time")
    return image, weights, addend


def geometry(site: Site) -> Any:
    """(image shape, (kernel rows, columns)) -> Geometry."""
    op = site.op

    def of(image: tuple[int, ...], kernel: tuple[int, int]) -> Geometry:
        return Geometry.of((image[1], image[2]), kernel, strides(op), dilations(op), Padding(op.attrs["padding"]))

    return of


def filter_codes(weights: Tensor, axis: int) -> NDArray[np.int16]:
    """The filter's codes minus its zero points (per channel of `axis`), int16 of its shape."""
    quant = quant_of(weights)
    points = quant.zero_point
    if points.size > 1:
        shape = [1] * len(weights.shape)
        shape[axis] = -1
        points = points.reshape(shape)
    return np.asarray(np.asarray(weights.data).astype(np.int16) - points.astype(np.int16))


def bias_codes(bias: Tensor | None, outputs: int) -> NDArray[np.int64]:
    """The bias, int64[outputs]; zeros without one."""
    if bias is None or bias.data is None:
        return np.zeros(outputs, np.int64)
    return bias.data.reshape(-1).astype(np.int64)


def stage_of(site: Site, data: Tensor, weights: Tensor, bias: Tensor | None) -> OutputStage:
    """The output stage: M = s_in * s_w[c] / s_out by the requantizer of these types."""
    rule = site.requantizer(data, bias)
    return site.stage(site.rescale((scale(data), quant_of(weights).scale), scale(site.output()), rule))
