"""FULLY_CONNECTED: every output sums all inputs; the leading dimensions are a batch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.simulator.filters import bias_codes, filter_codes, layer_of, operands, stage_of
from tf_requant.simulator.mac import Layer
from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one FULLY_CONNECTED: filter [outputs, inputs]."""
    data, weights, bias = operands(site, bias=2)
    if site.attrs.get("weights_format", 0):
        raise CannotRun("its weights are shuffled; expected the default format")
    keep = bool(site.attrs.get("keep_num_dims", False))
    prepared = _layer(site, weights, bias, data) if weights.data is not None else None

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, kernel = arrays[0], arrays[1]
        ready = prepared or _layer(site, weights.with_(data=kernel), bias, data)
        result = connect(codes.reshape(-1, kernel.shape[1]), ready)
        return [result.reshape(*codes.shape[:-1], -1) if keep else result]

    return run


def _layer(site: Site, weights: Tensor, bias: Tensor | None, data: Tensor) -> Layer:
    part = np.ascontiguousarray(filter_codes(weights, 0).T)[None]
    stage = stage_of(site, data, weights, bias)
    return layer_of(site, part, bias_codes(bias, part.shape[2]), stage, "" if bias is None else bias.dtype, data)


def connect(codes: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """The integer core.

    Args:
        codes: [N, inputs].
        layer: filter [1, inputs, outputs].

    Returns:
        codes [N, outputs].
    """
    inputs, outputs = layer.weights.filter.shape[1:]
    result = np.empty((codes.shape[0], outputs), layer.stage.dtype)
    step = layer.rows(inputs, outputs)
    for start in range(0, len(codes), step):
        block = codes[start : start + step]
        layer.from_windows(block if layer.ordered else block.astype(layer.precision), result[start : start + step])
    layer.settle()
    return result
