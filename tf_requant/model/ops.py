"""The op table: what each TFLite op does to scales, where its filter and bias sit, what versions it needs.

One row an op. Scale rules (TFLite 8-bit quantization specification, and `docs` of the kernels):
`free`: the output's parameters are independent of the inputs'; `same`: every quantized input and output
must share one set of parameters, since the kernel copies or compares raw codes; `fixed`: the kernel
dictates the output's parameters. Op versions and the runtime that introduced them are TensorFlow's
`tools/versioning/op_version.cc` and `runtime_version.cc`.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from tf_requant.model.graph import Op

Rule = Literal["free", "same", "fixed"]
ACTIVATION_DTYPES = ("uint8", "int8", "int16")


class Activation(IntEnum):
    """`fused_activation_function` in the schema."""

    NONE = 0
    RELU = 1
    RELU_N1_TO_1 = 2
    RELU6 = 3
    TANH = 4
    SIGN_BIT = 5


class Padding(IntEnum):
    """`padding` in the schema."""

    SAME = 0
    VALID = 1


@dataclass(frozen=True)
class OpInfo:
    """One row of the op table.

    Attributes:
        rule: the scale rule.
        versions: the op version for uint8, int8 and int16 codes; None where no kernel takes the type.
        runtimes: the TensorFlow version that introduced each of them.
        data: the position of the main activation input.
        filter: the position of the weights, or None.
        bias: the position of the bias, or None.
        needs_bias: whether the kernels require a bias tensor (two of three crash or refuse without).
        channel_axis: the filter's output-channel dimension.
        homogeneous: f(a x) = a f(x) for a > 0, so a gain passes through.
        additive: a sum of its inputs: they and the output share a gain.
        by_channel: where inputs and output have as many channels (last axis), a channel depends on its own kind alone.
        scale_free: the result doesn't depend on the input's scale at all (ARG_MAX).
        rescales: dtypes in which a `same` op's kernel rescales its inputs to the output's parameters.
        fixed: for rule `fixed`, dtype -> (scale, zero_point).
    """

    rule: Rule
    versions: tuple[int | None, int | None, int | None] = (1, 1, 1)
    runtimes: tuple[str, str, str] = ("1.5.0", "1.14.0", "2.3.0")
    data: int = 0
    filter: int | None = None
    bias: int | None = None
    needs_bias: bool = False
    channel_axis: int = 0
    homogeneous: bool = False
    additive: bool = False
    by_channel: bool = False
    scale_free: bool = False
    rescales: tuple[str, ...] = ()
    fixed: tuple[tuple[str, float, int], ...] = ()

    def runs(self, dtype: str) -> bool:
        """Whether an interpreter's kernel takes codes of this type."""
        return dtype in ACTIVATION_DTYPES and self.versions[ACTIVATION_DTYPES.index(dtype)] is not None

    def fixed_params(self, dtype: str) -> tuple[float, int] | None:
        """The output's (scale, zero_point) that the kernel dictates for a type, if any."""
        return next(((s, z) for d, s, z in self.fixed if d == dtype), None)


def _same(versions: tuple[int | None, int | None, int | None], *runtimes: str, **kw: object) -> OpInfo:
    return OpInfo("same", versions, runtimes or ("1.5.0", "1.14.0", "2.3.0"), homogeneous=True, **kw)  # type: ignore[arg-type]


_PROBABILITY = (("uint8", 1 / 256, 0), ("int8", 1 / 256, -128), ("int16", 1 / 32768, 0))

