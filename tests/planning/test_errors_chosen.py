"""Where exactness is impossible, least error decides; what a target cannot run stays on the host."""

import numpy as np
import pytest

from tf_requant import requantize
from tf_requant.io.tflite import read
from tf_requant.model.graph import Graph, Model, Op, Tensor
from tf_requant.model.quant import QuantParams
from tf_requant.plan import Plan, View
from tf_requant.planning.activations import choose
from tf_requant.planning.planner import plan_model
from tf_requant.planning.ranges import ValueRange
from tf_requant.planning.weights import plan_filter
from tf_requant.rewrite.rewriter import apply
from tf_requant.runtime import prove_runs
from tf_requant.sample import model_path
from tf_requant.targets import Target, load_target

SMALL = np.random.default_rng(3).integers(-60, 61, (40, 1, 1, 400))
"""Weights of 40 channels, all within 60 steps of zero."""


def filter_plan(values: np.ndarray, target: str, per_channel: bool = False):
    """The plan of a uint8 filter whose codes are 100 plus these values, at a step of 0.02."""
    codes = (values + 100).astype(np.uint8)
    tensor = Tensor("filter", "uint8", codes.shape, QuantParams("uint8", np.float32(0.02), 100), codes)
    return plan_filter(load_target(target), tensor, 0, 1.0, per_channel, np.zeros(len(values)))


def test_one_outlier_is_clipped_and_the_other_weights_stay_exact():
    values = SMALL.copy()
    values[2, 0, 0, 5] = 155
    plan = filter_plan(values, "nna_sym8")
    assert plan.params.scale.tolist() == [np.float32(0.02)] and plan.step == pytest.approx(1, rel=1e-7)
    assert plan.limits == (-127, 127) and "weights beyond 127 source steps clipped" in plan.reason


def test_many_values_outside_coarsen_the_filter_instead():
    values = np.where(SMALL > 0, 155, -60)
    plan = filter_plan(values, "nna_sym8")
    assert plan.params.scale[0] == pytest.approx(0.02 * 155 / 127, rel=1e-6)
    assert "clipped" not in plan.reason


def test_a_power_of_two_prefers_fine_weights_to_one_outlier():
    values = SMALL.copy()
    values[2, 0, 0, 5] = 130
    assert filter_plan(values, "nna_sym8_pow2").params.scale.tolist() == [2**-6]  # 0.0156: reaches 99 steps of 0.02
    assert filter_plan(np.where(SMALL > 0, 155, -60), "nna_sym8_pow2").params.scale.tolist() == [2**-5]


def test_the_error_of_every_channel_counts_alike():
    values = np.concatenate([np.full((1, 1, 1, 400), 155), np.random.default_rng(0).integers(-3, 4, (60, 1, 1, 400))])
    plan = filter_plan(values, "nna_sym8")  # one loud channel would be clipped, sixty quiet ones would be re-rounded
    assert plan.params.scale.tolist() == [np.float32(0.02)]


def test_only_the_channels_that_exceed_the_grid_are_rescaled():
    values = SMALL.copy()
    values[1] = np.where(values[1] > 0, 155, values[1])
    plan = filter_plan(values, "tflite_int8", per_channel=True)
    assert np.delete(plan.params.scale, 1).tolist() == [np.float32(0.02)] * 39
    assert plan.params.scale[1] == pytest.approx(0.02 * 155 / 127, rel=1e-6)
    assert "39 of 40 channels" in plan.reason


def test_no_other_candidate_scale_has_a_smaller_error():
    values = SMALL.copy()
    values[:, 0, 0, :8] = 140
    plan = filter_plan(values, "nna_sym8")
    v = values.reshape(40, -1)

    def error(scale: float) -> float:
        wanted = v * np.float64(np.float32(0.02))
        kept = np.clip(np.rint(wanted / scale), -127, 127) * scale
        return float((((kept - wanted) ** 2).sum(1) / (wanted**2).sum(1)).mean())

    assert error(float(plan.params.scale[0])) <= 1.02 * min(error(s) for s in np.linspace(0.005, 0.03, 500))


@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2"])
@pytest.mark.parametrize("end", ["output", "SOFTMAX"])
def test_the_long_side_of_scores_is_not_clipped(target, end):
    """Scores of -5.8..19.7, of which the largest decide, behind a RESHAPE that shares their parameters."""
    params, probability = (QuantParams("uint8", np.float32(s), z) for s, z in ((0.1, 58), (1 / 256, 0)))
    tensors = [Tensor(n, "uint8", (1, 4), params) for n in "xyz"] + [Tensor("p", "uint8", (1, 4), probability)]
    ops = [Op("LEAKY_RELU", (0,), (1,), {"alpha": 0.1}), Op("RESHAPE", (1,), (2,)), Op("SOFTMAX", (2,), (3,), {"beta": 1.0})]
    ops, last = (ops[:2], 2) if end == "output" else (ops, 3)
    model = Model((Graph("main", tuple(tensors[: last + 1]), tuple(ops), (0,), (last,)),))
    scores = plan_model(model, load_target(target)).graphs[0].activations[2].params
    assert 127 * scores.scale[0] >= 19.7 * (1 - 1e-6)


