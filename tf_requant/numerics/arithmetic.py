"""A device's integer arithmetic as data: requantizer stages, accumulator, ADD, pooling and lookup styles.

Names and values are those of a target file's sections; the defaults are what most of TFLite's 8-bit
reference kernels do. This file only describes; the simulator runs what it describes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tf_requant.numerics.rounding import Rounding

Kind = Literal["multiplier_shift", "shift", "float32", "float64"]
Overflow = Literal["wrap", "saturate", "error"]
Winograd = Literal["F(2x2,3x3)"]


@dataclass(frozen=True)
class Stage:
    """One rounding right shift of a requantization.

    Attributes:
        drop: how many bits it drops, at most those that the stages before it left, or "rest": all of these. A
            stage that finds none left does nothing.
        rounding: how it rounds.
    """

    drop: int | Literal["rest"]
    rounding: Rounding


DOUBLE_ROUNDING = (Stage(31, Rounding.HALF_UP), Stage("rest", Rounding.HALF_AWAY))
"""gemmlowp's two roundings, which the TFLite reference kernels keep."""


@dataclass(frozen=True)
class Requantizer:
    """How an accumulator becomes an output code: y = round(acc * M) + zero_point, M = s_in * s_w / s_out.

    Attributes:
        kind: `multiplier_shift`: M = multiplier * 2^-(multiplier_bits + shift); `shift`: M = 2^-shift;
            `float32`, `float64`: acc * M in that type, rounded by the last stage.
        multiplier_bits: fraction bits n of the multiplier, so that Q0.31 is 31; 0 unless `multiplier_shift`.
        shift_range: the lowest and the highest shift, both allowed; right if > 0, left if < 0. TFLite's
            encoded exponent s (left if > 0) is -shift.
        stages: the roundings, in order; the last one drops "rest".
        scale_product: the type in which s_in * s_w is rounded before it is divided by s_out.
        ratio: the type in which M itself is rounded before its multiplier is formed.
    """

    kind: Kind = "multiplier_shift"
    multiplier_bits: int = 31
    shift_range: tuple[int, int] = (-30, 31)
    stages: tuple[Stage, ...] = DOUBLE_ROUNDING
    scale_product: Literal["float32", "float64"] = "float64"
    ratio: Literal["float32", "float64"] = "float64"


@dataclass(frozen=True)
class Intermediate:
    """A narrow register ahead of the accumulator, which sums a few products at a time and wraps.

    Attributes:
        bits: its width, sign included.
        products: how many neighbouring products, in the filter's order (row, column, input channel), it sums before the
            accumulator takes the sum and it starts from zero. Products of zero count (taps outside the image).
    """

    bits: int
    products: int


@dataclass(frozen=True)
class Accumulator:
    """The register that sums products and bias.

    Attributes:
        bits: its width, sign included.
        overflow: what happens beyond it.
        when: where overflow is looked at: once on the sum plus bias, or after each product, in the filter's
            order (row, column, input channel) with the bias last.
        output_bits: the width that the requantizer reads, saturated to; None for all of `bits`.
        intermediate: the register that sums groups of products ahead of this one; None: there is none.
    """

    bits: int = 32
    overflow: Overflow = "wrap"
    when: Literal["after_bias", "each_step"] = "after_bias"
    output_bits: int | None = None
    intermediate: Intermediate | None = None


@dataclass(frozen=True)
class AddStyle:
    """How ADD and SUB bring their inputs to one scale.

    Attributes:
        style: `tflite`: both inputs shifted left by left_shift, rescaled to twice the larger scale, added,
            rescaled to the output, each time by a multiplier as the requantizer's; `shift_align`: both
            shifted left to the finer of their power-of-two scales, added, one rounding shift; `float32`: each
            code times f32(scale / output scale), rounded, added.
        left_shift: headroom bits of `tflite` (20 for 8-bit codes, 15 for 16-bit ones); `shift_align` has none.
        intermediate_bits: width of the aligned inputs and of their sum.
        rounding: of the one shift of `shift_align`; for `tflite`, of each of its three rescales, in one stage, where
            None means the requantizer's stages.
    """

    style: Literal["tflite", "shift_align", "float32"] = "tflite"
    left_shift: int = 20
    intermediate_bits: int = 32
    rounding: Rounding | None = None


