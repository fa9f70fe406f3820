"""One random single-op model in the making: shapes, scales, zero points and constants drawn from one seed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.builders import Builder
from tf_requant.model.ops import Activation
from tf_requant.model.quant import code_limits

ACTIVATIONS = (Activation.NONE, Activation.NONE, Activation.RELU, Activation.RELU6, Activation.RELU_N1_TO_1)
SPREAD = {"uint8": 74.0, "int8": 74.0, "int16": 18900.0}
"""Standard deviation of evenly distributed codes."""


class Draw:
    """One random model in the making.

    Args:
        seed: what everything is drawn from.
        dtype: of the activations.
        power_of_two: whether every scale is a power of two.
        symmetric: whether zero points are 0 (uint8 then has its own anyway).
    """

    def __init__(self, seed: int, dtype: str, power_of_two: bool = False, symmetric: bool = False) -> None:
        self.random = np.random.default_rng(seed)
        self.builder = Builder(seed)
        self.dtype, self.power_of_two, self.symmetric = dtype, power_of_two, symmetric or dtype == "int16"

    def any(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def one(self, options: Sequence[Any]) -> Any:
        return options[self.any(0, len(options) - 1)]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def rounded(self, scale: Any) -> Any:
        return 2.0 ** np.round(np.log2(scale)) if self.power_of_two else np.float32(scale)

    def scale(self) -> float:
        base = {"uint8": -5.0, "int8": -5.0, "int16": -12.0}[self.dtype]
        return float(self.rounded(2.0 ** (base + self.random.uniform(-2, 2))))

    def point(self) -> int:
        low, high = code_limits(self.dtype)
        if self.symmetric:
            return 128 if self.dtype == "uint8" else 0
        return self.one([low, high, 0, self.any(low, high), self.any(low, high)])

    def tensor(self, shape: Sequence[int], scale: float | None = None, point: int | None = None) -> int:
        return self.builder.tensor(shape, self.dtype, scale or self.scale(), self.point() if point is None else point)

    def like(self, shape: Sequence[int], other: int) -> int:
        quant = self.builder.graph.tensors[other].quantization
        return self.builder.tensor(shape, self.dtype, float(quant.scale[0]), int(quant.zeroPoint[0]))

    def scale_of(self, tensor: int) -> Any:
        return self.builder.graph.tensors[tensor].quantization.scale

    def aimed(self, deviation: Any) -> float:
        """An output scale for results of that standard deviation, in real units; every so often far off."""
        miss = 2.0 ** self.random.uniform(-6, 6) if self.chance(0.2) else 2.0 ** self.random.uniform(-0.5, 1.5)
        return float(self.rounded(max(float(np.max(deviation)), 1e-12) / SPREAD[self.dtype] * miss))

    def filter(self, shape: Sequence[int], axis: int) -> int:
        kind = "uint8" if self.dtype == "uint8" else "int8"
        low, high = code_limits(kind)
        codes = self.random.integers(low, high + 1, shape)
        per_channel = kind == "int8" and self.chance(0.6)
        scale = 2.0 ** self.random.uniform(-9, -5, shape[axis] if per_channel else 1)
        point = 0 if kind == "int8" else self.any(100, 150)
        return self.builder.tensor(shape, kind, self.rounded(scale), point, codes, axis if per_channel else 0)

    def bias(self, data: int, filter_: int, channels: int) -> tuple[int, str]:
        wide = self.dtype == "int16" and self.chance(0.5)
        reach = self.one([100, 5000, 2**20, 2**31 - 1])
        values = self.random.integers(-reach, reach + 1, channels)
        dtype = "int64" if wide else "int32"
        return self.builder.tensor([channels], dtype, self.scale_of(data) * self.scale_of(filter_), 0, values), dtype

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        return self.builder.finish(inputs, outputs)


Build = Callable[[Draw], bytes]


def shapes_of(d: Draw) -> tuple[list[int], list[int]]:
    full = [1, d.any(1, 4), d.any(1, 5), d.any(1, 4)]
    other = [n if d.chance(0.7) else 1 for n in full] if d.chance(0.4) else full
    return (full, other) if d.chance(0.5) else (other, full)


def random_inputs(seed: int, tensors: Sequence[Any]) -> list[NDArray[Any]]:
    """Codes for some input tensors: mostly random, now and then all at one edge of the type or on one value."""
    random = np.random.default_rng(seed + 1)
    result = []
    for tensor in tensors:
        low, high = code_limits(tensor.dtype)
        kind = random.integers(6)
        if kind < 3:
            codes = random.integers(low, high + 1, tensor.shape)
        elif kind == 3:
            codes = random.choice([low, high], tensor.shape)
        else:
            codes = np.full(tensor.shape, [low, high, random.integers(low, high + 1)][random.integers(3)])
        result.append(codes.astype(tensor.dtype))
    return result
