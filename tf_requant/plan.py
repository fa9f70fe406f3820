"""Plan: everything that will be edited, with the reason, before any edit.

`planning` writes it, `corrections` refine it, `rewrite` applies it. A quantized tensor can be seen in
up to three ways; where the op that writes it and an op that reads it see it differently, a QUANTIZE op
stands between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.ops import Activation
from tf_requant.model.quant import QuantParams


class View(str, Enum):
    """How an op sees a quantized tensor."""

    SOURCE = "source"  # the source model's own type and parameters
    TARGET = "target"  # what the plan gives it on the accelerator
    FIXED = "fixed"  # what a TFLite kernel dictates for its output
    FLOAT = "float"  # real numbers, at the interface only


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
    """

    params: QuantParams
    gain: float = 1.0
    reason: str = ""
    error: float = 0.0
    measured: float | None = None
    channel_gains: NDArray[np.float64] | None = None

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
        codes: the final codes where a correction has chosen them; otherwise the nearest, as above.
        input_gains: what `step` is divided by for each input channel, float64[C]; None for one. With it, codes are set.
    """

    params: QuantParams
    step: float | NDArray[np.float64] = 1.0
    reason: str = ""
    error: float = 0.0
    limits: tuple[int, int] | None = None
    codes: NDArray[Any] | None = None
    input_gains: NDArray[np.float64] | None = None

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
