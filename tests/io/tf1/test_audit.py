"""What is refused before a converter sees it, in which words, and what is let through."""

import pytest

from tests.io.tf1.graphs import Node, added, constant, layer, node, nodes_of, placeholder, quantizer, sound
from tf_requant.errors import ModelFormatError, RequantError, UnsupportedModelError
from tf_requant.io.tf1.audit import check_graph, layer_of
from tf_requant.io.tf1.nodes import LAYERS


def refused(*parts: Node | list[Node], output: str = "y", inputs: tuple[str, ...] = ("x",)) -> str:
    """The sentence with which a graph is refused as unsupported."""
    with pytest.raises(UnsupportedModelError) as caught:
        check_graph(nodes_of(*parts), list(inputs), [output])
    assert caught.type is UnsupportedModelError
    return str(caught.value)


def dilated() -> list[Node]:
    """A convolution between the ops that spread and gather its input, and its bias and rectifier behind them."""
    return [
        placeholder(), constant("block"), node("apart", "SpaceToBatchND", "x", "block", "block"), *layer("conv", "apart"),
        node("together", "BatchToSpaceND", "conv", "block", "block"), *added("sum", "together"), node("relu", "Relu", "sum"),
        *quantizer("y", "relu"),
    ]  # fmt: skip


def residual(*, ranged: bool) -> list[Node]:
    """The sum of a layer's result and what it was computed from; `y` is what reads it."""
    last = quantizer("y", "add") if ranged else layer("y", "add")
    return [*sound("q"), *layer("next", "q"), *quantizer("next/act", "next"), node("add", "Add", "next/act", "q"), *last]


SOUND = {
    "convolution, bias, RELU6": sound(),
    "depthwise": [placeholder(), *layer("dw", "x", "DepthwiseConv2dNative"), *added("sum", "dw"), *quantizer("y", "sum")],
    "matrix product": [placeholder(), *layer("fc", "x", "MatMul"), *added("sum", "fc"), *quantizer("y", "sum")],
    "transposed convolution": [placeholder(), *layer("up", "x", "Conv2DBackpropInput"), *added("sum", "up"), *quantizer("y", "sum")],
    "no bias": [placeholder(), *layer("conv", "x"), *quantizer("y", "conv")],
    "bias as a sum": [placeholder(), *layer("conv", "x"), *added("sum", "conv", "AddV2"), *quantizer("y", "sum")],
    "bias first": [placeholder(), *layer("conv", "x"), constant("b"), node("sum", "Add", "b", "conv"), *quantizer("y", "sum")],
    "range of the input": [placeholder(), *added("s", "x", "Sub"), *quantizer("q", "s"), *layer("c", "q"), *quantizer("y", "c")],
    "dilated": dilated(),
    "residual": residual(ranged=True),
    "concatenation without a range": [
        *sound("q"), *layer("a", "q"), *quantizer("a/act", "a"), constant("axis"), node("both", "ConcatV2", "q", "a/act", "axis"),
        *layer("last", "both"), *quantizer("y", "last"),
    ],
    "max pool": [*sound("q"), node("pool", "MaxPool", "q"), *layer("last", "pool"), *quantizer("y", "last")],
    "pool before the range": [placeholder(), *layer("conv", "x"), node("pool", "MaxPool", "conv"), *quantizer("y", "pool")],
    "average pool at the end": [*sound("q"), node("y", "AvgPool", "q")],
    "softmax": [*sound("q"), node("y", "Softmax", "q")],
    "sigmoid": [*sound("q"), node("y", "Sigmoid", "q")],
    "the best class": [*sound("q"), constant("axis"), node("y", "ArgMax", "q", "axis")],
    "identity before the last range": [*sound("q"), *layer("fc", "q", "MatMul"), *added("sum", "fc"), node("out", "Identity", "sum"),
                                       *quantizer("y", "out")],
    "identity behind the last range": [*sound("q"), node("y", "Identity", "q")],
    "ranges without nodes for their ends": [placeholder(), *layer("conv", "x"), node("y", "FakeQuantWithMinMaxArgs", "conv")],
    "filter through copies": [placeholder(), *quantizer("w", "v"), constant("v"), node("r", "Identity", "w"),
                              node("conv", "Conv2D", "x", "r:0"), *quantizer("y", "conv:0")],
    "product of two activations": [*sound("q"), *layer("b", "x"), *quantizer("r", "b"), node("m", "MatMul", "q", "r"),
                                   *quantizer("y", "m")],
    "product of two activations, one moved": [
        *sound("q"), *layer("b", "x"), *quantizer("r", "b"), constant("c"), node("t", "Transpose", "r", "c"), node("m", "MatMul", "q", "t"),
        *quantizer("y", "m"),
    ],
    "eight bits, said": [placeholder(), *layer("conv", "x"), *quantizer("y", "conv", num_bits=8)],
    "flattened by a computed shape": [
        *sound("q"), node("shape", "Shape", "q"), constant("c"), node("batch", "StridedSlice", "shape", "c", "c", "c"),
        node("sizes", "Pack", "batch", "c"), node("flat", "Reshape", "q", "sizes"), *layer("fc", "flat", "MatMul"), *quantizer("y", "fc"),
    ],
    "second part of a split": [*sound("q"), constant("axis"), node("s", "Split", "axis", "q"), *layer("c", "s:1"), *quantizer("y", "c")],
}  # fmt: skip


