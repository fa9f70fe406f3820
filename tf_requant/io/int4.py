"""INT4 filters: two codes a byte in the file, int8 above it.

LiteRT's kernels of the ops below unpack such a filter to int8 and go on as ever, so nothing else has to know.
"""

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Graph, Tensor
from tf_requant.model.quant import QuantParams

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""The ops that read INT4 filters beside int8 activations (with int16 ones, DEPTHWISE_CONV_2D computes something else)."""
LOW, HIGH = -8, 7


def pack(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two codes a byte, the first in the low bits; an odd last one beside zeros.

    >>> pack(np.array([1, -2, 7], np.int8)).tolist()
    [225, 7]
    """
    nibbles = np.zeros(codes.size + codes.size % 2, np.uint8)
    nibbles[: codes.size] = np.ascontiguousarray(codes).reshape(-1).view(np.uint8) & 15
    return nibbles[::2] | nibbles[1::2] << 4


def unpack(raw: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.int8]:
    """The codes of packed bytes.

    >>> unpack(np.array([225, 7], np.uint8), (3,)).tolist()
    [1, -2, 7]
    """
    size = int(np.prod(shape, dtype=np.int64))
    nibbles = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)[:size]
    return ((nibbles ^ 8).astype(np.int8) - np.int8(8)).reshape(shape)


def unpacked(graph: Graph) -> Graph:
    """The graph with the codes of its packed filters, in int8."""
    wide = {t: _wide(g) for t, g in enumerate(graph.tensors) if g.dtype == "int4" and _only_filters(graph, t) and _whole(g)}
    return graph.with_(tensors=tuple(wide.get(t, g) for t, g in enumerate(graph.tensors))) if wide else graph


def packed(graph: Graph) -> Graph:
    """The graph, every filter whose codes fit in four bits to be written packed."""
    tensors = (
        tensor.with_(packed=True) if tensor.dtype == "int8" and _fits(tensor) and _only_filters(graph, t) else tensor
        for t, tensor in enumerate(graph.tensors)
    )
    return graph.with_(tensors=tuple(tensors))


def _whole(tensor: Tensor) -> bool:
    return tensor.data is not None and tensor.data.size == (tensor.size + 1) // 2


def _fits(tensor: Tensor) -> bool:
    if tensor.data is None or tensor.quant is None or tensor.quant.zero_point.any() or not tensor.data.size:
        return False
    return bool(tensor.data.min() >= LOW and tensor.data.max() <= HIGH)


def _only_filters(graph: Graph, tensor: int) -> bool:
    """Whether all who read a tensor read it as a filter beside int8 activations; at least one does."""
    readers = [graph.ops[i] for i in graph.consumers.get(tensor, ())]
    return (
        tensor not in graph.outputs
        and bool(readers)
        and all(
            op.code in LAYERS
            and len(op.inputs) > 1
            and op.inputs[1] == tensor
            and op.inputs.count(tensor) == 1
            and op.inputs[0] >= 0
            and graph.tensors[op.inputs[0]].dtype == "int8"
            for op in readers
        )
    )


def _wide(tensor: Tensor) -> Tensor:
    assert tensor.data is not None
    quant = tensor.quant
    if quant is not None:
        quant = QuantParams("int8", quant.scale, quant.zero_point, quant.axis, quant.extra)
    return tensor.with_(dtype="int8", quant=quant, data=unpack(tensor.data, tensor.shape), packed=True)
