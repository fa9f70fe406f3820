"""What a layer does wrong, counted: equal to a direct computation in float64, whatever codes, types, channels and gains."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.quant import QuantParams
from tf_requant.validation.layers import LayerStatistics

TIGHT = 1e-12
"""Relative: both sides add the same float64 numbers, in another order."""
LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-32768, 32767)}


def tensor(dtype: str, scale: float, point: int, *shape: int) -> Tensor:
    return Tensor("t", dtype, shape, quant=QuantParams(dtype, np.array([scale], np.float32), np.array([point])))


def counted(source: Tensor, result: Tensor, gain: Any = 1.0) -> LayerStatistics:
    return LayerStatistics(source, result, np.asarray(gain), result.shape[-1] if result.shape else 1)


@dataclass
class Direct:
    """The same figures from whole arrays, by their definitions."""

    wanted: NDArray[np.float64]
    got: NDArray[np.float64]
    hidden: NDArray[np.bool_]
    low: int
    high: int

    @classmethod
    def of(cls, source: Tensor, result: Tensor, gain: Any, samples: list[tuple[Any, Any]]) -> "Direct":
        ratio = np.asarray(gain) * (float(source.quant.scale[0]) / float(result.quant.scale[0]))
        points = int(source.quant.zero_point[0]), int(result.quant.zero_point[0])
        channels = result.shape[-1] if result.shape else 1
        rows = [(x.reshape(-1, channels), y.reshape(-1, channels)) for x, y in samples]
        wanted = np.concatenate([(x.astype(float) - points[0]) * ratio for x, _ in rows])
        got = np.concatenate([y.astype(float) - points[1] for _, y in rows])
        ends = [((x == x.min()) & (y == y.min())) | ((x == x.max()) & (y == y.max())) for x, y in rows]
        low, high = LIMITS[result.dtype]
        return cls(wanted, got, np.concatenate(ends), low - points[1], high - points[1])

    @property
    def difference(self) -> NDArray[np.float64]:
        return self.got - self.wanted

    @property
    def sqnr(self) -> float:
        return float(10 * np.log10((self.wanted**2).sum() / (self.difference**2).sum()))

    @property
    def saturated(self) -> int:
        above = (self.got == self.high) & (self.wanted > self.high + 0.5)
        return int((above | ((self.got == self.low) & (self.wanted < self.low - 0.5))).sum())

    def over_free(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Means over what no clamp hides, by channel; zero where a clamp hides everything."""
        free = (~self.hidden).sum(axis=0)
        return np.where(free > 0, np.where(self.hidden, 0, values).sum(axis=0) / np.maximum(free, 1), 0.0)


def drawn(seed: int, coarse: bool = False) -> tuple[LayerStatistics, Direct, Direct]:
    """Random types, parameters, channels, gains and codes; `coarse` codes stand at the ends again and again."""
    random = np.random.default_rng(seed)
    kinds = [str(k) for k in random.choice(["uint8", "int8", "int16"], 2)]
    shape = (int(random.integers(1, 4)), int(random.integers(1, 40)), int(random.choice([1, 3, 17, 64])))
    source, result = (
        tensor(kind, float(random.uniform(0.01, 0.1)), int(random.integers(*LIMITS[kind])) if kind != "int16" else 0, *shape)
        for kind in kinds
    )
    gain = np.asarray(random.uniform(0.5, 2, shape[-1]) if random.random() < 0.5 else random.uniform(0.5, 2))
    statistics, samples = counted(source, result, gain), []
    for _ in range(3):
        three = [random.integers(low, high + 1, shape) for low, high in (LIMITS[kinds[0]], LIMITS[kinds[1]], LIMITS[kinds[1]])]
        if coarse:
            ends = [LIMITS[k] for k in (kinds[0], kinds[1], kinds[1])]
            side = random.integers(0, 3, shape)
            three = [np.where(side == 0, low, np.where(side == 1, high, codes)) for codes, (low, high) in zip(three, ends)]
        x, y, alone = (codes.astype(k) for codes, k in zip(three, (kinds[0], kinds[1], kinds[1])))
        statistics.add(x, y, alone)
        samples.append((x, y, alone))
    running = Direct.of(source, result, gain, [(x, y) for x, y, _ in samples])
    return statistics, running, Direct.of(source, result, gain, [(x, a) for x, _, a in samples])


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_signal_and_noise_equal_the_direct_computation(seed: int, coarse: bool) -> None:
    statistics, running, alone = drawn(seed, coarse)
    assert statistics.sqnr == pytest.approx(running.sqnr, rel=TIGHT, abs=1e-11)
    assert statistics.isolated_sqnr == pytest.approx(alone.sqnr, rel=TIGHT, abs=1e-11)
    assert statistics.running.largest == pytest.approx(np.abs(running.difference).max(), rel=TIGHT)
    assert statistics.isolated.largest == pytest.approx(np.abs(alone.difference).max(), rel=TIGHT)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_saturated_codes_and_those_at_an_end_in_both_are_counted_exactly(seed: int, coarse: bool) -> None:
    statistics, running, alone = drawn(seed, coarse)
    assert statistics.saturated == running.saturated
    assert statistics.saturation == running.saturated / running.got.size
    assert statistics.running.free.tolist() == (~running.hidden).sum(axis=0).tolist()
    assert statistics.isolated.free.tolist() == (~alone.hidden).sum(axis=0).tolist()
    assert statistics.running.count == statistics.isolated.count == len(running.got)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_channel_s_mean_and_square_are_over_what_no_clamp_hides(coarse: bool) -> None:
    for seed in range(40):
        statistics, *direct = drawn(seed, coarse)
        for measured, defined in zip((statistics.running, statistics.isolated), direct):
            for found, values in ((measured.means, defined.difference), (measured.squares, defined.difference**2)):
                np.testing.assert_allclose(found, defined.over_free(values), rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}")


