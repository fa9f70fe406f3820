"""Program: a whole network as fixed-point arithmetic; tensors, ops, constants. `kinds.py` has what an op computes."""

from dataclasses import dataclass
from enum import Enum

from tf_requant.export.kinds import Kind

VERSION = 1
"""Of the format."""


class ElementType(Enum):
    """How an element is stored: numpy's name of the type; OTHER is what only a host touches."""

    OTHER = ""
    UINT8 = "uint8"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT32 = "float32"


@dataclass(frozen=True)
class Op:
    """One op; `host_reason` is empty where the accelerator runs it."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kind: Kind
    host_reason: str = ""


@dataclass(frozen=True)
class Buffer:
    """A constant's elements, little-endian."""

    data: bytes = b""


@dataclass(frozen=True)
class Tensor:
    """A tensor's format; `exponent` is empty unless every scale is 2^exponent; buffer 0 is no constant, indices 0 no codebook."""

    name: str
    shape: tuple[int, ...]
    type: ElementType
    bits: int
    signed: bool
    scale: tuple[float, ...]
    exponent: tuple[int, ...]
    zero_point: tuple[int, ...]
    axis: int
    buffer: int
    codebook: tuple[int, ...] = ()
    indices: int = 0


@dataclass(frozen=True)
class Program:
    """A whole network."""

    version: int
    producer: str
    target: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    buffers: tuple[Buffer, ...]
