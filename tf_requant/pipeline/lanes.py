"""Two models run side by side on the same samples, op by op, so that each layer can be mended behind the ones before."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Graph, Model
from tf_requant.model.ops import info
from tf_requant.numerics.arithmetic import Arithmetic
from tf_requant.pipeline.host import Host
from tf_requant.simulator.ops import KERNELS
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Run, Simulator

Inputs = dict[int, NDArray[Any]]

_WORTH, _SURE = 0.98, 2.0
"""What a change must leave of the error at most, and how many standard errors it must gain."""


class Lane:
    """One model and many samples, at one place of the graph.

    Args:
        model: what runs; its main graph.
        samples: input codes by tensor index.
        arithmetic: in which it runs.
    """

    def __init__(self, model: Model, samples: Sequence[Inputs], arithmetic: Arithmetic = TFLITE_REF) -> None:
        self._host = Host(model)
        self._simulator = Simulator(model.main, arithmetic, execute_host=self._host)
        self.runs = [self._simulator.begin(sample) for sample in samples]
        self.position = 0

    @property
    def graph(self) -> Graph:
        """The graph as it runs now."""
        return self._simulator.graph

    def input_of(self, index: int, sample: int) -> NDArray[Any]:
        """What the next op reads as its data."""
        return self.runs[sample].values[self.graph.ops[index].inputs[0]]

    def step(self) -> list[dict[int, NDArray[Any]]]:
        """Runs the next op on every sample and returns its outputs."""
        outputs = [self._simulator.step(self.position, run) for run in self.runs]
        self.position += 1
        return outputs

    def revise(self, graph: Graph) -> None:
        """Goes on with a graph whose next op has other constants."""
        self._simulator.revise(graph, self.position)

    def branch(
        self,
        graph: Graph,
        stop: int,
        wanted: Collection[int],
        count: int | None = None,
        changed: Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]] | None = None,
    ) -> list[Inputs]:
        """What samples would come to if the next op had another graph's constants; the lane stays where it is.

        Args:
            graph: differs from the lane's in the constants of the next op.
            stop: the op ahead of which the branch ends.
            wanted: the tensors that are returned.
            count: of the first so many samples; of all where it is left out.
            changed: by tensor, what becomes of its codes once they are written.
        """
        changed = changed or {}
        kept, found = self.graph, []
        self.revise(graph)
        for run in self.runs[:count]:
            branch, outputs = Run(dict(run.values), dict(run.variables)), {}
            for position in range(self.position, stop):
                made = self._simulator.step(position, branch)
                for t in made.keys() & changed.keys():
                    made[t] = changed[t](made[t])
                    if t in branch.values:
                        branch.values[t] = made[t]
                outputs.update({t: made[t] for t in made.keys() & set(wanted)})
            found.append(outputs)
        self.revise(kept)
        return found

    def close(self) -> None:
        """Ends the host's process, if one runs."""
        self._host.close()


def scores(graph: Graph) -> tuple[int, ...]:
    """The tensors whose error tells a model's: its outputs, ahead of what squashes them or leaves the integers.

    SOFTMAX and LOGISTIC saturate, and a custom op may sort: an error behind them says little of the error ahead.
    """
    found: dict[int, None] = {}
    waiting = list(graph.outputs)
    while waiting:
        tensor = waiting.pop(0)
        producer = graph.producers.get(tensor)
        if producer is None:
            continue
        op, quantized = graph.ops[producer], graph.tensors[tensor].is_activation
        row = info(op)
        if quantized and op.code in KERNELS and row is not None and row.rule != "fixed" and op.code != "QUANTIZE":
            found[tensor] = None
            continue
        waiting += [t for t in op.inputs if t >= 0 and graph.tensors[t].is_activation]
    return tuple(found)


