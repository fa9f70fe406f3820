"""Plan: everything that will be edited, with the reason, before any edit.

`planning` writes it, `corrections` refine it, `rewrite` applies it. A quantized tensor can be seen in
up to three ways; where the op that writes it and an op that reads it see it differently, a QUANTIZE op
stands between them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from math import log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.ops import Activation
from tf_requant.model.quant import QuantParams

WEIGHTS = "weights"
"""What a budget limits, unless it names a cost of the target's table: the bytes of the weights."""
ACTIVATIONS = "activations"
"""What another limits: the bytes of the activations between layers, each counted once."""


def stored_bits(elements: int, width: int, codebook: bool = False) -> int:
    """Bits that a filter, or activations, take on the accelerator.

    >>> stored_bits(100, 4), stored_bits(100, 4, codebook=True)
    (400, 528)

    Args:
        elements: weights or codes.
        width: of each, or of its index into a codebook.
        codebook: whether a table of 2^width levels, a byte each, comes on top.
    """
    return elements * width + (8 * 2**width if codebook else 0)


class View(str, Enum):
    """How an op sees a quantized tensor."""

    SOURCE = "source"  # the source model's own type and parameters
    TARGET = "target"  # what the plan gives it on the accelerator
    FIXED = "fixed"  # what a TFLite kernel dictates for its output
    FLOAT = "float"  # real numbers, at the interface only


@dataclass(frozen=True)
class Alignment:
    """How a tensor's codes stand for whole codes of the source, where the same accumulators are rounded.

    Attributes:
        multiple: the new step over the source's.
        offset: by how much the new values are meant to lie off the source's in the mean, in steps of the source.
    """

    multiple: int
    offset: float


@dataclass(frozen=True, eq=False)
class ActivationPlan:
    """The accelerator's parameters of one tensor.

    Attributes:
        params: the new parameters.
        gain: the new real value over the old one (a power-of-two fold leaves a residual gain).
        reason: why these, in one clause.
        error: predicted mean squared error against the source's value, in units of the source's scale squared.
        measured: squared error over squared value on samples held back, upstream errors included; None unmeasured.
        channel_gains: on top of the gain, one factor a channel, float64[C]; None for none.
        bits: the width it is stored in; None for all of its type, where that is the target's own.
        alignment: of its thresholds with the source's; None for none.
    """

    params: QuantParams
    gain: float = 1.0
    reason: str = ""
    error: float = 0.0
    measured: float | None = None
    channel_gains: NDArray[np.float64] | None = None
    bits: int | None = None
    alignment: Alignment | None = None

    @property
    def gains(self) -> float | NDArray[np.float64]:
        """The new real value over the old one: one number, or one a channel."""
        return self.gain if self.channel_gains is None else self.gain * self.channel_gains


@dataclass(frozen=True, eq=False)
class ConstantPlan:
    """What one op's constant operand becomes.

    Attributes:
        params: the new parameters.
        step: the old scale times the gain over the new scale, a number or one per output channel: a new code is
            round((old code - old zero point) * step) + new zero point, exact where the step is one.
        reason: why, in one clause.
        error: predicted relative squared error, averaged over output channels; where a correction chose the codes,
            that of the layer's output on samples held back.
        limits: the lowest and highest code; None for the type's own.
        levels: how many different codes it may have, where the target looks them up in a table; None for every integer.
        codes: the final codes where a correction has chosen them; otherwise the nearest, as above.
        bits: of an operand that shares an activation's parameters, the width that it shares too; else None.
        input_gains: what `step` is divided by for each input channel, float64[C]; None for one. With it, codes are set.
    """

    params: QuantParams
    step: float | NDArray[np.float64] = 1.0
    reason: str = ""
    error: float = 0.0
    limits: tuple[int, int] | None = None
    levels: int | None = None
    codes: NDArray[Any] | None = None
    input_gains: NDArray[np.float64] | None = None
    bits: int | None = None

    def with_(self, **changes: Any) -> "ConstantPlan":
        """A copy with some attributes changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class OpPlan:
    """Where one op runs and how it sees its tensors.

    Attributes:
        on_accelerator: whether the target runs it.
        reads: the view of its quantized inputs.
        writes: the view of its quantized outputs.
        reason: for a host op, why the target does not run it.
        activation: the fused activation it gets, or None to keep its own.
    """

    on_accelerator: bool
    reads: View
    writes: View
    reason: str = ""
    activation: Activation | None = None

    def with_(self, **changes: Any) -> "OpPlan":
        """A copy with some attributes changed."""
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class GraphPlan:
    """The plan of one subgraph.

    Attributes:
        ops: one entry an op, in the graph's order.
        activations: by tensor index, for every tensor that is seen in the TARGET view.
        fixed: by tensor index, the parameters that a kernel dictates, for tensors seen in the FIXED view.
        constants: by (op index, input position).
        inputs: the view of each graph input; None for one that isn't quantized.
        outputs: the view of each graph output; None for one that isn't quantized.
    """

    ops: tuple[OpPlan, ...]
    activations: Mapping[int, ActivationPlan] = field(default_factory=dict)
    fixed: Mapping[int, QuantParams] = field(default_factory=dict)
    constants: Mapping[tuple[int, int], ConstantPlan] = field(default_factory=dict)
    inputs: tuple[View | None, ...] = ()
    outputs: tuple[View | None, ...] = ()

    def with_(self, **changes: Any) -> "GraphPlan":
        """A copy with some attributes changed."""
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Plan:
    """The plan of a whole model: one entry a subgraph, and the target's name."""

    target: str
    graphs: tuple[GraphPlan, ...]


