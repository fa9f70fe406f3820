"""The vectorized simulator equals an independent one in plain Python integers, op by op, arithmetic by arithmetic."""

from dataclasses import replace

import numpy as np
import pytest

from tests.builders import DTYPES
from tests.simulator import scalar
from tests.simulator.cases import CASES
from tests.simulator.draw import Draw, random_inputs
from tf_requant.errors import RequantError
from tf_requant.model.graph import Graph
from tf_requant.model.ops import info
from tf_requant.numerics.arithmetic import (
    Accumulator,
    AddStyle,
    Arithmetic,
    AveragePoolStyle,
    Intermediate,
    Requantizer,
    Stage,
)
from tf_requant.numerics.rounding import Rounding
from tf_requant.pipeline.simulate import checked_model
from tf_requant.simulator.mac import AccumulatorOverflow
from tf_requant.simulator.profiles import NNA, PROFILES
from tf_requant.simulator.simulator import Simulator
from tf_requant.targets import builtin_targets, load_target


def _variants() -> dict[str, Arithmetic]:
    """Every profile and target, and arithmetics that no one of them has: each rounding, width, overflow and style."""
    found = dict(PROFILES) | {name: load_target(name).arithmetic for name in builtin_targets()}
    for r in Rounding:
        once = (Stage("rest", r),)
        found[f"shift {r.value}"] = replace(
            NNA, requantizer=Requantizer("shift", 0, (-30, 31), once), add=AddStyle("shift_align", rounding=r)
        )
        found[f"16-bit multiplier {r.value}"] = replace(
            NNA,
            requantizer=Requantizer("multiplier_shift", 16, (-30, 31), once),
            average_pool=AveragePoolStyle("multiply_shift", 15, r),
        )
        found[f"two stages {r.value}"] = replace(
            NNA,
            requantizer=Requantizer(
                "multiplier_shift", 24, (-30, 31), (Stage(12, r), Stage("rest", Rounding.HALF_EVEN))
            ),
            add=AddStyle("tflite"),
            average_pool=AveragePoolStyle("divide", 0, r),
        )
    float32 = Requantizer(
        "float32", 0, stages=(Stage("rest", Rounding.HALF_EVEN),), scale_product="float32", ratio="float32"
    )
    narrow = {
        "saturates at 16 bits": Accumulator(16, "saturate"),
        "wraps at 16 bits in each step": Accumulator(16, "wrap", "each_step"),
        "saturates at 18 bits in each step": Accumulator(18, "saturate", "each_step"),
        "refuses beyond 17 bits": Accumulator(17, "error"),
        "34 bits, 20 of them read": Accumulator(34, "saturate", "after_bias", 20),
        "groups of 5 in 16 bits": Accumulator(32, "saturate", intermediate=Intermediate(16, 5)),
        "groups of 2 in 14 bits, then 18 in each step": Accumulator(18, "saturate", "each_step", None, Intermediate(14, 2)),
    }
    found |= {
        name: replace(NNA, accumulator=a, pad="zero" if "wraps" in name else "zero_point") for name, a in narrow.items()
    }
    table = AveragePoolStyle("reciprocal", 30, Rounding.HALF_UP, ((9, 7, 6), (4, 1, 2)))
    found["pool table"] = replace(NNA, average_pool=table)
    found["in tiles"] = replace(NNA, accumulator=Accumulator(48, "saturate"), winograd="F(2x2,3x3)")
    for bits in (2, 4, 7):
        found[f"{bits}-bit activations"] = replace(NNA, activation_bits=bits)
    found["activations of 3, 5 and 8 bits"] = replace(NNA, activation_widths=(8, 3, 5))
    found["activations of 4 bits, some of 8"] = replace(NNA, activation_bits=4, activation_widths=(4, 8))
    found["7-bit activations, TFLite's roundings"] = replace(PROFILES["tflite_ref"], activation_bits=7)
    found["float32"] = replace(NNA, requantizer=float32, add=AddStyle("float32"))
    found["float64"] = replace(NNA, requantizer=Requantizer("float64", 0, stages=(Stage("rest", Rounding.HALF_AWAY),)))
    return found


ARITHMETICS = _variants()


def _compare(code: str, dtype: str, seed: int, arithmetic: Arithmetic) -> bool:
    """One random model in both; whether both could run it."""
    draw = Draw(
        seed, dtype, power_of_two=arithmetic.requantizer.kind == "shift" or seed % 2 == 0, symmetric=seed % 4 < 2
    )
    try:
        graph = checked_model(CASES[code](draw)).main
    except RequantError:
        return False  # TFLite has no such kernel
    graph = _with_widths(graph, arithmetic.activation_widths, seed)
    inputs = dict(zip(graph.inputs, random_inputs(seed, [graph.tensors[t] for t in graph.inputs])))
    try:
        expected = scalar.execute(graph, inputs, arithmetic)
    except (NotImplementedError, ValueError):
        return False
    except OverflowError:
        with pytest.raises(AccumulatorOverflow):
            Simulator(graph, arithmetic, strict=True).run(inputs)
        return True
    for engine, observe in (("numpy", False), ("numpy", True), ("auto", False)):
        simulator = Simulator(graph, arithmetic, strict=True, observe=observe, engine=engine)  # type: ignore[arg-type]
        for index, codes in simulator.run(inputs).items():
            np.testing.assert_array_equal(
                codes, expected[index], f"{code} {dtype} seed {seed} {engine} under {arithmetic}"
            )
    return True


def _with_widths(graph: Graph, widths: tuple[int, ...], seed: int) -> Graph:
    """Activations that name widths of their own, or none; those between which codes are copied name the same, as in a plan."""
    random, (op,) = np.random.default_rng(seed), graph.ops
    drawn = [None if random.random() < 0.3 or not widths else int(random.choice(widths)) for _ in graph.tensors]
    row = info(op)
    if row is not None and row.rule == "same":
        drawn = [drawn[0]] * len(drawn)
    return graph.with_(tensors=tuple(t.with_(bits=b) if t.is_activation else t for t, b in zip(graph.tensors, drawn)))


TABLES = {"LOGISTIC", "TANH", "HARD_SWISH"}


def _decided(arithmetic: Arithmetic) -> set[str]:
    """The ops whose bits an arithmetic decides: all but SOFTMAX, and tables that are TFLite's own."""
    own = set(arithmetic.lookup.ops) if arithmetic.lookup.precision == "float64" else set()
    return set(CASES) - {"SOFTMAX"} - (TABLES - own)


@pytest.mark.parametrize("name", ARITHMETICS)
def test_every_op_equals_the_scalar_oracle(name: str) -> None:
    ran = set()
    for number, code in enumerate(CASES):
        for dtype in DTYPES:
            # The first model whose ratios the requantizer can hold; some widen, and some shifts only go right.
            if any(_compare(code, dtype, 1000 * number + len(name) + seed, ARITHMETICS[name]) for seed in range(10)):
                ran.add(code)
    assert _decided(ARITHMETICS[name]) <= ran


@pytest.mark.slow
@pytest.mark.parametrize("name", ARITHMETICS)
@pytest.mark.parametrize("code", CASES)
def test_every_op_equals_the_scalar_oracle_at_length(name: str, code: str) -> None:
    for dtype in DTYPES:
        for seed in range(2):
            _compare(code, dtype, seed, ARITHMETICS[name])
