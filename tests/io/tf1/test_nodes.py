"""A GraphDef as a graph, on graphs of a few nodes."""

import pytest

from tests.io.tf1.graphs import (
    BOOL,
    INT32,
    UINT8,
    added,
    constant,
    layer,
    node,
    nodes_of,
    placeholder,
    quantizer,
    sound,
)
from tf_requant.errors import ModelFormatError
from tf_requant.io.tf1.audit import check_graph
from tf_requant.io.tf1.nodes import COPIES, FAKE_QUANT, find_inputs, find_outputs, input_range, plain, without_views


@pytest.mark.parametrize(("name", "expected"), [("a/b", "a/b"), ("a/b:1", "a/b"), ("^a/b", "a/b"), ("a:12", "a")])
def test_a_plain_name_has_neither_mark_nor_port(name, expected):
    assert plain(name) == expected


def test_a_node_is_found_by_a_tensors_name_and_by_a_control_inputs():
    nodes = nodes_of(sound())
    assert nodes["conv:0"] is nodes["^conv"] is nodes["conv"] and "conv" in nodes and "other" not in nodes


def test_inputs_are_in_order_without_ports_and_control():
    nodes = nodes_of(node("s", "Concat", "b:1", "a", "b", "^c"))
    assert nodes.inputs(nodes["s"]) == ["b", "a", "b"]


def test_readers_are_told_once_each_and_control_is_not_reading():
    nodes = nodes_of(node("a", "Split"), node("b", "Add", "a", "a:1"), node("c", "Relu", "a:1", "^b"))
    assert [n.name for n in nodes.readers["a"]] == ["b", "c"] and "b" not in nodes.readers


def test_behind_a_node_inputs_come_before_readers_in_the_order_of_inputs():
    nodes = nodes_of(
        node("sum", "Add", "right", "left"), node("left", "Relu", "x"), node("right", "Relu6", "x:0"), node("x", "Placeholder"),
        node("unused", "Relu", "x"),
    )  # fmt: skip
    assert nodes.behind(["sum"]) == ["x", "right", "left", "sum"]
    assert nodes.behind(["left:0", "right"]) == ["x", "left", "right"]


def test_the_order_behind_a_node_does_not_depend_on_the_files():
    parts = sound()
    expected = nodes_of(parts).behind(["y"])
    assert expected == ["x", "conv/weights", "conv/quant/min", "conv/quant/max", "conv/quant", "conv", "sum/bias", "sum", "relu",
                        "y/min", "y/max", "y"]  # fmt: skip
    assert nodes_of(parts[::-1]).behind(["y"]) == nodes_of(sorted(parts, key=lambda n: n.name)).behind(["y"]) == expected


def test_every_node_comes_after_what_it_reads_even_by_ways_of_unlike_length():
    nodes = nodes_of(node("a", "Add", "x", "d"), node("x", "Relu", "e"), node("d", "Relu", "x"), node("e", "Const"))
    assert nodes.behind(["a", "e"]) == ["e", "x", "d", "a"]


def test_where_it_is_to_stop_nothing_is_looked_behind():
    assert nodes_of(sound()).behind(["relu"], stop=["conv"]) == ["conv", "sum/bias", "sum", "relu"]


def test_what_is_not_there_is_not_behind_a_node():
    assert nodes_of(node("a", "Relu", "gone"), node("b", "NoOp")).behind(["a", "lost"]) == ["a"]


def test_control_inputs_are_not_behind_a_node():
    assert nodes_of(node("a", "Relu", "b", "^c"), node("b", "Const"), node("c", "Const")).behind(["a"]) == ["b", "a"]


def loop() -> list:
    """A while loop's cycle: Merge -> Relu -> NextIteration -> Merge."""
    return [
        placeholder(), node("merge", "Merge", "x", "next"), node("body", "Relu", "merge"), node("next", "NextIteration", "body"),
        node("exit", "Exit", "body"),
    ]  # fmt: skip


def test_a_loop_has_an_end():
    nodes = nodes_of(loop())
    assert sorted(nodes.behind(["exit"])) == ["body", "exit", "merge", "next", "x"] and nodes.behind(["exit"])[-1] == "exit"
    assert nodes.ahead(["x"]) == {"x", "merge", "body", "next", "exit"}
    assert find_outputs(nodes, ["x"]) == (["exit"], [])


def test_ahead_is_what_values_reach():
    assert nodes_of(sound()).ahead(["conv"]) == {"conv", "sum", "relu", "y"}
    assert nodes_of(node("a", "Const"), node("b", "NoOp", "^a")).ahead(["a"]) == {"a"}


@pytest.mark.parametrize("op", COPIES)
def test_a_root_is_behind_every_op_that_only_hands_on(op):
    nodes = nodes_of(node("a", "Relu", "x"), node("b", op, "a:0"), node("c", "Identity", "b"), placeholder())
    assert nodes.root("c:0").name == "a"


