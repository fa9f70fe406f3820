"""Layers one by one: each run alone on the source's own values, each restored to the source's precision."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.corrections.splitting import split_again
from tf_requant.io.data import feed
from tf_requant.model.graph import Model, Tensor
from tf_requant.model.ops import only_moves
from tf_requant.model.quant import code_limits
from tf_requant.numerics.affine import code_table, reexpress
from tf_requant.numerics.arithmetic import Arithmetic
from tf_requant.pipeline.host import Host
from tf_requant.pipeline.lanes import scores
from tf_requant.pipeline.record import copies_between, gains_between, read_record
from tf_requant.pipeline.runners import feeds
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Simulator, zeros
from tf_requant.validation.correspondence import Correspondence, Gain
from tf_requant.validation.culprits import Restoration
from tf_requant.validation.layers import LayerStatistics

Values = dict[int, NDArray[Any]]
_ONE = np.float64(1)
_RACE = ((16, 16), (64, 6))
"""(samples, layers): after so many samples only so many of the layers that gain most are restored on."""


class Pair:
    """The source and the candidate, side by side in the simulator.

    Args:
        source: the source.
        result: the candidate.
        arithmetic: what the candidate runs in; the source runs in TFLite's.
        host: ops of the candidate that its target leaves to the host, with the reason.
    """

    def __init__(
        self, source: Model, result: Model, arithmetic: Arithmetic = TFLITE_REF, host: Mapping[int, str] | None = None
    ) -> None:
        source = split_again(source, copies_between(source, result))
        self.meet = Correspondence(source.main, result.main, gains_between(source, result), read_record(result).biases)
        self._feeds = list(zip(source.main.inputs, result.main.inputs, feeds(source, result)))
        self._hosts = Host(source), Host(result)
        self._source = Simulator(source.main, TFLITE_REF, execute_host=self._hosts[0])
        self._result = Simulator(result.main, arithmetic, execute_host=self._hosts[1], host=host)
        self.scores = tuple(t for t in scores(result.main) if self.meet.comparable(t))

    def close(self) -> None:
        """Ends the hosts' processes."""
        for host in self._hosts:
            host.close()

    def run(self, batch: dict[str, NDArray[Any]]) -> tuple[Values, Values]:
        """Every tensor of both models on one sample of the source's input codes."""
        ours, theirs = {}, {}
        for source, result, (one, other) in self._feeds:
            ours[source] = feed(batch[one.name], one, one)
            theirs[result] = feed(batch[one.name], one, other)
        return self._source.run(ours, "all"), self._result.run(theirs, "all")

    def isolated(self, index: int, source: Values) -> Sequence[NDArray[Any]] | None:
        """What an op of the candidate makes of the source's own inputs; None where they cannot be had."""
        graph, arrays = self.meet.result, []
        for t in graph.ops[index].inputs:
            if t < 0 or graph.tensors[t].data is not None:
                arrays.append(None if t < 0 else graph.tensors[t].data)
            elif graph.tensors[t].is_variable:
                arrays.append(zeros(graph, t))
            elif t in self.meet.tensors and self.meet.tensors[t] in source:
                theirs = self.meet.source.tensors[self.meet.tensors[t]]
                if theirs.shape[1:] != graph.tensors[t].shape[1:]:
                    return None
                arrays.append(convert(source[self.meet.tensors[t]], theirs, graph.tensors[t], self.meet.gains[t]))
            else:
                return None
        return self._result.execute(index, arrays)

    def can_restore(self, index: int) -> bool:
        """Whether the source's own op reads what the candidate's does: one that was split otherwise reads other channels."""
        source, result = self.meet.source, self.meet.result
        pairs = zip(source.ops[self.meet.ops[index]].inputs, result.ops[index].inputs)
        both = [(source.tensors[s], result.tensors[t]) for s, t in pairs if s >= 0 and t >= 0]
        return all(a.shape[1:] == b.shape[1:] for a, b in both if a.is_activation and b.is_activation)

    def restored(self, index: int, values: Values) -> Sequence[NDArray[Any]]:
        """What the source's own op makes of the candidate's inputs, on the candidate's grid."""
        graph, own = self.meet.result.ops[index], self.meet.source.ops[self.meet.ops[index]]
        source, result, arrays = self.meet.source, self.meet.result, []
        for position, s in enumerate(own.inputs):
            if s < 0 or source.tensors[s].data is not None:
                arrays.append(None if s < 0 else source.tensors[s].data)
            elif source.tensors[s].is_variable:
                arrays.append(zeros(source, s))
            else:
                t = graph.inputs[position]
                codes = values[t] if result.tensors[t].data is None else result.tensors[t].data
                arrays.append(convert(codes, result.tensors[t], source.tensors[s], 1 / self.meet.gains.get(t, _ONE)))
        outputs = self._source.execute(self.meet.ops[index], arrays)
        tensors = zip(outputs, own.outputs, graph.outputs)
        return [convert(codes, source.tensors[s], result.tensors[t], self.meet.gains[t]) for codes, s, t in tensors]

    def onward(self, index: int, values: Values, outputs: Sequence[NDArray[Any]]) -> Values:
        """The candidate's scores where one op wrote other codes than it does; only what depends on them is run again."""
        graph = self.meet.result
        changed = {
            t: codes for t, codes in zip(graph.ops[index].outputs, outputs) if not np.array_equal(codes, values[t])
        }
        last = max((graph.producers[t] for t in self.scores if t in graph.producers), default=-1)
        for position in range(index + 1, last + 1):
            op = graph.ops[position]
            if not changed.keys() & set(op.inputs):
                continue
            arrays = [self._read(t, changed, values) for t in op.inputs]
            for t, codes in zip(op.outputs, self._result.execute(position, arrays)):
                if not np.array_equal(codes, values[t]):
                    changed[t] = codes
        return {t: changed.get(t, values[t]) for t in self.scores}

    def _read(self, tensor: int, changed: Values, values: Values) -> NDArray[Any] | None:
        graph = self.meet.result
        if tensor < 0:
            return None
        if graph.tensors[tensor].is_variable:
            return zeros(graph, tensor)
        data = graph.tensors[tensor].data
        return data if data is not None else changed.get(tensor, values.get(tensor))

    def noise(self, source: Values, scored: Values) -> tuple[float, float]:
        """Squared error and squared value of the scores, summed, in units of the source."""
        error = power = 0.0
        for t in self.scores:
            wanted = reals(source[self.meet.tensors[t]], self.meet.source.tensors[self.meet.tensors[t]])
            got = reals(scored[t], self.meet.result.tensors[t]) / self.meet.gains[t]
            error, power = error + float(((got - wanted) ** 2).sum()), power + float((wanted**2).sum())
        return error, power


