"""Model, Graph, Tensor, Op: the nouns every layer above reads and `rewrite` edits."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.quant import QUANTIZED_DTYPES, QuantParams, code_limits
from tf_requant.numerics.integers import limits

NO_TENSOR = -1


def unused(name: str, taken: Container[str]) -> str:
    """A name that nothing has yet: itself, or with a number behind it.

    >>> unused("a", {"a", "a_1"})
    'a_2'
    """
    found, n = name, 1
    while found in taken:
        found, n = f"{name}_{n}", n + 1
    return found


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a graph.

    Attributes:
        name: its name in the file.
        dtype: the element type, numpy's spelling (`uint8`, `int8`, `float32`, `int4`, ...).
        shape: the static shape in the file.
        quant: its quantization, or None.
        data: the constant's elements with that shape, read-only, or None for an activation. A sub-byte or
            sparse constant holds its raw bytes (uint8).
        is_variable: whether it keeps its value from one run to the next.
        trained: of a filter, the floats that its codes were rounded from, float32 of its shape in steps of its scale from
            its zero point; None where only the codes are known.
        bits: of an activation, the width that an accelerator stores it in; None where nothing is said of it. Files have no
            place for it: a re-expressed model's record has.
        packed: of a filter in int8, whether the file holds its codes two a byte (INT4).
        opaque: what the file stores beside these, for the writer.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    quant: QuantParams | None = None
    data: NDArray[Any] | None = None
    is_variable: bool = False
    opaque: Any = None
    trained: NDArray[np.float32] | None = None
    bits: int | None = None
    packed: bool = False

    @property
    def is_constant(self) -> bool:
        """Whether the file holds its elements."""
        return self.data is not None

    @property
    def is_quantized(self) -> bool:
        """Whether its codes stand for real numbers (biases included)."""
        return self.quant is not None and self.dtype in (*QUANTIZED_DTYPES, "int32", "int64")

    @property
    def is_activation(self) -> bool:
        """Whether it is computed (or fed) in quantized codes."""
        return self.data is None and self.quant is not None and self.dtype in QUANTIZED_DTYPES

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and highest code: of its type, or of the width that an accelerator stores it in."""
        return code_limits(self.dtype) if self.bits is None else limits(self.bits)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def steps(self) -> NDArray[Any]:
        """What a constant stands for, in steps of its scale: the trained floats where they are known, else its codes."""
        assert self.data is not None
        if self.trained is not None:
            return self.trained
        if self.quant is None or not self.quant.zero_point.any():
            return self.data
        return self.data.astype(np.int32) - self.quant.along(len(self.shape))[1].astype(np.int32)

    def with_(self, **changes: Any) -> "Tensor":
        """A copy with some attributes changed."""
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Op:
    """One operation.

    Attributes:
        code: the builtin's name in TFLite's spelling, or `CUSTOM`.
        inputs: tensor indices, -1 for an optional input that is absent.
        outputs: tensor indices.
        attrs: the builtin options by the schema's field names, defaults filled in.
        version: the op version that the file declares.
        custom_code: the name of a custom op.
        intermediates: tensor indices that only carry a kernel's inner parameters (LSTM).
        opaque: what the file stores beside these, for the writer.
    """

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    custom_code: str | None = None
    intermediates: tuple[int, ...] = ()
    opaque: Any = None

    @property
    def name(self) -> str:
        """The builtin's or the custom op's name."""
        return self.custom_code or self.code

    def with_(self, **changes: Any) -> "Op":
        """A copy with some attributes changed."""
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Graph:
    """One subgraph: tensors, and ops in execution order that refer to them by index."""

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    opaque: Any = None

    @cached_property
    def producers(self) -> dict[int, int]:
        """The index of the op that writes a tensor, by tensor index."""
        return {t: i for i, op in enumerate(self.ops) for t in op.outputs if t >= 0}

    @cached_property
    def consumers(self) -> dict[int, tuple[int, ...]]:
        """The indices of the ops that read a tensor, by tensor index."""
        readers: dict[int, list[int]] = {}
        for i, op in enumerate(self.ops):
            for t in dict.fromkeys(op.inputs):
                if t >= 0:
                    readers.setdefault(t, []).append(i)
        return {t: tuple(ops) for t, ops in readers.items()}

    def where(self, op_index: int) -> str:
        """How an error names an op: its index, its code, and the tensor that it writes."""
        op = self.ops[op_index]
        name = next((self.tensors[t].name for t in op.outputs if 0 <= t < len(self.tensors)), "no output")
        return f"op {op_index} ({op.name}, output {name!r})"

    def with_(self, **changes: Any) -> "Graph":
        """A copy with some attributes changed."""
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Signature:
    """A named entry point: names of inputs and outputs by tensor index of one graph."""

    key: str
    graph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class Model:
    """A whole model file.

    Attributes:
        graphs: the subgraphs; the first is the main one.
        signatures: the named entry points.
        metadata: the named metadata buffers.
        warnings: what reading the file had to repair or leave out, one sentence each.
        opaque: what the file stores beside these, for the writer.
    """

    graphs: tuple[Graph, ...]
    signatures: tuple[Signature, ...] = ()
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    opaque: Any = None

    @property
    def main(self) -> Graph:
        """The graph that runs when no signature is named."""
        return self.graphs[0]

    def with_(self, **changes: Any) -> "Model":
        """A copy with some attributes changed."""
        return replace(self, **changes)
