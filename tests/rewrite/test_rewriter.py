"""The rewrite applies a plan and nothing else: constants, interface, names, leftovers."""

import numpy as np
import pytest

from tf_requant import requantize
from tf_requant.corrections import CORRECTIONS
from tf_requant.io.tflite import read
from tf_requant.io.tflite_writer import write
from tf_requant.model.graph import Graph, Model, Op, Signature, Tensor
from tf_requant.model.quant import QuantParams
from tf_requant.planning.planner import plan_model
from tf_requant.planning.wishes import Wishes
from tf_requant.rewrite.rewriter import apply
from tf_requant.runtime import InterpreterProcess
from tf_requant.sample import model_path
from tf_requant.targets import load_target

SAMPLE = model_path().read_bytes()
FILTER = np.random.default_rng(5).integers(1, 256, (4, 1, 1, 4)).astype(np.uint8)
GEOMETRY = {"stride_w": 1, "stride_h": 1, "dilation_w_factor": 1, "dilation_h_factor": 1, "fused_activation_function": 0}


def activation(name: str, scale: float = 0.1, zero_point: int = 100, dtype: str = "uint8") -> Tensor:
    return Tensor(name, dtype, (1, 2, 2, 4), QuantParams(dtype, np.float32(scale), zero_point))


def filter_and_bias(name: str) -> list[Tensor]:
    bias = QuantParams("int32", np.float32(0.002), 0)
    return [
        Tensor(f"{name}_filter", "uint8", FILTER.shape, QuantParams("uint8", np.float32(0.02), 120), FILTER),
        Tensor(f"{name}_bias", "int32", (4,), bias, np.array([5, -5, 70, 0], np.int32)),
    ]


