"""The report of one re-expression: every tensor's old and new parameters, with the reason."""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tf_requant.model.graph import Graph, Model
from tf_requant.model.quant import QuantParams
from tf_requant.plan import ACTIVATIONS, GraphPlan, Plan, WidthPlan
from tf_requant.report.accumulators import AccumulatorRow, accumulator_bounds
from tf_requant.report.names import short_name
from tf_requant.report.storage import StoredActivations, StoredWeights, stored_activations, stored_weights
from tf_requant.targets import Target


@dataclass(frozen=True)
class TensorRow:
    """One decision.

    Attributes:
        graph: the subgraph's index.
        name: the tensor's name in the source.
        role: `activation` or `constant`.
        op: for a constant, the op that reads it, as `index CODE`.
        source: the old parameters, in words.
        target: the new ones.
        gain: the new real value over the old one.
        error: the predicted error: of an activation, mean squared in the source's steps; of a filter, relative
            squared error averaged over output channels, or of the layer's output where a correction chose it.
        reason: why.
        measured: of an activation, squared error over squared value on samples held back; None where unmeasured.
    """

    graph: int
    name: str
    role: str
    op: str
    source: str
    target: str
    gain: float
    error: float
    reason: str
    measured: float | None = None


@dataclass(frozen=True)
class Report:
    """What a re-expression did.

    Attributes:
        target: the target's name.
        ops: how many ops the result holds.
        accelerated: how many of the source's ops the target runs.
        host_ops: (where, reason) of each op that stays on the host.
        corrections: the corrections that were applied.
        warnings: what was repaired, left out or ignored.
        notes: what was measured, and what followed from it.
        tensors: every decision.
        accumulators: how large the sums of each layer of the result can become; empty for a dry run.
        accumulator_bits: the target's register.
        weights: what each layer's weights on the accelerator take, counted from their codes; empty for a dry run.
        activations: bytes of the activations on the accelerator in one run, each counted once, and how many have each width;
            empty for a dry run.
        widths: the choices of widths that were asked for: of weights, of activations, or of both.
        source_bytes: the source file's size.
        result_bytes: the result file's size; 0 for a dry run.
    """

    target: str
    ops: int
    accelerated: int
    host_ops: tuple[tuple[str, str], ...]
    corrections: tuple[str, ...]
    warnings: tuple[str, ...]
    tensors: tuple[TensorRow, ...]
    notes: tuple[str, ...] = ()
    accumulators: tuple[AccumulatorRow, ...] = ()
    accumulator_bits: int = 32
    weights: tuple[StoredWeights, ...] = ()
    activations: tuple[StoredActivations, ...] = ()
    widths: tuple[WidthPlan, ...] = ()
    source_bytes: int = 0
    result_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        document = asdict(replace(self, widths=()))
        chosen = {choice.kind == ACTIVATIONS: choice.to_dict() for choice in self.widths}
        document |= {"widths": chosen.get(False), "activation_widths": chosen.get(True)}
        document["host_ops"] = [{"op": where, "reason": reason} for where, reason in self.host_ops]
        return document

    def __str__(self) -> str:
        """A readable summary; `details` has the tensors."""
        activations = [r for r in self.tensors if r.role == "activation"]
        constants = [r for r in self.tensors if r.role == "constant"]
        unchanged = sum(r.source == r.target for r in self.tensors)
        lines = [
            f"target {self.target}: {self.accelerated} of {self.accelerated + len(self.host_ops)} ops on the accelerator, "
            f"{len(self.host_ops)} on the host",
            f"tensors: {len(activations)} activations and {len(constants)} constants decided, {unchanged} of them unchanged",
        ]
        folded = sum(r.gain != 1 for r in activations)
        if folded:
            lines.append(f"gains: {folded} activations carry a folded gain")
        lines.append(f"corrections: {', '.join(self.corrections) or 'none'}")
        if self.accumulators:
            widest = max(self.accumulators, key=lambda row: row.bound)
            lines.append(
                f"accumulators: at most {widest.bits} of the target's {self.accumulator_bits} bits, in {short_name(widest.name)}"
                + ("" if widest.bits <= self.accumulator_bits else ": a worst-case input overflows it")
            )
        if self.weights:
            lines.append(_storage_line(self.weights))
        if len(self.activations) > 1 or any(row.bits < 8 for row in self.activations):
            counts = ", ".join(f"{row.tensors} at {row.bits} bits" for row in self.activations)
            stored = sum(row.bytes for row in self.activations)
            lines.append(f"activations: {stored:,.0f} bytes, inputs and outputs included: {counts}")
        lines += [f"host: {where}: {reason}" for where, reason in self.host_ops]
        lines += [f"note: {n}" for n in self.notes]
        lines += [f"warning: {w}" for w in self.warnings]
        return "\n".join(lines)

    def details(self) -> str:
        """One line a tensor: name, old parameters, new parameters, reason."""
        return "\n".join(
            f"{r.name}{f' (read by op {r.op})' if r.op else ''}: {r.source} -> {r.target}: {r.reason}"
            + (f" [predicted error {r.error:.3g}]" if r.error else "")
            + (f" [measured {10 * np.log10(r.measured):.1f} dB]" if r.measured else "")
            for r in self.tensors
        )


