"""The layer table: one row an op of the candidate, its parameters before and after, and what it does wrong."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tf_requant.model.graph import Tensor
from tf_requant.validation.correspondence import Correspondence
from tf_requant.validation.layers import LayerStatistics


@dataclass(frozen=True)
class Shift:
    """The channel whose mean is most wrong.

    Attributes:
        channel: along the last axis.
        steps: mean difference of the running candidate in its steps, over what no clamp hides.
        isolated: the same of the layer alone.
    """

    channel: int
    steps: float
    isolated: float


@dataclass(frozen=True)
class LayerRow:
    """One op and the tensor that it writes; of several tensors, the one that is most wrong.

    Attributes:
        index: the op's index in the candidate.
        op: its code.
        name: the tensor.
        place: `accelerator`, `host`, or `unknown` without a target.
        source: the source's parameters in words; empty where it has no such tensor.
        result: the candidate's.
        gain: the candidate's real value over the source's, the mean over channels.
        decision: what changed, in words.
        reason: why, as the conversion told; empty where it did not.
        compared: whether both models have the tensor.
        isolated: whether the layer was run alone.
        sqnr: signal over difference of the running candidate, dB.
        isolated_sqnr: the same of the layer alone.
        largest: the largest difference of the running candidate, in its steps.
        saturated: share of codes at the type's limit whose source value lies beyond it.
        shift: the channel whose mean is most wrong.
        accumulator_bits: the register that holds every sum of the layer.
    """

    index: int
    op: str
    name: str
    place: str
    source: str
    result: str
    gain: float = 1.0
    decision: str = ""
    reason: str = ""
    compared: bool = False
    isolated: bool = False
    sqnr: float | None = None
    isolated_sqnr: float | None = None
    largest: float | None = None
    saturated: float | None = None
    shift: Shift | None = None
    accumulator_bits: int | None = None


def layer_rows(
    meet: Correspondence,
    statistics: Mapping[int, LayerStatistics],
    host: Mapping[int, str] | None,
    reasons: Mapping[str, str],
    accumulators: Mapping[str, int],
) -> tuple[LayerRow, ...]:
    """One row an op, in execution order.

    Args:
        meet: the candidate held against its source.
        statistics: by tensor index of the candidate.
        host: the ops that are not on the target's accelerator, by index; None without a target.
        reasons: why a tensor was given its parameters, by name.
        accumulators: the bits that a layer's sums need, by the name of the tensor that it writes.
    """
    rows = []
    for index, op in enumerate(meet.result.ops):
        seen = [t for t in op.outputs if t in statistics]
        chosen = min(seen, key=lambda t: statistics[t].sqnr, default=op.outputs[0] if op.outputs else None)
        if chosen is None:
            continue
        tensor = meet.result.tensors[chosen]
        place = "unknown" if host is None else "host" if index in host else "accelerator"
        before = meet.source.tensors[meet.tensors[chosen]] if chosen in meet.tensors else None
        told = reasons.get("" if before is None else before.name, "") or ("" if host is None else host.get(index, ""))
        row = LayerRow(
            index, op.name, tensor.name, place, "" if before is None else _parameters(before), _parameters(tensor),
            decision=_decision(before, tensor), reason=told, accumulator_bits=accumulators.get(tensor.name),
        )  # fmt: skip
        rows.append(row if chosen not in statistics else _measured(row, statistics[chosen]))
    return tuple(rows)


def _measured(row: LayerRow, seen: LayerStatistics) -> LayerRow:
    alone = bool(seen.isolated.count)
    means = seen.running.means
    channel = int(np.abs(means).argmax()) if means.size else 0
    shift = Shift(channel, float(means[channel]), float(seen.isolated.means[channel])) if alone and means.size else None
    gain = float(np.mean(seen.gain))
    return LayerRow(
        row.index, row.op, row.name, row.place, row.source, row.result, gain,
        row.decision + (f", gain {gain:.6g}" if gain != 1 else ""), row.reason, True, alone, seen.sqnr, seen.isolated_sqnr,
        seen.running.largest, seen.saturation, shift, row.accumulator_bits,
    )  # fmt: skip


def _parameters(tensor: Tensor) -> str:
    return tensor.dtype if tensor.quant is None else str(tensor.quant)


def _decision(before: Tensor | None, after: Tensor) -> str:
    """What became of a tensor's parameters, in words."""
    if before is None:
        return "added"
    if before.quant is None or after.quant is None:
        return "unchanged" if before.dtype == after.dtype else f"{before.dtype} to {after.dtype}"
    if after.quant.identical(before.quant):
        return "unchanged"
    parts = [] if before.dtype == after.dtype else [f"{before.dtype} to {after.dtype}"]
    old, new = float(before.quant.scale[0]), float(after.quant.scale[0])
    parts.append("the same step" if old == new else f"step {new / old:.4g} times as large")
    points = int(before.quant.zero_point[0]), int(after.quant.zero_point[0])
    if points[0] != points[1]:
        parts.append(f"zero point {points[0]} to {points[1]}")
    return ", ".join(parts)


def cause(row: LayerRow) -> str:
    """What makes up a layer's own error, in words; empty where it was not run alone."""
    if not row.isolated or row.isolated_sqnr is None:
        return ""
    parts = [f"alone it keeps {row.isolated_sqnr:.1f} dB" if np.isfinite(row.isolated_sqnr) else "alone it is exact"]
    if row.saturated is not None and row.saturated >= 1e-3:
        parts.append(f"{row.saturated:.2%} of its codes are clipped")
    if row.shift is not None and abs(row.shift.isolated) >= 1:
        parts.append(f"channel {row.shift.channel} is shifted by {row.shift.isolated:+.1f} steps by itself")
    return ", ".join(parts)
