"""What an op computes, in nouns that need no graph, target or simulator to be understood.

One noun for each table of `schemas/nna_program.fbs`, which says what every field means; `flatbuffer.py` relies on the
names being the same. Everything is plain Python data, so that two programs can be compared by ==.
"""

from dataclasses import dataclass
from enum import Enum

from tf_requant.numerics.rounding import Rounding

NONE = -1
"""An absent tensor."""
REST = -1
"""A stage that drops all that is left."""


class RescaleKind(Enum):
    """How a rescale multiplies; the values are `Requantizer.kind`'s."""

    MULTIPLIER_SHIFT = "multiplier_shift"
    SHIFT = "shift"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


class Overflow(Enum):
    """What a register does beyond its limits; the values are `Accumulator.overflow`'s."""

    WRAP = "wrap"
    SATURATE = "saturate"
    REFUSE = "error"


class Check(Enum):
    """When it does; the values are `Accumulator.when`'s."""

    AFTER_BIAS = "after_bias"
    EACH_STEP = "each_step"


@dataclass(frozen=True)
class Stage:
    """One rounding right shift; `drop` REST drops all that is left."""

    drop: int
    rounding: Rounding


@dataclass(frozen=True)
class Rescale:
    """y = round(x * M); multiplier, shift (right if > 0) and real: one, or one per output channel."""

    kind: RescaleKind
    multiplier_bits: int
    stages: tuple[Stage, ...]
    multiplier: tuple[int, ...] = ()
    shift: tuple[int, ...] = ()
    real: tuple[float, ...] = ()


@dataclass(frozen=True)
class OutputStage:
    """code = clamp(rescale(x) + zero_point, low, high)."""

    rescale: Rescale | None
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True)
class Accumulator:
    """The summing register; output_bits 0 where the whole of it is rescaled."""

    bits: int
    overflow: Overflow
    check: Check
    output_bits: int
    needed_bits: int


@dataclass(frozen=True)
class Window:
    """Where taps fall on an image."""

    rows: int
    columns: int
    stride_rows: int
    stride_columns: int
    dilation_rows: int
    dilation_columns: int
    pad_top: int
    pad_left: int


@dataclass(frozen=True)
class Layer:
    """What ops with a filter share; filter and bias are tensors."""

    filter: int
    bias: int
    bias_shift: int
    bias_bits: int
    pad_code: int
    accumulator: Accumulator
    output: OutputStage


@dataclass(frozen=True)
class Convolution:
    """CONV_2D."""

    window: Window
    groups: int
    layer: Layer


@dataclass(frozen=True)
class DepthwiseConvolution:
    """DEPTHWISE_CONV_2D."""

    window: Window
    channel_multiplier: int
    layer: Layer


@dataclass(frozen=True)
class TransposeConvolution:
    """TRANSPOSE_CONV."""

    window: Window
    layer: Layer


@dataclass(frozen=True)
class FullyConnected:
    """FULLY_CONNECTED."""

    layer: Layer


@dataclass(frozen=True)
class Operand:
    """Codes to the common scale of a sum: saturate(rescale((code - zero_point) << left_shift), bits)."""

    zero_point: int
    left_shift: int
    rescale: Rescale | None
    bits: int


@dataclass(frozen=True)
class Addition:
    """ADD, or with sign -1 SUB."""

    sign: int
    left: Operand
    right: Operand
    sum_bits: int
    output: OutputStage


@dataclass(frozen=True)
class Multiplication:
    """MUL."""

    output: OutputStage


@dataclass(frozen=True)
class Comparison:
    """MAXIMUM, or MINIMUM."""

    larger: bool


@dataclass(frozen=True)
class Prelu:
    """PRELU, and LEAKY_RELU of 16-bit codes."""

    above: OutputStage
    below: OutputStage


@dataclass(frozen=True)
class Reciprocal:
    """1 / count = multiplier / 2^bits."""

    count: int
    multiplier: int
    bits: int


@dataclass(frozen=True)
class Average:
    """The mean of n codes less the zero point: by reciprocals, or by division where there are none."""

    zero_point: int
    rounding: Rounding
    reciprocals: tuple[Reciprocal, ...]


@dataclass(frozen=True)
class AveragePool:
    """AVERAGE_POOL_2D."""

    window: Window
    average: Average
    output: OutputStage


@dataclass(frozen=True)
class Mean:
    """MEAN; without `average`, the rescale holds 1 / count."""

    axes: tuple[int, ...]
    count: int
    average: Average | None
    output: OutputStage


@dataclass(frozen=True)
class MaxPool:
    """MAX_POOL_2D."""

    window: Window
    output: OutputStage


@dataclass(frozen=True)
class Part:
    """One input of a concatenation; an empty table copies."""

    table: bytes


@dataclass(frozen=True)
class Concatenation:
    """CONCATENATION and PACK."""

    outer: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Pad:
    """PAD and PADV2."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    code: int


@dataclass(frozen=True)
class Copy:
    """One output of a move: element (i0, i1, ...) of `sizes` is element offset + sum i * stride of the input, or a list."""

    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    elements: tuple[int, ...] = ()
    fill: int = 0


@dataclass(frozen=True)
class Move:
    """RESHAPE, TRANSPOSE, SLICE, SPLIT, ..."""

    input: int
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class Neighbours:
    """The rows or columns that one of a resized image lies between, and the weight of the second."""

    first: int
    second: int
    weight: int


@dataclass(frozen=True)
class Interpolation:
    """RESIZE_BILINEAR of signed codes."""

    fraction_bits: int
    rows: tuple[Neighbours, ...]
    columns: tuple[Neighbours, ...]


@dataclass(frozen=True)
class Rescaling:
    """QUANTIZE between codes; RELU and its kin that stand alone."""

    output: OutputStage


@dataclass(frozen=True)
class Lookup:
    """A function of one 8-bit code: 256 output codes, the lowest input code's first."""

    entries: bytes


@dataclass(frozen=True)
class Host:
    """An op that the program does not compute, and why."""

    reason: str


Kind = (
    Convolution | DepthwiseConvolution | FullyConnected | Addition | Multiplication | AveragePool | Mean | MaxPool
    | Concatenation | Pad | Move | Rescaling | Lookup | TransposeConvolution | Comparison | Prelu | Interpolation | Host
)  # fmt: skip