def test_a_range_that_hardly_leaves_the_grid_keeps_the_step():
    source = QuantParams("uint8", np.float32(0.1), 124)  # -124..131: four codes beyond 127
    chosen = choose(load_target("nna_sym8"), source, ValueRange(float(source.scale[0]), -124, 131))
    assert str(chosen.params) == "int8 scale 0.1 zero point 0"


def test_values_behind_a_relu_are_unsigned_at_the_unchanged_step_where_the_target_has_that():
    source = QuantParams("uint8", np.float32(0.1), 0)
    values = ValueRange(float(source.scale[0]), 0, 255, rectified=True, edges=True)
    assert str(choose(load_target("nna_usym8"), source, values).params) == "int8 scale 0.1 zero point -128"
    signed = choose(load_target("nna_sym8"), source, values).params
    assert int(signed.zero_point[0]) == 0 and signed.scale[0] == pytest.approx(0.1 * 255 / 127, rel=0.02)


def chain(code: str, middle: tuple[Tensor, ...] = ()) -> Model:
    """RELU, then one op, then RELU, on uint8 tensors of one scheme, and that op's constants."""
    params = QuantParams("uint8", np.float32(0.1), 100)
    tensors = [Tensor(n, "uint8", (1, 4), params) for n in ("x", "a", "b", "y")]
    constants = tuple(range(4, 4 + len(middle)))
    ops = (Op("RELU", (0,), (1,)), Op(code, (1, *constants), (2,), {"axis": 1}), Op("RELU", (2,), (3,)))
    return Model((Graph("main", (*tensors, *middle), ops, (0,), (3,)),))


INDICES = Tensor("indices", "int32", (4,), None, np.arange(4, dtype=np.int32))


def without_gather() -> Target:
    return load_target("nna_sym8").derive(name="no_gather", ops={"GATHER": None})


@pytest.mark.parametrize(
    ("model", "target", "reason"),
    [
        (chain("GATHER", (INDICES,)), without_gather(), "the target does not list it"),
        (chain("FLOOR"), load_target("nna_sym8"), "no rule re-expresses this op"),
        (chain("CUSTOM"), load_target("nna_sym8"), "custom op"),
    ],
    ids=["unlisted", "unknown", "custom"],
)
def test_an_op_that_the_target_does_not_run_stays_on_the_host_between_quantize_ops(model, target, reason):
    plan = plan_model(model, target)
    placed = plan.graphs[0].ops[1]
    assert (placed.on_accelerator, placed.reads, placed.writes, placed.reason) == (False, View.SOURCE, View.SOURCE, reason)
    assert codes_and_types(model, plan) == [
        ("RELU", "int8", "int8"), ("QUANTIZE", "int8", "uint8"), (model.main.ops[1].code, "uint8", "uint8"),
        ("QUANTIZE", "uint8", "int8"), ("RELU", "int8", "int8"),
    ]  # fmt: skip


def test_a_gather_that_the_target_lists_moves_codes_of_one_scheme():
    model = chain("GATHER", (INDICES,))
    plan = plan_model(model, load_target("nna_sym8"))
    assert [op.on_accelerator for op in plan.graphs[0].ops] == [True, True, True]
    one, other = (plan.graphs[0].activations[t].params for t in (1, 2))
    assert one.identical(other)


def test_between_int16_and_uint8_codes_go_by_way_of_int8():
    model = chain("FLOOR")
    assert codes_and_types(model, plan_model(model, load_target("tflite_int16x8"))) == [
        ("RELU", "int16", "int16"), ("QUANTIZE", "int16", "int8"), ("QUANTIZE", "int8", "uint8"),
        ("FLOOR", "uint8", "uint8"), ("QUANTIZE", "uint8", "int8"), ("QUANTIZE", "int8", "int16"), ("RELU", "int16", "int16"),
    ]  # fmt: skip


@pytest.mark.parametrize("target", ["tflite_int16x8", "nna_sym8_pow2"])
def test_ops_kept_on_the_host_run_between_their_quantize_ops(target):
    result = requantize(model_path(), target, keep="ADD")
    assert "QUANTIZE" in [op.code for op in read(result.model_bytes).main.ops]
    prove_runs(result.model_bytes)


def codes_and_types(model: Model, plan: Plan) -> list[tuple[str, str, str]]:
    """Each op of the rewritten model with the types that it reads and writes."""
    result = apply(model, plan).main
    return [(op.code, result.tensors[op.inputs[0]].dtype, result.tensors[op.outputs[0]].dtype) for op in result.ops]