@dataclass(frozen=True)
class WidthFrontier:
    """The best that each budget allows.

    Attributes:
        share: what is limited, over what it is at the widest width.
        bytes: of the weights or activations on the accelerator.
        error: predicted squared error of the scores, over their squared value, that the narrower ones add.
        layers: how many layers, or activations, get each width.
    """

    share: float
    bytes: float
    error: float
    layers: Mapping[int, int]


@dataclass(frozen=True)
class WidthPlan:
    """The widths of a model's layers, or of its activations.

    Attributes:
        bits: by op of the source's main graph; by the first of the tensors that share parameters, for activations.
        elements: weights of each of those ops; codes of those tensors in one run.
        widest: the width that shares are counted against.
        predicted: squared error of the scores, over their squared value, as the layers' own errors add up; None unmeasured.
        measured: the same of the model with these widths, ahead of the corrections; None where it was not run.
        frontier: what other budgets allow, the widest first.
        note: one sentence on the search.
        kind: what the budget limits.
        spent: of that, over what it is at the widest width; None without a budget.
        codebook: whether widths are those of indices, and each layer has a table of its levels beside them.
    """

    bits: Mapping[int, int]
    elements: Mapping[int, int]
    widest: int
    predicted: float | None = None
    measured: float | None = None
    frontier: tuple[WidthFrontier, ...] = ()
    note: str = ""
    kind: str = WEIGHTS
    spent: float | None = None
    codebook: bool = False

    @property
    def bytes(self) -> float:
        """Of the weights, or activations, on the accelerator."""
        return sum(stored_bits(self.elements[i], b, self.codebook) for i, b in self.bits.items()) / 8

    @property
    def share(self) -> float:
        """Those over the bytes of the widest width."""
        return self.bytes * 8 / max(1, sum(stored_bits(n, self.widest, self.codebook) for n in self.elements.values()))

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        what = "tensor" if self.kind == ACTIVATIONS else "op"
        rows = [{what: i, "bits": b, "elements": self.elements[i]} for i, b in sorted(self.bits.items())]
        frontier = [asdict(point) | {"layers": {str(b): n for b, n in point.layers.items()}} for point in self.frontier]
        figures = {"bytes": self.bytes, "share": self.share, "predicted": self.predicted, "measured": self.measured}
        figures |= {"budget": self.kind, "spent": self.spent, "codebook": self.codebook}
        return {"widest": self.widest, **figures, "layers": rows, "frontier": frontier}

    def table(self) -> str:
        """The frontier, a line a budget."""
        what = "tensors" if self.kind == ACTIVATIONS else "layers"
        lines = [f"{'share':>6} {'bytes':>12} {'predicted, dB':>14}  {what}"]
        for point in self.frontier:
            error = f"{10 * log10(point.error):.1f}" if point.error > 0 else "none"
            layers = ", ".join(f"{n} at {b} bits" for b, n in sorted(point.layers.items()))
            lines.append(f"{point.share:>6.3f} {point.bytes:>12,.0f} {error:>14}  {layers}")
        return "\n".join(lines)