@dataclass(frozen=True)
class AveragePoolStyle:
    """How AVERAGE_POOL_2D divides the sum of the n taps inside the image.

    Attributes:
        style: `divide`: the sum of raw codes / n, rounded once (MEAN then rescales as TFLite does);
            `multiply_shift`: the sum of (code - zero point) * round(2^multiplier_bits / n), then one shift by
            multiplier_bits, and MEAN likewise; `reciprocal`: the same with the multiplier
            ((2^multiplier_bits + 1) << k) // n and k more bits, k = bit length of n - 1.
        multiplier_bits: fraction bits of 1 / n; 0 for `divide`.
        rounding: of the division or of the shift.
        table: (n, multiplier, bits): window sizes for which 1 / n is multiplier / 2^bits instead.
    """

    style: Literal["divide", "multiply_shift", "reciprocal"] = "divide"
    multiplier_bits: int = 0
    rounding: Rounding = Rounding.HALF_AWAY
    table: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Lookup:
    """The table unit that runs nonlinear functions.

    Attributes:
        ops: the ops that run as a table of output codes.
        entries: table length.
        interpolation: between neighbouring entries.
        rounding: of the table's entries.
        precision: the type in which the function is evaluated to fill the table.
    """

    ops: tuple[str, ...] = ()
    entries: int = 256
    interpolation: Literal["none", "linear"] = "none"
    rounding: Rounding = Rounding.HALF_EVEN
    precision: Literal["float32", "float64"] = "float64"


@dataclass(frozen=True)
class Arithmetic:
    """Everything that decides the bits of a fixed-point run.

    Attributes:
        name: what reports call it.
        accumulator: the summing register.
        requantizer: the rescale of every op that has none of its own below.
        requantizer_by_op: the ops whose kernels rescale otherwise, by "OP", "OP:dtype" or "OP:dtype:bias dtype",
            the most specific first; dtype is the input's.
        add: ADD and SUB.
        average_pool: AVERAGE_POOL_2D (and MEAN).
        lookup: the table unit.
        pad: what the taps outside the image hold: the input's zero point, or code 0.
        host_ops: ops that it says nothing of: its host runs them, as TFLite's reference kernels do.
        activation_bits: the width of activations in int8 tensors with zero point 0, where that is fewer than 8 bits: what
            an op writes saturates there. None: codes take all of their tensor's type.
        activation_widths: the widths that a tensor may name for itself; such a tensor has that width instead.
        winograd: how a CONV_2D of 3 x 3 taps, stride 1 and dilation 1 is computed: in tiles of 2 x 2 outputs, or None:
            directly. Both give the same codes; the first needs more of the accumulator, which takes its products one by
            one: they are too large for an intermediate register.
    """

    name: str
    accumulator: Accumulator = Accumulator()
    requantizer: Requantizer = Requantizer()
    requantizer_by_op: Mapping[str, Requantizer] = field(default_factory=dict, hash=False)
    add: AddStyle = AddStyle()
    average_pool: AveragePoolStyle = AveragePoolStyle()
    lookup: Lookup = Lookup()
    pad: Literal["zero_point", "zero"] = "zero_point"
    host_ops: tuple[str, ...] = ()
    activation_bits: int | None = None
    activation_widths: tuple[int, ...] = ()
    winograd: Winograd | None = None

    def requantizer_of(self, op: str, dtype: str = "", bias: str = "") -> Requantizer:
        """The requantizer of an op by its TFLite name, its input's dtype and its bias's dtype."""
        for key in (f"{op}:{dtype}:{bias}", f"{op}:{dtype}", op):
            if key in self.requantizer_by_op:
                return self.requantizer_by_op[key]
        return self.requantizer
