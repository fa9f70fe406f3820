"""Legality: whether a written model obeys its target. Shares no code with planning, rewrite or corrections.

The judge decides for itself which ops are on the accelerator: those that the target lists, within the
limits that it sets them, that work on quantized tensors in the target's own type, and whose output TFLite
doesn't fix at something that the target cannot hold. Every tensor that such an op touches has to obey the target's row.
"""

from dataclasses import dataclass
from functools import reduce
from math import frexp
from operator import or_
from typing import Any

import numpy as np

from tf_requant.model.graph import Graph, Model, Op, Tensor
from tf_requant.model.ops import Activation, OpInfo, fused_activation, info
from tf_requant.model.quant import code_limits
from tf_requant.targets import Target


@dataclass(frozen=True)
class HostOp:
    """An op that the accelerator doesn't run, and why."""

    index: int
    where: str
    reason: str


@dataclass(frozen=True)
class Legality:
    """The verdict on one model.

    Attributes:
        target: the target's name.
        accelerated: how many ops run on the accelerator.
        host_ops: the others.
        violations: one sentence each; empty for a legal model.
    """

    target: str
    accelerated: int
    host_ops: tuple[HostOp, ...]
    violations: tuple[str, ...]

    @property
    def legal(self) -> bool:
        """Whether nothing breaks the target's rules."""
        return not self.violations

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-ready values."""
        host = [{"index": h.index, "op": h.where, "reason": h.reason} for h in self.host_ops]
        return {
            "target": self.target, "legal": self.legal, "accelerated": self.accelerated, "host_ops": host,
            "violations": list(self.violations),
        }  # fmt: skip


def check_legality(model: Model, target: Target) -> Legality:
    """Judges every op and tensor of a model.

    Args:
        model: a model as read from its file.
        target: what it claims to be for.
    """
    host: list[HostOp] = []
    violations: list[str] = []
    accelerated = 0
    for graph in model.graphs:
        judge = _Judge(graph, target)
        for index, op in enumerate(graph.ops):
            reason = judge.host_reason(op)
            if reason:
                host.append(HostOp(index, graph.where(index), reason))
                continue
            accelerated += 1
            violations += [f"{graph.where(index)}: {sentence}" for sentence in judge.violations(op)]
    return Legality(target.name, accelerated, tuple(host), tuple(dict.fromkeys(violations)))


def _power_of_two(scales: np.ndarray) -> bool:
    return all(frexp(float(s))[0] == 0.5 for s in scales)


class _Judge:
    """The rules of one target on one graph."""

    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph, self.target = graph, target
        self.dtype = ("int" if target.activation.signed else "uint") + str(target.activation.bits[0])

    def host_reason(self, op: Op) -> str:
        """Why an op is on the host, or an empty string for one on the accelerator."""
        activations = self._activations(op)
        if not activations:
            return "works on float or index tensors"
        if op.code == "CUSTOM" or info(op) is None:
            return "custom op" if op.code == "CUSTOM" else "not an op that accelerators run"
        if op.code in ("QUANTIZE", "DEQUANTIZE"):
            converts = op.code == "DEQUANTIZE" or any(self._activation_faults(t) for t in activations)
            if converts or not self.graph.tensors[op.inputs[0]].is_quantized:
                return "converts between host and accelerator"
        if self.target.rule(op.code) is None:
            return "the target does not list it"
        beyond = self._beyond_limits(op)
        if beyond:
            return beyond
        row = info(op)
        assert row is not None
        if row.rule == "fixed" and self._activation_faults(self.graph.tensors[op.outputs[0]]):
            return "TFLite fixes its output at parameters that the target cannot hold"
        if all(t.dtype != self.dtype for t in activations):
            return f"kept in {activations[0].dtype}, which is not the target's {self.dtype}"
        if any(self.graph.tensors[t].dtype.startswith("float") for t in (*op.inputs, *op.outputs) if t >= 0):
            return "computes in float"
        # The same integer type, between QUANTIZE ops on every side: kept at another precision on purpose.
        return "kept between QUANTIZE ops" if self._is_island(op) else ""

    def violations(self, op: Op) -> list[str]:
        """What an accelerated op breaks."""
        row = info(op)
        assert row is not None
        found = [f for t in self._activations(op) for f in self._activation_faults(t)]
        rule = self.target.rule(op.code)
        ties = row.rule == "same" and self.dtype not in row.rescales or (rule is not None and rule.scale == "same")
        if ties:
            found += self._tie_faults(op)
        fixed = row.fixed_params(self.dtype)
        if fixed is not None:
            out = self.graph.tensors[op.outputs[0]]
            if out.quant is not None and (abs(float(out.quant.scale[0]) - fixed[0]) > 1e-9 or out.quant.zero_point[0] != fixed[1]):
                found.append(f"output {out.name!r} is {out.quant}, TFLite fixes it at scale {fixed[0]}, zero point {fixed[1]}")
        if row.filter is not None:
            found += self._layer_faults(op, row)
        return found

    def _activations(self, op: Op) -> list[Tensor]:
        tensors = [self.graph.tensors[t] for t in dict.fromkeys((*op.inputs, *op.outputs)) if t >= 0]
        row = info(op)
        skip = {op.inputs[i] for i in (row.filter, row.bias) if i is not None and i < len(op.inputs)} if row else set()
        constants = [self.graph.tensors[t] for t in skip if t >= 0]
        return [t for t in tensors if t.quant is not None and t.dtype in ("uint8", "int8", "int16") and t not in constants]

    def _activation_faults(self, tensor: Tensor) -> list[str]:
        scheme, quant = self.target.activation, tensor.quant
        assert quant is not None
        if tensor.dtype != self.dtype:
            return [f"tensor {tensor.name!r} is {tensor.dtype}, the target's activations are {self.dtype}"]
        found = []
        if quant.per_channel:
            found.append(f"tensor {tensor.name!r} has {quant.scale.size} scales, an activation has one")
        if scheme.symmetric and quant.zero_point.any():
            unsigned = scheme.unsigned_after_relu and (quant.zero_point == code_limits(self.dtype)[0]).all()
            if not unsigned:
                found.append(f"tensor {tensor.name!r} has zero point {int(quant.zero_point[0])}, expected 0")
            elif not self._rectified(self.graph.tensors.index(tensor), set()):
                found.append(f"tensor {tensor.name!r} is unsigned, but no ReLU wrote it")
        if scheme.scale == "power_of_two" and not _power_of_two(quant.scale):
            found.append(f"tensor {tensor.name!r} has scale {float(quant.scale[0])!r}, expected a power of two")
        return found

    def _rectified(self, tensor: int, seen: set[int]) -> bool:
        """Whether a ReLU wrote a tensor, directly or through ops that move or average its codes."""
        producer = self.graph.producers.get(tensor)
        if producer is None or tensor in seen:
            return False
        op = self.graph.ops[producer]
        row = info(op)
        if op.code in ("RELU", "RELU6") or fused_activation(op) in (Activation.RELU, Activation.RELU6):
            return True
        if row is None or (row.rule != "same" and op.code != "MEAN"):
            return False
        moved = [t for t in op.inputs if t >= 0 and self.graph.tensors[t].is_activation]
        return bool(moved) and all(self._rectified(t, seen | {tensor}) for t in moved)

    def _tie_faults(self, op: Op) -> list[str]:
        tensors = self._activations(op)
        first = tensors[0]
        return [
            f"tensors {first.name!r} ({first.quant}) and {t.name!r} ({t.quant}) differ, but the op copies raw codes"
            for t in tensors[1:]
            if t.quant is not None and not t.quant.identical(first.quant)
        ]

    def _layer_faults(self, op: Op, row: OpInfo) -> list[str]:
        assert row.filter is not None and row.bias is not None
        scheme, weights = self.target.weight, self.graph.tensors[op.inputs[row.filter]]
        quant, found, name = weights.quant, [], f"weights {weights.name!r}"
        if quant is None or weights.data is None:
            return [f"{name} are not quantized constants"]
        bits = scheme.bits[0]
        dtype = "int8" if scheme.signed else "uint8"
        if weights.dtype != dtype:
            found.append(f"{name} are {weights.dtype}, expected {dtype}")
        if scheme.symmetric and quant.zero_point.any():
            found.append(f"{name} have zero point {int(quant.zero_point[0])}, expected 0")
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if scheme.signed else (0, 2**bits - 1)
        low += scheme.narrow
        smallest, largest = int(weights.data.min(initial=0)), int(weights.data.max(initial=0))
        if scheme.symmetric and (smallest < low or largest > high):
            found.append(f"{name} hold codes {smallest}..{largest}, expected {low}..{high}")
        channels = weights.shape[row.channel_axis]
        allowed = scheme.granularity == "channel" and op.code in scheme.per_channel_ops
        if quant.per_channel and not (allowed and quant.scale.size == channels and quant.axis == row.channel_axis):
            found.append(f"{name} have {quant.scale.size} scales along axis {quant.axis}, expected one scale")
        if scheme.scale == "power_of_two" and not _power_of_two(quant.scale):
            found.append(f"{name} have a scale that is no power of two")
        return found + self._accumulator_faults(op, row, weights)

    def _accumulator_faults(self, op: Op, row: OpInfo, weights: Tensor) -> list[str]:
        source, result = self.graph.tensors[op.inputs[row.data]].quant, self.graph.tensors[op.outputs[0]].quant
        if source is None or result is None or weights.quant is None:
            return ["input or output carries no parameters"]
        unit = source.scale[0].astype(np.float64) * weights.quant.scale.astype(np.float64)
        found = []
        if row.bias is not None and len(op.inputs) > row.bias and op.inputs[row.bias] >= 0:
            bias = self.graph.tensors[op.inputs[row.bias]]
            found += self._bias_faults(bias)
            if bias.quant is None or bias.quant.zero_point.any() or bias.quant.scale.size != unit.size:
                found.append(f"bias {bias.name!r} has {bias.quant}, expected {unit.size} scales and zero point 0")
            elif not np.allclose(bias.quant.scale, unit, rtol=1e-6, atol=0):
                found.append(f"bias {bias.name!r} has another scale than input times weights")
        elif row.needs_bias:
            found.append("it has no bias, which TFLite's kernels need")
        if self.target.requantizer.kind == "shift":
            lowest, highest = self.target.requantizer.shift_range
            for ratio in np.unique(unit / float(result.scale[0])):
                mantissa, exponent = frexp(float(ratio))
                if mantissa != 0.5 or not lowest <= 1 - exponent <= highest:
                    found.append(f"its multiplier {float(ratio):.6g} is no right shift between {lowest} and {highest}")
        return found

    def _bias_faults(self, bias: Tensor) -> list[str]:
        """Whether a bias has the type that TFLite's kernels read, and codes that the target stores."""
        bits, found = self.target.bias.bits, []
        dtype = "int64" if self.dtype == "int16" and bits > 32 else "int32"
        if bias.dtype != dtype:
            found.append(f"bias {bias.name!r} is {bias.dtype}, expected {dtype}")
        if bits >= 32 or bias.data is None:
            return found
        codes = [int(c) for c in bias.data.reshape(-1)]
        # The lowest bit that any code sets: what all of them could be shifted by.
        used = reduce(or_, codes, 0)
        unit = used & -used or 1
        lowest, highest = min(codes, default=0), max(codes, default=0)
        if lowest < -(unit << (bits - 1)) or highest >= unit << (bits - 1):
            found.append(
                f"bias {bias.name!r} holds codes {lowest}..{highest} in steps of {unit}, "
                f"expected mantissas of {bits} bits behind one left shift"
            )
        return found

    def _beyond_limits(self, op: Op) -> str:
        """Which limit of the target an op exceeds, or an empty string."""
        rule = self.target.rule(op.code)
        assert rule is not None
        strides = [int(op.attrs[k]) for k in ("stride_h", "stride_w") if k in op.attrs]
        dilations = [int(op.attrs[k]) for k in ("dilation_h_factor", "dilation_w_factor") if k in op.attrs]
        if rule.stride_max is not None and max(strides, default=1) > rule.stride_max:
            return f"its stride is {max(strides)}, the target allows {rule.stride_max}"
        if not rule.dilation and max(dilations, default=1) > 1:
            return f"its dilation is {max(dilations)}, the target allows none"
        row = info(op)
        sides = [int(op.attrs[k]) for k in ("filter_height", "filter_width") if k in op.attrs]
        if row is not None and row.filter is not None and len(self.graph.tensors[op.inputs[row.filter]].shape) == 4:
            sides = list(self.graph.tensors[op.inputs[row.filter]].shape[1:3])
        if rule.kernel_max is not None and max(sides, default=1) > rule.kernel_max:
            return f"its kernel is {max(sides)} wide, the target allows {rule.kernel_max}"
        return ""

    def _is_island(self, op: Op) -> bool:
        """Whether every activation of an op comes from and goes to a QUANTIZE op or another op off the target."""
        if not any(self._activation_faults(t) for t in self._activations(op)):
            return False
        graph = self.graph
        tensors = [t for t in (*op.inputs, *op.outputs) if t >= 0 and graph.tensors[t].is_activation]
        for t in tensors:
            neighbours = [*graph.consumers.get(t, ())] + ([graph.producers[t]] if t in graph.producers else [])
            others = [graph.ops[i] for i in neighbours if graph.ops[i] is not op]
            if t in graph.inputs or t in graph.outputs or not others:
                continue
            if any(o.code not in ("QUANTIZE", "DEQUANTIZE") for o in others):
                return False
        return any(
            graph.ops[i].code == "QUANTIZE"
            for t in tensors
            for i in (*graph.consumers.get(t, ()), graph.producers.get(t, -1))
            if i >= 0
        )
