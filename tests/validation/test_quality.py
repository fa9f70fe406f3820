"""Agreement, top-1, drop and SQNR on literal outputs."""

from math import inf

import numpy as np
import pytest

from tf_requant.errors import CalibrationError
from tf_requant.validation.quality import measure

REFERENCE = np.array([[3.0, 1.0], [0.0, 2.0], [5.0, 4.0], [1.0, 0.0]])
CANDIDATE = np.array([[3.0, 1.0], [0.0, 2.0], [4.0, 5.0], [1.0, 0.0]])


def batches() -> list[dict[str, np.ndarray]]:
    return [{"x": np.array([0, 1])}, {"x": np.array([2, 3])}]


def runner(table: np.ndarray):
    return lambda batch: [table[batch["x"]]]


def test_agreement_top1_and_drop_are_counted_over_all_batches() -> None:
    q = measure(runner(REFERENCE), runner(CANDIDATE), batches(), labels=np.array([0, 1, 0, 1]))
    assert (q.samples, q.agreement, q.reference_top1, q.top1, q.top1_drop) == (4, 0.75, 0.75, 0.5, 0.25)


def test_a_model_agrees_with_itself_without_noise() -> None:
    q = measure(runner(REFERENCE), runner(REFERENCE), batches())
    assert (q.agreement, q.sqnr, q.largest, q.top1) == (1.0, inf, 0.0, None)


def test_sqnr_is_signal_over_difference() -> None:
    q = measure(runner(REFERENCE), runner(CANDIDATE), batches())
    assert q.largest == 1.0
    assert q.sqnr == pytest.approx(10 * np.log10(56 / 2), abs=1e-12)


def test_an_index_map_agrees_by_element() -> None:
    one, two = np.array([[[1, 2], [3, 4]]]), np.array([[[1, 2], [3, 0]]])
    q = measure(lambda _: [one], lambda _: [two], [{"x": np.zeros(1)}])
    assert q.agreement == 0.75


def test_a_callers_metric_is_averaged_over_batches() -> None:
    q = measure(runner(REFERENCE), runner(CANDIDATE), batches(), metric=lambda a, b: float(np.abs(a[0] - b[0]).sum()))
    assert q.metric == 1.0


def test_no_samples_and_too_few_labels_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no samples"):
        measure(runner(REFERENCE), runner(CANDIDATE), [])
    with pytest.raises(CalibrationError, match="labels"):
        measure(runner(REFERENCE), runner(CANDIDATE), batches(), labels=np.array([0]))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.array([0, 1, 2, 1]), "a label is 2, and the model has 2 classes, 0 to 1"),
        (np.array([0, -1, 0, 1]), "expected whole numbers from 0 up"),
        (np.array([0.5, 1, 0, 1]), "expected whole numbers from 0 up"),
        (np.array([np.nan, 1, 0, 1]), "expected whole numbers from 0 up"),
        (np.array(["cat", "dog", "cat", "cat"]), "expected whole numbers from 0 up"),
        (np.eye(4)[:, :2], "shape [4, 2], expected one class number a sample"),
    ],
)
def test_labels_that_are_no_classes_of_the_model_are_refused(labels: np.ndarray, sentence: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        measure(runner(REFERENCE), runner(CANDIDATE), batches(), labels=labels)
    assert sentence in str(caught.value)


def test_whole_labels_of_any_number_type_and_in_a_column_count_alike() -> None:
    plain = measure(runner(REFERENCE), runner(CANDIDATE), batches(), labels=np.array([0, 1, 0, 1]))
    for labels in (np.array([0.0, 1, 0, 1]), np.array([[0], [1], [0], [1]], np.uint8)):
        assert measure(runner(REFERENCE), runner(CANDIDATE), batches(), labels=labels) == plain
