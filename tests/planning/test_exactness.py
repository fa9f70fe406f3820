"""What a target can hold exactly is held exactly: codes, scales, and the function under folded gains."""

import numpy as np
import pytest

from tf_requant import requantize
from tf_requant.errors import UsageError
from tf_requant.io.tflite import read
from tf_requant.io.tflite_writer import write
from tf_requant.model.graph import Graph, Model, Op, Tensor
from tf_requant.model.ops import Activation, fused_activation
from tf_requant.model.quant import QuantParams
from tf_requant.plan import ConstantPlan, GraphPlan
from tf_requant.planning.places import unmatched
from tf_requant.planning.planner import plan_model
from tf_requant.planning.wishes import Wishes
from tf_requant.rewrite.rewriter import apply
from tf_requant.sample import model_path
from tf_requant.targets import load_target

SAMPLE = model_path().read_bytes()
POWER_OF_TWO = ("nna_sym8_pow2", "nna_sym8_pow2_per_channel", "nna_usym8_pow2")
GEOMETRY = {"stride_w": 1, "stride_h": 1, "dilation_w_factor": 1, "dilation_h_factor": 1}
CODES = np.random.default_rng(7).integers(1, 256, (8, 8))


class Net:
    """Collects tensors and ops of one graph on 1x2x2 images, each under its own name."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []

    def tensor(self, name, scale, zero_point=0, data=None, dtype="uint8", channels=8, axis=0) -> int:
        shape = (1, 2, 2, channels) if data is None else np.shape(data)
        data = None if data is None else np.asarray(data, dtype)
        params = QuantParams(dtype, np.float32(scale), zero_point, axis)
        self.tensors.append(Tensor(name, dtype, shape, params, data))
        return len(self.tensors) - 1

    def op(self, code, inputs, output, **attrs) -> int:
        self.ops.append(Op(code, tuple(inputs), (output,), attrs))
        return output

    def conv(self, name, x, codes, scale, zero_point, activation=0, bias=0, step=0.02, middle=128) -> int:
        """A 1x1 CONV_2D of uint8 filter codes [out, in] with one step and zero point."""
        unit = float(self.tensors[x].quant.scale[0]) * step
        filter_ = self.tensor(f"{name}_filter", step, middle, np.reshape(codes, (len(codes), 1, 1, -1)))
        biases = self.tensor(f"{name}_bias", unit, 0, np.full(len(codes), bias), "int32")
        y = self.tensor(name, scale, zero_point, channels=len(codes))
        return self.op("CONV_2D", (x, filter_, biases), y, fused_activation_function=activation, **GEOMETRY)

    def model(self, inputs, outputs) -> Model:
        return Model((Graph("main", tuple(self.tensors), tuple(self.ops), tuple(inputs), tuple(outputs)),))


def scheme(params: QuantParams) -> tuple[str, float, int]:
    """Type, scale to six digits, and zero point."""
    return params.dtype, round(float(params.scale[0]), 7), int(params.zero_point[0])


def plan(model: Model, target: str, **wishes) -> GraphPlan:
    return plan_model(model, load_target(target), Wishes(**wishes)).graphs[0]


def inverted_residual(last_is_output: bool = False) -> Model:
    """Expand with RELU6, project, ADD, expand with RELU6, project: five scales, no two alike."""
    net = Net()
    x = net.conv("stem", net.tensor("input", 0.0078125, 128), CODES, 0.031, 117)
    wide = net.conv("expand", x, CODES, 6 / 255, 0, Activation.RELU6, bias=77)
    narrow = net.conv("project", wide, CODES[::-1], 0.043, 131, bias=-5)
    total = net.op("ADD", (x, narrow), net.tensor("sum", 0.051, 125), fused_activation_function=0)
    last = net.conv("last", total, CODES.T, 6 / 255, 0, Activation.RELU6)
    return net.model([0], [last if last_is_output else net.conv("logits", last, CODES[:3], 0.1, 58)])


def test_the_same_scheme_in_and_out_is_identical_in_codes_and_parameters():
    source, result = read(SAMPLE).main, requantize(SAMPLE, "tflite_uint8").model.main
    assert [fused_activation(op) for op in result.ops] == [fused_activation(op) for op in source.ops]
    for before, after in zip(source.tensors, result.tensors, strict=True):
        assert (before.name, before.dtype, before.shape) == (after.name, after.dtype, after.shape)
        assert before.quant is None or before.quant.identical(after.quant)
        assert before.data is None or before.data.tobytes() == after.data.tobytes()


@pytest.mark.parametrize("name", ["resnet8_cifar10_int8", "kws_dscnn_int8"])
def test_int8_per_channel_to_tflite_int8_is_identical_in_codes_and_parameters(shared, name):
    source = read(shared / f"models/{name}.tflite")
    for before, after in zip(source.main.tensors, requantize(source, "tflite_int8").model.main.tensors, strict=True):
        assert before.quant is None or before.quant.identical(after.quant)
        assert before.data is None or before.data.tobytes() == after.data.tobytes()


def test_recentring_moves_activation_codes_by_128_at_the_same_scale():
    planned = plan(inverted_residual(), "tflite_int8")
    assert {scheme(a.params) for a in planned.activations.values()} == {
        ("int8", 0.0078125, 0), ("int8", 0.031, -11), ("int8", 0.0235294, -128),
        ("int8", 0.043, 3), ("int8", 0.051, -3), ("int8", 0.1, -70),
    }  # fmt: skip


def test_recentring_keeps_the_real_value_of_every_constant_whose_codes_fit():
    net = Net()
    net.conv("y", net.tensor("x", 0.5, 3, channels=4), [[3, 128, 255, 127]], 0.1, 100, bias=-4321)
    result = apply(model := net.model([0], [3]), plan_model(model, load_target("tflite_int8"))).main
    _, filter_, bias, _ = result.tensors
    assert filter_.data.ravel().tolist() == [-125, 0, 127, -1]
    assert filter_.dtype == "int8" and filter_.quant.scale.tolist() == [np.float32(0.02)]
    assert bias.data.tolist() == [-4321] and bias.quant.scale.tolist() == [pytest.approx(0.01, rel=1e-6)]


def test_widening_to_int16_keeps_the_scale_and_shifts_codes_by_the_zero_point():
    net = Net()
    x, y = net.tensor("x", 0.05, 100, channels=4), net.tensor("y", 0.07, 30, channels=4)
    net.op("ADD", (x, net.tensor("c", 0.3, 100, [0, 99, 100, 255])), y, fused_activation_function=0)
    result = apply(model := net.model([x], [y]), plan_model(model, load_target("tflite_int16x8"))).main
    assert [scheme(t.quant) for t in result.tensors] == [("int16", 0.05, 0), ("int16", 0.07, 0), ("int16", 0.3, 0)]
    assert result.tensors[2].data.tolist() == [-100, -1, 0, 155]


def test_each_channel_that_fits_keeps_the_unchanged_scale():
    net = Net()
    codes = [[0, 227, 100, 50], [255, 100, 101, 99], [0, 100, 100, 227]]  # zero point 100: |v| up to 127, 155, 127
    net.conv("y", net.tensor("x", 0.5, 3, channels=4), codes, 0.1, 100, middle=100)
    result = apply(model := net.model([0], [3]), plan_model(model, load_target("tflite_int8"))).main.tensors[1]
    assert result.quant.scale[[0, 2]].tolist() == [np.float32(0.02)] * 2 and result.quant.scale[1] > 0.02
    assert result.data.reshape(3, 4)[[0, 2]].tolist() == [[-100, 127, 0, -50], [-100, 0, 0, 127]]


@pytest.mark.parametrize("target", ["tflite_int8", "tflite_int8_per_tensor", "nna_sym8", *POWER_OF_TWO])
@pytest.mark.parametrize("codes", [[[128] * 4] * 2, [[128] * 4, [1, 255, 9, 77]], [[128, 128, 128, 129], [128] * 4]],
                         ids=["dead filter", "dead channel", "tiny filter"])  # fmt: skip
def test_a_dead_or_tiny_channel_does_not_blow_up_its_bias(codes, target):
    net = Net()
    net.conv("y", net.tensor("x", 0.5, 3, channels=4), codes, 0.1, 100, bias=2**28)
    result = apply(model := net.model([0], [3]), plan_model(model, load_target(target))).main
    x, filter_, bias, _ = result.tensors
    real = bias.data * x.quant.scale.astype(float) * filter_.quant.scale.astype(float)
    assert np.abs(bias.data).max() <= 2**30
    assert real == pytest.approx(2**28 * 0.5 * 0.02, rel=1e-6)


@pytest.mark.parametrize("target", POWER_OF_TWO)
def test_a_relu6_becomes_relu_where_saturation_is_the_clamp(target):
    model = inverted_residual()
    planned, top = plan(model, target), 255 if "usym8" in target else 127
    for op, placed in zip(model.main.ops, planned.ops):
        activation = planned.activations[op.outputs[0]]
        if fused_activation(op) is Activation.RELU6:
            assert placed.activation is Activation.RELU
            assert top * activation.params.scale[0] == pytest.approx(6 * activation.gain, rel=1e-6)
        else:
            assert placed.activation is None


@pytest.mark.parametrize("target", POWER_OF_TWO)
def test_a_relu6_stays_where_its_gain_is_one(target):
    model = inverted_residual(last_is_output=True)
    planned = plan(model, target)
    assert planned.activations[model.main.outputs[0]].gain == 1.0
    assert planned.ops[-1].activation is None


@pytest.mark.parametrize("target", POWER_OF_TWO)
def test_a_relu6_stays_where_others_share_its_parameters_beyond_the_clamp(target):
    net = Net()
    x = net.tensor("x", 0.05, 100)
    sides = net.conv("a", x, CODES, 6 / 255, 0, Activation.RELU6), net.conv("b", x, CODES, 0.07, 120)
    both = net.op("CONCATENATION", sides, net.tensor("both", 0.07, 120, channels=16), axis=3, fused_activation_function=0)
    model = net.model([x], [net.conv("y", both, np.hstack([CODES, CODES]), 0.1, 128)])
    planned = plan(model, target)
    assert planned.ops[0].activation is None and planned.activations[sides[0]].gain == 1.0


def test_a_relu_that_the_source_leaves_to_saturation_is_written_down_where_codes_go_below_zero():
    net = Net()
    middle = net.conv("middle", net.tensor("x", 0.05, 100), CODES, 0.02, 0)  # zero point 0: negative sums are cut off
    model = net.model([0], [net.conv("y", middle, CODES, 0.1, 128)])
    assert [plan(model, t).ops[0].activation for t in ("nna_sym8", "tflite_int16x8")] == [Activation.RELU] * 2
    assert [plan(model, t).ops[0].activation for t in ("tflite_int8", "tflite_uint8")] == [None] * 2


@pytest.mark.parametrize("target", POWER_OF_TWO)
def test_sums_joins_and_pools_share_one_gain_and_the_interface_has_gain_one(target):
    net = Net()
    x = net.tensor("x", 0.05, 100)
    a, b, c = (net.conv(n, x, CODES, s, 120) for n, s in (("a", 0.033), ("b", 0.041), ("c", 0.057)))
    total = net.op("ADD", (a, b), net.tensor("sum", 0.06, 120), fused_activation_function=0)
    both = net.op("CONCATENATION", (total, c), net.tensor("both", 0.07, 120, channels=16), axis=3)
    pooled = net.op("AVERAGE_POOL_2D", (both,), net.tensor("pool", 0.07, 120, channels=16), filter_width=2, filter_height=2)
    model = net.model([x], [net.conv("y", pooled, np.hstack([CODES, CODES]), 0.1, 128)])
    gains = {t: activation.gain for t, activation in plan(model, target).activations.items()}
    assert len({gains[t] for t in (a, b, c, total, both, pooled)}) == 1
    assert [gains[t] for t in (*model.main.inputs, *model.main.outputs)] == [1.0, 1.0]


def run_in_reals(model: Model, planned: GraphPlan | None, x: np.ndarray) -> tuple[dict[int, np.ndarray], set[int]]:
    """Every tensor in real numbers, weights and biases not rounded, and which tensors met a clamp."""
    graph, values, clamped = model.main, {model.main.inputs[0]: x}, set()
    for i, op in enumerate(graph.ops):
        y = op.outputs[0]
        if op.code == "ADD":
            values[y] = values[op.inputs[0]] + values[op.inputs[1]]
            continue
        filter_, bias = (_real(graph.tensors[op.inputs[p]], planned and planned.constants[i, p]) for p in (1, 2))
        values[y] = values[op.inputs[0]] @ filter_.reshape(len(filter_), -1).T + bias
        if fused_activation(op) is Activation.RELU6:
            params = planned and planned.activations[y].params
            top = (127 - int(params.zero_point[0])) * float(params.scale[0]) if params else 6.0
            if (values[y] > top).any():
                clamped.add(y)
            values[y] = np.clip(values[y], 0, top)
    return values, clamped


def _real(tensor: Tensor, planned: ConstantPlan | None) -> np.ndarray:
    """A constant's real values: the source's, or what the plan makes of them before they are rounded."""
    unit = np.asarray(planned.step) * planned.params.scale.astype(float) if planned else tensor.quant.scale.astype(float)
    values = tensor.data - tensor.quant.zero_point[0]
    return values * np.reshape(unit, (-1, *(1,) * (values.ndim - 1)))


@pytest.mark.parametrize("target", POWER_OF_TWO)
def test_the_fold_is_exact_before_weights_are_rounded(target):
    model = inverted_residual()
    planned = plan(model, target)
    x = np.random.default_rng(1).uniform(-1, 1, (50, 8))
    before, clamped = run_in_reals(model, None, x)
    after, _ = run_in_reals(model, planned, x)
    assert len(clamped) == 2  # both RELU6 were at work
    assert any(a.gain != 1 for a in planned.activations.values())
    for t, activation in planned.activations.items():
        assert after[t] / activation.gain == pytest.approx(before[t], rel=1e-5, abs=1e-5 * np.abs(before[t]).max())


@pytest.mark.parametrize("target", POWER_OF_TWO)
def test_every_scale_of_a_power_of_two_target_has_the_mantissa_one_half(target):
    graph = read(requantize(SAMPLE, target, keep="SOFTMAX").model_bytes).main
    on_target = {t for op in graph.ops if op.code not in ("SOFTMAX", "QUANTIZE") for t in (*op.inputs, *op.outputs)}
    scales = np.concatenate([graph.tensors[t].quant.scale for t in on_target if graph.tensors[t].quant is not None])
    assert scales.size > 50
    assert np.frexp(scales)[0].tolist() == [0.5] * scales.size


def test_a_pinned_range_decides_the_scale():
    model = inverted_residual()
    pinned = (("project", -3.0, 5.0),)
    names = {t.name: i for i, t in enumerate(model.main.tensors)}
    chosen = {t: plan(model, t, pinned=pinned).activations[names["project"]].params for t in ("tflite_int8", "nna_sym8_pow2")}
    assert chosen["tflite_int8"].scale[0] == pytest.approx(8 / 255, rel=0.01)  # the ends move to the source's grid
    assert scheme(chosen["nna_sym8_pow2"]) == ("int8", 0.0625, 0)  # the first power of two that reaches 5


def test_a_pinned_tensor_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="'nowhere', which is no quantized activation"):
        plan(inverted_residual(), "nna_sym8", pinned=(("nowhere", -1.0, 1.0),))


def test_kept_ops_stay_at_the_source_precision_by_code_or_tensor_name():
    model = inverted_residual()
    placed = plan(model, "nna_sym8", keep=("^ADD$", "logits"))
    kept = [o.name for o, p in zip(model.main.ops, placed.ops) if not p.on_accelerator]
    assert kept == ["ADD", "CONV_2D"]
    result = apply(model, plan_model(model, load_target("nna_sym8"), Wishes(keep=("^ADD$",)))).main
    add = next(op for op in result.ops if op.code == "ADD")
    seen = [scheme(result.tensors[t].quant) for t in (*add.inputs, *add.outputs)]
    assert seen == [("uint8", 0.031, 117), ("uint8", 0.043, 131), ("uint8", 0.051, 125)]


def test_a_pattern_that_matches_no_op_is_told():
    model = inverted_residual()
    assert unmatched(model.graphs, ("^ADD$", "logitz", "ad+d")) == ["logitz", "ad+d"]


@pytest.mark.parametrize("target", POWER_OF_TWO)
def test_what_a_kept_op_reads_carries_no_gain_even_if_the_op_ignores_scales(target):
    net = Net()
    y = net.conv("y", net.tensor("x", 0.05, 100), CODES, 0.033, 77)
    net.tensors += [Tensor("axis", "int32", (), None, np.int32(3)), Tensor("best", "int64", (1, 2, 2))]
    model = net.model([0], [net.op("ARG_MAX", (y, y + 1), y + 2, output_type=4)])
    assert plan(model, target, keep=("ARG_MAX",)).activations[y].gain == 1.0


def test_a_dry_run_decides_everything_and_edits_nothing():
    dry, wet = requantize(SAMPLE, "nna_sym8", dry_run=True), requantize(SAMPLE, "nna_sym8")
    assert dry.model_bytes == write(read(SAMPLE))
    assert [r.reason for r in dry.report.tensors] == [r.reason for r in wet.report.tensors]
    assert all(r.reason for r in dry.report.tensors) and wet.model_bytes != dry.model_bytes
