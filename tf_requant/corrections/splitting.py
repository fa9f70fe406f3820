"""Outlier splitting: a weight beyond the target's codes becomes two, on two copies of the input channel that it reads.

w x = a x + (w - a) x: a GATHER ahead of the layer reads a few of its input channels once more, and the filter's columns
for the copies hold what the others clip off (outlier channel splitting, Zhao et al., arXiv 1901.09504, with whole codes in
place of halves). Nothing is rounded, so a source and its split are equal bit by bit, and all that follows takes
the split for its source. In MobileNetV2 42 copies among 9,923 input channels hold every weight of its dense layers beyond 127.

Not in `auto`: it adds ops and weights.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import has_filter
from tf_requant.calibration.statistics import Calibration
from tf_requant.corrections.channels import picked_channels
from tf_requant.model.graph import Graph, Model, Op, Tensor

GATHER = "GATHER"
"""The op that a target needs for it."""
MOST = 1 / 16
"""Copies, as a share of a layer's input channels: what they may cost; one is always allowed."""
SUFFIX = "/split"

Copies = tuple[int, ...]
"""Input channels that a layer reads once more, ascending; one may occur several times."""


def outliers(graph: Graph, layers: Iterable[int], highest: int) -> dict[int, Copies]:
    """The input channels worth a copy, by layer: as many as bring its weights to the highest code, or nearest to it.

    Args:
        graph: the source's graph.
        layers: which of its ops the target runs.
        highest: the target's highest weight code.
    """
    found = {}
    for index in layers:
        if _splits(graph, index) and (copies := _copies(_peaks(graph, index), highest)):
            found[index] = copies
    return found


def split(model: Model, copies: Mapping[int, Copies]) -> Model:
    """The same function with input channels of some layers read more than once; new tensors come behind the others.

    Args:
        model: the source.
        copies: by op of its main graph.
    """
    graph = model.main
    tensors, ops = list(graph.tensors), []
    for index, op in enumerate(graph.ops):
        if index in copies:
            gather, op = _split(graph, tensors, op, copies[index])
            ops.append(gather)
        ops.append(op)
    main = graph.with_(tensors=tuple(tensors), ops=tuple(ops))
    return model.with_(graphs=(main, *model.graphs[1:]))


def observed_of(calibration: Calibration, source: Model, divided: Model) -> Calibration:
    """What is known of a source, for its split: a copy of a channel has that channel's statistics.

    Args:
        calibration: of the source.
        source: it.
        divided: what `split` made of it.
    """
    histograms, peaks, noise = dict(calibration.histograms), dict(calibration.peaks), dict(calibration.noise)
    for op in divided.main.ops:
        x, y = op.inputs[0] if op.inputs else -1, op.outputs[0] if op.outputs else -1
        if op.code != GATHER or y < len(source.main.tensors):
            continue
        indices = divided.main.tensors[op.inputs[1]].data
        if x in histograms:
            histograms[y] = histograms[x]
        if x in noise:
            noise[y] = noise[x]
        if x in peaks and indices is not None and len(peaks[x]) > indices.max():
            peaks[y] = peaks[x][indices]
    return replace(calibration, histograms=histograms, peaks=peaks, noise=noise)


def split_alike(source: Model, result: Model) -> Model:
    """The source, split where a result of it was, so that layers of both have operands of one shape.

    Args:
        source: the source.
        result: what was made of it.
    """
    ours, theirs = source.main, result.main
    written = {ours.tensors[op.outputs[0]].name: i for i, op in enumerate(ours.ops) if op.outputs}
    found: dict[int, Copies] = {}
    for op in theirs.ops:
        index = written.get(theirs.tensors[op.outputs[0]].name) if op.outputs else None
        if index is None or not _splits(ours, index) or ours.ops[index].code != op.code:
            continue
        copies = _read_twice(theirs, op, len(_peaks(ours, index)))
        if copies:
            found[index] = copies
    return split(source, found) if found else source