def test_what_stands_at_the_top_in_both_does_not_shift_the_mean_of_the_rest() -> None:
    """990 elements of 1000 at RELU6's top, which is 127 here and 127.4 there; the ten that are free are equal."""
    source, result = tensor("uint8", 0.5, 0, 1, 1000, 1), tensor("int8", 0.5 * 255 / 127.4, 0, 1, 1000, 1)
    statistics = counted(source, result)
    x, y = np.full((1, 1000, 1), 255, np.uint8), np.full((1, 1000, 1), 127, np.int8)
    x[0, :10], y[0, :10] = 0, 0
    x[0, 10], y[0, 10] = 0, 1  # something is free
    statistics.add(x, y, y)
    # One element is free, and it is one step off.
    assert statistics.running.free.tolist() == [1]
    assert statistics.running.means[0] == pytest.approx(1.0, abs=1e-6)


def test_a_channel_that_a_clamp_hides_in_every_sample_has_no_shift() -> None:
    """The same class wins on every sample: its logit stands at the top in both, 0.4 steps apart, sixteen times."""
    source, result = tensor("uint8", 0.1, 0, 1, 2), tensor("int8", 0.1 * 200 / 100.4, 0, 1, 2)
    statistics = counted(source, result)
    for _ in range(16):
        logits = np.array([[200, 0]], np.uint8), np.array([[100, 0]], np.int8)
        statistics.add(logits[0], logits[1], logits[1])
    assert abs(statistics.running.means[0]) <= 0.5, "the mean of differences of 0.4 steps is no six steps"


def test_a_layer_that_was_not_run_alone_has_no_isolated_figure() -> None:
    statistics = counted(tensor("int8", 0.1, 0, 2, 3), tensor("int8", 0.1, 0, 2, 3))
    codes = np.arange(6, dtype=np.int8).reshape(2, 3)
    statistics.add(codes, codes, None)
    assert statistics.isolated_sqnr is None and statistics.isolated.count == 0
    assert statistics.sqnr == float("inf") and statistics.saturation == 0.0


def test_codes_at_the_limit_are_saturated_only_where_the_source_lies_beyond() -> None:
    """Steps of 2: 63.5 of the source's 127 is 127 of the candidate's, 64 is beyond; 127.5 still rounds to 127 or 128."""
    source, result = tensor("int8", 0.2, 0, 1, 4), tensor("int8", 0.1, 0, 1, 4)
    statistics = counted(source, result)
    statistics.add(np.array([[63, 64, 100, -64]], np.int8), np.array([[126, 127, 127, -128]], np.int8), None)
    # Wanted 126, 128, 200 and -128: two lie beyond.
    assert statistics.saturated == 2


@pytest.mark.parametrize(("dtype", "low", "width"), [("uint8", 0, 1), ("int8", -128, 1), ("int16", -32768, 256)])
def test_a_histogram_has_a_bin_a_code_or_256_bins_of_a_wider_type(dtype: str, low: int, width: int) -> None:
    codes = np.random.default_rng(1).integers(low, low + 256 * width, (1, 500, 2)).astype(dtype)
    held = tensor(dtype, 0.25, low + 3, 1, 500, 2)
    statistics = counted(held, held)
    statistics.add(codes, codes, None)
    statistics.add(codes, codes, None)
    edges = (np.arange(257) * width + low - 0.5 - (low + 3)) * 0.25
    np.testing.assert_allclose(statistics.edges(of_result=True), edges, rtol=TIGHT)
    expected = np.histogram((codes.astype(float) - (low + 3)) * 0.25, edges)[0]
    assert statistics.source_counts.tolist() == (2 * expected).tolist() == statistics.result_counts.tolist()
    assert statistics.source_counts.sum() == 2 * codes.size


def test_a_scalar_and_an_empty_tensor_are_counted_like_any_other() -> None:
    scalar = counted(tensor("int8", 0.1, 0), tensor("int8", 0.1, 0))
    scalar.add(np.array(5, np.int8), np.array(7, np.int8), None)
    assert scalar.running.largest == pytest.approx(2.0) and scalar.running.count == 1
    empty = counted(tensor("int8", 0.1, 0, 0, 3), tensor("int8", 0.1, 0, 0, 3))
    empty.add(np.zeros((0, 3), np.int8), np.zeros((0, 3), np.int8), None)
    assert empty.sqnr == float("inf") and empty.running.largest == 0.0
