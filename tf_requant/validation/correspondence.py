"""Which tensor and op of a source a tensor and op of the candidate stand for."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Graph

Gain = NDArray[np.float64]
"""What real values were multiplied by: float64[] or, one a channel of the last axis, float64[C]."""


class Correspondence:
    """A candidate's main graph held against its source's.

    Tensors meet by name, by their place among the inputs, and through the QUANTIZE ops that a rewrite puts between
    views; ops meet by what they write.

    Args:
        source: the source's graph.
        result: the candidate's.
        gains: what a tensor's real values were multiplied by, by name.
        moves: how far a conversion moved the biases behind a tensor on purpose, by name and channel, in steps of the
            candidate; None where no record tells.

    Attributes:
        tensors: tensor of the candidate -> tensor of the source.
        gains: tensor of the candidate -> its gain.
        ops: op of the candidate -> op of the source of the same code.
    """

    def __init__(
        self, source: Graph, result: Graph, gains: Mapping[str, Any], moves: Mapping[str, Mapping[int, float]] | None = None
    ) -> None:
        self.source, self.result = source, result
        by_name = _unique_names(source)
        self.tensors = {t: by_name[name] for name, t in _unique_names(result).items() if name in by_name}
        self.tensors |= dict(zip(result.inputs, source.inputs))
        self._through_quantize()
        self.gains: dict[int, Gain] = {
            t: np.asarray(gains.get(source.tensors[s].name, 1.0), np.float64) for t, s in self.tensors.items()
        }
        self.ops = {i: j for i in range(len(result.ops)) if (j := self._op(i)) is not None}
        self._moves = moves

    def _through_quantize(self) -> None:
        """What a QUANTIZE op reads and writes is one tensor of the source."""
        moves = [op for op in self.result.ops if op.code == "QUANTIZE"]
        for op in moves:
            if op.inputs[0] in self.tensors:
                self.tensors.setdefault(op.outputs[0], self.tensors[op.inputs[0]])
        for op in reversed(moves):
            if op.outputs[0] in self.tensors:
                self.tensors.setdefault(op.inputs[0], self.tensors[op.outputs[0]])

    def _op(self, index: int) -> int | None:
        op = self.result.ops[index]
        producers = {self.source.producers.get(self.tensors.get(t, -1)) for t in op.outputs}
        found = producers.pop() if len(producers) == 1 else None
        return found if found is not None and self.source.ops[found].name == op.name else None

    def written(self, index: int) -> str:
        """The source's name of what an op of the candidate writes first."""
        return self.source.tensors[self.tensors[self.result.ops[index].outputs[0]]].name

    def meant(self, index: int, channels: int) -> NDArray[np.float64] | None:
        """How far the bias of an op of the candidate was moved on purpose, steps of its output, float64[channels].

        Returns:
            None where no record tells.
        """
        if self._moves is None:
            return None
        found = np.zeros(channels)
        for channel, steps in self._moves.get(self.written(index), {}).items():
            if 0 <= channel < channels:
                found[channel] = steps
        return found

    def comparable(self, tensor: int) -> bool:
        """Whether a tensor of the candidate has codes that can be held against the source's."""
        if tensor not in self.tensors:
            return False
        ours, theirs = self.result.tensors[tensor], self.source.tensors[self.tensors[tensor]]
        return ours.is_activation and theirs.is_activation and ours.shape[1:] == theirs.shape[1:]


def _unique_names(graph: Graph) -> dict[str, int]:
    """The tensors by name, without those that share one."""
    counts = Counter(t.name for t in graph.tensors)
    return {t.name: index for index, t in enumerate(graph.tensors) if counts[t.name] == 1}
