"""Site: one op of a graph as its kernel is prepared: operands, scales, requantizers, and what it cannot run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Graph, Op, Tensor
from tf_requant.model.ops import Activation, fused_activation
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.numerics.arithmetic import Arithmetic, Requantizer
from tf_requant.numerics.fixed_point import NotExpressible, Rescale, scale_ratio
from tf_requant.numerics.integers import limits
from tf_requant.numerics.output_stage import BLOCK, FLOAT64_EXACT, OutputStage, Screen
from tf_requant.numerics.rounding import Rounding, round_real
from tf_requant.simulator.observe import Observation

Arrays = Sequence[Any]
"""The inputs of an op: arrays, and None where an optional one is absent."""
Kernel = Callable[[Arrays], Sequence[NDArray[Any]]]
"""Codes in, codes out."""
Finish = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Whole accumulators, int64[...] -> codes."""

CODES = ("uint8", "int8", "int16")

_CLAMPS = {
    Activation.RELU: (0.0, None),
    Activation.RELU_N1_TO_1: (-1.0, 1.0),
    Activation.RELU6: (0.0, 6.0),
}


class CannotRun(Exception):
    """Why the simulated accelerator does not run an op, in one sentence without the op's name."""


@dataclass(frozen=True, eq=False)
class Site:
    """An op where it stands.

    Attributes:
        graph: the graph around it.
        index: which op it is.
        arithmetic: what the device does.
        observation: where to count, or None.
        fast: the compiled loops, or None.
    """

    graph: Graph
    index: int
    arithmetic: Arithmetic
    observation: Observation | None = None
    fast: ModuleType | None = None

    @property
    def op(self) -> Op:
        """The op."""
        return self.graph.ops[self.index]

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Its options."""
        return self.op.attrs

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """Its input tensors, None where an optional one is absent."""
        return tuple(self.graph.tensors[t] if t >= 0 else None for t in self.op.inputs)

    def input(self, position: int = 0) -> Tensor:
        """An input tensor.

        Raises:
            CannotRun: it is absent.
        """
        tensor = self.inputs[position] if position < len(self.op.inputs) else None
        if tensor is None:
            raise CannotRun(f"input {position} is absent")
        return tensor

    def optional(self, position: int) -> Tensor | None:
        """An input tensor, or None."""
        return self.inputs[position] if position < len(self.op.inputs) else None

    def output(self, position: int = 0) -> Tensor:
        """An output tensor."""
        return self.graph.tensors[self.op.outputs[position]]

    def constant(self, position: int) -> NDArray[Any]:
        """The elements of a constant input.

        Raises:
            CannotRun: it is computed.
        """
        tensor = self.input(position)
        if tensor.data is None:
            raise CannotRun(f"{tensor.name!r} is computed at run time; expected a constant")
        return tensor.data

    def codes(self, *tensors: Tensor, dtypes: Sequence[str] = CODES, same: bool = True) -> None:
        """Requires quantized codes, one scale a tensor, and (unless told) one dtype.

        Raises:
            CannotRun: one of them is something else.
        """
        for tensor in tensors:
            if tensor.dtype not in dtypes:
                raise CannotRun(f"{tensor.name!r} is {tensor.dtype}; it runs {', '.join(dtypes)}")
            if tensor.quant is None:
                raise CannotRun(f"{tensor.name!r} has no quantization")
            if tensor.quant.per_channel:
                raise CannotRun(f"{tensor.name!r} has {tensor.quant.scale.size} scales; expected one")
        if same and len({t.dtype for t in tensors}) > 1:
            raise CannotRun("its tensors are " + ", ".join(t.dtype for t in tensors) + "; expected one type")

    def requantizer(self, tensor: Tensor, bias: Tensor | None = None) -> Requantizer:
        """What rescales this op with a data input of that type."""
        return self.arithmetic.requantizer_of(self.op.code, tensor.dtype, "" if bias is None else bias.dtype)

    def rescale(self, inputs: Sequence[Any], output: Any, requantizer: Requantizer) -> Rescale:
        """The rescale from the product of the input scales to the output's.

        Raises:
            CannotRun: the requantizer cannot hold the ratio.
        """
        return rescale_of(scale_ratio(tuple(inputs), output, requantizer), requantizer)

    def limits(self, tensor: Tensor) -> tuple[int, int]:
        """The lowest and highest code that the device holds of an activation: where everything that it computes saturates."""
        return held_limits(tensor, self.arithmetic)

    def stage(self, rescale: Rescale, position: int = 0, activation: Activation | None = None) -> OutputStage:
        """The output stage of an output: its zero point, the limits of its codes and the fused activation.

        Args:
            rescale: what it rounds with.
            position: which output.
            activation: the clamp; the op's fused one by default.
        """
        tensor = self.output(position)
        bounds = activation_bounds(fused_activation(self.op) if activation is None else activation, tensor)
        low, high = self.limits(tensor)
        meant = (bounds[0] >= low, bounds[1] <= high)
        return OutputStage(rescale, point(tensor), max(low, bounds[0]), min(high, bounds[1]), tensor.dtype, meant)

    def finisher(self, stage: OutputStage, bound: int) -> Finish:
        """`finish` for one stage, by blocks through a screen where that gives the same codes sooner.

        Args:
            stage: the output stage, per tensor.
            bound: the largest |accumulator|.
        """
        limit, none = np.asarray([bound], np.int64), np.zeros(1, np.int64)
        watched = self.observation is not None or bound >= FLOAT64_EXACT
        screen = None if watched else Screen.of(stage, none, limit, np.float64)
        if screen is None:
            return lambda accumulator: self.finish(accumulator, stage)

        def run(accumulator: NDArray[np.int64]) -> NDArray[Any]:
            flat = accumulator.reshape(-1, 1)
            out = np.empty(flat.shape, stage.dtype)
            for start in range(0, len(flat), BLOCK):
                screen.apply(flat[start : start + BLOCK].astype(np.float64), out[start : start + BLOCK])
            screen.settle()
            return out.reshape(accumulator.shape)

        return run

    def finish(self, accumulator: NDArray[np.int64], stage: OutputStage) -> NDArray[Any]:
        """The codes of whole accumulators of any shape, per tensor, counted if asked."""
        if self.observation is not None:
            self.observation.codes(accumulator, stage)
        return stage.exact(accumulator)


def narrow_width(tensor: Tensor, arithmetic: Arithmetic) -> int | None:
    """The width that a device holds this activation in, where that is less than its type: of int8 with zero point 0."""
    quant, bits = tensor.quant, device_width(tensor, arithmetic)
    if bits is None or tensor.dtype != "int8" or quant is None or quant.per_channel or int(quant.zero_point[0]):
        return None
    return bits


def device_width(tensor: Tensor, arithmetic: Arithmetic) -> int | None:
    """The width that a device gives activations like this one, where that is less than 8 bits."""
    bits = tensor.bits if tensor.bits in arithmetic.activation_widths else arithmetic.activation_bits
    return bits if bits is not None and bits < 8 else None


def held_limits(tensor: Tensor, arithmetic: Arithmetic) -> tuple[int, int]:
    """The lowest and highest code that a device holds of an activation."""
    bits = narrow_width(tensor, arithmetic)
    return code_limits(tensor.dtype) if bits is None else limits(bits)


def rescale_of(ratio: Any, requantizer: Requantizer) -> Rescale:
    """The rescale of a real ratio.

    Raises:
        CannotRun: the requantizer cannot hold it.
    """
    try:
        return Rescale.of_ratio(ratio, requantizer)
    except NotExpressible as reason:
        raise CannotRun(str(reason)) from reason


def quant_of(tensor: Tensor) -> QuantParams:
    """A tensor's parameters.

    Raises:
        CannotRun: it has none.
    """
    if tensor.quant is None:
        raise CannotRun(f"{tensor.name!r} has no quantization")
    return tensor.quant


def scale(tensor: Tensor) -> np.float32:
    """A tensor's one scale."""
    value: np.float32 = quant_of(tensor).scale[0]
    return value


