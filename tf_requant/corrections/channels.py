"""Which tensors may take one factor a channel together, and how much noise on a channel matters.

For s > 0, f(s x) = s f(x) holds of sums, means, maxima and a RELU, channel by channel: a factor that a filter multiplies
into a channel passes through them until another filter divides it out (DFQ, arXiv 1906.04721, section 4.1). The tensors
between share it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.layers import grouped, has_filter, input_channels
from tf_requant.calibration.statistics import Calibration
from tf_requant.model.graph import Graph, Op
from tf_requant.model.ops import info
from tf_requant.model.partition import Partition, activations_around
from tf_requant.model.quant import code_limits
from tf_requant.model.shares import AVERAGES
from tf_requant.plan import GraphPlan


@dataclass(frozen=True)
class ChannelClass:
    """Tensors whose channels share factors.

    Attributes:
        tensors: their indices, ascending.
        writers: the layers that write into them from outside.
        readers: the layers that read them, each once.
        picked: tensors that hold their channels in another order, or some more than once, with those channels.
    """

    tensors: tuple[int, ...]
    writers: tuple[int, ...]
    readers: tuple[int, ...]
    picked: Mapping[int, NDArray[np.int64]]

    def of(self, tensor: int, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """The factors of the channels of a tensor that the class has, or that a reader reads it as."""
        return factors[self.picked[tensor]] if tensor in self.picked else factors


def channel_classes(graph: Graph, plan: GraphPlan) -> Iterator[ChannelClass]:
    """The classes between filters alone; what anything else sees keeps its values.

    Args:
        graph: the source's graph.
        plan: its plan, which says what runs on the accelerator.
    """
    classes, pinned = Partition(plan.activations), {*graph.inputs, *graph.outputs}
    picked: dict[int, NDArray[np.int64]] = {}
    for index, op in enumerate(graph.ops):
        seen = activations_around(graph, op)
        planned = plan.ops[index].on_accelerator and all(t in classes for t in seen)
        channels = picked_channels(graph, op)
        if planned and _by_channel(graph, op):
            classes.join(seen)
        elif planned and channels is not None and all(_is_layer(graph, plan, i) for i in graph.consumers.get(op.outputs[0], ())):
            picked[op.outputs[0]] = channels
        elif not planned or not _is_layer(graph, plan, index):
            pinned.update(seen)
    for members in classes.classes().values():
        if pinned & set(members):
            continue
        own = {y: channels for y, channels in picked.items() if graph.ops[graph.producers[y]].inputs[0] in members}
        if pinned & own.keys():
            continue
        writers = tuple(graph.producers[t] for t in members if has_filter(graph, graph.producers[t]))
        readers = tuple(i for t in (*members, *own) for i in graph.consumers.get(t, ()) if has_filter(graph, i))
        if writers and readers and len(set(readers)) == len(readers):
            yield ChannelClass(tuple(members), writers, readers, own)


def picked_channels(graph: Graph, op: Op) -> NDArray[np.int64] | None:
    """Which channels of its input an op's output holds, where it is a GATHER along the last axis by a constant; else None."""
    if op.code != "GATHER" or not graph.tensors[op.inputs[0]].is_activation:
        return None
    indices, rank = graph.tensors[op.inputs[1]].data, len(graph.tensors[op.inputs[0]].shape)
    last = int(op.attrs.get("axis", 0)) % rank == rank - 1 and not int(op.attrs.get("batch_dims", 0))
    return np.asarray(indices, np.int64) if indices is not None and indices.ndim == 1 and last else None


def _is_layer(graph: Graph, plan: GraphPlan, index: int) -> bool:
    op = graph.ops[index]
    return (
        has_filter(graph, index)
        and (index, 1) in plan.constants
        and graph.tensors[op.inputs[0]].shape[-1:] == (input_channels(graph, op),)
    )


def _by_channel(graph: Graph, op: Op) -> bool:
    """Whether each channel of the output depends on the same channel of the inputs alone, and scales with it."""
    row, seen = info(op), activations_around(graph, op)
    if row is None or not row.by_channel or len({graph.tensors[t].shape[-1:] for t in seen}) != 1:
        return False
    if any(len(graph.tensors[t].shape) < 2 for t in seen):
        return False
    if row.additive and sum(t in op.inputs for t in seen) != len([t for t in op.inputs if t >= 0]):
        return False  # a constant addend would have to take the factors too
    if op.code != "MEAN":
        return True
    axes, rank = graph.tensors[op.inputs[1]].data, len(graph.tensors[op.inputs[0]].shape)
    return axes is not None and not any(int(a) % rank == rank - 1 for a in axes.reshape(-1))


