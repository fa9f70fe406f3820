"""QuantParams: the affine map between the integer codes of a tensor and real numbers."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

INT_BITS = {"int4": 4, "int8": 8, "uint8": 8, "int16": 16, "int32": 32, "int64": 64}
QUANTIZED_DTYPES = ("uint8", "int8", "int16", "int4")


def code_limits(dtype: str, narrow: bool = False) -> tuple[int, int]:
    """The lowest and highest code of an integer type; `narrow` leaves out the lowest.

    >>> code_limits("int8"), code_limits("uint8"), code_limits("int8", narrow=True)
    ((-128, 127), (0, 255), (-127, 127))
    """
    bits = INT_BITS[dtype]
    low, high = (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return low + int(narrow), high


@dataclass(frozen=True, eq=False)
class QuantParams:
    """real = scale * (code - zero_point), per tensor or per slice along `axis`.

    Attributes:
        dtype: the integer type of the codes, e.g. `int8`.
        scale: float32[1] (per tensor) or float32[C] (per channel), > 0.
        zero_point: int64 of the same length, within the type's range.
        axis: the dimension that the channels run along; 0 when per tensor.
        extra: what else the file stores beside them (min, max, details), for the writer to keep.
    """

    dtype: str
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int = 0
    extra: Any = None

    def __post_init__(self) -> None:
        """Makes the arrays read-only float32 and int64 of equal length."""
        scale = np.asarray(self.scale, np.float32).reshape(-1)
        zero_point = np.asarray(self.zero_point, np.int64).reshape(-1)
        if zero_point.size != scale.size:
            zero_point = np.broadcast_to(zero_point, scale.shape)
        for name, array in (("scale", scale), ("zero_point", zero_point)):
            if array.flags.writeable:
                array = array.view()
                array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def per_channel(self) -> bool:
        """Whether more than one scale is stored."""
        return self.scale.size > 1

    def identical(self, other: "QuantParams | None") -> bool:
        """Whether both map every code to the same real number."""
        return (
            other is not None
            and self.dtype == other.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
            and (self.axis == other.axis or not self.per_channel)
        )

    def along(self, rank: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Scale (float64) and zero point shaped to broadcast against a tensor of this rank."""
        shape = [1] * rank
        if self.per_channel:
            shape[self.axis] = self.scale.size
        elif rank == 0:
            return np.float64(self.scale[0]).reshape(()), self.zero_point[0].reshape(())
        return self.scale.astype(np.float64).reshape(shape), self.zero_point.reshape(shape)

    def with_(self, **changes: Any) -> "QuantParams":
        """A copy with some attributes changed."""
        return replace(self, **changes)

    def __str__(self) -> str:
        """`int8 scale 0.0235 zero point -128`, or the channel count and range of scales."""
        if self.per_channel:
            low, high = self.scale.min(), self.scale.max()
            return f"{self.dtype} {self.scale.size} scales {low:.6g}..{high:.6g} axis {self.axis}"
        return f"{self.dtype} scale {self.scale[0]:.8g} zero point {int(self.zero_point[0])}"