@pytest.mark.parametrize("parts", SOUND.values(), ids=SOUND)
def test_a_sound_graph_passes_in_any_order(parts):
    check_graph(nodes_of(parts), ["x"], ["y"])
    check_graph(nodes_of(parts[::-1]), ["x"], ["y"])


def test_checking_a_graph_adds_no_attributes_to_it():
    nodes = nodes_of(sound())  # the protobuf's map makes an entry without a value of a key that is read, which TensorFlow refuses
    check_graph(nodes, ["x"], ["y"])
    assert {n.name: sorted(n.attr) for n in nodes.graph.node if n.op != "Const"} == {
        "x": ["dtype"], "conv/quant": ["narrow_range"], "conv": [], "sum": [], "relu": [], "y": []
    }  # fmt: skip


def test_what_no_output_needs_may_be_anything():
    left = [node("train", "AssignSub", "y", "step"), node("noise", "RandomUniform", "gone"), *layer("bare", "x", ranged=False)]
    left += [node("summary", "Erf", "relu")]
    check_graph(nodes_of(sound(), left, quantizer("q", "bare", num_bits=4)), ["x"], ["y"])


def test_what_lies_behind_a_fed_node_may_be_anything():
    before = [node("batch", "IteratorGetNext", "gone"), node("noise", "RandomUniform", "batch"), node("x", "Identity", "noise")]
    check_graph(nodes_of(before, sound()[1:]), ["x"], ["y"])
    check_graph(nodes_of(node("x", "Identity", "gone"), sound()[1:]), ["x"], ["y"])


def test_a_fed_copy_of_what_is_missing_is_as_good_as_a_placeholder():
    parts = [node("x", "Identity", "gone"), *added("shift", "x"), *quantizer("q", "shift"), *layer("c", "q"), *quantizer("y", "c")]
    check_graph(nodes_of(parts), ["x"], ["y"])


def test_a_node_that_reads_a_missing_one_is_damage_and_both_are_named():
    with pytest.raises(ModelFormatError) as caught:
        check_graph(nodes_of(sound()[1:]), [], ["y"])
    assert str(caught.value) == "node 'conv' (Conv2D) reads 'x', which the graph does not hold"


def test_a_missing_port_is_named_by_its_node():
    with pytest.raises(ModelFormatError, match=r"node 'relu' \(Relu\) reads 'gone'"):
        check_graph(nodes_of(placeholder(), node("relu", "Relu", "gone:1")), ["x"], ["relu"])


def test_an_output_that_no_input_reaches_is_refused_by_both_names():
    sentence = refused(sound(), placeholder("z"), inputs=("z",))
    assert "no output of 'y' depends on an input of 'z'" in sentence and "--inputs" in sentence