def _splits(graph: Graph, index: int) -> bool:
    """Whether an op is a layer whose outputs each read every input channel, so that a copy adds up with the original."""
    op = graph.ops[index]
    if op.code not in ("CONV_2D", "FULLY_CONNECTED") or not has_filter(graph, index):
        return False
    x, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    whole = len(x.shape) == (4 if op.code == "CONV_2D" else 2) and x.shape[-1] == weights.shape[-1]
    return whole and x.is_activation and weights.dtype in ("uint8", "int8")


def _peaks(graph: Graph, index: int) -> NDArray[np.int64]:
    """The largest |code - zero point| that reads each input channel, int64[C]."""
    values = _codes(graph.tensors[graph.ops[index].inputs[1]])
    return np.asarray(np.abs(values).max(axis=tuple(range(values.ndim - 1)), initial=0))


def _codes(weights: Tensor) -> NDArray[np.int64]:
    """Code minus zero point, whatever floats training left behind them."""
    assert weights.data is not None and weights.quant is not None
    return weights.data.astype(np.int64) - weights.quant.along(len(weights.shape))[1].astype(np.int64)


def _copies(peaks: NDArray[np.int64], highest: int) -> Copies:
    allowed = max(1, int(peaks.size * MOST))
    for top in range(highest, int(peaks.max(initial=0))):
        needed = -(-peaks // top) - 1
        if (needed.clip(min=0)).sum() <= allowed:
            return tuple(np.repeat(np.arange(peaks.size), needed.clip(min=0)).tolist())
    return ()


def _split(graph: Graph, tensors: list[Tensor], op: Op, copies: Copies) -> tuple[Op, Op]:
    """A GATHER and the layer behind it; their new tensors are appended."""
    x, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    values, channels, name = _codes(weights), x.shape[-1], f"{graph.tensors[op.outputs[0]].name}{SUFFIX}"
    indices = np.array([*range(channels), *copies], np.int32)
    times = np.bincount(indices, minlength=channels)
    # The lowest end to which all weights come with so many copies.
    top = int((-(-np.abs(values).max(axis=tuple(range(values.ndim - 1))) // times)).max(initial=1))
    parts, rest = np.empty((*values.shape[:-1], indices.size), np.int64), values.copy()
    for place, channel in enumerate(indices):
        parts[..., place] = rest[..., channel].clip(-top, top)
        rest[..., channel] -= parts[..., place]
    assert weights.quant is not None
    point = weights.quant.along(len(weights.shape))[1].astype(np.int64)
    codes = (parts + point).astype(weights.dtype)
    new, place, first = weights.with_(shape=codes.shape, data=codes, trained=None), op.inputs[1], len(tensors)
    tensors += [
        Tensor(f"{name}/channels", "int32", indices.shape, data=indices),
        x.with_(name=name, shape=(*x.shape[:-1], indices.size), is_variable=False, opaque=None),
    ]
    if len(graph.consumers[place]) == 1 and place not in graph.outputs:
        tensors[place] = new
    else:
        place = len(tensors)
        tensors.append(new.with_(name=f"{weights.name}{SUFFIX}"))
    attrs = {"axis": len(x.shape) - 1, "batch_dims": 0}
    gather = Op(GATHER, (op.inputs[0], first), (first + 1,), attrs)
    return gather, op.with_(inputs=(first + 1, place, *op.inputs[2:]))


def _read_twice(graph: Graph, op: Op, channels: int) -> Copies:
    """Which of so many channels an op reads more than once, where a GATHER ahead of it says so."""
    writer = graph.producers.get(op.inputs[0])
    if writer is None:
        return ()
    indices = picked_channels(graph, graph.ops[writer])
    if indices is None or indices.size <= channels:
        return ()
    known = np.array_equal(indices[:channels], np.arange(channels)) and 0 <= indices.min() and indices.max() < channels
    return tuple(int(i) for i in indices[channels:]) if known else ()