def build(
    source: Model,
    result: Model,
    plan: Plan,
    target: Target,
    corrections: tuple[str, ...],
    warnings: tuple[str, ...],
    notes: tuple[str, ...] = (),
    widths: tuple[WidthPlan, ...] = (),
) -> Report:
    """Collects the report of a plan that was (or, in a dry run, would be) applied."""
    rows: list[TensorRow] = []
    host: list[tuple[str, str]] = []
    accelerated = 0
    for index, (graph, graph_plan) in enumerate(zip(source.graphs, plan.graphs)):
        rows += _rows(index, graph, graph_plan)
        for i, op in enumerate(graph_plan.ops):
            accelerated += op.on_accelerator
            if not op.on_accelerator:
                host.append((graph.where(i), op.reason))
    ops = sum(len(g.ops) for g in result.graphs)
    left = {
        (i, g.tensors[op.outputs[0]].name)
        for i, (g, p) in enumerate(zip(source.graphs, plan.graphs))
        for op, placed in zip(g.ops, p.ops)
        if op.outputs and not placed.on_accelerator
    }
    found = [row for i, g in enumerate(result.graphs) if result is not source for row in accumulator_bounds(i, g)]
    bounds = [row for row in found if (row.graph, row.name) not in left]
    graphs = [] if result is source else result.graphs
    stored = [row for i, g in enumerate(graphs) for row in stored_weights(i, g, target.weight.codebook)]
    return Report(
        target.name,
        ops,
        accelerated,
        tuple(host),
        corrections,
        warnings,
        tuple(rows),
        notes,
        tuple(bounds),
        target.accumulator.bits,
        tuple(row for row in stored if (row.graph, row.name) not in left),
        () if result is source else stored_activations(source.main, result.main, plan.graphs[0], target.activation.bits[0]),
        widths,
    )


def _storage_line(weights: tuple[StoredWeights, ...]) -> str:
    """What the weights take, and at which widths."""
    counts = Counter(row.bits for row in weights)
    layers = ", ".join(f"{n} layer{'s' if n > 1 else ''} at {b} bits" for b, n in sorted(counts.items()))
    how = "as indices, codebooks included" if any(row.levels for row in weights) else "at the width of their largest codes"
    return f"weights: {sum(row.bytes for row in weights):,.0f} bytes {how}: {layers}"


def _rows(index: int, graph: Graph, plan: GraphPlan) -> list[TensorRow]:
    rows = []
    for t, activation in sorted(plan.activations.items()):
        tensor = graph.tensors[t]
        row = (str(tensor.quant), str(activation.params), activation.gain, activation.error, activation.reason)
        rows.append(TensorRow(index, tensor.name, "activation", "", *row, measured=activation.measured))
    for t, params in sorted(plan.fixed.items()):
        tensor = graph.tensors[t]
        if t not in plan.activations:
            rows.append(
                TensorRow(index, tensor.name, "activation", "", str(tensor.quant), str(params), 1.0, 0.0, "fixed by its op")
            )
    for (i, position), constant in sorted(plan.constants.items()):
        op = graph.ops[i]
        t = op.inputs[position] if position < len(op.inputs) else -1
        name = graph.tensors[t].name if t >= 0 else f"{graph.tensors[op.outputs[0]].name}_bias"
        old: QuantParams | None = graph.tensors[t].quant if t >= 0 else None
        rows.append(
            TensorRow(
                index, name, "constant", f"{i} {op.name}", str(old or "absent"), str(constant.params), 1.0,
                float(np.mean(constant.error)), constant.reason,
            )
        )  # fmt: skip
    return rows


