"""Every rule of a target finds the fault that is planted for it, in a model that is legal otherwise."""

from collections.abc import Callable

import numpy as np
import pytest

import tf_requant
from tf_requant.io import tflite
from tf_requant.model.graph import Model, Op, Tensor
from tf_requant.model.quant import QuantParams
from tf_requant.sample import model_path
from tf_requant.targets import builtin_targets, load_target
from tf_requant.validation.legality import check_legality

FIRST_CONV, FIRST_DEPTHWISE, ADD, POOL = 0, 1, 6, 18


@pytest.fixture(scope="module")
def legal() -> Model:
    return tflite.read(tf_requant.requantize(model_path(), "nna_sym8_pow2").model_bytes)


def with_tensor(model: Model, index: int, edit: Callable[[Tensor], Tensor]) -> Model:
    tensors = list(model.main.tensors)
    tensors[index] = edit(tensors[index])
    return model.with_(graphs=(model.main.with_(tensors=tuple(tensors)),))


def with_op(model: Model, index: int, edit: Callable[[Op], Op]) -> Model:
    ops = list(model.main.ops)
    ops[index] = edit(ops[index])
    return model.with_(graphs=(model.main.with_(ops=tuple(ops)),))


def requantized(tensor: Tensor, **changes: object) -> Tensor:
    assert tensor.quant is not None
    return tensor.with_(quant=tensor.quant.with_(**changes))


def faults(model: Model, target: str = "nna_sym8_pow2", **derived: object) -> str:
    aim = load_target(target)
    return "\n".join(check_legality(model, aim.derive(**derived) if derived else aim).violations)


@pytest.mark.parametrize("target", builtin_targets())
def test_what_requantize_writes_is_legal(target: str) -> None:
    result = check_legality(tflite.read(tf_requant.requantize(model_path(), target).model_bytes), load_target(target))
    assert result.violations == ()
    inevitable = ("the target does not list it", "converts between host and accelerator", ", the target allows ")
    host = [h for h in result.host_ops if not any(reason in h.reason for reason in inevitable)]
    assert {h.where.split("(")[1].split(",")[0] for h in host} <= {"SOFTMAX"}


def test_the_source_itself_is_not_legal() -> None:
    source = tflite.read(model_path())
    assert check_legality(source, load_target("tflite_uint8")).legal
    # Nothing of it is in the target's type, so nothing of it runs there: every op is on the host.
    assert check_legality(source, load_target("nna_sym8")).accelerated == 0


def test_a_zero_point_is_found(legal: Model) -> None:
    t = legal.main.ops[FIRST_CONV].outputs[0]
    assert "zero point 1, expected 0" in faults(with_tensor(legal, t, lambda x: requantized(x, zero_point=1)))


def test_a_scale_that_is_no_power_of_two_is_found(legal: Model) -> None:
    t = legal.main.ops[FIRST_CONV].outputs[0]
    broken = with_tensor(legal, t, lambda x: requantized(x, scale=x.quant.scale * np.float32(1.0000001)))  # type: ignore[union-attr]
    assert "expected a power of two" in faults(broken)


def test_an_unsigned_tensor_is_only_allowed_behind_a_relu(legal: Model) -> None:
    behind, linear = legal.main.ops[FIRST_CONV].outputs[0], legal.main.ops[ADD].outputs[0]
    assert "unsigned, but no ReLU" not in faults(with_tensor(legal, behind, lambda x: requantized(x, zero_point=-128)), "nna_usym8_pow2")
    assert "unsigned, but no ReLU" in faults(with_tensor(legal, linear, lambda x: requantized(x, zero_point=-128)), "nna_usym8_pow2")


def test_a_weight_code_outside_the_narrow_range_is_found(legal: Model) -> None:
    def edit(x: Tensor) -> Tensor:
        assert x.data is not None
        codes = x.data.copy()
        codes.flat[0] = -128
        return x.with_(data=codes)

    assert "codes -128" in faults(with_tensor(legal, legal.main.ops[FIRST_CONV].inputs[1], edit))


