"""A mismatch is found where it first stands, and counted."""

import numpy as np

from tests.builders import small_net
from tf_requant.io.tflite import read
from tf_requant.validation.exactness import Exactness

GRAPH = read(small_net("int8")).main
CONV, DEPTHWISE = GRAPH.ops[0].outputs[0], GRAPH.ops[1].outputs[0]


def _values() -> dict[int, np.ndarray]:
    return {t: np.zeros(GRAPH.tensors[t].shape, np.int8) for t in (CONV, DEPTHWISE)}


def test_equal_tensors_have_no_mismatch() -> None:
    table = Exactness("tflite_ref", "litert_ref", GRAPH)
    table.add(_values().items(), _values())
    assert table.mismatches == 0 and table.first is None and table.elements == 512 and table.samples == 1


def test_the_first_mismatch_is_named_by_op_tensor_and_element() -> None:
    table, ours = Exactness("tflite_ref", "litert_ref", GRAPH), _values()
    ours[CONV][0, 2, 3, 1], ours[DEPTHWISE][0, 0, 0, :] = 3, -2
    table.add(_values().items(), _values())
    table.add(ours.items(), _values())
    assert table.first is not None
    assert (table.first.op_index, table.first.op, table.first.element) == (0, "CONV_2D", (0, 2, 3, 1))
    assert (table.first.sample, table.first.simulated, table.first.expected) == (1, 3, 0)
    rows = [table.tensors[t] for t in (CONV, DEPTHWISE)]
    assert [(r.mismatches, r.largest, r.elements) for r in rows] == [(1, 3, 512), (4, 2, 512)]
    assert "op 0 (CONV_2D)" in str(table) and table.to_dict()["mismatches"] == 5


def test_not_a_number_equals_itself() -> None:
    table = Exactness("tflite_ref", "litert_ref", GRAPH)
    nan = np.full(GRAPH.tensors[CONV].shape, np.nan, np.float32)
    table.add([(CONV, nan)], {CONV: nan.copy()})
    assert table.mismatches == 0


def test_another_shape_is_a_mismatch_and_a_hidden_tensor_is_named() -> None:
    table, values = Exactness("tflite_ref", "litert_ref", GRAPH), _values()
    table.add(values.items(), {CONV: values[CONV].transpose(0, 3, 1, 2)})
    assert table.mismatches == values[CONV].size and table.first is not None
    assert table.unseen == [GRAPH.tensors[DEPTHWISE].name]