@pytest.mark.parametrize("op", FAKE_QUANT)
def test_a_value_is_ranged_behind_copies_and_reshapes(op):
    nodes = nodes_of(
        placeholder(), constant("shape"), quantizer("q", "x", op), node("i", "Identity", "q"), node("r", "Reshape", "i", "shape"),
        node("j", "Identity", "r"), node("t", "Transpose", "q", "shape"),
    )  # fmt: skip
    assert nodes.ranged("j:0") is nodes["q"] and nodes.ranged("q") is nodes["q"]
    assert nodes.ranged("t") is None and nodes.ranged("x") is None


def test_an_inputs_range_is_the_quantizer_that_alone_reads_it():
    nodes = nodes_of(placeholder(), quantizer("q", "x:0"), node("y", "Relu", "q"))
    assert input_range(nodes, "x") is nodes["q"]


@pytest.mark.parametrize("op", ["Sub", "Add", "AddV2", "BiasAdd"])
def test_an_inputs_range_may_stand_behind_a_constant_that_shifts_it(op):
    nodes = nodes_of(placeholder(), node("i", "Identity", "x"), added("shift", "i", op), quantizer("q", "shift"))
    assert input_range(nodes, "x") is nodes["q"]


def test_an_input_that_is_shifted_twice_has_no_range():
    assert input_range(nodes_of(placeholder(), added("a", "x", "Sub"), added("b", "a", "Add"), quantizer("q", "b")), "x") is None


def test_an_input_with_another_reader_beside_its_quantizer_has_no_range():
    assert input_range(nodes_of(placeholder(), quantizer("q", "x"), node("shape", "Shape", "x")), "x") is None
    shifted = nodes_of(placeholder(), added("s", "x", "Sub"), quantizer("q", "s"), node("other", "Relu", "s"))
    assert input_range(shifted, "x") is None


@pytest.mark.parametrize("op", ["Mul", "Relu", "Conv2D", "Reshape"])
def test_an_input_that_is_computed_with_before_has_no_range(op):
    assert input_range(nodes_of(placeholder(), constant("c"), node("n", op, "x", "c"), quantizer("q", "n")), "x") is None


def test_an_input_without_readers_has_no_range():
    assert input_range(nodes_of(placeholder()), "x") is None


@pytest.mark.parametrize("op", ["Add", "AddV2", "Sub"])
def test_an_input_that_meets_another_input_has_no_range(op):
    nodes = nodes_of(placeholder("a"), placeholder("b"), node("n", op, "a", "b"), quantizer("q", "n"))
    assert input_range(nodes, "a") is None and input_range(nodes, "b") is None


def test_an_input_that_is_taken_off_a_constant_has_no_range():
    assert input_range(nodes_of(placeholder(), constant("c"), node("n", "Sub", "c", "x"), quantizer("q", "n")), "x") is None


def test_an_input_that_is_added_to_itself_has_no_range():
    assert input_range(nodes_of(placeholder(), node("n", "Add", "x", "x"), quantizer("q", "n")), "x") is None


def test_the_input_is_the_placeholder_that_layers_depend_on():
    assert find_inputs(nodes_of(placeholder("label"), node("loss", "Sub", "label", "y"), sound())) == ["x"]


def test_an_input_that_only_a_range_reads_is_one():
    assert find_inputs(nodes_of(placeholder("other"), placeholder(), quantizer("q", "x"))) == ["x"]


@pytest.mark.parametrize(("dtype", "expected"), [(UINT8, ["x"]), (6, ["x"]), (19, ["x"]), (INT32, []), (BOOL, []), (7, [])])
def test_inputs_are_placeholders_of_numbers(dtype, expected):
    assert find_inputs(nodes_of(placeholder("x", dtype), layer("conv", "x"))) == expected


def test_a_flag_with_a_default_is_no_input():
    assert find_inputs(nodes_of(sound(), node("learning", "PlaceholderWithDefault", "y/min", dtype=1))) == ["x"]


def test_several_inputs_are_in_the_files_order():
    parts = [placeholder("b"), placeholder("a"), *layer("m", "a"), *layer("n", "b"), node("s", "Add", "m", "n")]
    assert find_inputs(nodes_of(parts)) == ["b", "a"] and find_inputs(nodes_of(parts[::-1])) == ["a", "b"]


def test_every_placeholder_is_an_input_where_none_leads_to_a_layer():
    assert find_inputs(nodes_of(placeholder("a"), node("r", "Relu", "a"), placeholder("b"))) == ["a", "b"]


def test_control_does_not_make_an_input():
    assert find_inputs(nodes_of(placeholder("c"), placeholder(), layer("conv", "x"), node("y", "Relu", "conv", "^c"))) == ["x"]


@pytest.mark.parametrize("last", ["y", "relu"])
def test_the_output_is_what_nothing_reads(last):
    parts = sound() if last == "y" else sound()[:-3]
    assert find_outputs(nodes_of(parts), ["x"]) == ([last], [])


