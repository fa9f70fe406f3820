"""Running single ops of a model in the real interpreter: what a simulated accelerator leaves to its host."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from tf_requant.errors import InterpreterError
from tf_requant.io import tflite_writer
from tf_requant.model.graph import Graph, Model
from tf_requant.runtime import InterpreterProcess

_BACKEND = "litert_ref"


class Host:
    """Executes ops one by one in LiteRT's reference kernels, in one child process that starts at the first op.

    Args:
        model: the model that the ops belong to.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._process: InterpreterProcess | None = None
        self._loaded: tuple[int, tuple[tuple[int, ...], ...]] | None = None

    def close(self) -> None:
        """Ends the child process, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process = self._loaded = None

    def __call__(self, graph: Graph, index: int, arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
        """The op's outputs.

        Args:
            graph: the graph around it.
            index: which op.
            arrays: its inputs, None where an optional one is absent.

        Raises:
            InterpreterError: the interpreter refused the op or died.
        """
        if self._process is None:
            self._process = InterpreterProcess(_BACKEND)
        shapes = tuple(() if a is None else a.shape for a in arrays)
        try:
            if self._loaded != (index, shapes):
                self._process.load(self._alone(graph, index, arrays))
                self._loaded = (index, shapes)
            details = self._process.details()
            computed = [
                (t, a) for t, a in zip(graph.ops[index].inputs, arrays) if t >= 0 and graph.tensors[t].data is None
            ]
            fed = [a for a in dict(computed).values() if a is not None]
            # One sample: the leading axis counts samples.
            inputs: dict[str | int, NDArray[Any]] = {d.index: a[None] for d, a in zip(details.inputs, fed)}
            outputs = self._process.run(inputs)
        except InterpreterError as error:
            self.close()
            raise InterpreterError(f"{graph.where(index)} runs on the host, and {error}") from error
        return [outputs[d.index][0] for d in details.outputs]

    def _alone(self, graph: Graph, index: int, arrays: Sequence[NDArray[Any] | None]) -> bytes:
        """A model of this op alone, its inputs as large as they come."""
        op = graph.ops[index]
        used = list(dict.fromkeys(t for t in (*op.inputs, *op.outputs, *op.intermediates) if t >= 0))
        place = {old: new for new, old in enumerate(used)}
        shape = {t: a.shape for t, a in zip(op.inputs, arrays) if t >= 0 and a is not None}
        named = ((i, graph.tensors[i]) for i in used)
        tensors = tuple(t if t.data is not None else t.with_(shape=shape.get(i, t.shape)) for i, t in named)
        moved = op.with_(
            inputs=tuple(place.get(t, -1) for t in op.inputs),
            outputs=tuple(place[t] for t in op.outputs),
            intermediates=tuple(place[t] for t in op.intermediates),
        )
        fed = tuple(dict.fromkeys(place[t] for t in op.inputs if t >= 0 and graph.tensors[t].data is None))
        single = graph.with_(tensors=tensors, ops=(moved,), inputs=fed, outputs=moved.outputs)
        alone = self._model.with_(graphs=(single, *self._model.graphs[1:]), signatures=(), metadata={})
        return tflite_writer.write(alone)
