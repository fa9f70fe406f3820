"""Multiply and accumulate: the sums of products of CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV, FULLY_CONNECTED.

A layer proves, from its weights, how large any partial sum can become. Below 2^24 the sums of products are exact
in float32 whatever their order, below 2^53 in float64, and BLAS computes them; beyond, int64 does. What the sums
then become in the declared register (wrap, saturate) is only looked at where the bound says that it can matter, and an
intermediate register, which sums a few products at a time ahead of the accumulator, likewise.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import RequantError
from tf_requant.model.quant import code_limits
from tf_requant.numerics.arithmetic import Accumulator
from tf_requant.numerics.integers import limits, saturate, signed_bits, wrap
from tf_requant.numerics.output_stage import BLOCK, FLOAT32_EXACT, FLOAT64_EXACT, OutputStage, Screen
from tf_requant.simulator.observe import Observation


class AccumulatorOverflow(RequantError):
    """A sum left an accumulator that was declared to refuse it."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A layer's constants, ready to multiply.

    Attributes:
        filter: integers [taps, inputs, outputs], the zero point taken off; int16 holds every such filter.
        bias: int64[outputs].
        zero_point: of the input: what it takes off every code.
        pad: the code that a tap outside the image holds.
        dtype: of the input codes.
        turned: whether the taps lie in the reverse of the filter's order (TRANSPOSE_CONV).
        bits: the width of the input codes, where it is less than their type's.
    """

    filter: NDArray[np.integer[Any]]
    bias: NDArray[np.int64]
    zero_point: int
    pad: int
    dtype: str
    turned: bool = False
    bits: int | None = None

    @cached_property
    def codes(self) -> tuple[int, int]:
        """The lowest and the highest input code."""
        return code_limits(self.dtype) if self.bits is None else limits(self.bits)

    @cached_property
    def reach(self) -> int:
        """The largest |x - z| of any input code."""
        return max(abs(code - self.zero_point) for code in self.codes)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The products of an output in the filter's order, as places in a window: int64[taps * inputs]."""
        steps = np.arange(self.filter.shape[0] * self.filter.shape[1]).reshape(self.filter.shape[:2])
        return np.asarray((steps[::-1] if self.turned else steps).reshape(-1))

    def worst_group(self, products: int) -> int:
        """The largest |sum of (x - z) w| over any group of that many neighbouring products, its partial sums included."""
        size = np.abs(self.filter.reshape(-1, self.filter.shape[2])[self.order].astype(np.int64))
        sums = np.add.reduceat(size, np.arange(0, max(len(size), 1), products), axis=0) if size.size else size
        return int(sums.max(initial=0)) * self.reach

    @cached_property
    def absolute(self) -> NDArray[np.int64]:
        """Sum |w| of each output, int64[outputs]."""
        return np.asarray(np.abs(self.filter).sum(axis=(0, 1), dtype=np.int64))

    @cached_property
    def raw_bound(self) -> NDArray[np.int64]:
        """The largest |sum of code * w|, every partial sum included, int64[outputs]."""
        low, high = self.codes
        return self.absolute * max(abs(low), abs(high))

    @cached_property
    def folded_bias(self) -> NDArray[np.int64]:
        """The bias with the input's zero point in it: sum (x - z) w + b = sum x w + (b - z sum w)."""
        return np.asarray(self.bias - self.zero_point * self.filter.sum(axis=(0, 1), dtype=np.int64))

    @cached_property
    def worst_case(self) -> int:
        """The largest |sum (x - z) w + b| of any input."""
        return max((int(a) * self.reach + abs(int(b)) for a, b in zip(self.absolute, self.bias)), default=0)

    @cached_property
    def precision(self) -> Any:
        """The narrowest type that provably holds every partial sum."""
        bound = int(self.raw_bound.max(initial=0))
        return np.float32 if bound < FLOAT32_EXACT else np.float64 if bound < FLOAT64_EXACT else np.int64

    @cached_property
    def matrix(self) -> NDArray[Any]:
        """The filter [taps * inputs, outputs] in that type."""
        return np.ascontiguousarray(self.filter.reshape(-1, self.filter.shape[2]).astype(self.precision))


