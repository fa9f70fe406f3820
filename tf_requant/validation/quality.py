"""Quality: how far a candidate's answers are from its source's, on data."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import CalibrationError
from tf_requant.validation.metrics import decibels, paired_difference, power, wilson

Outputs = Sequence[NDArray[Any]]
Runner = Callable[[dict[str, NDArray[Any]]], Outputs]
Metric = Callable[[Outputs, Outputs], float]
_TOP = 5


@dataclass(frozen=True)
class Quality:
    """The comparison of one candidate with its source.

    Attributes:
        samples: how many samples were run.
        agreement: the share of equal top-1 answers, or of equal elements where the first output is an index map.
        agreement_interval: its 95 % interval.
        top1: the candidate's share of right answers; None without labels.
        reference_top1: the source's.
        top1_drop: the source's less the candidate's, over the same samples.
        top1_drop_interval: its 95 % interval.
        sqnr: signal over difference of all outputs in real units, dB.
        largest: the largest difference of an output, real units.
        metric: the mean of the caller's own metric over batches; None without one.
        top5: the candidate's share of samples whose class is among its five highest scores; None below six classes.
        reference_top5: the source's.
    """

    samples: int
    agreement: float
    agreement_interval: tuple[float, float]
    sqnr: float
    largest: float
    top1: float | None = None
    reference_top1: float | None = None
    top1_drop: float | None = None
    top1_drop_interval: tuple[float, float] | None = None
    metric: float | None = None
    top5: float | None = None
    reference_top5: float | None = None


def measure(
    reference: Runner,
    candidate: Runner,
    batches: Iterable[dict[str, NDArray[Any]]],
    labels: NDArray[Any] | None = None,
    metric: Metric | None = None,
    progress: Callable[[int], None] | None = None,
    keep: Callable[[Outputs, Outputs], None] | None = None,
) -> Quality:
    """Runs both models over batches of the source's input codes.

    Args:
        reference: batch -> the source's outputs in real units, each with a leading sample axis.
        candidate: the same for the candidate.
        batches: the source's input codes by input name.
        labels: the right class of each sample.
        metric: (source's outputs, candidate's outputs) of a batch -> a number, for models that don't classify.
        progress: called with the number of samples done.
        keep: called with the outputs of each batch, the source's and the candidate's.

    Raises:
        CalibrationError: no samples, or labels of another number or of no class of the model.
    """
    total, known = _Totals(), None if labels is None else _classes(np.asarray(labels))
    for batch in batches:
        wanted, got = reference(batch), candidate(batch)
        size = len(wanted[0])
        truth = None if known is None else known[total.samples : total.samples + size]
        if truth is not None and not np.issubdtype(wanted[0].dtype, np.integer):
            _refuse_beyond(truth, wanted[0].size // max(1, size))
        if truth is not None and len(truth) < size:
            raise CalibrationError(f"there are {len(np.ravel(labels))} labels, but more samples")
        total.add(wanted, got, truth, None if metric is None else metric(wanted, got))
        if keep is not None:
            keep(wanted, got)
        if progress is not None:
            progress(total.samples)
    if not total.samples:
        raise CalibrationError("the data holds no samples")
    return total.quality()


def _classes(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Labels as class numbers, int64[N].

    Raises:
        CalibrationError: they are no whole numbers from zero up, one a sample.
    """
    if labels.ndim > 2 or (labels.ndim == 2 and labels.shape[1] != 1):
        raise CalibrationError(f"the labels have the shape {list(labels.shape)}, expected one class number a sample")
    numbers = labels.reshape(-1)
    whole = numbers.dtype.kind in "iub" or (numbers.dtype.kind == "f" and bool(np.all(numbers == np.floor(numbers))))
    if not whole or (numbers.size and numbers.min() < 0):
        raise CalibrationError(f"the labels ({numbers.dtype}) are no class numbers: expected whole numbers from 0 up")
    return np.asarray(numbers, np.int64)


def _refuse_beyond(labels: NDArray[np.int64], classes: int) -> None:
    if labels.size and int(labels.max()) >= classes > 1:
        raise CalibrationError(f"a label is {int(labels.max())}, and the model has {classes} classes, 0 to {classes - 1}")


def answers(output: NDArray[Any]) -> NDArray[Any]:
    """The top-1 class of each sample, or the elements themselves of an index map (an integer output), [N, ...].

    Args:
        output: [N, ...] real values, or indices as integers.
    """
    flat = output.reshape(len(output), -1)
    return flat if np.issubdtype(output.dtype, np.integer) else flat.argmax(1)[:, None]


def among_first(scores: NDArray[Any], truth: NDArray[Any]) -> int:
    """How many samples have their class among their five highest scores; of equal scores the first class stands first.

    Args:
        scores: [N, ...] real values.
        truth: int[N].
    """
    flat = scores.reshape(len(scores), -1)
    own = flat[np.arange(len(flat)), truth][:, None]
    ahead = (flat > own) | ((flat == own) & (np.arange(flat.shape[1]) < truth[:, None]))
    return int((ahead.sum(axis=1) < _TOP).sum())


class _Totals:
    """What accumulates over batches."""

    def __init__(self) -> None:
        self.samples = self.equal = self.compared = 0
        self.right = self.reference_right = self.only_reference = self.only_candidate = 0
        self.signal = self.noise = self.largest = 0.0
        self.top5 = self.reference_top5 = 0
        self.labelled = self.ranked = False
        self.metrics: list[float] = []

    def add(self, wanted: Outputs, got: Outputs, truth: NDArray[Any] | None, metric: float | None) -> None:
        first, second = answers(wanted[0]), answers(got[0])
        self.samples += len(first)
        self.equal += int((first == second).sum())
        self.compared += first.size
        if truth is not None and first.shape[1] == 1:
            self.labelled = True
            one, two = first[:, 0] == truth, second[:, 0] == truth
            self.reference_right += int(one.sum())
            self.right += int(two.sum())
            self.only_reference += int((one & ~two).sum())
            self.only_candidate += int((two & ~one).sum())
            if not np.issubdtype(wanted[0].dtype, np.integer) and wanted[0][0].size > _TOP:
                self.ranked = True
                self.reference_top5 += among_first(wanted[0], truth)
                self.top5 += among_first(got[0], truth)
        for a, b in zip(wanted, got):
            x = a.astype(np.float64)
            difference = b.astype(np.float64) - x
            self.signal += power(x)
            self.noise += power(difference)
            self.largest = max(self.largest, float(np.abs(difference).max(initial=0)))
        if metric is not None:
            self.metrics.append(float(metric))

    def quality(self) -> Quality:
        drop, interval = paired_difference(self.only_reference, self.only_candidate, self.samples)
        return Quality(
            samples=self.samples,
            agreement=self.equal / self.compared,
            agreement_interval=wilson(self.equal, self.compared),
            sqnr=decibels(self.signal, self.noise),
            largest=self.largest,
            top1=self.right / self.samples if self.labelled else None,
            reference_top1=self.reference_right / self.samples if self.labelled else None,
            top1_drop=drop if self.labelled else None,
            top1_drop_interval=interval if self.labelled else None,
            metric=float(np.mean(self.metrics)) if self.metrics else None,
            top5=self.top5 / self.samples if self.ranked else None,
            reference_top5=self.reference_top5 / self.samples if self.ranked else None,
        )
