"""Which tensor and op of the source a tensor and op of the candidate stand for."""

import numpy as np
import pytest

import tf_requant
from tests import builders
from tests.builders import Builder
from tf_requant.io import tflite
from tf_requant.model.graph import Graph, Model
from tf_requant.sample import model_path
from tf_requant.validation.correspondence import Correspondence


def names(meet: Correspondence) -> dict[str, str]:
    """Tensor of the candidate -> tensor of the source, by name."""
    return {meet.result.tensors[t].name: meet.source.tensors[s].name for t, s in meet.tensors.items()}


def activations(graph: Graph) -> list[str]:
    return [t.name for t in graph.tensors if t.is_activation]


def renamed(model: Model, changes: dict[str, str]) -> Model:
    tensors = tuple(t.with_(name=changes.get(t.name, t.name)) for t in model.main.tensors)
    return model.with_(graphs=(model.main.with_(tensors=tensors), *model.graphs[1:]))


def chain(order: tuple[str, ...] = ("RELU", "ABS", "NEG"), points: tuple[int, ...] = (0, 0, 0, 0)) -> bytes:
    """Ops of one input, one behind the other."""
    b = Builder()
    tensors = [b.tensor([1, 4], "int8", 0.1, point, name=name) for name, point in zip(("x", *order), points)]
    for code, read, write in zip(order, tensors, tensors[1:]):
        b.op(code, [read], [write])
    return b.finish(tensors[:1], tensors[-1:])


def test_a_conversion_corresponds_to_its_source_tensor_by_tensor_and_op_by_op() -> None:
    source = tflite.read(model_path().read_bytes()).main
    result = tf_requant.requantize(model_path(), "nna_sym8_pow2").model.main
    meet = Correspondence(source, result, {})
    assert all(a == b for a, b in names(meet).items())
    assert set(activations(result)) <= set(names(meet))
    assert meet.ops == {index: index for index in range(22)}
    assert all(meet.comparable(t) for t in meet.tensors if result.tensors[t].is_activation)


def test_inputs_meet_by_their_place_whatever_they_are_called() -> None:
    source = tflite.read(builders.small_net("uint8"))
    result = renamed(source, {source.main.tensors[source.main.inputs[0]].name: "serving_default_x:0"})
    meet = Correspondence(source.main, result.main, {})
    assert meet.tensors[result.main.inputs[0]] == source.main.inputs[0]
    assert len(meet.ops) == len(source.main.ops)


def test_what_stands_between_views_is_one_tensor_of_the_source() -> None:
    source = tflite.read(model_path().read_bytes()).main
    result = tf_requant.requantize(model_path(), "nna_sym8", keep="^block3/expand").model.main
    meet, moves = Correspondence(source, result, {}), [op for op in result.ops if op.code == "QUANTIZE"]
    assert moves
    for op in moves:
        assert meet.tensors[op.inputs[0]] == meet.tensors[op.outputs[0]]
    computing = [i for i, op in enumerate(result.ops) if op.code != "QUANTIZE"]
    assert sorted(meet.ops) == computing, "QUANTIZE ops stand for no op of the source, every other op for one"
    assert [meet.ops[i] for i in computing] == list(range(22))


def test_ops_in_another_order_meet_by_what_they_write() -> None:
    b = Builder()
    x, left, right, total = (b.tensor([1, 4], "int8", 0.1, 0, name=n) for n in ("x", "left", "right", "sum"))
    b.op("RELU", [x], [left])
    b.op("ABS", [x], [right])
    b.op("ADD", [left, right], [total], "AddOptions", potScaleInt16=False)
    model = tflite.read(b.finish([x], [total]))
    first, second, last = model.main.ops
    swapped = model.main.with_(ops=(second, first, last))
    assert Correspondence(model.main, swapped, {}).ops == {0: 1, 1: 0, 2: 2}


def test_an_op_of_another_code_stands_for_none_even_where_its_output_has_the_name() -> None:
    source = tflite.read(chain()).main
    other = tflite.read(chain(("RELU", "ABS", "NEG")))
    ops = (other.main.ops[0].with_(code="RELU6"), *other.main.ops[1:])
    assert Correspondence(source, other.main.with_(ops=ops), {}).ops == {1: 1, 2: 2}


def test_tensors_that_share_a_name_meet_nothing() -> None:
    """TFLite allows it: which is which cannot be told."""
    model = renamed(tflite.read(chain()), {"ABS": "RELU"})
    meet = Correspondence(model.main, model.main, {})
    assert sorted(names(meet)) == ["NEG", "x"] and meet.ops == {2: 2}


def test_a_tensor_that_the_source_lacks_is_left_out() -> None:
    source, result = tflite.read(chain()), renamed(tflite.read(chain()), {"ABS": "folded"})
    meet = Correspondence(source.main, result.main, {})
    assert "folded" not in names(meet) and meet.ops == {0: 0, 2: 2}
    folded = [t.name for t in result.main.tensors].index("folded")
    assert not meet.comparable(folded)


@pytest.mark.parametrize(("dtype", "shape", "comparable"), [("int8", [1, 4], True), ("float32", [1, 4], False), ("int8", [1, 5], False)])
def test_codes_are_comparable_where_both_are_quantized_and_of_one_shape(dtype: str, shape: list[int], comparable: bool) -> None:
    def one(kind: str, size: list[int]) -> Graph:
        b = Builder()
        tensor = b.tensor(size, kind, None if kind == "float32" else 0.1, 0, name="t")
        return tflite.read(b.finish([tensor], [tensor])).main

    assert Correspondence(one("int8", [1, 4]), one(dtype, shape), {}).comparable(0) is comparable


def test_gains_follow_the_source_s_names_through_quantize_ops() -> None:
    source = tflite.read(model_path().read_bytes()).main
    result = tf_requant.requantize(model_path(), "nna_sym8", keep="^block3/expand").model.main
    meet = Correspondence(source, result, {"block3/expand/Relu6": [1.0, 2.0], "conv0/Relu6": 1.5})
    standing = [t for t, s in meet.tensors.items() if source.tensors[s].name == "block3/expand/Relu6"]
    assert len(standing) >= 2 and all(meet.gains[t].tolist() == [1.0, 2.0] for t in standing)
    gains = {meet.source.tensors[s].name: meet.gains[t] for t, s in meet.tensors.items()}
    assert gains["conv0/Relu6"] == 1.5 and gains["conv0/Relu6"].dtype == np.float64 and gains["block1/project/add_fold"] == 1.0
