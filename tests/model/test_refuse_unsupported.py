"""What is sound but holds nothing to re-express is refused with the reason."""

from pathlib import Path

import numpy as np
import pytest

from tests.builders import Builder, conv2d, edited
from tf_requant.errors import UnsupportedModelError
from tf_requant.io.tflite import read
from tf_requant.model.verify import check, refuse_unsupported

CONV = conv2d()


def float_model(weights: str = "float32") -> bytes:
    b = Builder()
    x, y = b.tensor([1, 4], "float32"), b.tensor([1, 3], "float32")
    scale = None if weights == "float32" else 0.1
    w = b.tensor([3, 4], weights, scale, data=np.ones((3, 4)))
    b.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
    return b.finish([x], [y])


def island() -> bytes:
    """A float RELU between a quantized one on either side."""
    b = Builder()
    codes = [b.activation([1, 4], "int8") for _ in range(2)]
    reals = [b.tensor([1, 4], "float32") for _ in range(2)]
    b.op("DEQUANTIZE", [codes[0]], [reals[0]], version=2)
    b.op("RELU", [reals[0]], [reals[1]])
    b.op("QUANTIZE", [reals[1]], [codes[1]])
    return b.finish(codes[:1], codes[1:])


@pytest.mark.parametrize("content, reason", [(float_model(), "quantize it first"), (float_model("int8"), "dynamic-range")])
def test_a_model_without_codes_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        refuse_unsupported(check(read(content)))


def test_custom_float_ops_are_refused(shared: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="only ops are custom .'fake-op-double'."):
        refuse_unsupported(check(read(shared / "models/invalid_model_invoking_error.tflite")))


def test_a_float_island_among_quantized_ops_is_accepted() -> None:
    refuse_unsupported(check(read(island())))


def test_a_hybrid_op_among_quantized_ops_is_refused() -> None:
    b = Builder()
    x, real, y = b.activation([1, 4], "int8"), b.tensor([1, 4], "float32"), b.tensor([1, 3], "float32")
    b.op("DEQUANTIZE", [x], [real], version=2)
    b.op("FULLY_CONNECTED", [real, b.tensor([3, 4], "int8", 0.1, data=np.ones((3, 4))), -1], [y], "FullyConnectedOptions")
    with pytest.raises(UnsupportedModelError, match=r"op 1 \(FULLY_CONNECTED.* activations are float"):
        refuse_unsupported(check(read(b.finish([x], [y]))))


def test_weights_in_a_file_of_their_own_are_refused() -> None:
    content = edited(CONV, lambda m: setattr(m.subgraphs[0].tensors[1], "externalBuffer", 1))
    with pytest.raises(UnsupportedModelError, match="tensor 1 .* lies in a file of its own"):
        read(content)


def test_sparse_weights_are_refused() -> None:
    model = read(CONV)
    tensors = list(model.main.tensors)
    tensors[1] = tensors[1].with_(data=np.zeros(7, np.uint8))
    model = model.with_(graphs=(model.main.with_(tensors=tuple(tensors)),))
    with pytest.raises(UnsupportedModelError, match="'tensor_1' is stored sparse"):
        refuse_unsupported(model)
