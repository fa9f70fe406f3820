"""The graph as a whole: who writes and who reads each tensor, and in which order."""

from collections.abc import Sequence

from tf_requant.model.graph import NO_TENSOR, Graph, Tensor
from tf_requant.model.legality.site import DAMAGED


def index_problems(graph: Graph) -> list[str]:
    """A sentence for each tensor index that is out of range; -1 is an input left out."""
    count, problems = len(graph.tensors), []
    for side, indices in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        bad = [t for t in indices if not 0 <= t < count]
        if bad:
            problems.append(f"graph {graph.name!r}: its {side} name tensors {bad}; expected 0 to {count - 1}; {DAMAGED}")
    for i, op in enumerate(graph.ops):
        bad = [t for t in (*op.inputs, *op.intermediates) if not NO_TENSOR <= t < count]
        bad += [t for t in op.outputs if not 0 <= t < count]
        bad += [t for t in op.intermediates if not NO_TENSOR <= t < count]
        if bad:
            where = f"op {i} ({op.name})"
            problems.append(f"{where}: it names tensors {bad}; expected 0 to {count - 1}; {DAMAGED}")
    return problems


def order_problems(graph: Graph) -> list[str]:
    """A sentence for each tensor that is read before it is written, written twice, or never written."""
    problems: list[str] = []
    tensors, inputs = graph.tensors, set(graph.inputs)
    if len(inputs) < len(graph.inputs):
        problems.append(f"graph {graph.name!r}: its inputs {list(graph.inputs)} repeat; expected each once; {DAMAGED}")
    for t in graph.inputs:
        if tensors[t].is_constant or tensors[t].is_variable:
            kind = "constant" if tensors[t].is_constant else "variable"
            problems.append(f"tensor {t} ({tensors[t].name!r}): a {kind} is a graph input; expected neither; {DAMAGED}")
    filled = set(inputs)
    filled.update(i for i, t in enumerate(tensors) if t.data is not None or t.is_variable or 0 in t.shape)
    written: set[int] = set()
    writable = [t.data is None and not t.is_variable for t in tensors]
    for i, op in enumerate(graph.ops):
        for t in op.inputs:
            if t >= 0 and t not in filled:
                problems.append(f"{graph.where(i)}: {_unwritten(graph, t)}; {DAMAGED}")
        for t in op.outputs:
            if t in written or t in inputs or not writable[t]:
                kind = "another op" if t in written else _kind(tensors[t])
                problems.append(
                    f"{graph.where(i)}: it writes tensor {t}, which is {kind}'s; expected a tensor of its own; {DAMAGED}"
                )
            written.add(t)
            filled.add(t)
    for t in graph.outputs:
        if t not in filled:
            problems.append(f"graph {graph.name!r}: {_unwritten(graph, t)}; {DAMAGED}")
    return problems


def _kind(tensor: Tensor) -> str:
    return "a constant" if tensor.is_constant else "a variable" if tensor.is_variable else "a graph input"


def _unwritten(graph: Graph, index: int) -> str:
    name = graph.tensors[index].name
    later = graph.producers.get(index)
    if later is not None:
        return f"tensor {index} ({name!r}) is read before {graph.where(later)} writes it; expected ops in execution order"
    return f"tensor {index} ({name!r}) has no value; expected a constant, a graph input or the output of an op"


def problems_of(graphs: Sequence[Graph]) -> list[str]:
    """Problems of the model's shape as a whole."""
    main = graphs[0]
    return [] if main.outputs else [f"graph {main.name!r}: it has no outputs; expected at least one; {DAMAGED}"]
