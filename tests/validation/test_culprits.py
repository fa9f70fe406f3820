"""The ranking: what is wrong ahead of what is coarse, what was measured longer ahead of what was dropped early."""

from math import inf, log10

import pytest

from tests import builders
from tf_requant.io import tflite
from tf_requant.model.graph import Graph
from tf_requant.sample import model_path
from tf_requant.validation.culprits import Culprit, Restoration, rank
from tf_requant.validation.faults import Suspicion

GRAPH = tflite.read(model_path().read_bytes()).main
"""22 ops, of which 17 are layers with filters and 0 is the first."""


def restored(gain: float, samples: int = 4, power: float = 1000.0) -> Restoration:
    """A layer whose restoration adds so many dB."""
    found = Restoration()
    for _ in range(samples):
        found.add(10.0 / 10 ** (gain / 10), 10.0, power)
    return found


def suspected(steps: float, weight: float | None = None) -> Suspicion:
    return Suspicion(steps, steps if weight is None else weight, f"{steps} steps are wrong")


def ranked(restorations: dict[int, Restoration], suspicions: dict[int, Suspicion], graph: Graph = GRAPH) -> list[int]:
    return [row.index for row in rank(graph, restorations, suspicions, {})]


def test_the_gain_is_the_ratio_of_errors_over_all_samples_in_decibels() -> None:
    found = Restoration()
    found.add(1.0, 4.0, 100.0)
    found.add(3.0, 4.0, 300.0)
    assert found.gain == pytest.approx(10 * log10(8 / 4), rel=1e-12)
    assert found.sqnr == pytest.approx(10 * log10(400 / 4), rel=1e-12)
    assert found.samples == 2


def test_a_restoration_that_removes_every_error_gains_without_end_and_one_that_changes_nothing_nothing() -> None:
    exact, nothing = Restoration(), Restoration()
    exact.add(0.0, 2.0, 10.0)
    nothing.add(0.0, 0.0, 10.0)
    assert exact.gain == inf and exact.sqnr == inf
    assert nothing.gain == 0.0


def test_layers_are_ranked_by_what_restoring_them_gains() -> None:
    assert ranked({0: restored(1), 3: restored(3), 5: restored(2)}, {}) == [3, 5, 0]


def test_what_gains_nothing_or_loses_is_left_out() -> None:
    assert ranked({0: restored(0), 3: restored(-1), 5: restored(0.01)}, {}) == [5]


def test_what_makes_the_scores_exact_is_first() -> None:
    exact = Restoration()
    exact.add(0.0, 10.0, 100.0)
    rows = rank(GRAPH, {0: restored(30, 1), 4: exact}, {}, {})
    assert [r.index for r in rows] == [4, 0] and "makes the scores exact" in rows[0].why


def test_layers_of_equal_gain_stand_in_execution_order() -> None:
    assert ranked({5: restored(2), 0: restored(2), 3: restored(2)}, {}) == [0, 3, 5]


def test_a_layer_that_was_dropped_early_stands_behind_those_that_stayed() -> None:
    assert ranked({0: restored(5, 16), 3: restored(1, 64), 5: restored(0.5, 64)}, {}) == [3, 5, 0]


def test_a_fault_is_ahead_of_whatever_costs_more() -> None:
    rows = rank(GRAPH, {0: restored(9), 3: restored(0.1)}, {3: suspected(40)}, {})
    assert [(r.index, r.fault, r.suspicion) for r in rows] == [(3, True, 40), (0, False, 0)]
    assert rows[0].why.startswith("40 steps are wrong; restoring it adds 0.10 dB")


def test_a_fault_is_named_even_where_restoring_it_gains_nothing_or_cannot_be() -> None:
    rows = rank(GRAPH, {3: restored(-2)}, {3: suspected(40), 7: suspected(50)}, {})
    assert [(r.index, r.fault) for r in rows] == [(7, True), (3, True)]
    assert rows[0].gain is None and rows[0].restored_sqnr is None and rows[0].samples == 0


@pytest.mark.parametrize("faults", [1, 2, 3, 4])
def test_the_layer_that_gains_most_is_among_the_first_three_however_many_faults_there_are(faults: int) -> None:
    suspicions = {index: suspected(50 + index) for index in range(faults)}
    rows = ranked({index: restored(0.1) for index in range(12)} | {11: restored(6)}, suspicions)
    assert 11 in rows[:3]


def test_two_faults_lead_and_the_heavier_is_first() -> None:
    suspicions = {1: suspected(60), 2: suspected(90), 3: suspected(75)}
    assert ranked({index: restored(1 + index) for index in range(8)}, suspicions)[:2] == [2, 3]


def test_what_a_clamp_mostly_hides_weighs_less() -> None:
    """Ninety steps where one element in a hundred is free weigh less than forty everywhere."""
    assert ranked({}, {1: suspected(90, 9), 2: suspected(40, 40)})[:1] == [2]


def test_small_suspicions_such_as_every_layer_has_are_no_faults() -> None:
    common = {index: suspected(0.3 + 0.05 * index) for index in range(12)}
    assert not any(r.fault for r in rank(GRAPH, {}, common, {}))


def test_one_layer_that_stands_out_of_its_kin_is_a_fault() -> None:
    common = {index: suspected(0.3 + 0.02 * index) for index in range(12)} | {4: suspected(3.0)}
    assert [r.index for r in rank(GRAPH, {}, common, {}) if r.fault] == [4]


@pytest.mark.parametrize("steps", [5.0, 30.0])
def test_a_model_of_one_layer_can_have_a_fault(steps: float) -> None:
    """There are no kin to stand out of: five steps of the output are wrong by themselves."""
    alone = tflite.read(builders.conv2d()).main
    assert ranked({}, {0: suspected(steps)}, alone) == [0]


def test_half_the_layers_wrong_are_not_thereby_right() -> None:
    """A model whose every filter was doubled holds faults, although no layer is an outlier among the others."""
    rows = rank(GRAPH, {}, {index: suspected(20.0 + index) for index in range(20)}, {})
    assert any(r.fault for r in rows)


def test_a_row_tells_the_op_its_tensor_and_the_cause() -> None:
    row = rank(GRAPH, {0: restored(2.5, 3)}, {}, {0: "alone it keeps 40.0 dB"})[0]
    assert row == Culprit(
        0, "CONV_2D", "conv0/Relu6", row.gain, row.restored_sqnr, 3, 0.0, False,
        "restoring it adds 2.50 dB to the scores; alone it keeps 40.0 dB",
    )  # fmt: skip
    assert row.gain == pytest.approx(2.5, rel=1e-12)


def test_nothing_to_tell_ranks_nothing() -> None:
    assert rank(GRAPH, {}, {}, {}) == ()
