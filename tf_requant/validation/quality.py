"""Quality: how far a candidate's answers are from its source's, on data."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Part:
    """What one batch adds to a `Quality`: sums that can be counted anywhere and put together in the order of the samples.

    Attributes:
        start: number of the batch's first sample.
        samples: how many it holds.
        equal: equal answers.
        compared: answers compared.
        signal: sum of the source's squared outputs, real units.
        noise: sum of squared differences.
        largest: the largest difference.
        right: the candidate's right answers; None without labels, and so the other shares of right answers.
        reference_right: the source's.
        only_candidate: samples that only the candidate gets right.
        only_reference: samples that only the source gets right.
        top5: the candidate's samples whose class is among its five highest scores; None below six classes.
        reference_top5: the source's.
        metric: the caller's own.
    """

    start: int
    samples: int
    equal: int
    compared: int
    signal: float
    noise: float
    largest: float
    right: int | None = None
    reference_right: int | None = None
    only_candidate: int | None = None
    only_reference: int | None = None
    top5: int | None = None
    reference_top5: int | None = None
    metric: float | None = None


def compare(
    start: int, wanted: Outputs, got: Outputs, truth: NDArray[np.int64] | None = None, metric: float | None = None
) -> Part:
    """The comparison of one batch.

    Args:
        start: number of its first sample.
        wanted: the source's outputs, each [N, ...] real values, or indices as integers.
        got: the candidate's.
        truth: the class of each sample, int64[N].
        metric: the caller's own.
    """
    first, second = answers(wanted[0]), answers(got[0])
    signal = noise = largest = 0.0
    for a, b in zip(wanted, got):
        x = a.astype(np.float64)
        difference = b.astype(np.float64) - x
        signal, noise = signal + power(x), noise + power(difference)
        largest = max(largest, float(np.abs(difference).max(initial=0)))
    part = Part(start, len(first), int((first == second).sum()), first.size, signal, noise, largest, metric=metric)
    if truth is None or first.shape[1] != 1:
        return part
    one, two = first[:, 0] == truth, second[:, 0] == truth
    part = replace(
        part, right=int(two.sum()), reference_right=int(one.sum()), only_candidate=int((two & ~one).sum()),
        only_reference=int((one & ~two).sum()),
    )  # fmt: skip
    if np.issubdtype(wanted[0].dtype, np.integer) or wanted[0][0].size <= _TOP:
        return part
    return replace(part, top5=among_first(got[0], truth), reference_top5=among_first(wanted[0], truth))


def fold(parts: Iterable[Part]) -> Quality:
    """The quality over all parts, the same whatever order they come in.

    Raises:
        CalibrationError: there is none.
    """
    ordered = sorted(parts, key=lambda part: part.start)
    samples, compared = sum(p.samples for p in ordered), sum(p.compared for p in ordered)
    if not samples:
        raise CalibrationError("the data holds no samples")
    equal = sum(p.equal for p in ordered)

    def share(name: str) -> float | None:
        counts = [getattr(p, name) for p in ordered]
        return None if None in counts else sum(counts) / samples

    drop: float | None = None
    interval: tuple[float, float] | None = None
    only = [[getattr(p, name) for p in ordered] for name in ("only_reference", "only_candidate")]
    if None not in only[0]:
        drop, interval = paired_difference(sum(only[0]), sum(only[1]), samples)
    metrics = [p.metric for p in ordered if p.metric is not None]
    return Quality(
        samples, equal / compared, wilson(equal, compared),
        sqnr=decibels(sum(p.signal for p in ordered), sum(p.noise for p in ordered)),
        largest=max(p.largest for p in ordered),
        top1=share("right"), reference_top1=share("reference_right"), top1_drop=drop, top1_drop_interval=interval,
        metric=float(np.mean(metrics)) if metrics else None, top5=share("top5"), reference_top5=share("reference_top5"),
    )  # fmt: skip


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
    return fold(measure_parts(reference, candidate, batches, labels, metric, progress, keep))


def measure_parts(
    reference: Runner,
    candidate: Runner,
    batches: Iterable[dict[str, NDArray[Any]]],
    labels: NDArray[Any] | None = None,
    metric: Metric | None = None,
    progress: Callable[[int], None] | None = None,
    keep: Callable[[Outputs, Outputs], None] | None = None,
    start: int = 0,
) -> Iterator[Part]:
    """`measure`, batch by batch.

    Args:
        reference: as for `measure`, and so all others.
        candidate: the candidate.
        batches: input codes.
        labels: of all samples, those ahead of the first batch included.
        metric: the caller's own.
        progress: called with the number of samples done here.
        keep: called with the outputs of each batch.
        start: number of the first sample.

    Raises:
        CalibrationError: labels of another number or of no class of the model.
    """
    known, at = None if labels is None else _classes(np.asarray(labels)), start
    for batch in batches:
        wanted, got = reference(batch), candidate(batch)
        size = len(wanted[0])
        truth = None if known is None else known[at : at + size]
        if truth is not None and not np.issubdtype(wanted[0].dtype, np.integer):
            _refuse_beyond(truth, wanted[0].size // max(1, size))
        if truth is not None and len(truth) < size:
            raise CalibrationError(f"there are {len(np.ravel(labels))} labels, but more samples")
        yield compare(at, wanted, got, truth, None if metric is None else metric(wanted, got))
        at += size
        if keep is not None:
            keep(wanted, got)
        if progress is not None:
            progress(at - start)


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
