"""What a target's schemes say in the types of a TFLite file."""

from dataclasses import replace

import numpy as np

from tf_requant.model.ops import OpInfo
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.numerics.integers import limits
from tf_requant.targets import Target


def activation_dtype(target: Target) -> str:
    """The integer type that activations take in the file: of the target's first width (8 bits for fewer) and signedness."""
    bits = max(target.activation.bits[0], 8)
    return f"int{bits}" if target.activation.signed else f"uint{bits}"


def is_narrow(target: Target) -> bool:
    """Whether activations have fewer bits than their type in the file, whose kernels saturate at the type's ends only."""
    return target.activation.bits[0] < 8


def activation_limits(target: Target) -> tuple[int, int]:
    """The lowest and highest code that the target stores of an activation; int16 is symmetric and narrow in TFLite."""
    bits = target.activation.bits[0]
    return limits(bits) if is_narrow(target) else zero_point_limits(activation_dtype(target))


def weight_dtype(target: Target) -> str:
    """The integer type that weights take in the file (8 bits, whatever fewer the target stores)."""
    return "int8" if target.weight.signed else "uint8"


def narrowed(target: Target, bits: int) -> Target:
    """The target as a layer sees it whose weights, or indices into a codebook, take one of its widths."""
    part = "bits" if target.weight.codebook is None else "codebook"
    return replace(target, weight=replace(target.weight, **{part: (bits,)}))


def without_codebook(target: Target) -> Target:
    """The target as it would be if weights could take every code of their width."""
    return replace(target, weight=replace(target.weight, codebook=None))


def stored_in(target: Target, bits: int) -> Target:
    """The target as an activation sees it that is stored in one of its widths."""
    return replace(target, activation=replace(target.activation, bits=(bits,)))


def weight_limits(target: Target) -> tuple[int, int]:
    """The lowest and highest weight code that the target stores, at the widest of its widths."""
    bits, signed = max(target.weight.bits), target.weight.signed
    if signed:
        return -(2 ** (bits - 1)) + int(target.weight.narrow), 2 ** (bits - 1) - 1
    return int(target.weight.narrow), 2**bits - 1


def bias_dtype(target: Target) -> str:
    """The integer type that biases take in the file: TFLite's kernels read an int64 behind 16-bit activations only."""
    return "int64" if target.bias.bits > 32 and activation_dtype(target) == "int16" else "int32"


def per_channel(target: Target, op_code: str, row: OpInfo) -> bool:
    """Whether this op's weights may have one scale per output channel."""
    return target.weight.granularity == "channel" and op_code in target.weight.per_channel_ops and row.filter is not None


def is_power_of_two(scale: np.ndarray) -> np.ndarray:
    """Which scales are 2^k for an integer k."""
    return np.frexp(np.asarray(scale, np.float64))[0] == 0.5


def expressible(target: Target, params: QuantParams) -> bool:
    """Whether an activation with these parameters, which a kernel fixes and fills its type with, may live on the target."""
    scheme, zero_point = target.activation, int(params.zero_point[0])
    if is_narrow(target):
        return False
    if params.dtype != activation_dtype(target) or params.per_channel:
        return False
    if scheme.symmetric and zero_point != 0:
        return False
    return scheme.scale == "any" or bool(is_power_of_two(params.scale)[0])


def zero_point_limits(dtype: str) -> tuple[int, int]:
    """The codes of a type; int16 activations are symmetric and narrow in TFLite."""
    return (-32767, 32767) if dtype == "int16" else code_limits(dtype)
