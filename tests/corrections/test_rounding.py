"""Rounding that keeps channel sums: each code one of its two neighbours, each sum to half a step."""

import numpy as np
import pytest

from tf_requant import requantize
from tf_requant.corrections.rounding import balanced, filter_codes, preserve_channel_sums
from tf_requant.io.tflite import read
from tf_requant.model.graph import Tensor
from tf_requant.model.ops import info
from tf_requant.model.quant import QuantParams
from tf_requant.plan import ConstantPlan
from tf_requant.planning.planner import plan_model
from tf_requant.sample import model_path
from tf_requant.targets import load_target

FLOAT32 = 1e-4
"""Rounding noise of a sum of a few hundred float32 products below 127."""


def rounded(*row: float) -> list[int]:
    return balanced(np.float32([row]), -127, 127)[0].astype(int).tolist()


def test_the_roundings_nearest_to_a_tie_are_flipped_until_the_sum_is_kept():
    assert rounded(0.4, 0.45, 0.3, 0.1) == [0, 1, 0, 0]  # sum 1.25: nearest gives 0
    assert rounded(-0.4, -0.45, -0.3, -0.1) == [0, -1, 0, 0]
    assert rounded(1.6, 2.7, 3.9, -4.3) == [1, 3, 4, -4]  # sum 3.9: nearest gives 5


def test_a_sum_that_nearest_rounding_keeps_is_left_at_nearest():
    assert rounded(0.4, 0.6, -3.2, 7.1) == [0, 1, -3, 7]


def test_integers_are_left_alone():
    assert rounded(-127, 5, 0, 127) == [-127, 5, 0, 127]
    assert rounded(1, 1, 0.5, 0.5, 0.5, 0.5)[:2] == [1, 1]


@pytest.mark.parametrize("size", [1, 9, 64, 500])
def test_every_code_is_a_neighbour_and_every_sum_is_kept_to_half_a_step(size):
    wanted = np.random.default_rng(size).normal(0, 30, (200, size)).clip(-126, 126).astype(np.float32)
    codes = balanced(wanted, -127, 127)
    assert ((codes == np.floor(wanted)) | (codes == np.ceil(wanted))).all()
    assert np.abs(codes.sum(1, dtype=np.float64) - wanted.sum(1, dtype=np.float64)).max() <= 0.5 + FLOAT32


def test_codes_stay_within_the_limits_and_a_clipped_weight_stays_clipped():
    wanted = np.float32([[150.0, 0.4, 0.4, 0.3], [-150.0, -0.4, -0.4, -0.3]])
    codes = balanced(wanted, -127, 127).astype(int).tolist()
    assert codes == [[127, 1, 1, 1], [-127, -1, -1, -1]]  # as near to the sum as neighbours of the others allow


def test_codes_of_a_depthwise_filter_are_balanced_along_its_own_axis():
    data = np.random.default_rng(0).integers(0, 256, (1, 3, 3, 5)).astype(np.uint8)
    tensor = Tensor("filter", "uint8", data.shape, QuantParams("uint8", np.float32(0.02), 120), data)
    plan = ConstantPlan(QuantParams("int8", np.float32(0.03), 0), np.array([0.4, 0.5, 0.61, 0.7, 0.9]), limits=(-127, 127))
    codes = filter_codes(tensor, plan, axis=3)
    wanted = (data.astype(np.float64) - 120) * plan.step
    assert codes.dtype == np.int8 and codes.shape == data.shape and codes.flags.c_contiguous
    assert ((codes == np.floor(wanted + FLOAT32)) | (codes == np.ceil(wanted - FLOAT32))).all()
    assert np.abs(codes.sum((0, 1, 2)) - wanted.sum((0, 1, 2))).max() <= 0.5 + FLOAT32


@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2", "nna_sym8_pow2_per_channel", "tflite_int8"])
def test_only_filters_that_are_not_exact_get_codes(target):
    source = read(model_path())
    before = plan_model(source, load_target(target))
    after = preserve_channel_sums(source, before).graphs[0]
    for (i, position), constant in before.graphs[0].constants.items():
        refined, row = after.constants[i, position], info(source.main.ops[i])
        exact = bool(np.all(np.asarray(constant.step) == 1))
        assert (refined.codes is not None) == (position == row.filter and not exact)
        if refined.codes is None:
            assert refined is constant


def test_a_source_model_whose_grid_the_target_holds_is_left_untouched():
    corrected, plain = (requantize(model_path(), "tflite_uint8", corrections=c).model_bytes for c in ("auto", "none"))
    assert corrected == plain


@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2", "nna_usym8_pow2", "nna_sym8_pow2_per_channel"])
def test_in_a_converted_model_every_filter_keeps_its_sums(target):
    source, result = read(model_path()), requantize(model_path(), target, corrections="rounding")
    plan = result.plan.graphs[0]
    for (i, position), constant in plan.constants.items():
        if constant.codes is None:
            continue
        tensor, axis = source.main.tensors[source.main.ops[i].inputs[position]], info(source.main.ops[i]).channel_axis
        step = np.broadcast_to(constant.step, tensor.shape[axis]).reshape([-1 if d == axis else 1 for d in range(4)])
        wanted = (tensor.data.astype(np.float64) - int(tensor.quant.zero_point[0])) * step
        if np.abs(wanted).max() > 127:
            continue  # a clipped weight takes the sum with it
        others = tuple(d for d in range(4) if d != axis)
        assert np.abs(constant.codes.sum(others, dtype=np.int64) - wanted.sum(others)).max() <= 0.5 + FLOAT32