def point(tensor: Tensor) -> int:
    """A tensor's one zero point."""
    return int(quant_of(tensor).zero_point[0])


def same_params(one: Tensor, other: Tensor) -> bool:
    """Whether both tensors' codes mean the same."""
    return scale(one) == scale(other) and point(one) == point(other)


def activation_limits(activation: Activation, tensor: Tensor) -> tuple[int, int]:
    """The lowest and the highest code that a fused activation leaves (CalculateActivationRangeQuantized).

    Raises:
        CannotRun: the activation has no clamp.
    """
    low, high = code_limits(tensor.dtype)
    bounds = activation_bounds(activation, tensor)
    return max(low, bounds[0]), min(high, bounds[1])


def activation_bounds(activation: Activation, tensor: Tensor) -> tuple[int, int]:
    """The codes of a fused activation's bounds, which the type may not reach; beyond the type where it has none.

    Raises:
        CannotRun: the activation has no clamp.
    """
    low, high = code_limits(tensor.dtype)
    low, high = low - 1, high + 1
    if activation is Activation.NONE:
        return low, high
    if activation not in _CLAMPS:
        raise CannotRun(f"its fused activation {activation.name} is no clamp")

    def code(real: float) -> int:
        # The quotient of float32 operands, in float32, as TFLite computes it.
        quotient = np.float32(real) / scale(tensor)
        return point(tensor) + int(round_real(quotient, Rounding.HALF_AWAY))

    bottom, top = _CLAMPS[activation]
    if bottom is not None:
        low = code(bottom)
    if top is not None:
        high = code(top)
    return low, high


def centered(codes: NDArray[Any], tensor: Tensor) -> NDArray[np.int64]:
    """Codes minus the zero point, int64."""
    return codes.astype(np.int64) - point(tensor)
