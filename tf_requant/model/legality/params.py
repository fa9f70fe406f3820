"""A tensor by itself: its size, and its quantization parameters."""

from math import inf, prod

from tf_requant.model.graph import Tensor
from tf_requant.model.legality.site import DAMAGED
from tf_requant.model.quant import INT_BITS, QuantParams, code_limits

LARGEST_TENSOR = 2**31 - 1
"""Bytes: an interpreter's arena and its kernels' offsets are 32 bits wide."""

_SMALLEST_SCALE = 2.0**-126  # the smallest normal float32: the inverse of a smaller one overflows
_WIDTH = {"float32": 4, "float16": 2, "float64": 8, "bool": 1, "uint16": 2, "uint32": 4, "uint64": 8}
_LIMITS = {dtype: code_limits(dtype) for dtype in INT_BITS}


def tensor_problems(index: int, tensor: Tensor) -> list[str]:
    """A sentence for each thing that an interpreter would refuse in one tensor."""
    found: list[str] = []
    size = prod(tensor.shape)
    width = INT_BITS.get(tensor.dtype, 8 * _WIDTH.get(tensor.dtype, 16))
    if size * width > 8 * LARGEST_TENSOR:
        found.append(f"it has shape {list(tensor.shape)}; expected at most {LARGEST_TENSOR} bytes")
    if tensor.is_variable and tensor.data is not None:
        found.append("it is a variable with data of its own; expected one or the other")
    if tensor.dtype == "int4" and tensor.data is not None and tensor.data.size != (size + 1) // 2:
        found.append(f"its buffer holds {tensor.data.size} bytes; expected {(size + 1) // 2} for {size} elements of 4 bits")
    if tensor.quant is not None:
        found += _quant_problems(tensor, tensor.quant)
    return [f"tensor {index} ({tensor.name!r}): {sentence}; {DAMAGED}" for sentence in found] if found else found


def _quant_problems(tensor: Tensor, quant: QuantParams) -> list[str]:
    found: list[str] = []
    scale, zero_point = quant.scale, quant.zero_point
    low, high = (scale.min(), scale.max()) if scale.size > 1 else (scale[0], scale[0])
    low, high = float(low), float(high)
    if not (_SMALLEST_SCALE <= low and high < inf):  # a NaN fails both
        found.append(f"its scale is {low if not low >= _SMALLEST_SCALE else high}; expected a positive, finite number")
    first, last = (0, 0) if tensor.dtype in ("int32", "int64") and tensor.is_constant else _LIMITS[tensor.dtype]
    smallest = int(zero_point[0])
    largest = smallest
    if zero_point.strides[0] and zero_point.size > 1:
        smallest, largest = int(zero_point.min()), int(zero_point.max())
    if smallest < first or largest > last:
        wrong = smallest if smallest < first else largest
        found.append(f"its zero point is {wrong}; expected {first} to {last} for {tensor.dtype}")
    rank = len(tensor.shape)
    if not 0 <= quant.axis < max(rank, 1):
        found.append(f"its quantized_dimension is {quant.axis}; expected 0 to {max(rank, 1) - 1}")
    elif scale.size > 1 and (not rank or scale.size != tensor.shape[quant.axis]):
        found.append(f"it has {scale.size} scales for shape {list(tensor.shape)} along axis {quant.axis}; expected one each")
    return found


def repaired(index: int, tensor: Tensor) -> tuple[Tensor, str] | None:
    """The tensor with a harmless fault put right, and a sentence about it; None if there is nothing to repair.

    One scale has no axis, and a vector has only one: the TensorFlow Lite Micro exporter wrote the filter's
    axis on biases. A name that is not UTF-8 breaks the interpreter's Python interface.
    """
    quant, name = tensor.quant, tensor.name
    if quant is not None and not 0 <= quant.axis < max(len(tensor.shape), 1):
        if quant.scale.size == 1 or len(tensor.shape) == 1:
            wrong = f"has quantized_dimension {quant.axis}, which its shape {list(tensor.shape)} does not have; it was set to 0"
            return tensor.with_(quant=quant.with_(axis=0, extra=None)), f"tensor {index} ({name!r}) {wrong}"
    try:
        name.encode()
    except UnicodeEncodeError:
        readable = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return tensor.with_(name=readable), f"tensor {index} had a name that is not UTF-8; it is {readable!r} now"
    return None