OPS: dict[str, OpInfo] = {
    # multiply and accumulate
    "CONV_2D": OpInfo("free", (1, 3, 4), filter=1, bias=2, needs_bias=True),
    "DEPTHWISE_CONV_2D": OpInfo("free", (1, 3, 5), filter=1, bias=2, needs_bias=True, channel_axis=3),
    "FULLY_CONNECTED": OpInfo("free", (1, 4, 7), filter=1, bias=2),
    "TRANSPOSE_CONV": OpInfo("free", (1, 2, 3), ("1.9.0", "2.2.0", "2.3.0"), data=2, filter=1, bias=3),
    # arithmetic
    "ADD": OpInfo("free", (1, 2, 3), ("1.5.0", "1.14.0", "2.4.0"), homogeneous=True, additive=True, by_channel=True),
    "SUB": OpInfo("free", (1, 2, 5), ("1.6.0", "1.14.0", "2.4.0"), homogeneous=True, additive=True, by_channel=True),
    "MUL": OpInfo("free", (1, 2, 4)),
    "MEAN": OpInfo("free", (1, 2, 3), ("1.6.0", "1.14.0", "2.4.0"), homogeneous=True, by_channel=True),
    "RELU": OpInfo("free", (2, 2, 3), ("1.14.0", "1.14.0", "2.5.0"), homogeneous=True, by_channel=True),
    "RELU6": OpInfo("free", (1, 2, 3), ("1.5.0", "1.14.0", "2.5.0")),
    "RELU_N1_TO_1": OpInfo("free", (1, 1, None)),
    "LEAKY_RELU": OpInfo("free", (1, 1, 2), ("1.13.1", "1.13.1", "2.3.0"), homogeneous=True),
    "PRELU": OpInfo("free", (1, 1, 1), ("1.8.0", "1.8.0", "1.8.0"), homogeneous=True),
    "HARD_SWISH": OpInfo("free", (1, 1, None), ("1.15.0", "1.15.0", "")),
    "QUANTIZE": OpInfo("free", (1, 1, 2), ("1.14.0", "1.14.0", "1.15.0"), homogeneous=True, by_channel=True),
    "DEQUANTIZE": OpInfo("free", (1, 2, 3), ("1.13.1", "1.14.0", "1.15.0")),
    # pooling and movement: raw codes
    "AVERAGE_POOL_2D": _same((1, 2, 3), by_channel=True),
    "MAX_POOL_2D": _same((1, 2, 3), by_channel=True),
    "CONCATENATION": _same((1, 2, 3), rescales=("uint8",)),
    "SPLIT": _same((1, 2, 4), data=1),
    "SPLIT_V": _same((1, 2, 2), "1.13.1", "2.3.0", "2.3.0"),
    "PAD": _same((1, 2, 3), "1.5.0", "1.14.0", "2.4.0", by_channel=True),
    "PADV2": _same((1, 2, 3), "1.9.0", "1.14.0", "2.4.0"),
    "MIRROR_PAD": _same((1, 2, 3), "1.13.1", "2.3.0", "2.12.0"),
    "RESHAPE": _same((1, 1, 1), "1.5.0", "1.5.0", "1.5.0", by_channel=True),
    "SQUEEZE": _same((1, 1, 1), "1.6.0", "1.6.0", "1.6.0", by_channel=True),
    "EXPAND_DIMS": _same((1, 1, 1), "1.10.0", "1.10.0", "1.10.0"),
    "TRANSPOSE": _same((1, 2, 5), "1.6.0", "1.14.0", "2.4.0"),
    "SLICE": _same((1, 2, 4), "1.14.0", "1.14.0", "2.4.0"),
    "STRIDED_SLICE": _same((1, 2, 2), "1.6.0", "1.14.0", "1.14.0"),
    "PACK": _same((1, 2, 3), "1.11.0", "1.14.0", "2.3.0"),
    "UNPACK": _same((2, 2, 4), "1.14.0", "1.14.0", "2.3.0"),
    "TILE": _same((1, 3, 1), "1.10.1", "2.8.0", "1.10.1"),
    "GATHER": _same((1, 2, 4), "1.6.0", "1.14.0", "2.4.0"),
    "GATHER_ND": _same((1, 1, 3), "1.14.0", "1.14.0", "2.5.0"),
    "RESIZE_BILINEAR": _same((1, 2, 4), "1.7.0", "1.14.0", "2.5.0", by_channel=True),
    "RESIZE_NEAREST_NEIGHBOR": _same((1, 2, 4), "1.13.1", "1.14.0", "2.4.0", by_channel=True),
    "MAXIMUM": _same((1, 2, 4), "1.14.0", "1.14.0", "2.3.0"),
    "MINIMUM": _same((1, 2, 4), "1.14.0", "1.14.0", "2.3.0"),
    "REDUCE_MAX": _same((1, 2, 3), "1.11.0", "1.14.0", "2.5.0"),
    "REDUCE_MIN": _same((1, 2, 3), "1.11.0", "1.14.0", "2.5.0"),
    "DEPTH_TO_SPACE": _same((1, 1, None), "2.1.0", "2.1.0", ""),
    "SPACE_TO_DEPTH": _same((1, 2, None), "1.5.0", "1.14.0", ""),
    "SPACE_TO_BATCH_ND": _same((1, 2, 4), "1.6.0", "1.14.0", "2.12.0"),
    "BATCH_TO_SPACE_ND": _same((1, 2, 4), "1.6.0", "1.14.0", "2.12.0"),
    "REVERSE_V2": _same((1, 3, None), "1.14.0", "2.8.0", ""),
    # the kernel dictates the output
    "SOFTMAX": OpInfo("fixed", (1, 2, 3), fixed=_PROBABILITY),
    "LOGISTIC": OpInfo("fixed", (1, 2, 3), ("1.14.0", "1.14.0", "2.3.0"), fixed=_PROBABILITY),
    "TANH": OpInfo(
        "fixed", (1, 2, 3), ("1.14.0", "1.14.0", "2.3.0"),
        fixed=(("uint8", 1 / 128, 128), ("int8", 1 / 128, 0), ("int16", 1 / 32768, 0)),
    ),
    "L2_NORMALIZATION": OpInfo("fixed", (1, 2, None), fixed=(("uint8", 1 / 128, 128), ("int8", 1 / 128, 0))),
    "LOG_SOFTMAX": OpInfo(
        "fixed", (1, 2, None), ("1.14.0", "1.14.0", ""), fixed=(("uint8", 16 / 256, 255), ("int8", 16 / 256, 127))
    ),
    # an index comes out
    "ARG_MAX": OpInfo("free", (1, 2, None), ("1.9.0", "1.14.0", ""), scale_free=True),
    "ARG_MIN": OpInfo("free", (1, 2, None), ("1.9.0", "1.14.0", ""), scale_free=True),
}  # fmt: skip
"""Every op that can be re-expressed. Any other op stays at the source's precision, on the host."""


