"""Outlier splitting: a weight beyond the target's codes becomes two, on two copies of the input channel that it reads.

w x = a x + (w - a) x: a GATHER ahead of the layer reads a few of its input channels once more, and the filter's columns
for the copies hold what the others clip off (outlier channel splitting, Zhao et al., arXiv 1901.09504, with whole codes in
place of halves). Nothing is rounded, so a source and its split are equal bit by bit, and all that follows takes
the split for its source. In MobileNetV2 42 copies among 9,923 input channels hold every weight of its dense layers beyond 127.

Not in `auto`: it adds ops and weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import has_filter
from tf_requant.calibration.statistics import Calibration
from tf_requant.model.graph import Graph, Model, Op, Tensor, unused

GATHER = "GATHER"
"""The op that a target needs for it."""
MOST = 1 / 16
"""Copies, as a share of a layer's input channels: what they may cost; one is always allowed."""
_WORTH = 0.75
"""Where the target's codes are not reached, what is left of a filter's range has to be less than this share of it."""
SUFFIX = "/split"

Copies = tuple[int, ...]
"""Input channels that a layer reads once more, ascending; one may occur several times."""


def outliers(graph: Graph, layers: Iterable[int], lowest: int, highest: int) -> dict[int, Copies]:
    """The input channels worth a copy, by layer: those that bring its weights to the target's codes, or much nearer to them.

    Args:
        graph: the source's graph.
        layers: which of its ops the target runs.
        lowest: the target's lowest weight code, below zero.
        highest: its highest.
    """
    found = {}
    for index in layers:
        if _splits(graph, index) and (copies := _copies(*_ends(_codes(_filter(graph, graph.ops[index]))), lowest, highest)):
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
    names, made = {t.name for t in tensors}, dict[tuple[int, Copies], int]()

    def add(tensor: Tensor) -> int:
        tensors.append(tensor.with_(name=unused(tensor.name, names)))
        names.add(tensors[-1].name)
        return len(tensors) - 1

    for index, op in enumerate(graph.ops):
        if index in copies:
            own, place = copies[index], op.inputs[1]
            x, weights, name = graph.tensors[op.inputs[0]], graph.tensors[place], graph.tensors[op.outputs[0]].name
            if (place, own) not in made:
                new = _with_columns(weights, own)
                alone = place not in graph.outputs and all(copies.get(i) == own for i in graph.consumers[place])
                if alone:
                    tensors[place] = new
                made[place, own] = place if alone else add(new.with_(name=f"{weights.name}{SUFFIX}"))
            channels = np.array([*range(x.shape[-1]), *own], np.int32)
            indices = add(Tensor(f"{name}{SUFFIX}/channels", "int32", channels.shape, data=channels))
            shape = (*x.shape[:-1], channels.size)
            gathered = add(x.with_(name=f"{name}{SUFFIX}", shape=shape, is_variable=False, opaque=None))
            ops.append(Op(GATHER, (op.inputs[0], indices), (gathered,), {"axis": len(x.shape) - 1, "batch_dims": 0}))
            op = op.with_(inputs=(gathered, made[place, own], *op.inputs[2:]))
        ops.append(op)
    main = graph.with_(tensors=tuple(tensors), ops=tuple(ops))
    return model.with_(graphs=(main, *model.graphs[1:]))


def named(graph: Graph, copies: Mapping[int, Copies]) -> dict[str, Copies]:
    """Copies by the name of what the layer writes, as a model's record keeps them."""
    return {graph.tensors[graph.ops[index].outputs[0]].name: own for index, own in copies.items()}


def split_again(model: Model, copies: Mapping[str, Sequence[Copies]]) -> Model:
    """A source, split as conversions of it were, so that layers of both have operands of one shape.

    Args:
        model: the source.
        copies: by the name of what a layer writes, of one conversion after the other; what does not fit is left out.
    """
    for turn in range(max(map(len, copies.values()), default=0)):
        graph, places = model.main, {}
        for index, op in enumerate(graph.ops):
            turns = copies.get(graph.tensors[op.outputs[0]].name, ()) if op.outputs else ()
            own = turns[turn] if turn < len(turns) and _splits(graph, index) else ()
            channels = _filter(graph, op).shape[-1] if own else 0
            if own and max(own) < channels and len(own) <= channels:
                places[index] = own
        model = split(model, places)
    return model


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


def _splits(graph: Graph, index: int) -> bool:
    """Whether an op is a layer whose outputs each read every input channel, so that a copy adds up with the original."""
    op = graph.ops[index]
    if op.code not in ("CONV_2D", "FULLY_CONNECTED") or not has_filter(graph, index):
        return False
    x, weights = graph.tensors[op.inputs[0]], _filter(graph, op)
    return x.is_activation and x.shape[-1:] == weights.shape[-1:] and weights.dtype in ("uint8", "int8")


def _filter(graph: Graph, op: Op) -> Tensor:
    return graph.tensors[op.inputs[1]]


def _codes(weights: Tensor) -> NDArray[np.int16]:
    """Code minus zero point, whatever floats training left behind them."""
    assert weights.data is not None and weights.quant is not None
    return weights.data.astype(np.int16) - weights.quant.along(len(weights.shape))[1].astype(np.int16)


def _ends(codes: NDArray[np.int16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How far below and above zero the weights go that read each input channel, int64[C] each."""
    rows = codes.reshape(-1, codes.shape[-1])
    return -rows.min(axis=0, initial=0).astype(np.int64), rows.max(axis=0, initial=0).astype(np.int64)


def _copies(below: NDArray[np.int64], above: NDArray[np.int64], lowest: int, highest: int) -> Copies:
    allowed, peak = max(1, int(below.size * MOST)), max(below.max(initial=0), above.max(initial=0))
    for wider in range(max(0, int(peak) - highest)):
        needed = np.maximum(_parts(below, wider - lowest), _parts(above, wider + highest)) - 1
        if needed.sum() <= allowed:
            if wider and wider + highest > _WORTH * peak:
                break
            return tuple(np.repeat(np.arange(needed.size), needed).tolist())
    return ()


def _parts(peaks: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """Into how many weights of up to an end each is divided, at least one."""
    return np.maximum(-(-peaks // end), 1)


def _with_columns(weights: Tensor, copies: Copies) -> Tensor:
    """A filter with a column for each copy behind its own, which together are what it was."""
    codes, channels = _codes(weights), weights.shape[-1]
    times = 1 + np.bincount(copies, minlength=channels)
    # The ends nearest to zero within which all weights come with so many copies.
    below, above = (int((-(-ends // times)).max(initial=0)) for ends in _ends(codes))
    parts = np.empty((*codes.shape[:-1], channels + len(copies)), np.int16)
    parts[..., :channels] = codes.clip(-below, above)
    rest = codes - parts[..., :channels]
    for column, channel in enumerate(copies, channels):
        parts[..., column] = rest[..., channel].clip(-below, above)
        rest[..., channel] -= parts[..., column]
    assert weights.quant is not None
    data = (parts + weights.quant.along(len(weights.shape))[1].astype(np.int16)).astype(weights.dtype)
    trained = None
    if weights.trained is not None:
        trained = parts.astype(np.float32)
        trained[..., :channels] += weights.trained - codes
    return weights.with_(shape=data.shape, data=data, trained=trained)