def test_a_graph_without_fake_quant_is_refused_as_untrained():
    sentence = refused(placeholder(), layer("conv", "x", ranged=False), node("y", "Relu", "conv"))
    assert "no FakeQuant node between its inputs and outputs" in sentence and "representative dataset" in sentence


def test_a_fake_quant_beside_the_way_to_the_output_does_not_count():
    parts = [placeholder(), *layer("conv", "x", ranged=False), node("y", "Relu", "conv"), *quantizer("q", "conv")]
    assert "no FakeQuant node between" in refused(parts)


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (node("y/min", "AssignSub", "v", "d"), "updates a variable"),
        (node("y/min", "Assign", "v", "d"), "updates a variable"),
        (node("y/min", "AssignSubVariableOp", "v", "d"), "updates a variable"),
        (node("y/min", "RandomUniform", "d"), "draws random numbers"),
        (node("y/min", "FusedBatchNorm", "v", "d", is_training=True), "normalizes by the batch's own statistics"),
        (node("y/min", "FusedBatchNormV3", "v", "d", is_training=True), "normalizes by the batch's own statistics"),
        (node("y/min", "Switch", "v", "d"), "decides at run time which branch runs"),
        (node("y/min", "Merge", "v", "d"), "decides at run time which branch runs"),
        (node("y/min", "While", "v", "d"), "decides at run time which branch runs"),
    ],
    ids=lambda value: value.op if isinstance(value, Node) else "",
)
def test_a_training_graph_is_refused_and_the_node_is_named(left, why):
    parts = [n for n in sound() if n.name != "y/min"]
    sentence = refused(parts, constant("v"), constant("d"), left)
    assert f"this is a training graph: node 'y/min' ({left.op}) {why}" in sentence and "create_eval_graph" in sentence


def test_a_loop_on_the_way_to_the_output_is_refused():
    loop = [node("merge", "Merge", "x", "next"), node("next", "NextIteration", "merge")]
    assert "decides at run time" in refused(placeholder(), loop, layer("conv", "merge"), quantizer("y", "conv"))


def normalized(op: str = "FusedBatchNorm", name: str = "norm") -> list[Node]:
    return [
        placeholder(), *layer("conv", "x"), constant("c"), node(name, op, "conv", "c", "c", "c", "c", is_training=False),
        *quantizer("y", name),
    ]  # fmt: skip


