"""Site: one op of a graph under inspection, and the sentences about what is wrong with it."""

from collections.abc import Sequence

import numpy as np

from tf_requant.model.graph import Graph, Tensor
from tf_requant.model.quant import QUANTIZED_DTYPES

DAMAGED = "the file is damaged or was edited: convert the model again"
LARGEST_GEOMETRY = 2**24
"""Kernels compute windows and offsets in 32 bits; no real model comes near this."""

LARGEST_STEP = 2**15 - 1
"""Kernels hold strides and dilations in 16 bits."""


class Site:
    """One op: its tensors by position, its attributes, and the problems found so far.

    Attributes:
        graph: the graph.
        index: the op's index in it.
        op: the op.
        inputs: its input tensors; None where an optional one is left out.
        outputs: its output tensors.
        problems: one sentence for each problem, shared by all sites of a check.
        known: whether the stored shapes of all inputs can be relied on.
    """

    __slots__ = ("graph", "index", "op", "inputs", "outputs", "problems", "known")

    def __init__(self, graph: Graph, index: int, problems: list[str], unknown: set[int]) -> None:
        """Looks the op's tensors up; their indices must be in range."""
        self.graph, self.index, self.op, self.problems = graph, index, graph.ops[index], problems
        tensors = graph.tensors
        self.inputs = tuple([tensors[t] if t >= 0 else None for t in self.op.inputs])
        self.outputs = tuple([tensors[t] for t in self.op.outputs])
        self.known = not unknown or unknown.isdisjoint(self.op.inputs)

    def need(self, holds: bool, got: str, expected: str, fix: str = DAMAGED) -> bool:
        """Notes a problem unless the condition holds; returns the condition."""
        if not holds:
            self.problems.append(f"{self.graph.where(self.index)}: {got}; expected {expected}; {fix}")
        return holds

    def input(self, position: int) -> Tensor:
        """A mandatory input (the arity was checked before)."""
        tensor = self.inputs[position]
        if tensor is None:
            raise LookupError(position)
        return tensor

    def number(self, name: str) -> int:
        """An integer attribute; 0 where the op carries no options, as an interpreter takes it."""
        value: int = self.op.attrs.get(name) or 0
        return value

    def positive(self, *names: str) -> bool:
        """Whether each of these attributes is a size that a kernel can divide by and multiply with."""
        for name in names:
            if not 0 < self.number(name) <= LARGEST_STEP:
                return self.need(False, f"{name} is {self.number(name)}", f"1 to {LARGEST_STEP}")
        return True

    def rank(self, tensor: Tensor, *ranks: int) -> bool:
        """Whether a tensor has one of these ranks."""
        if len(tensor.shape) in ranks:
            return True
        expected = " or ".join(map(str, ranks))
        return self.need(False, f"{tensor.name!r} has shape {list(tensor.shape)}", f"{expected} dimensions")

    def shape(self, tensor: Tensor, expected: Sequence[int]) -> bool:
        """Whether a tensor's stored shape is the one that the op's inputs and attributes give."""
        if tensor.shape == tuple(expected):
            return True
        wanted = f"{list(expected)} from the op's inputs and options"
        return self.need(False, f"{tensor.name!r} has shape {list(tensor.shape)}", wanted)

    def dtype(self, tensor: Tensor, *dtypes: str) -> bool:
        """Whether a tensor's element type is one of these."""
        if tensor.dtype in dtypes:
            return True
        return self.need(False, f"{tensor.name!r} has type {tensor.dtype}", " or ".join(dtypes))

    def integers(self, position: int, *dtypes: str) -> list[int] | None:
        """The elements of a constant parameter (an axis, a shape, paddings); None if it is computed at run time."""
        tensor = self.input(position)
        if tensor.dtype not in (dtypes or ("int32",)) or (tensor.data is None and tensor.size):
            return None
        return [] if tensor.data is None else [int(v) for v in np.ravel(tensor.data)]

    def axis(self, axis: int, rank: int) -> int | None:
        """The axis counted from the front; None (and a problem) where it is out of range."""
        holds = self.need(-rank <= axis < rank, f"axis is {axis}", f"-{rank} to {rank - 1}")
        return axis % rank if holds else None

    def same_dtype(self, *tensors: Tensor) -> bool:
        """Whether all tensors hold the same type."""
        first = tensors[0]
        return all([self.dtype(t, first.dtype) for t in tensors[1:]])

    def quantized(self, *tensors: Tensor) -> bool:
        """Whether every tensor of a code type carries one scale, as kernels of activations read it."""
        holds = True
        for t in tensors:
            if t.dtype not in QUANTIZED_DTYPES:
                continue
            if t.quant is None or t.quant.scale.size != 1:
                got = "no scale" if t.quant is None else f"{t.quant.scale.size} scales"
                holds = self.need(False, f"{t.name!r} of type {t.dtype} carries {got}", "one scale and zero point")
        return holds

    def symmetric_int16(self, *tensors: Tensor) -> bool:
        """Whether int16 tensors have zero point 0: kernels of 16-bit codes know no other."""
        for t in tensors:
            if t.dtype == "int16" and t.quant is not None and t.quant.zero_point.any():
                return self.need(False, f"int16 {t.name!r} has a zero point", "zero point 0", _SYMMETRIC)
        return True

    def same_params(self, *tensors: Tensor) -> bool:
        """Whether quantized tensors share scale and zero point: the kernel copies raw codes."""
        first, holds = tensors[0], True
        for t in tensors[1:]:
            one_sided = (t.quant is None) != (first.quant is None) and t.dtype in QUANTIZED_DTYPES
            if one_sided or (t.quant is not None and first.quant is not None and not t.quant.identical(first.quant)):
                got = f"{t.name!r} ({t.quant or 'no scale'}) and {first.name!r} ({first.quant or 'no scale'}) differ"
                expected = "equal parameters, since the kernel copies raw codes"
                holds = self.need(False, got, expected, "put a QUANTIZE op between them")
        return holds

    def fused(self, *, allowed: Sequence[int] = (0, 1, 2, 3)) -> bool:
        """Whether the fused activation is one that the kernel applies, with bounds that fit 32 bits."""
        kind, output = self.number("fused_activation_function"), self.outputs[0]
        if output.dtype == "float32" and len(allowed) > 1:
            allowed = range(6)
        if kind not in allowed:
            return self.need(False, f"fused_activation_function is {kind}", f"one of {list(allowed)}")
        if kind not in (2, 3) or output.quant is None:
            return True
        bound = (6.0 if kind == 3 else 1.0) / float(output.quant.scale[0])
        fix = "widen the output's scale"
        return self.need(bound < 2**31 - 2**16, f"the clamp lies at code {bound:.3g}", "a code within 32 bits", fix)


_SYMMETRIC = "convert the model again with symmetric 16-bit activations"


def one_scale(tensor: Tensor) -> float:
    """A per-tensor scale, or 0 where there is none, which is how a kernel sees it."""
    return float(tensor.quant.scale[0]) if tensor.quant is not None and tensor.quant.scale.size == 1 else 0.0


def broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that two shapes broadcast to, or None."""
    if first == second:
        return first
    try:
        return np.broadcast_shapes(first, second)
    except ValueError:
        return None
