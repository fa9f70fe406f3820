"""What users may ask of bit widths, and the plans that follow."""

import numpy as np
import pytest

import tf_requant
from tests import builders
from tf_requant.errors import TargetError, UsageError
from tf_requant.io import tflite
from tf_requant.planning.planner import plan_model
from tf_requant.planning.widths import Asked, asked_widths
from tf_requant.planning.wishes import Wishes
from tf_requant.sample import model_path
from tf_requant.targets import load_target
from tf_requant.validation.legality import check_legality

MIXED = load_target("nna_sym8_per_channel").derive(name="mixed", weight={"bits": [8, 6, 5, 4]})


@pytest.mark.parametrize(
    ("bits", "budget", "found"),
    [
        ("4,5,6,8", "weights:0.6", (Asked((4, 5, 6, 8), 0.6),)),
        ([8, 4, 4], {"weights": 0.75}, (Asked((4, 8), 0.75),)),
        (6, None, (Asked((6,)),)),
        ("6", "weights:1", (Asked((6,), 1.0),)),
        (None, None, ()),
        ("", (), ()),
    ],
)
def test_widths_and_budgets_are_read_however_they_come(bits, budget, found) -> None:  # noqa: ANN001
    assert asked_widths(MIXED, bits, budget) == found


@pytest.mark.parametrize(
    ("bits", "budget", "sentence"),
    [
        ("3,8", "weights:0.6", "stores weights of 4, 5, 6, 8 bits, not of 3"),
        ("16", None, "not of 16"),
        ("four", None, "no widths"),
        ([4.5], None, "no widths"),
        ("4,8", None, "leaves a choice"),
        (None, "weights:0.6", "give --bits"),
        ("4,8", "weights:0", "no budget"),
        ("4,8", "weights:1.2", "no budget"),
        ("4,8", "weights:nan", "no budget"),
        ("4,8", "energy:0.5", "no budget"),
        ("4,8", "0.5", "no budget"),
    ],
)
def test_what_cannot_be_asked_for_is_told_in_a_sentence(bits, budget, sentence) -> None:  # noqa: ANN001
    with pytest.raises(UsageError, match=sentence):
        asked_widths(MIXED, bits, budget)


def test_asymmetric_activations_have_no_widths() -> None:
    with pytest.raises(UsageError, match="narrow activations have zero point 0, and those of target tflite_int8 need not"):
        asked_widths(load_target("tflite_int8"), None, None, 8)


COSTED = MIXED.derive(name="costed", weight={"costs": {"cycles": {"4": 1.0, "5": 2.0, "6": 2.0, "8": 2.0}}})


def test_a_budget_may_name_a_cost_of_the_targets_table() -> None:
    assert asked_widths(COSTED, "4,8", "cycles:0.7") == (Asked((4, 8), 0.7, "cycles"),)
    with pytest.raises(UsageError, match="has a table of cycles"):
        asked_widths(COSTED, "4,8", "energy:0.7")


@pytest.mark.parametrize("table", [{"4": 1.0}, {"4": 1.0, "5": 1, "6": 1, "8": 1, "9": 1}])
def test_a_table_of_costs_has_every_width(table: dict[str, float]) -> None:
    with pytest.raises(TargetError, match="gives each width"):
        MIXED.derive(name="wrong", weight={"costs": {"cycles": table}})


def test_a_target_without_the_width_says_which_it_has() -> None:
    with pytest.raises(UsageError, match="target nna_sym8 stores weights of 8 bits, not of 4"):
        tf_requant.requantize(model_path(), "nna_sym8", bits=4)


@pytest.mark.parametrize("base", ["nna_sym8", "nna_sym8_per_channel", "nna_sym8_pow2", "nna_sym8_pow2_per_channel", "tflite_int8"])
@pytest.mark.parametrize("bits", [2, 5, 7])
def test_one_width_everywhere_is_in_every_code(base: str, bits: int) -> None:
    target = load_target(base).derive(name="narrow", weight={"bits": [8, bits]})
    result = tf_requant.requantize(model_path(), target, bits=bits, corrections="rounding")
    assert {row.bits for row in result.report.weights} <= set(range(2, bits + 1))
    top = max(row.bits for row in result.report.weights)
    assert top == bits
    assert check_legality(result.model, target).legal
    # A target that stores nothing wider takes it too.
    assert check_legality(result.model, load_target(base).derive(name="only", weight={"bits": [bits]})).legal


def test_each_layer_gets_its_own_width_and_the_others_keep_theirs() -> None:
    source = tflite.read(model_path().read_bytes())
    plan = plan_model(source, MIXED, Wishes(widths={0: 4, 2: 5}))
    wide = plan_model(source, MIXED)
    limits = {i: plan.graphs[0].constants[i, 1].limits for i in (0, 1, 2, 3)}
    assert (limits[0], limits[2]) == ((-7, 7), (-15, 15))
    for i in (1, 3):
        np.testing.assert_array_equal(plan.graphs[0].constants[i, 1].params.scale, wide.graphs[0].constants[i, 1].params.scale)
    # Activations do not depend on what filters are stored in, where scales are free.
    assert all(plan.graphs[0].activations[t].params.identical(a.params) for t, a in wide.graphs[0].activations.items())


@pytest.mark.parametrize("build", [builders.conv2d, builders.depthwise, builders.fully_connected, builders.transpose_conv])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_every_op_with_a_filter_takes_a_width(build, dtype: str) -> None:  # noqa: ANN001
    options = {"batch": 1} if build is builders.fully_connected else {}
    result = tf_requant.requantize(tflite.read(build(dtype, **options)), MIXED, bits=4)
    assert [row.bits for row in result.report.weights] == [4]


def test_a_filter_that_is_legal_as_it_is_keeps_its_width_under_a_correction() -> None:
    """Codes of four bits in the source: no correction may widen them."""
    source = tflite.read(builders.conv2d("int8"))
    weights = source.main.tensors[source.main.ops[0].inputs[1]]
    tensors = list(source.main.tensors)
    tensors[source.main.ops[0].inputs[1]] = weights.with_(data=np.clip(weights.data // 16, -7, 7).astype(np.int8))
    source = source.with_(graphs=(source.main.with_(tensors=tuple(tensors)),))
    held = source.main.tensors[source.main.inputs[0]]
    data = np.random.default_rng(0).integers(-128, 128, (20, *held.shape[1:])).astype(np.int8)
    result = tf_requant.requantize(source, MIXED, bits=4, calibration=data, corrections="scale_search,gptq,error_folding,bias")
    assert [row.bits for row in result.report.weights] == [4]