@pytest.mark.parametrize("op", ["FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "BatchNormWithGlobalNormalization"])
def test_batch_norm_that_was_left_unfolded_is_refused_and_named(op):
    assert "batch norm was left unfolded at 'block/norm':" in refused(normalized(op, "block/norm"))


def test_batch_norm_of_constants_is_folded():
    parts = [n for n in sound() if n.name != "sum/bias"]
    check_graph(nodes_of(parts, constant("c"), node("sum/bias", "FusedBatchNorm", *"ccccc", is_training=False)), ["x"], ["y"])


@pytest.mark.parametrize("op", LAYERS)
def test_a_filter_without_a_range_is_refused_and_its_layer_named(op):
    sentence = refused(sound("q"), layer("block/bare", "q", op, ranged=False), quantizer("y", "block/bare"))
    assert "the filter of 'block/bare' has no FakeQuant node" in sentence


def test_of_many_filters_without_a_range_five_are_named():
    parts, last = [*sound("l0")], "l0"
    for i in range(1, 8):
        parts += [*layer(f"c{i}", last, ranged=False), *quantizer(f"l{i}", f"c{i}")]
        last = f"l{i}"
    assert "the filter of 'c1', 'c2', 'c3', 'c4', 'c5' and 2 more has" in refused(parts, output=last)


LACKING = {
    "layer": [*sound("q"), *layer("here", "q"), *layer("c", "here"), *quantizer("y", "c")],
    "layer at the end": [*sound("q"), *layer("here", "q"), node("y", "Identity", "here")],
    "layer with two biases": [*sound("q"), *layer("here", "q"), *added("a", "here"), *added("b", "a"), *quantizer("y", "b")],
    "layer before softmax": [*sound("q"), *layer("here", "q"), *added("b", "here"), node("y", "Softmax", "b")],
    "layer before RELU and the next": [*sound("q"), *layer("here", "q"), node("r", "Relu", "here"), *layer("c", "r"), *quantizer("y", "c")],
    "one reader of two without a range": [
        *sound("q"), *layer("here", "q"), *quantizer("r", "here"), node("p", "AvgPool", "here"), node("y", "ConcatV2", "r", "p"),
    ],
    "product": [*sound("q"), *layer("b", "x"), *quantizer("r", "b"), node("here", "Mul", "q", "r"), *layer("c", "here"), *quantizer("y", "c")],
    "sum of two activations": [n for n in residual(ranged=False)],
    "sum of two layers": [*sound("q"), *layer("a", "q"), *layer("b", "q"), node("here", "Add", "a", "b"), node("y", "Softmax", "here")],
    "sum with a constant behind a range": [*sound("q"), *added("here", "q"), *layer("c", "here"), *quantizer("y", "c")],
    "op that no table knows": [*sound("q"), node("here", "Erf", "q"), *layer("c", "here"), *quantizer("y", "c")],
}  # fmt: skip


@pytest.mark.parametrize("parts", LACKING.values(), ids=LACKING)
def test_an_activation_without_a_range_is_refused_and_named(parts):
    name = "add" if "add" in nodes_of(parts) else "here"
    sentence = refused(parts)
    assert "no FakeQuant node gives the range of " in sentence and repr(name) in sentence


def test_a_bias_is_not_named_beside_its_layer():
    parts = [*sound("q"), *layer("here", "q"), *added("bias", "here"), node("y", "Softmax", "bias")]
    assert "gives the range of 'here';" in refused(parts)


def test_an_output_before_a_range_lacks_one_though_another_output_lies_behind():
    with pytest.raises(UnsupportedModelError, match="gives the range of 'conv';"):
        check_graph(nodes_of(sound()), ["x"], ["relu", "y"])


@pytest.mark.parametrize("fed", ["Placeholder", "PlaceholderWithDefault", "IteratorGetNext"])
def test_a_sum_of_two_layers_without_ranges_is_refused_whatever_op_is_fed(fed):
    parts = [node("x", fed), *layer("a", "x"), *layer("b", "x"), node("sum", "Add", "a", "b"), *quantizer("y", "sum")]
    assert "no FakeQuant node gives the range of 'a', 'b';" in refused(parts)


def test_a_product_of_two_activations_has_no_filter_whatever_op_is_fed():
    parts = [*sound("q")[1:], node("x", "IteratorGetNext"), *layer("b", "x"), *quantizer("r", "b"),
             node("t", "Transpose", "r", "q/min"), node("m", "MatMul", "q", "t"), *quantizer("y", "m")]  # fmt: skip
    check_graph(nodes_of(parts), ["x"], ["y"])


@pytest.mark.parametrize("where", ["y", "conv/quant"])
def test_a_range_of_four_bits_is_refused_and_named(where):
    parts = sound()
    next(n for n in parts if n.name == where).attr["num_bits"].i = 4
    assert f"node '{where}' quantizes to 4 bits" in refused(parts)


def test_every_refusal_is_an_error_that_the_command_line_explains():
    assert issubclass(UnsupportedModelError, RequantError) and issubclass(ModelFormatError, RequantError)


def test_the_layer_of_a_sum_is_found_behind_bias_and_dilation():
    nodes = nodes_of(dilated())
    assert [layer_of(nodes, n) for n in ("conv", "together", "sum")] == [nodes["conv"]] * 3
    assert layer_of(nodes, "relu") is None and layer_of(nodes, "x") is None


def test_a_sum_of_two_layers_is_no_layers():
    nodes = nodes_of(residual(ranged=True))
    assert layer_of(nodes, "add") is None and layer_of(nodes, "next") is nodes["next"]


def test_a_constant_is_what_nothing_fed_reaches():
    nodes = nodes_of(sound(), node("learning", "PlaceholderWithDefault", "y/min"), node("n", "Neg", "learning"))
    assert [nodes.is_constant(n) for n in ("conv/quant", "sum/bias:0", "conv", "x", "n")] == [True, True, False, False, False]
