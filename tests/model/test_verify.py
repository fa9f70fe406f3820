"""What no interpreter could run is refused with a sentence; what is harmless is repaired."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tf_requant
from tf_requant.errors import ModelFormatError, UnsupportedModelError
from tf_requant.io import tflite
from tf_requant.model.graph import Model, Op, Tensor
from tf_requant.model.verify import check, refuse_unsupported
from tf_requant.sample import model_path

CONV, DEPTHWISE, ADD, POOL, RESHAPE = 0, 1, 6, 18, 20


@pytest.fixture(scope="module")
def sample() -> Model:
    return tflite.read(model_path())


def edited_op(model: Model, index: int, **changes: object) -> Model:
    ops = list(model.main.ops)
    attrs = changes.pop("attrs", None)
    ops[index] = ops[index].with_(**changes)
    if attrs is not None:
        ops[index] = ops[index].with_(attrs={**ops[index].attrs, **attrs})  # type: ignore[dict-item]
    return model.with_(graphs=(model.main.with_(ops=tuple(ops)),))


def edited_tensor(model: Model, index: int, edit: Callable[[Tensor], Tensor]) -> Model:
    tensors = list(model.main.tensors)
    tensors[index] = edit(tensors[index])
    return model.with_(graphs=(model.main.with_(tensors=tuple(tensors)),))


def params(**changes: object) -> Callable[[Tensor], Tensor]:
    return lambda t: t.with_(quant=t.quant.with_(**changes))  # type: ignore[union-attr]


def refused(model: Model) -> str:
    with pytest.raises(ModelFormatError) as caught:
        check(model)
    return str(caught.value)


def test_the_sample_is_sound(sample: Model) -> None:
    assert check(sample).warnings == ()


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_an_impossible_scale_is_refused(sample: Model, scale: float) -> None:
    t = sample.main.ops[CONV].outputs[0]
    assert repr(sample.main.tensors[t].name) in refused(edited_tensor(sample, t, params(scale=np.float32(scale))))


@pytest.mark.parametrize("zero_point", [-1, 256])
def test_a_zero_point_outside_the_type_is_refused(sample: Model, zero_point: int) -> None:
    t = sample.main.ops[CONV].outputs[0]
    assert "zero point" in refused(edited_tensor(sample, t, params(zero_point=zero_point)))


def test_a_count_of_scales_that_fits_no_axis_is_refused(sample: Model) -> None:
    t = sample.main.ops[CONV].inputs[1]
    assert "scales" in refused(edited_tensor(sample, t, params(scale=np.full(5, 0.1, np.float32), zero_point=0)))


def test_an_axis_out_of_range_is_repaired_where_it_means_nothing(sample: Model) -> None:
    t = sample.main.ops[CONV].inputs[2]
    repaired = check(edited_tensor(sample, t, params(axis=3)))
    assert repaired.main.tensors[t].quant.axis == 0  # type: ignore[union-attr]
    assert len(repaired.warnings) == 1 and "quantized_dimension" in repaired.warnings[0]


def test_a_tensor_index_out_of_range_is_refused(sample: Model) -> None:
    inputs = sample.main.ops[CONV].inputs
    assert "999" in refused(edited_op(sample, CONV, inputs=(999, *inputs[1:])))
    assert "op 0" in refused(edited_op(sample, CONV, outputs=(-1,)))


def test_a_cycle_is_refused(sample: Model) -> None:
    late = sample.main.ops[ADD].outputs[0]
    inputs = sample.main.ops[CONV].inputs
    assert "op 0 (CONV_2D" in refused(edited_op(sample, CONV, inputs=(late, *inputs[1:])))


def test_a_tensor_written_twice_is_refused(sample: Model) -> None:
    assert "op 1" in refused(edited_op(sample, DEPTHWISE, outputs=sample.main.ops[CONV].outputs))


@pytest.mark.parametrize(
    ("index", "attrs"),
    [
        (CONV, {"stride_h": 0}),
        (CONV, {"stride_w": -1}),
        (CONV, {"padding": 7}),
        (CONV, {"fused_activation_function": 77}),
        (CONV, {"dilation_h_factor": 0}),
        (DEPTHWISE, {"stride_w": 0}),
        (POOL, {"filter_width": 0}),
        (POOL, {"stride_h": 0}),
    ],
)  # fmt: skip
def test_an_option_that_would_stop_a_kernel_is_refused(sample: Model, index: int, attrs: dict[str, int]) -> None:
    assert f"op {index}" in refused(edited_op(sample, index, attrs=attrs))


def test_shapes_that_do_not_fit_are_refused(sample: Model) -> None:
    t = sample.main.ops[CONV].outputs[0]
    assert "op 0" in refused(edited_tensor(sample, t, lambda x: x.with_(shape=(1, 31, 32, 16))))
    reshaped = sample.main.ops[RESHAPE].outputs[0]
    assert "RESHAPE" in refused(edited_tensor(sample, reshaped, lambda x: x.with_(shape=(1, 11))))


def test_a_conv_without_bias_is_refused(sample: Model) -> None:
    assert "op 0" in refused(edited_op(sample, CONV, inputs=sample.main.ops[CONV].inputs[:2]))


def test_mixed_families_of_types_are_refused(sample: Model) -> None:
    def signed(t: Tensor) -> Tensor:
        return t.with_(dtype="int8", quant=t.quant.with_(dtype="int8", zero_point=0), data=t.data.view(np.int8))  # type: ignore[union-attr]

    assert "op 0" in refused(edited_tensor(sample, sample.main.ops[CONV].inputs[1], signed))


def test_several_problems_are_told_at_once(sample: Model) -> None:
    broken = edited_op(edited_op(sample, CONV, attrs={"stride_h": 0}), POOL, attrs={"stride_h": 0})
    message = refused(broken)
    assert "op 0" in message and f"op {POOL}" in message


def test_real_models_are_accepted_and_floats_refused_with_the_reason(shared: Path) -> None:
    for path in sorted((shared / "models").rglob("*.tflite")):
        model = check(tflite.read(path))
        if "float" in path.name or "invalid" in path.name:
            with pytest.raises(UnsupportedModelError, match="float"):
                refuse_unsupported(model)
        else:
            refuse_unsupported(model)


def test_the_bias_axis_of_person_detect_is_repaired(shared: Path) -> None:
    result = tf_requant.requantize(shared / "models/person_detect_int8.tflite", "tflite_int8")
    assert any("quantized_dimension" in w for w in result.report.warnings)


def test_a_dynamic_range_model_is_refused(sample: Model) -> None:
    def floats(t: Tensor) -> Tensor:
        return t.with_(dtype="float32", quant=None) if t.is_activation else t

    tensors = tuple(floats(t) for t in sample.main.tensors)
    conv: Op = sample.main.ops[CONV]
    hybrid = sample.main.with_(tensors=tensors, ops=(conv,), inputs=(conv.inputs[0],), outputs=conv.outputs)
    with pytest.raises(UnsupportedModelError, match="float"):
        refuse_unsupported(sample.with_(graphs=(hybrid,)))