def sensitivities(graph: Graph, calibration: Calibration) -> dict[int, NDArray[np.float64]]:
    """What unit noise, in real units squared, on all places of a channel does to the scores, float64[C] by tensor.

    What reaches a tensor's channels is carried back through the filters' squares. The tensor's sum is what calibration
    measured of it; without such measurements noise counts by its share of the tensor's own power.
    """
    found: dict[int, NDArray[np.float64]] = {}
    for index in reversed(range(len(graph.ops))):
        op = graph.ops[index]
        for tensor in op.outputs:
            if (known := _scaled(graph, calibration, tensor, found.get(tensor))) is not None:
                found[tensor] = known
        y = op.outputs[0] if op.outputs else -1
        if y not in found:
            continue
        if has_filter(graph, index):
            x, carried = op.inputs[0], _through_filter(graph, op, found[y])
            _add(found, x, carried, graph.tensors[x].shape[-1])
        elif (channels := picked_channels(graph, op)) is not None:
            x, width = op.inputs[0], graph.tensors[op.inputs[0]].shape[-1]
            _add(found, x, np.bincount(channels, found[y], minlength=width), width)
        elif _by_channel(graph, op):
            for x in (t for t in op.inputs if t >= 0 and graph.tensors[t].is_activation):
                # The noise of a mean is that of one place over how many there are; the rest pass it on as it is.
                share = graph.tensors[y].size / graph.tensors[x].size
                _add(found, x, found[y] * (share if op.code in AVERAGES else 1.0), found[y].size)
    return found


def channel_powers(graph: Graph, calibration: Calibration, tensor: int) -> NDArray[np.float64]:
    """The mean square of each channel, in real units: the histogram's, shared out by the peaks' squares, float64[C]."""
    quant, counts = graph.tensors[tensor].quant, calibration.histograms.get(tensor)
    channels = graph.tensors[tensor].shape[-1]
    if quant is None or counts is None:
        return np.ones(channels)
    values = (np.arange(counts.size) + code_limits(quant.dtype)[0] - int(quant.zero_point[0])) * float(quant.scale[0])
    power = float(values**2 @ counts) / max(1, int(counts.sum()))
    peaks = calibration.peaks.get(tensor)
    if peaks is None or len(peaks) != channels or not peaks.any():
        return np.full(channels, power)
    squares = peaks[:, 0].astype(np.float64) ** 2
    return np.asarray(power * squares / squares.mean())


def _add(found: dict[int, NDArray[np.float64]], tensor: int, carried: NDArray[np.float64], channels: int) -> None:
    if carried.size == channels:
        found[tensor] = found.get(tensor, np.zeros(channels)) + carried


def _through_filter(graph: Graph, op: Op, behind: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sensitivities of a layer's output at its input, float64[inputs]."""
    weights, inputs = graph.tensors[op.inputs[1]], input_channels(graph, op)
    assert weights.quant is not None
    squares = grouped(op, np.square(weights.steps() * weights.quant.along(len(weights.shape))[0]), inputs)
    if behind.size != squares.shape[0] * squares.shape[1]:
        return np.zeros(0)
    seen = np.einsum("gok,go->gk", squares, behind.reshape(squares.shape[:2]))
    taps = seen.shape[1] * seen.shape[0] // inputs
    return np.asarray(seen.reshape(seen.shape[0], taps, -1).sum(axis=1).reshape(-1))


def _scaled(
    graph: Graph, calibration: Calibration, tensor: int, carried: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    held = graph.tensors[tensor]
    if not held.is_activation or held.quant is None or not held.shape:
        return None
    channels, peaks = held.shape[-1], calibration.peaks.get(tensor)
    shares = np.ones(channels) if carried is None or carried.size != channels else carried
    if peaks is not None and len(peaks) == channels:
        shares = shares * (peaks[:, 0] > 0)
    if calibration.noise:
        total = calibration.noise.get(tensor, 0.0) / float(held.quant.scale[0]) ** 2
    else:
        total = 1 / max(float(channel_powers(graph, calibration, tensor).mean()), 1e-30)
    return np.asarray(shares / max(float(shares.mean()), 1e-300) * total / channels)