def in_reals(codes: NDArray[Any], graph: Graph, tensor: int) -> NDArray[np.float64]:
    """Codes as real values."""
    quant = graph.tensors[tensor].quant
    if quant is None or codes.dtype.kind == "f":
        return codes.astype(np.float64)
    return (codes.astype(np.float64) - float(quant.zero_point[0])) * float(quant.scale[0])


def real_scores(model: Model, samples: Sequence[Inputs]) -> list[Inputs]:
    """The scores of each sample in real units, as LiteRT's reference kernels compute them, by tensor.

    Args:
        model: its main graph.
        samples: input codes by tensor index.
    """
    wanted, lane = scores(model.main), Lane(model, samples)
    try:
        found = lane.branch(model.main, behind(model.main, wanted), wanted)
    finally:
        lane.close()
    return [{t: in_reals(one[t], model.main, t) for t in wanted} for one in found]


def behind(graph: Graph, tensors: Iterable[int]) -> int:
    """The op behind the last that writes one of these."""
    return max((graph.producers.get(t, -1) for t in tensors), default=-1) + 1


class Meeting:
    """Compares tensors that two lanes reach one after the other.

    Args:
        gains: what the second lane's real values are to be divided by, by tensor name.
        names: the tensors to be compared.
        samples: of so many samples.
    """

    def __init__(self, gains: Mapping[str, float | NDArray[np.float64]], names: Iterable[str], samples: int) -> None:
        self._gains, self._names, self._samples = gains, set(names), samples
        self._waiting: dict[tuple[int, str], tuple[int, Graph, int, NDArray[Any]]] = {}
        self._errors: dict[str, NDArray[np.float64]] = {}
        self._powers: dict[str, float] = {}

    def bring(self, side: int, graph: Graph, outputs: Sequence[dict[int, NDArray[Any]]]) -> None:
        """One lane's fresh outputs of each sample.

        Args:
            side: 0 for the source, 1 for the result.
            graph: the lane's graph.
            outputs: codes by tensor index, of every sample; the first ones count.
        """
        for sample, values in enumerate(outputs[: self._samples]):
            for tensor, codes in values.items():
                name = graph.tensors[tensor].name
                if name in self._names:
                    self._bring(side, sample, name, (side, graph, tensor, codes))

    def _bring(self, side: int, sample: int, name: str, brought: tuple[int, Graph, int, NDArray[Any]]) -> None:
        other = self._waiting.pop((sample, name), None)
        if other is None or other[0] == side or other[3].shape != brought[3].shape:
            self._waiting[sample, name] = brought
            return
        first, second = (brought, other) if side == 0 else (other, brought)
        source = in_reals(first[3], first[1], first[2])
        result = in_reals(second[3], second[1], second[2]) / self._gains.get(name, 1.0)
        self._errors.setdefault(name, np.zeros(self._samples))[sample] += float(((result - source) ** 2).sum())
        self._powers[name] = self._powers.get(name, 0.0) + float((source**2).sum())

    def relative(self) -> dict[str, float]:
        """Squared error over squared value, by tensor name."""
        return {n: float(e.sum()) for n, e in self._relative().items()}

    def by_sample(self) -> NDArray[np.float64]:
        """What each sample has of the sum of `relative`, float64[samples]."""
        return np.sum([np.zeros(self._samples), *self._relative().values()], axis=0)

    def _relative(self) -> dict[str, NDArray[np.float64]]:
        return {n: e / self._powers[n] if self._powers[n] else e for n, e in self._errors.items()}


def is_clear(gain: NDArray[np.float64], error: NDArray[np.float64]) -> bool:
    """Whether what samples gain is no chance: some, and more than so many standard errors.

    Args:
        gain: by how much each sample's squared error falls, float64[samples].
        error: what it falls from.
    """
    spread = float(gain.std(ddof=1)) * gain.size**0.5 if gain.size > 1 else 0.0
    return float(gain.sum()) > max((1 - _WORTH) * float(error.sum()), _SURE * spread)