EXACT_BLOCK = 1 << 14
"""Elements that the definition takes at a time: it makes many passes over int64."""
DEPTH_FACTOR = 4
"""How much larger a block of inputs may be: each is read once."""


class Layer:
    """From sums of products to codes, under an accumulator and an output stage.

    Args:
        weights: the constants.
        stage: the output stage.
        accumulator: the register, with the width that this layer's bias type gives it.
        observation: what to count, or None.
        fast: the compiled loops, or None.
    """

    def __init__(
        self,
        weights: Weights,
        stage: OutputStage,
        accumulator: Accumulator,
        observation: Observation | None = None,
        fast: ModuleType | None = None,
    ) -> None:
        self.weights, self.stage, self.observation = weights, stage, observation
        self.accumulator = accumulator
        if observation is not None:
            observation.register_bits = accumulator.bits
            observation.worst_case_bits = signed_bits(-weights.worst_case, weights.worst_case)
        fits = weights.worst_case <= limits(min(accumulator.bits, accumulator.output_bits or accumulator.bits))[1]
        self.overflows = not fits
        self.stepwise = accumulator.when == "each_step" and weights.worst_case > limits(accumulator.bits)[1]
        inner = accumulator.intermediate
        # Beyond the proof only: groups that cannot wrap sum to what the products sum to.
        self.grouped = inner is not None and weights.worst_group(inner.products) > limits(inner.bits)[1]
        self.screen: Any = None
        self.fast: ModuleType | None = None
        if fits and not self.grouped and observation is None and weights.precision is not np.int64:
            self._quicken(fast)

    def _quicken(self, fast: ModuleType | None) -> None:
        """Chooses what turns sums into codes without computing each by the definition, if anything does."""
        stage, bias, bound = self.stage, self.weights.folded_bias, self.weights.raw_bound
        if fast is not None and fast.FastStage.serves(stage, bias, bound):
            self.screen, self.fast = fast.FastStage(stage, bias), fast
            return
        for precision in (np.float32, np.float64):
            if np.dtype(precision).itemsize >= np.dtype(self.weights.precision).itemsize:
                self.screen = Screen.of(stage, bias, bound, precision)
                if self.screen is not None:
                    return

    @property
    def ordered(self) -> bool:
        """Whether a register can overflow on the way, so that the order of the products decides their sum."""
        return self.stepwise or self.grouped

    @property
    def precision(self) -> Any:
        """The type in which the sums are computed."""
        return self.weights.precision if self.screen is None else self.screen.precision.type

    @cached_property
    def matrix(self) -> NDArray[Any]:
        """The filter [taps * inputs, outputs] in that type."""
        return np.ascontiguousarray(self.weights.matrix, self.precision)

    def finish(self, sums: NDArray[Any], out: NDArray[Any]) -> None:
        """Writes the codes of sums of code * w, in `precision`, without the bias.

        Args:
            sums: [n, outputs], C-contiguous.
            out: codes [n, outputs], C-contiguous.
        """
        if self.screen is not None:
            self.screen.apply(sums, out)
        else:
            step = max(1, EXACT_BLOCK // sums.shape[1])
            for start in range(0, len(sums), step):
                total = sums[start : start + step].astype(np.int64)
                total += self.weights.folded_bias
                self.finish_exact(total, out[start : start + step])

    def settle(self) -> None:
        """Ends a run over blocks: what their codes left in doubt is computed."""
        if self.screen is not None:
            self.screen.settle()

    def rows(self, depth: int, outputs: int) -> int:
        """How many rows of windows make a block that stays in the cache, in whole tiles of the output stage."""
        step = max(1, min(BLOCK // outputs, DEPTH_FACTOR * BLOCK // depth))
        tile = 1 if self.screen is None else self.screen.tile
        return step // tile * tile or step

    def finish_exact(self, total: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Writes the codes of whole sums, int64[n, outputs], bias included."""
        if self.observation is not None and not self.stepwise:
            self.observation.sums(total, self.accumulator.bits)
        if self.overflows:
            total = self.register(total)
        if self.observation is not None:
            self.observation.codes(total, self.stage)
        out[...] = self.stage.exact(total)

    def register(self, total: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the declared accumulator holds instead of int64 sums."""
        held = hold(total, self.accumulator)
        return held if self.accumulator.output_bits is None else saturate(held, self.accumulator.output_bits)

    def ordered_sums(self, windows: NDArray[Any]) -> NDArray[np.int64]:
        """The sums of registers that overflow on the way, in the filter's order, the bias last.

        Args:
            windows: codes [n, taps * inputs].

        Returns:
            int64[n, outputs].
        """
        weights = self.weights
        matrix = weights.filter.reshape(-1, weights.filter.shape[2])

        def product(step: int) -> NDArray[np.int64]:
            return (windows[:, step, None].astype(np.int64) - weights.zero_point) * matrix[step]

        return self.add(self.in_order(product, (windows.shape[0], matrix.shape[1])), weights.bias)

    def in_order(self, product: Callable[[int], NDArray[np.int64]], shape: tuple[int, ...]) -> NDArray[np.int64]:
        """The accumulator after all products: one by one, or a group at a time out of the intermediate register.

        Args:
            product: a place in the window -> the products there, int64 of `shape`.
            shape: of the sums.

        Returns:
            int64 of `shape`, without the bias.
        """
        held, inner, order = np.zeros(shape, np.int64), self.accumulator.intermediate, self.weights.order
        if inner is None:
            for step in order:
                held = self.add(held, product(step))
            return held
        for start in range(0, len(order), inner.products):
            group = np.zeros(shape, np.int64)
            for step in order[start : start + inner.products]:
                group += product(step)
            kept = wrap(group, inner.bits)
            if self.observation is not None:
                self.observation.overflowed += int((kept != group).sum())
            held = self.add(held, kept)
        return held

    def add(self, held: NDArray[np.int64], term: NDArray[np.int64]) -> NDArray[np.int64]:
        """One step of the accumulator; where it overflows in each, the sum is counted before it is held."""
        if not self.stepwise:
            return np.asarray(held + term)
        total = held + term
        if self.observation is not None:
            self.observation.sums(total, self.accumulator.bits)
        return hold(total, self.accumulator)

    def from_windows(self, windows: NDArray[Any], out: NDArray[Any]) -> None:
        """Writes the codes of whole windows.

        Args:
            windows: codes [n, taps * inputs], in `precision` or, for ordered sums, any integer type.
            out: codes [n, outputs].
        """
        if self.ordered:
            self.finish_exact(self.ordered_sums(windows), out)
        else:
            self.finish(np.matmul(windows, self.matrix), out)


def hold(total: NDArray[np.int64], accumulator: Accumulator) -> NDArray[np.int64]:
    """What a register keeps of int64 sums.

    Raises:
        AccumulatorOverflow: a sum does not fit and the register is declared to refuse it.
    """
    if accumulator.overflow == "wrap":
        return wrap(total, accumulator.bits)
    if accumulator.overflow == "saturate":
        return saturate(total, accumulator.bits)
    low, high = limits(accumulator.bits)
    if total.size and (total.min() < low or total.max() > high):
        worst = int(total.max()) if int(total.max()) > high else int(total.min())
        raise AccumulatorOverflow(f"a sum reaches {worst}, beyond the accumulator's {accumulator.bits} bits")
    return total


def register_of(accumulator: Accumulator, bias_dtype: str) -> Accumulator:
    """The register of one layer: TFLite's wrapping 32-bit sums become 64-bit ones with an int64 bias."""
    wide = accumulator.overflow == "wrap" and bias_dtype == "int64" and accumulator.bits == 32
    return replace(accumulator, bits=64) if wide else accumulator
