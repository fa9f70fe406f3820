"""What the four ops with a filter share: operands, geometry, output stage, and the layer that they make."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry, dilations, strides
from tf_requant.model.graph import Tensor
from tf_requant.model.ops import Padding
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.simulator.mac import Layer, Weights, register_of
from tf_requant.simulator.site import CannotRun, Site, narrow_width, point, quant_of, scale


def layer_of(
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
    weights = Weights(filter_, bias, point(data), pad, data.dtype, turned, narrow_width(data, site.arithmetic))
    return Layer(weights, stage, register_of(site.arithmetic.accumulator, bias_dtype), site.observation, site.fast)


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


def geometry(site: Site) -> Callable[[tuple[int, ...], tuple[int, int]], Geometry]:
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