def test_several_outputs_are_in_the_files_order():
    heads = [*layer("b", "y"), *quantizer("b/act", "b"), *layer("a", "y"), *quantizer("a/act", "a")]
    assert find_outputs(nodes_of(sound(), heads), ["x"]) == (["b/act", "a/act"], [])


def test_a_copy_of_an_interior_value_is_a_view():
    nodes = nodes_of(sound(), node("view", "Identity", "relu"), node("deep", "StopGradient", "view2"), node("view2", "Identity", "sum"))
    assert find_outputs(nodes, ["x"]) == (["y"], ["view", "deep"])


def test_two_copies_of_the_last_value_are_both_results():
    nodes = nodes_of(sound(), node("a", "Identity", "y"), node("b", "Identity", "y"))
    assert find_outputs(nodes, ["x"]) == (["a", "b"], [])


def test_an_interior_value_that_is_computed_with_is_a_result():
    nodes = nodes_of(sound(), node("best", "ArgMax", "relu", "sum/bias"))
    assert find_outputs(nodes, ["x"]) == (["y", "best"], [])


def test_declared_outputs_are_split_as_found_ones_are():
    nodes = nodes_of(sound(), node("view", "Identity", "conv"), node("out", "Identity", "y"))
    assert without_views(nodes, ["view", "out"]) == (["out"], ["view"])
    assert without_views(nodes, ["view"]) == (["view"], [])
    assert without_views(nodes, ["conv", "out"]) == (["conv", "out"], [])


def test_branches_that_training_left_without_a_range_are_no_outputs():
    left = [*layer("unfolded", "y", ranged=False), node("unfolded/relu", "Relu", "unfolded")]
    assert find_outputs(nodes_of(left, sound(), layer("last", "y")), ["x"]) == (["last"], [])


def test_a_branch_that_reads_one_unquantized_layer_among_others_is_no_output():
    left = [*layer("bare", "x", ranged=False), *layer("ranged", "x"), node("mixed", "Add", "ranged", "bare")]
    assert find_outputs(nodes_of(left, sound()), ["x"]) == (["y"], [])


def test_a_branch_without_layers_is_no_output():
    assert find_outputs(nodes_of(node("aside", "Relu", "x"), sound()), ["x"]) == (["y"], [])


def test_an_output_behind_a_range_is_told_from_what_training_left():
    nodes = nodes_of(layer("unfolded", "x", ranged=False), sound("q"), node("y", "Squeeze", "q"))
    assert find_outputs(nodes, ["x"]) == (["y"], [])


def test_where_no_layer_is_quantized_every_end_is_an_output():
    nodes = nodes_of(placeholder(), layer("a", "x", ranged=False), layer("b", "x", ranged=False), node("y", "Relu", "b"))
    assert find_outputs(nodes, ["x"]) == (["a", "y"], [])


@pytest.mark.parametrize("op", ["Assign", "NoOp", "SaveV2", "MergeSummary", "ScalarSummary", "Print", "Assert"])
def test_what_writes_elsewhere_is_no_output(op):
    assert find_outputs(nodes_of(sound(), node("other", op, "relu")), ["x"]) == (["y"], [])


def test_what_no_input_reaches_is_no_output():
    assert find_outputs(nodes_of(placeholder(), constant("a"), node("step", "Relu", "a"), node("y", "Relu", "x")), ["x"]) == (["y"], [])
    assert find_outputs(nodes_of(sound(), constant("a"), node("step", "Relu", "a")), ["x"]) == (["y"], [])


def test_a_node_that_is_only_waited_for_is_an_output():
    assert find_outputs(nodes_of(sound(), node("done", "NoOp", "^y")), ["x"]) == (["y"], [])


def test_an_output_may_come_from_any_port():
    nodes = nodes_of(sound(), node("parts", "Split", "sum/bias", "y"), node("second", "Softmax", "parts:1"))
    assert find_outputs(nodes, ["x"]) == (["second"], [])


DAMAGED = {
    "layer without its filter": node("last", "Conv2D", "y", "gone"),
    "layer without its input": node("last", "Conv2D", "gone", "conv/quant"),
    "range without its value": node("last", "FakeQuantWithMinMaxVars", "gone", "y/min", "y"),
    "range without its ends": node("last", "FakeQuantWithMinMaxVars", "y", "gone", "gone"),
    "sum": node("last", "Add", "gone", "y"),
}


@pytest.mark.parametrize("last", DAMAGED.values(), ids=DAMAGED)
def test_a_graph_that_lacks_a_node_is_searched_and_then_refused(last):
    nodes = nodes_of(placeholder(), layer("conv", "x"), node("relu", "Relu", "conv"), quantizer("y", "relu"), last)
    find_outputs(nodes, ["x"])
    with pytest.raises(ModelFormatError, match="node 'last' .* reads 'gone', which the graph does not hold"):
        check_graph(nodes, ["x"], ["last"])
