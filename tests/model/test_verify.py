"""Each rule of `verify` has a file that breaks it, and a sentence that names the op or the tensor."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import builders
from tests.builders import (
    DTYPES,
    Activation,
    Builder,
    Padding,
    binary,
    concatenation,
    conv2d,
    depthwise,
    fully_connected,
    move,
    pool,
    small_net,
    transpose_conv,
    unary,
)
from tf_requant.errors import ModelFormatError
from tf_requant.io.tflite import read
from tf_requant.io.tflite_writer import write
from tf_requant.model.graph import Model
from tf_requant.model.ops import OPS
from tf_requant.model.shapes import RULES
from tf_requant.model.verify import check, refuse_unsupported

Edit = Callable[[Model], Model]


def graph(**changes: Any) -> Edit:
    return lambda model: model.with_(graphs=(model.main.with_(**changes),))


def op(index: int = 0, **changes: Any) -> Edit:
    def edit(model: Model) -> Model:
        ops = list(model.main.ops)
        ops[index] = ops[index].with_(**changes)
        return graph(ops=tuple(ops))(model)

    return edit


def attrs(**changes: Any) -> Edit:
    return lambda model: op(attrs={**model.main.ops[0].attrs, **changes})(model)


def tensor(index: int, **changes: Any) -> Edit:
    def edit(model: Model) -> Model:
        tensors = list(model.main.tensors)
        tensors[index] = tensors[index].with_(**changes)
        return graph(tensors=tuple(tensors))(model)

    return edit


def quant(index: int, **changes: Any) -> Edit:
    return lambda model: tensor(index, quant=model.main.tensors[index].quant.with_(**changes))(model)  # type: ignore[union-attr]


def constant(index: int, values: Any) -> Edit:
    data = np.array(values, np.int32)
    return tensor(index, data=data, shape=data.shape)


def refusal(content: bytes, edit: Edit) -> str:
    model = read(content)
    check(model)  # the file was sound before the edit
    with pytest.raises(ModelFormatError) as caught:
        check(edit(model))
    return str(caught.value)


NET, CONV, DW, FC, TCONV = small_net(), conv2d(), depthwise(), fully_connected(), transpose_conv()
CONV_U8, CONV_I16, FC_U8 = conv2d("uint8"), conv2d("int16"), fully_connected("uint8")
ADD, MAX_POOL, SOFTMAX = binary("ADD"), pool("MAX_POOL_2D"), unary("SOFTMAX", options="SoftmaxOptions", beta=1.0)
RESHAPE, TRANSPOSE = move("RESHAPE", [24, 3], [-1, 3]), move("TRANSPOSE", [1, 3, 4, 6], [0, 3, 1, 2])
PAD = move("PAD", [1, 6, 6, 3], [[0, 0], [1, 1], [0, 0], [0, 0]])
SLICE = move("SLICE", [1, 2, 6, 2], [0, 1, 0, 0], [1, 2, -1, 2])
STRIDED = move("STRIDED_SLICE", [1, 2, 6, 3], [0, 1, 0, 0], [1, 3, 6, 3], [1, 1, 1, 1], options="StridedSliceOptions")
SPLIT = move("SPLIT", [1, 2, 6, 3], 1, first=True, outputs=2, options="SplitOptions", numSplits=2)
SPLIT_V = move("SPLIT_V", [1, 2, 6, 3], [2, 2], 1, outputs=2, options="SplitVOptions", numSplits=2)
GATHER = move("GATHER", [1, 2, 6, 3], [3, 0], options="GatherOptions", axis=1)
GATHER_ND = move("GATHER_ND", [2, 6, 3], [[0, 3], [0, 0]], options="GatherNdOptions")
RESIZE = move("RESIZE_BILINEAR", [1, 8, 9, 3], [8, 9], options="ResizeBilinearOptions")
MEAN = move("MEAN", [1, 3], [1, 2], options="ReducerOptions")
MIRROR = move("MIRROR_PAD", [1, 6, 6, 3], [[0, 0], [1, 1], [0, 0], [0, 0]], options="MirrorPadOptions")
TO_DEPTH = move("SPACE_TO_DEPTH", [1, 2, 3, 12], options="SpaceToDepthOptions", blockSize=2)
TO_BATCH = move("SPACE_TO_BATCH_ND", [4, 2, 3, 3], [2, 2], [[0, 0], [0, 0]])
UNPACK = move("UNPACK", [1, 6, 3], outputs=4, options="UnpackOptions", num=4, axis=1)
SQUEEZE = move("SQUEEZE", [4, 6, 3], options="SqueezeOptions", squeezeDims=[0])

STRUCTURE = {
    "op input out of range": (CONV, op(inputs=(0, 1, 99)), r"op 0 \(CONV_2D\): it names tensors \[99\]"),
    "op output out of range": (CONV, op(outputs=(-1,)), r"op 0 .* names tensors \[-1\]"),
    "graph output out of range": (CONV, graph(outputs=(7,)), r"its outputs name tensors \[7\]; expected 0 to 3"),
    "no output": (CONV, graph(outputs=()), "it has no outputs"),
    "input listed twice": (CONV, graph(inputs=(0, 0)), "repeat"),
    "constant as graph input": (CONV, graph(inputs=(0, 1)), "a constant is a graph input"),
    "input not fed": (CONV, graph(inputs=()), r"tensor 0 \('tensor_0'\) has no value"),
    "op reads itself": (CONV, op(inputs=(3, 1, 2)), "is read before op 0"),
    "ops out of order": (NET, lambda m: graph(ops=m.main.ops[::-1])(m), "expected ops in execution order"),
    "output written twice": (NET, lambda m: graph(ops=(*m.main.ops, m.main.ops[-1]))(m), "which is another op's"),
    "constant written": (CONV, op(outputs=(1,)), "which is a constant's"),
    "graph input written": (CONV, op(inputs=(0, 1, 2), outputs=(0,)), "which is a graph input's"),
    "variable with data": (CONV, tensor(1, is_variable=True), "a variable with data"),
    "too large": (CONV, tensor(3, shape=(1, 65536, 65536, 6)), "expected at most 2147483647 bytes"),
}
PARAMS = {
    "NaN scale": (CONV, quant(0, scale=np.float32("nan")), r"tensor 0 .* its scale is nan; expected a positive, finite"),
    "infinite scale": (CONV, quant(0, scale=np.float32("inf")), "its scale is inf"),
    "zero scale": (CONV, quant(0, scale=np.float32(0)), "its scale is 0.0"),
    "negative scale": (CONV, quant(3, scale=np.float32(-1)), "its scale is -1.0"),
    "denormal scale": (CONV, quant(3, scale=np.float32(1e-40)), "its scale is 9.99"),
    "int8 zero point": (CONV, quant(0, zero_point=128), "its zero point is 128; expected -128 to 127 for int8"),
    "uint8 zero point": (CONV_U8, quant(0, zero_point=-1), "its zero point is -1; expected 0 to 255"),
    "bias zero point": (CONV, quant(2, zero_point=1), "its zero point is 1; expected 0 to 0"),
    "scale count": (CONV, quant(1, scale=np.ones(5, np.float32)), "it has 5 scales for shape"),
    "axis of many scales": (CONV, quant(1, scale=np.ones(6, np.float32), axis=4), "quantized_dimension is 4; expected 0 to 3"),
    "scales on an activation": (CONV, quant(0, scale=np.ones(4, np.float32), axis=3), "carries 4 scales; expected one"),
    "activation without scale": (CONV, tensor(3, quant=None), "'tensor_3' of type int8 carries no scale"),
}
MULTIPLY = {
    "no bias": (CONV, op(inputs=(0, 1)), "it has 2 inputs; expected 3"),
    "bias left out": (DW, op(inputs=(0, 1, -1)), r"inputs \[2\] are left out"),
    "four inputs": (CONV, op(inputs=(0, 1, 2, 2)), "it has 4 inputs; expected 3"),
    "no options": (CONV, op(attrs={}), "it carries no options"),
    "version": (CONV, op(version=99), "op version 99 is unknown; expected 1 to 8"),
    "stride 0": (CONV, attrs(stride_h=0), "stride_h is 0; expected 1 to"),
    "dilation 0": (DW, attrs(dilation_w_factor=0), "dilation_w_factor is 0"),
    "padding": (CONV, attrs(padding=2), "padding is 2"),
    "fused activation": (CONV, attrs(fused_activation_function=9), "fused_activation_function is 9"),
    "fused TANH": (CONV, attrs(fused_activation_function=Activation.TANH), "fused_activation_function is"),
    "depth multiplier 0": (DW, attrs(depth_multiplier=0), "depth_multiplier is 0"),
    "depth multiplier": (DW, attrs(depth_multiplier=2), "expected .*1, 3, 3, 8"),
    "output shape": (CONV, tensor(3, shape=(1, 8, 9, 6)), r"has shape \[1, 8, 9, 6\]; expected \[1, 8, 8, 6\]"),
    "rank": (CONV, tensor(0, shape=(8, 8, 4)), "expected 4 dimensions"),
    "channels": (CONV, tensor(0, shape=(1, 8, 8, 5)), "do not fit; expected equal channels"),
    "window beyond the image": (conv2d(padding=Padding.VALID), attrs(dilation_h_factor=9), "leaves no output position"),
    "bias length": (CONV, constant(2, [1, 2, 3]), "bias 'tensor_2' has shape"),
    "bias type": (CONV, tensor(2, dtype="int64", data=np.zeros(6, np.int64)), "has type int64; expected int32"),
    "int16 needs an int64 bias": (CONV_I16, tensor(2, dtype="int32", data=np.zeros(6, np.int32)), "has type int32; expected int64"),
    "bias type option": (CONV, attrs(quantized_bias_type=9), "quantized_bias_type is 9"),
    "bias scale": (CONV_U8, quant(2, scale=np.float32(1)), "bias 'tensor_2' has scale 1; expected input scale times"),
    "mixed families": (CONV, tensor(1, dtype="uint8"), "has type uint8; expected int8"),
    "changed type": (CONV, tensor(3, dtype="uint8"), "has type uint8; expected int8"),
    "filter without scale": (CONV, tensor(1, quant=None), "filter 'tensor_1' carries no scale"),
    "filter zero point": (CONV, quant(1, zero_point=3), "has a zero point; expected zero point 0"),
    "filter axis": (CONV, quant(1, scale=np.ones(3, np.float32), axis=1), "along axis 1; expected one scale, or one for each"),
    "uint8 per channel": (CONV_U8, quant(1, scale=np.full(6, 0.02, np.float32)), "has 6 scales along axis 0; expected one scale"),
    "int16 zero point": (CONV_I16, quant(0, zero_point=5), "int16 'tensor_0' has a zero point"),
    "multiplier": (CONV, quant(3, scale=np.float32(1e-6)), "is 1000; expected less than 256"),
    "FC depth": (FC, tensor(0, shape=(2, 13)), "do not fit; expected equal depth"),
    "FC output": (FC, tensor(3, shape=(3, 5)), r"expected \[2, 5\]"),
    "FC weights format": (FC, attrs(weights_format=1), "shuffled"),
    "FC bias scale": (FC_U8, quant(2, scale=np.float32(3)), "has scale 3"),
    "TCONV output shape": (TCONV, constant(0, [1, 9, 8, 6]), "from the op's inputs"),
    "TCONV input": (TCONV, tensor(1, shape=(1, 5, 4, 4)), "the shapes of a convolution reversed"),
}
OTHERS = {
    "broadcast": (ADD, tensor(1, shape=(1, 4, 4, 2)), "expected shapes that broadcast"),
    "scales too far apart": (ADD, quant(0, scale=np.float32(1e8)), "differ too much"),
    "types of ADD": (ADD, tensor(1, dtype="uint8"), "has type uint8; expected int8"),
    "pool size 0": (MAX_POOL, attrs(filter_height=0), "filter_height is 0"),
    "pool stride 0": (MAX_POOL, attrs(stride_w=0), "stride_w is 0"),
    "pool parameters": (MAX_POOL, quant(1, scale=np.float32(3)), "the kernel copies raw codes"),
    "SOFTMAX output": (SOFTMAX, quant(1, scale=np.float32(0.01)), "scale 0.00390625 zero point -128, which the kernel"),
    "SOFTMAX beta": (SOFTMAX, attrs(beta=0.0), "beta is 0.0"),
    "LOGISTIC output": (unary("LOGISTIC"), quant(1, zero_point=0), "which the kernel dictates"),
    "concatenation axis": (concatenation(), attrs(axis=4), "axis is 4; expected -4 to 3"),
    "concatenation parts": (concatenation(), tensor(0, shape=(1, 4, 5, 2)), "from the op's inputs"),
    "concatenation scales": (concatenation(), quant(0, scale=np.float32(1)), "differ; expected equal parameters"),
    "concatenation fused": (concatenation(), attrs(fused_activation_function=1), "fused_activation_function is 1"),
    "reshape elements": (RESHAPE, constant(1, [5, -1]), "a shape of 72 elements"),
    "reshape two unknowns": (RESHAPE, constant(1, [-1, -1]), "a shape of 72 elements"),
    "permutation": (TRANSPOSE, constant(1, [0, 3, 1, 1]), "each once"),
    "pad shape": (PAD, constant(1, [[0, 0], [1, 1]]), "a pair of numbers"),
    "negative pad": (PAD, constant(1, [[0, 0], [-1, 1], [0, 0], [0, 0]]), "a pair of numbers"),
    "mirror pad": (MIRROR, constant(1, [[0, 0], [4, 1], [0, 0], [0, 0]]), "reflect more than"),
    "slice outside": (SLICE, constant(1, [0, 3, 0, 0]), "a slice inside the tensor"),
    "strided slice stride 0": (STRIDED, constant(3, [1, 0, 1, 1]), "strides other than 0"),
    "strided slice empty": (STRIDED, constant(2, [1, 1, 6, 3]), "is empty"),
    "split count": (SPLIT, attrs(num_splits=3), "num_splits is 3; expected 2"),
    "split axis": (SPLIT, constant(1, 7), "axis is 7"),
    "split sizes": (SPLIT_V, constant(1, [1, 2]), "2 sizes that make up 4"),
    "unpack count": (UNPACK, attrs(num=3), "one count"),
    "gather index": (GATHER, constant(1, [4, 0]), "indices run from 0 to 4; expected 0 to 3"),
    "gather axis": (GATHER, attrs(axis=4), "axis is 4"),
    "gather_nd index": (GATHER_ND, constant(1, [[0, 3], [-1, 0]]), "indices run from -1 to 0"),
    "resize size": (RESIZE, constant(1, [0, 9]), "two positive numbers"),
    "resize options": (RESIZE, attrs(align_corners=True, half_pixel_centers=True), "at most one of them"),
    "mean axis": (MEAN, constant(1, [1, 4]), "axes are"),
    "block": (TO_DEPTH, attrs(block_size=5), "a multiple of the block"),
    "batch block": (TO_BATCH, constant(1, [2, 4]), "whole blocks"),
    "squeeze": (SQUEEZE, attrs(squeeze_dims=np.array([1])), "dimensions of 1"),
    "empty activation": (ADD, lambda m: tensor(0, shape=(0,))(m), "no dimension of 0"),
}  # fmt: skip


def cases(table: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("content, edit, sentence", table.values(), ids=table)


@cases({**STRUCTURE, **PARAMS, **MULTIPLY, **OTHERS})
def test_a_fault_is_refused_with_a_sentence(content: bytes, edit: Edit, sentence: str) -> None:
    message = refusal(content, edit)
    assert any(re.search(sentence, line) for line in message.splitlines()), message
    assert all(line.count("; ") >= 2 for line in message.splitlines()), "got, expected, what to do"


def test_every_op_of_the_table_has_rules() -> None:
    assert set(RULES) == set(OPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("build", [conv2d, depthwise, fully_connected, transpose_conv, small_net, concatenation, pool])
def test_what_the_builders_make_passes_unchanged(build: Callable[..., bytes], dtype: str) -> None:
    model = read(build(dtype=dtype))
    assert check(model) is model and not model.warnings
    refuse_unsupported(model)


def test_many_problems_are_listed_up_to_twenty() -> None:
    model = read(NET)
    tensors = tuple(t if t.quant is None else t.with_(quant=t.quant.with_(scale=t.quant.scale * 0)) for t in model.main.tensors)
    with pytest.raises(ModelFormatError) as caught:
        check(graph(tensors=tensors * 3)(model))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21 and lines[-1].startswith("and ") and lines[-1].endswith("more problems")


def test_a_bias_axis_beyond_its_rank_is_repaired_and_written() -> None:
    model = check(quant(2, axis=3)(read(CONV)))
    assert model.warnings == (
        "tensor 2 ('tensor_2') has quantized_dimension 3, which its shape [6] does not have; it was set to 0",
    )
    assert read(write(model)).main.tensors[2].quant.axis == 0  # type: ignore[union-attr]


def test_person_detect_is_repaired(shared: Path) -> None:
    model = check(read(shared / "models/person_detect_int8.tflite"))
    assert len(model.warnings) == 14
    assert check(read(write(model))).warnings == ()


def test_a_name_that_is_not_text_is_made_readable() -> None:
    content = builders.edited(CONV, lambda m: setattr(m.subgraphs[0].tensors[0], "name", b"in\xffput"))
    model = check(read(content))
    assert model.main.tensors[0].name == "in\\xffput" and len(model.warnings) == 1


def test_scales_near_the_smallest_normal_number_pass() -> None:
    check(quant(2, scale=np.float32(1e-35))(read(binary("MUL"))))  # ssd_lstm_traffic_uint8 has such


def test_a_missing_zero_point_is_filled_in_and_written() -> None:
    content = builders.edited(CONV, lambda m: setattr(m.subgraphs[0].tensors[0].quantization, "zeroPoint", None))
    written = read(write(check(read(content))))
    assert written.main.tensors[0].opaque.get("quantization").get("zero_point").tolist() == [0]


def test_an_op_outside_the_table_is_left_alone() -> None:
    b = Builder()
    x, y = b.activation([1, 4], "int8"), b.activation([1, 5], "int8")
    b.op("SIN", [x], [y])
    model = read(b.finish([x], [y]))
    assert check(model) is model
