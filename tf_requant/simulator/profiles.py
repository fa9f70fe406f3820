"""Arithmetics that belong to no accelerator: TFLite's kernels as measured, TOSA, and the generic NNA.

`tflite_ref` is LiteRT's BUILTIN_REF resolver; every rule of it was measured bit for bit on LiteRT 2.3.0.
"""

from collections.abc import Mapping
from dataclasses import replace

from tf_requant.numerics.arithmetic import (
    Accumulator,
    AddStyle,
    Arithmetic,
    AveragePoolStyle,
    Lookup,
    Requantizer,
    Stage,
)
from tf_requant.numerics.rounding import Rounding

_ANY_SHIFT = (-1100, 31)
"""TFLite refuses no left shift: see Rescale.apply."""
_HALF_UP_ONCE = (Stage("rest", Rounding.HALF_UP),)
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_RATIO_IN_FLOAT32 = ("MUL", "LEAKY_RELU", "PRELU", "RELU", "RELU6", "RELU_N1_TO_1")
_FLOAT64 = Requantizer("float64", 0, stages=(Stage("rest", Rounding.HALF_AWAY),))


_DOUBLE = Requantizer(shift_range=_ANY_SHIFT)
_NARROW = Requantizer("multiplier_shift", 15, stages=_HALF_UP_ONCE)
TFLITE_REF = Arithmetic(
    "tflite_ref",
    requantizer=_DOUBLE,
    requantizer_by_op={
        # uint8 convolutions round s_in * s_w to float32.
        **{f"{op}:uint8": replace(_DOUBLE, scale_product="float32") for op in _CONVOLUTIONS},
        # An int64 bias brings a 16-bit multiplier and one rounding.
        **{f"{op}:int16:int64": _NARROW for op in _CONVOLUTIONS},
        **{op: replace(_DOUBLE, scale_product="float32", ratio="float32") for op in _RATIO_IN_FLOAT32},
        "FULLY_CONNECTED": _FLOAT64,
    },
)
"""LiteRT 2.3.0 BUILTIN_REF."""

_TWICE_UP = Requantizer(shift_range=_ANY_SHIFT, stages=(Stage(31, Rounding.HALF_UP), Stage("rest", Rounding.HALF_UP)))
_OPTIMIZED = {
    **TFLITE_REF.requantizer_by_op,
    **{op: _TWICE_UP for op in (*_CONVOLUTIONS, "FULLY_CONNECTED", "QUANTIZE")},
    "FULLY_CONNECTED:int16:int64": _FLOAT64,
    **{f"{op}:uint8": replace(_TWICE_UP, scale_product="float32") for op in _CONVOLUTIONS},
}
TFLITE_OPTIMIZED = Arithmetic("tflite_optimized", requantizer=_DOUBLE, requantizer_by_op=_OPTIMIZED)
"""LiteRT 2.3.0 BUILTIN_WITHOUT_DEFAULT_DELEGATES on AVX2 x86: ruy rounds half up twice.

Measured equal for CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, ADD, SUB, MUL, pools and 8-bit tables where the shift
is to the right; MEAN and int16 LOGISTIC follow rules of their own there, which are not modelled.
"""

_FLOAT32 = Requantizer(
    "float32", 0, stages=(Stage("rest", Rounding.HALF_EVEN),), scale_product="float32", ratio="float32"
)
_DELEGATED = (*_CONVOLUTIONS, "FULLY_CONNECTED", "MUL", "MEAN")
TFLITE_XNNPACK = Arithmetic(
    "tflite_xnnpack",
    requantizer=_DOUBLE,
    requantizer_by_op=_OPTIMIZED | {f"{op}:{dtype}": _FLOAT32 for op in _DELEGATED for dtype in ("uint8", "int8")},
)
"""LiteRT 2.3.0's default resolver: float32, half to even, in the 8-bit ops that XNNPACK takes.

Measured equal for CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED and MUL; ADD, SUB, QUANTIZE and LEAKY_RELU have rules of
their own there, which are not modelled.
"""

_UNDEFINED = ("SOFTMAX", "UNIDIRECTIONAL_SEQUENCE_LSTM")
TOSA = Arithmetic("tosa", accumulator=Accumulator(32, "error"), host_ops=_UNDEFINED)
"""TOSA's RESCALE with double rounding, as Arm's converter lowers TFLite to it (tosa-converter-for-tflite 2026.2).

Its one shift with 2^30 added by sign is TFLite's two roundings, also for FULLY_CONNECTED; every ratio is float64. Its
AVG_POOL2D works on raw codes with the multiplier ((2^30 + 1) << k) / n, which is the division, rounded half away, for
every 8-bit sum of up to 2999 taps (checked one by one).
"""

NNA = Arithmetic(
    "nna",
    accumulator=Accumulator(32, "saturate"),
    requantizer=Requantizer(stages=_HALF_UP_ONCE),
    add=AddStyle("shift_align", rounding=Rounding.HALF_UP),
    average_pool=AveragePoolStyle("multiply_shift", 15, Rounding.HALF_UP),
    lookup=Lookup(("LOGISTIC", "TANH", "HARD_SWISH")),
    host_ops=_UNDEFINED,
)
"""What the nna targets declare: one rounding everywhere. At a power of two the 31-bit multiplier is a pure shift."""

PROFILES: Mapping[str, Arithmetic] = {a.name: a for a in (TFLITE_REF, TFLITE_OPTIMIZED, TFLITE_XNNPACK, TOSA, NNA)}