def info(op: Op) -> OpInfo | None:
    """The op's row, or None for an op that is only carried along."""
    return OPS.get(op.code)


def fused_activation(op: Op) -> Activation:
    """The op's fused activation; NONE for an op that has no such option or no row here."""
    return Activation(op.attrs.get("fused_activation_function", 0) or 0) if info(op) is not None else Activation.NONE


def required_version(op: Op, dtype: str) -> int:
    """The lowest op version that runs codes of this type with the op's own options.

    The version that the file declares stands when it is higher: it may come from another option.
    """
    row = info(op)
    if row is None or dtype not in ACTIVATION_DTYPES:
        return op.version
    version = row.versions[ACTIVATION_DTYPES.index(dtype)] or 1
    return max(op.version, version)


def required_runtime(op: Op, dtype: str) -> str:
    """The TensorFlow version that introduced the op for codes of this type."""
    row = info(op)
    return "" if row is None or dtype not in ACTIVATION_DTYPES else row.runtimes[ACTIVATION_DTYPES.index(dtype)]


_ROUNDING = ("AVERAGE_POOL_2D", "RESIZE_BILINEAR", "CONCATENATION")
"""Ops on raw codes that round, or (in uint8, CONCATENATION) rescale."""


def only_moves(code: str) -> bool:
    """Whether an op computes nothing: each code that it writes is one that it read, or a zero point.

    >>> only_moves("RESHAPE"), only_moves("AVERAGE_POOL_2D"), only_moves("ADD")
    (True, False, False)
    """
    row = OPS.get(code)
    return row is not None and row.rule == "same" and code not in _ROUNDING