def test_a_weight_zero_point_is_found(legal: Model) -> None:
    t = legal.main.ops[FIRST_CONV].inputs[1]
    assert "weights" in faults(with_tensor(legal, t, lambda x: requantized(x, zero_point=3)))


def test_weights_per_channel_are_found_where_one_scale_is_due(legal: Model) -> None:
    def edit(x: Tensor) -> Tensor:
        assert x.quant is not None
        return x.with_(quant=QuantParams("int8", np.repeat(x.quant.scale, x.shape[0]), 0, 0))

    assert "expected one scale" in faults(with_tensor(legal, legal.main.ops[FIRST_CONV].inputs[1], edit))


def test_a_bias_of_another_scale_or_type_is_found(legal: Model) -> None:
    t = legal.main.ops[FIRST_CONV].inputs[2]
    assert "another scale" in faults(with_tensor(legal, t, lambda x: requantized(x, scale=x.quant.scale * 2)))  # type: ignore[union-attr]
    wide = with_tensor(legal, t, lambda x: x.with_(dtype="int64", quant=x.quant.with_(dtype="int64")))  # type: ignore[union-attr]
    assert "expected int32" in faults(wide)


def test_a_missing_bias_is_found(legal: Model) -> None:
    assert "no bias" in faults(with_op(legal, FIRST_CONV, lambda op: op.with_(inputs=op.inputs[:2])))


def test_a_pool_that_changes_the_scale_is_found(legal: Model) -> None:
    t = legal.main.ops[POOL].outputs[0]
    assert "copies raw codes" in faults(with_tensor(legal, t, lambda x: requantized(x, scale=x.quant.scale * 2)))  # type: ignore[union-attr]


def test_a_shift_outside_the_targets_range_is_found(legal: Model) -> None:
    requantizer = {"shift_range": [-1, 2]}
    assert "no right shift" in faults(legal, requantizer=requantizer)


def test_an_op_beyond_its_limits_is_on_the_host(legal: Model) -> None:
    def reasons(model: Model, **limits: object) -> str:
        aim = load_target("nna_sym8_pow2").derive(ops={"DEPTHWISE_CONV_2D": limits})
        return "\n".join(h.reason for h in check_legality(model, aim).host_ops if "DEPTHWISE" in h.where)

    assert "its kernel is 3 wide, the target allows 1" in reasons(legal, kernel_max=1)
    assert "its stride is 2, the target allows 1" in reasons(legal, stride_max=1)
    dilated = with_op(legal, FIRST_DEPTHWISE, lambda op: op.with_(attrs={**op.attrs, "dilation_h_factor": 2}))
    assert "its dilation is 2, the target allows none" in reasons(dilated, dilation=False)
    assert reasons(legal, kernel_max=3, stride_max=2, dilation=False) == ""


def test_a_bias_that_is_no_shifted_mantissa_is_found(legal: Model) -> None:
    t = legal.main.ops[FIRST_CONV].inputs[2]

    def narrow(codes: list[int], bits: int) -> str:
        def edit(x: Tensor) -> Tensor:
            return x.with_(data=np.resize(np.array(codes, np.int32), x.shape))

        name = legal.main.tensors[t].name
        found = faults(with_tensor(legal, t, edit), bias={"bits": bits})
        return "\n".join(line for line in found.splitlines() if f"bias {name!r}" in line)

    assert "holds codes -129..0 in steps of 1, expected mantissas of 8 bits" in narrow([0, -129], 8)
    assert "in steps of 2, expected mantissas of 8 bits" in narrow([256, 130], 8)
    assert narrow([-128, 127], 8) == narrow([-256, 254, 0], 8) == narrow([130, 0], 8) == narrow([0], 8) == narrow([-(2**31)], 8) == ""
    assert narrow([-32768, 32767], 16) == "" and "16 bits" in narrow([32768, 1], 16)
    assert narrow([2**31 - 1, 1], 32) == ""


def test_an_op_that_the_target_does_not_list_is_on_the_host(legal: Model) -> None:
    aim = load_target("nna_sym8_pow2").derive(ops={"ADD": None})
    assert any("ADD" in h.where and "does not list" in h.reason for h in check_legality(legal, aim).host_ops)