class Measurement:
    """Compares each tensor of both models, running and alone.

    Attributes:
        found: statistics by tensor index of the candidate, in execution order.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.found: dict[int, LayerStatistics] = {}

    def add(self, source: Values, running: Values) -> None:
        """Counts one sample."""
        meet = self._pair.meet
        for index, op in enumerate(meet.result.ops):
            wanted = [t for t in op.outputs if meet.comparable(t)]
            if not wanted:
                continue
            alone = self._pair.isolated(index, source)
            by_tensor = {} if alone is None else dict(zip(op.outputs, alone))
            for t in wanted:
                s = meet.tensors[t]
                if source[s].shape != running[t].shape or not running[t].size:
                    continue  # a shape that is computed, and comes out otherwise, or empty
                if t not in self.found:
                    channels = running[t].shape[-1] if running[t].ndim else 1
                    self.found[t] = LayerStatistics(meet.source.tensors[s], meet.result.tensors[t], meet.gains[t], channels)
                if self.found[t].running.channels == (running[t].shape[-1] if running[t].ndim else 1):
                    self.found[t].add(source[s], running[t], by_tensor.get(t))


class Race:
    """Restores each layer by itself to the source's precision, and looks at what that makes of the scores.

    All layers run on the first samples; then only those that gain most stay in the race.

    Attributes:
        found: by op index of the candidate; ops that the source does not have, or that only move codes, are left out.
        error: squared error of the scores as the candidate is, summed over samples.
        power: their squared value.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        graph = pair.meet.result
        # Restoring what only moves codes would cut values at the ends of the source's range.
        computing = [i for i in sorted(pair.meet.ops) if not only_moves(graph.ops[i].code) and pair.can_restore(i)]
        self.found = {index: Restoration() for index in computing} if pair.scores else {}
        self._racing = list(self.found)
        self._samples = 0
        self.error = self.power = 0.0

    def add(self, source: Values, running: Values) -> None:
        """Counts one sample."""
        pair = self._pair
        before, power = pair.noise(source, running)
        self.error, self.power, self._samples = self.error + before, self.power + power, self._samples + 1
        for index in self._racing:
            scored = pair.onward(index, running, pair.restored(index, running))
            self.found[index].add(pair.noise(source, scored)[0], before, power)
        for count, layers in _RACE:
            if self._samples == count:
                self._racing = sorted(self._racing, key=lambda index: -self.found[index].gain)[:layers]


def convert(codes: NDArray[Any], old: Tensor, new: Tensor, gain: Gain) -> NDArray[Any]:
    """Codes of one tensor as the codes of another that mean `gain` times the same real values; as they are where they mean none.

    A float tensor holds the real values themselves.
    """
    if old.quant is None or new.quant is None:
        if new.quant is None and old.quant is not None and new.dtype.startswith("float"):
            return np.asarray(reals(codes, old) * gain, new.dtype)
        if new.quant is not None and codes.dtype.kind == "f":
            point, ends = int(new.quant.zero_point[0]), code_limits(new.dtype)
            steps = reexpress(codes, np.asarray(gain) / float(new.quant.scale[0]), ends[0] - point, ends[1] - point)
            return (steps + point).astype(new.dtype)
        return codes
    step = np.asarray(gain) * (float(old.quant.scale[0]) / float(new.quant.scale[0]))
    low, high = code_limits(new.dtype)
    point, zero = int(new.quant.zero_point[0]), int(old.quant.zero_point[0])
    if step.size == 1 and old.dtype in ("uint8", "int8"):
        table = code_table(old.dtype, zero, float(step), low, high, point).astype(new.dtype)
        return np.take(table, codes.view(np.uint8))
    values = codes.astype(np.int64) - zero
    return (reexpress(values, step, low - point, high - point) + point).astype(new.dtype)


def reals(codes: NDArray[Any], tensor: Tensor) -> NDArray[np.float64]:
    """The real values of an activation's codes."""
    assert tensor.quant is not None
    return (codes.astype(np.float64) - int(tensor.quant.zero_point[0])) * float(tensor.quant.scale[0])
