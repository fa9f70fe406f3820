"""The inspect verb: what a model holds, and what a target would leave to the host."""

from dataclasses import dataclass
from typing import Any

from tf_requant.io.tf1 import GraphOptions
from tf_requant.model.graph import Model
from tf_requant.pipeline.requantize import TargetSource
from tf_requant.pipeline.source import NO_OPTIONS, ModelSource, load_source
from tf_requant.plan import Plan
from tf_requant.planning.planner import plan_model
from tf_requant.targets import load_target


@dataclass(frozen=True, eq=False)
class Inspection:
    """A model's content.

    Attributes:
        model: the verified model.
        plan: what a target would make of it, or None when no target was named.
    """

    model: Model
    plan: Plan | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready values."""
        return {
            "graphs": [self._graph(i) for i in range(len(self.model.graphs))],
            "signatures": [s.key for s in self.model.signatures],
            "metadata": sorted(self.model.metadata),
            "warnings": list(self.model.warnings),
            "target": None if self.plan is None else self.plan.target,
        }

    def _graph(self, index: int) -> dict[str, Any]:
        graph = self.model.graphs[index]
        plans = self.plan.graphs[index].ops if self.plan is not None else (None,) * len(graph.ops)
        names = [t.name for t in graph.tensors]
        return {
            "name": graph.name,
            "inputs": [names[t] for t in graph.inputs],
            "outputs": [names[t] for t in graph.outputs],
            "ops": [
                {
                    "index": i,
                    "code": op.name,
                    "version": op.version,
                    "inputs": [names[t] if t >= 0 else None for t in op.inputs],
                    "outputs": [names[t] for t in op.outputs],
                    "host": None if plan is None or plan.on_accelerator else plan.reason,
                }
                for i, (op, plan) in enumerate(zip(graph.ops, plans))
            ],
            "tensors": [
                {
                    "name": t.name,
                    "dtype": t.dtype,
                    "shape": list(t.shape),
                    "constant": t.is_constant,
                    "scale": None if t.quant is None else t.quant.scale.tolist(),
                    "zero_point": None if t.quant is None else t.quant.zero_point.tolist(),
                    "axis": t.quant.axis if t.quant is not None and t.quant.per_channel else None,
                    "bits": t.bits,
                }
                for t in graph.tensors
            ],
        }

    def __str__(self) -> str:
        """Ops with their tensors and schemes, one line each."""
        lines = []
        for index, graph in enumerate(self.model.graphs):
            lines.append(f"graph {index} {graph.name!r}: {len(graph.ops)} ops, {len(graph.tensors)} tensors")
            for i, op in enumerate(graph.ops):
                plan = self.plan.graphs[index].ops[i] if self.plan is not None else None
                host = f"  [host: {plan.reason}]" if plan is not None and not plan.on_accelerator else ""
                lines.append(f"op {i} {op.name} version {op.version}{host}")
                for side, tensors in (("in ", op.inputs), ("out", op.outputs)):
                    lines += [f"  {side} {self._tensor(index, t)}" for t in tensors if t >= 0]
        lines += [f"warning: {w}" for w in self.model.warnings]
        return "\n".join(lines)

    def _tensor(self, graph: int, index: int) -> str:
        tensor = self.model.graphs[graph].tensors[index]
        kind = "constant " if tensor.is_constant else ""
        scheme = f" {tensor.quant}" if tensor.quant is not None else f" {tensor.dtype}"
        width = f", {tensor.bits} bits on its accelerator" if tensor.bits is not None else ""
        stored = ", stored as INT4" if tensor.packed else ""
        return f"{tensor.name} {kind}{list(tensor.shape)}{scheme}{width}{stored}"


def inspect(
    model: ModelSource, target: TargetSource | None = None, *, options: GraphOptions = NO_OPTIONS
) -> Inspection:
    """Reads a model and, for a target, plans it without editing anything.

    Raises:
        RequantError: the model or the target cannot be used.
    """
    loaded = load_source(model, options).model
    return Inspection(loaded, None if target is None else plan_model(loaded, load_target(target)))