def model_of(tensors: list[Tensor], ops: list[Op], inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Model:
    return Model((Graph("main", tuple(tensors), tuple(ops), inputs, outputs),))


def rewritten(model: Model, target: str, **wishes) -> Graph:
    return apply(model, plan_model(model, load_target(target), Wishes(**wishes))).main


def convs_with_shared_constants(*scales: float) -> Model:
    """x -> a -> b by two convolutions over one filter and one bias, at these scales."""
    tensors = [activation(n, s) for n, s in zip("xab", scales)] + filter_and_bias("shared")
    ops = [Op("CONV_2D", (0, 3, 4), (1,), GEOMETRY), Op("CONV_2D", (1, 3, 4), (2,), GEOMETRY)]
    return model_of(tensors, ops, (0,), (2,))


def reads(graph: Graph, op: int, position: int) -> Tensor:
    return graph.tensors[graph.ops[op].inputs[position]]


@pytest.mark.parametrize("correction", [None, "rounding"])
@pytest.mark.parametrize("target", ["tflite_int8", "nna_sym8_pow2"])
def test_constants_that_two_ops_share_stay_shared_when_their_plans_agree(target, correction):
    model = convs_with_shared_constants(0.1, 0.1, 0.1)
    plan = plan_model(model, load_target(target), Wishes(pinned=(("a", -10.0, 10.0), ("x", -10.0, 10.0))))
    plan = CORRECTIONS[correction](model, plan) if correction else plan
    result = apply(model, plan).main
    assert result.ops[0].inputs[1:] == result.ops[1].inputs[1:] == (3, 4)
    assert len(result.tensors) == len(model.main.tensors)


def test_constants_that_two_ops_share_are_split_when_their_plans_differ():
    result = rewritten(convs_with_shared_constants(0.1, 0.033, 0.07), "nna_sym8")
    biases = reads(result, 0, 2), reads(result, 1, 2)
    assert result.ops[0].inputs[2] != result.ops[1].inputs[2]
    for i, bias in enumerate(biases):
        unit = float(reads(result, i, 0).quant.scale[0]) * float(reads(result, i, 1).quant.scale[0])
        assert bias.quant.scale[0] == pytest.approx(unit, rel=1e-6)
    assert len({t.name for t in result.tensors}) == len(result.tensors)


def test_a_constant_shared_with_a_kept_op_stays_as_it_was_for_that_op():
    result = rewritten(convs_with_shared_constants(0.1, 0.1, 0.1), "nna_sym8", keep=("^b$",))
    kept = next(i for i, op in enumerate(result.ops) if result.tensors[op.outputs[0]].name == "b")
    assert reads(result, kept, 1).dtype == "uint8" and reads(result, kept, 1).data.tobytes() == FILTER.tobytes()
    assert reads(result, 0, 1).dtype == "int8"


def test_a_missing_bias_that_the_kernels_need_becomes_a_zero_bias():
    tensors = [activation("x"), activation("y"), filter_and_bias("c")[0]]
    result = rewritten(model_of(tensors, [Op("CONV_2D", (0, 2, -1), (1,), GEOMETRY)], (0,), (1,)), "nna_sym8")
    assert reads(result, 0, 2).data.tolist() == [0, 0, 0, 0] and reads(result, 0, 2).dtype == "int32"


def through_quantize(outputs: tuple[int, ...]) -> Model:
    """A uint8 convolution y (1), and int8 copies p (2) and q (3) of it."""
    tensors = [activation("x"), activation("y"), activation("p", 0.1, -28, "int8"), activation("q", 0.1, -28, "int8")]
    ops = [Op("CONV_2D", (0, 4, 5), (1,), GEOMETRY), Op("QUANTIZE", (1,), (2,)), Op("QUANTIZE", (1,), (3,))]
    ops = ops[:3] if 3 in outputs else ops[:2]
    return model_of(tensors + filter_and_bias("c"), ops, (0,), outputs)


@pytest.mark.parametrize(
    ("outputs", "names", "codes"),
    [
        ((2,), ["p"], ["CONV_2D"]),
        ((1, 2), ["y", "p"], ["CONV_2D", "QUANTIZE"]),
        ((2, 3), ["p", "q"], ["CONV_2D", "QUANTIZE"]),
    ],
)
def test_removing_a_quantize_that_became_the_identity_keeps_the_names_of_graph_outputs(outputs, names, codes):
    result = rewritten(through_quantize(outputs), "tflite_int8")
    assert [result.tensors[t].name for t in result.outputs] == names
    assert len(set(result.outputs)) == len(names)
    assert [op.code for op in result.ops] == codes


def test_a_quantize_that_was_the_identity_in_the_source_stays():
    tensors = [activation("x"), activation("y"), activation("z")]
    model = model_of(tensors, [Op("RELU", (0,), (1,)), Op("QUANTIZE", (1,), (2,))], (0,), (2,))
    assert [op.code for op in rewritten(model, "tflite_uint8").ops] == ["RELU", "QUANTIZE"]


def ends(graph: Graph) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, type and shape of every graph input and output."""
    return [(t.name, t.dtype, t.shape) for t in (graph.tensors[i] for i in (*graph.inputs, *graph.outputs))]


@pytest.mark.parametrize("target", ["tflite_int8", "tflite_int16x8", "nna_sym8_pow2"])
def test_the_source_interface_has_the_types_parameters_and_names_of_the_source(target):
    source, result = read(SAMPLE).main, read(requantize(SAMPLE, target, io="source").model_bytes).main
    assert ends(result) == ends(source)
    for old, new in zip((*source.inputs, *source.outputs), (*result.inputs, *result.outputs)):
        assert source.tensors[old].quant.identical(result.tensors[new].quant)


@pytest.mark.parametrize("target", ["tflite_uint8", "tflite_int16x8", "nna_sym8_pow2"])
def test_the_float_interface_has_the_names_of_the_source_and_float32(target):
    source, result = read(SAMPLE).main, read(requantize(SAMPLE, target, io="float").model_bytes).main
    assert ends(result) == [(name, "float32", shape) for name, _, shape in ends(source)]
    assert [op.code for op in (result.ops[0], result.ops[-1])] == ["QUANTIZE", "DEQUANTIZE"]


@pytest.mark.parametrize("io", ["target", "source", "float"])
def test_signatures_map_the_same_names_to_the_ends_of_the_interface(io):
    model = read(SAMPLE)
    graph = model.main
    model = model.with_(signatures=(Signature("serve", 0, (("image", graph.inputs[0]),), (("scores", graph.outputs[0]),)),))
    result = requantize(model, "nna_sym8", io=io).model
    (signature,) = result.signatures
    assert signature.key == "serve"
    assert (signature.inputs, signature.outputs) == (
        (("image", result.main.inputs[0]),),
        (("scores", result.main.outputs[0]),),
    )


@pytest.mark.parametrize("io", ["target", "source", "float"])
def test_a_dynamic_batch_stays_dynamic_on_every_interface(shared, io):
    model = requantize(shared / "models/kws_dscnn_int8.tflite", "tflite_uint8", io=io).model_bytes
    with InterpreterProcess() as process:
        details = process.load(model)
    assert [(t.name, t.shape_signature) for t in (*details.inputs, *details.outputs)] == [
        ("input_1", (-1, 49, 10, 1)),
        ("Identity", (-1, 12)),
    ]


def test_only_tensors_that_the_rewrite_orphaned_are_dropped_and_intermediates_follow():
    """An op removed in the middle moves every later index, those of an LSTM's intermediates too."""
    tensors = [activation("x"), activation("y"), activation("p", 0.1, -28, "int8"), activation("z", 0.1, -28, "int8")]
    tensors += [activation("unused"), activation("inner", 0.3, 1, "int8"), *filter_and_bias("c")]
    ops = [
        Op("CONV_2D", (0, 6, 7), (1,), GEOMETRY),
        Op("QUANTIZE", (1,), (2,)),
        Op("UNIDIRECTIONAL_SEQUENCE_LSTM", (2, -1), (3,), intermediates=(5,)),
    ]
    result = rewritten(model_of(tensors, ops, (0,), (3,)), "tflite_int8")
    names = [t.name for t in result.tensors]
    assert names == ["x", "y", "z", "unused", "inner", "c_filter", "c_bias"]
    lstm = result.ops[-1]
    assert [names[t] for t in lstm.intermediates] == ["inner"] and lstm.inputs[1] == -1
    assert result.tensors[lstm.intermediates[0]].quant.scale.tolist() == [np.float32(0.3)]


@pytest.mark.parametrize("io", ["target", "float"])
def test_the_source_model_is_not_touched(io):
    source = read(SAMPLE)
    before = write(source)
    requantize(source, "nna_sym8_pow2", io=io)
    assert write(source) == before


def test_int16_sums_use_general_scales():
    result = read(requantize(SAMPLE, "tflite_int16x8").model_bytes).main
    assert [op.attrs["pot_scale_int16"] for op in result.ops if op.code == "ADD"] == [False, False]
