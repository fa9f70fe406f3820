"""The float routes are taken under their proof only, and give the integers at its very edge."""

from typing import Any

import numpy as np
import pytest

from tf_requant.numerics.arithmetic import Accumulator, Requantizer
from tf_requant.numerics.fixed_point import Rescale
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.simulator.mac import AccumulatorOverflow, Layer, Weights, hold, register_of
from tf_requant.simulator.ops.fully_connected import connect

REGISTER = Accumulator()


def _layer(filter_: Any, dtype: str, ratio: float, bias: Any = None, accumulator: Accumulator = REGISTER) -> Layer:
    array = np.asarray(filter_, np.int64)[None]
    biases = np.zeros(array.shape[2], np.int64) if bias is None else np.asarray(bias, np.int64)
    stage = OutputStage(Rescale.of_ratio(ratio, Requantizer()), 0, -128, 127, "int8")
    return Layer(Weights(array, biases, 0, 0, dtype), stage, accumulator)


def _sum_of_weights(total: int, largest: int) -> list[int]:
    whole, rest = divmod(total, largest)
    return [largest] * whole + ([rest] if rest else [])


@pytest.mark.parametrize(
    ("dtype", "reach", "total", "precision"),
    [
        ("uint8", 255, (2**24 - 1) // 255, np.float32),
        ("uint8", 255, (2**24 - 1) // 255 + 1, np.float64),
        ("int8", 128, 2**24 // 128 - 1, np.float32),
        ("int8", 128, 2**24 // 128, np.float64),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_route_changes_exactly_at_the_bound_and_both_are_exact(
    dtype: str, reach: int, total: int, precision: Any, sign: int
) -> None:
    weights = _sum_of_weights(total, 127)
    layer = _layer(np.asarray(weights)[:, None] * sign, dtype, 2.0**-18)
    assert layer.weights.precision is precision
    code = 255 if dtype == "uint8" else -128
    codes = np.full((1, len(weights)), code, dtype)
    expected = layer.stage.exact(np.asarray([[code * total * sign]]))
    np.testing.assert_array_equal(connect(codes, layer), expected)
    # One unit less than the extreme, which a rounded partial sum would lose.
    codes[0, 0] = code + (1 if code < 0 else -1)
    less = layer.stage.exact(np.asarray([[code * total * sign + (127 if code < 0 else -127) * sign]]))
    np.testing.assert_array_equal(connect(codes, layer), less)


def test_beyond_2_to_53_integers_take_over() -> None:
    layer = _layer(np.full((3, 1), 2**40), "int16", 2.0**-50, accumulator=Accumulator(64))
    assert layer.weights.precision is np.int64
    codes = np.asarray([[32767, 32767, 1]], np.int16)
    assert connect(codes, layer).tolist() == layer.stage.exact(np.asarray([[2**40 * 65535]])).tolist()


def test_a_sum_beyond_the_register_wraps_saturates_or_is_refused() -> None:
    codes, weights = np.full((1, 2), 127, np.int8), np.full((2, 1), 127)
    bias = [2**31 - 1]
    for overflow, held in (("wrap", -(2**31) + 2 * 127 * 127 - 1), ("saturate", 2**31 - 1)):
        layer = _layer(weights, "int8", 2.0**-25, bias, Accumulator(32, overflow))  # type: ignore[arg-type]
        assert connect(codes, layer).tolist() == layer.stage.exact(np.asarray([[held]])).tolist()
    with pytest.raises(AccumulatorOverflow, match="2147515905"):
        connect(codes, _layer(weights, "int8", 2.0**-25, bias, Accumulator(32, "error")))


def test_a_register_that_overflows_in_each_step_forgets_what_it_lost() -> None:
    codes, weights = np.asarray([[100, 100, -100]], np.int8), np.asarray([[100], [100], [100]])
    at_the_end = _layer(weights, "int8", 2.0**-8, accumulator=Accumulator(15, "saturate"))
    in_each = _layer(weights, "int8", 2.0**-8, accumulator=Accumulator(15, "saturate", "each_step"))
    assert connect(codes, at_the_end).tolist() == [[39]]  # 10000 / 256
    assert connect(codes, in_each).tolist() == [[25]]  # (min(20000, 16383) - 10000) / 256


def test_only_tflites_wrapping_register_grows_with_the_bias() -> None:
    assert register_of(Accumulator(32, "wrap"), "int64").bits == 64
    assert register_of(Accumulator(32, "saturate"), "int64").bits == 32
    assert register_of(Accumulator(32, "wrap"), "int32").bits == 32
    assert hold(np.asarray([2**33 + 5]), Accumulator(32, "wrap")).tolist() == [5]
