"""A C99 runner that knows nothing but the schema computes the simulator's very integers, tensor by tensor."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests.builders import DTYPES
from tests.export.replay import behind_the_host, replay, run
from tests.simulator.cases import CASES
from tests.simulator.cases_moves import MOVES
from tests.simulator.draw import Draw, random_inputs
from tf_requant.errors import RequantError
from tf_requant.export.kinds import Host
from tf_requant.export.lowering import LOWERINGS, lower
from tf_requant.export.program import Program
from tf_requant.model.graph import Graph
from tf_requant.model.quant import code_limits
from tf_requant.numerics.arithmetic import Accumulator, AddStyle, Arithmetic, AveragePoolStyle, Requantizer, Stage
from tf_requant.numerics.rounding import Rounding
from tf_requant.pipeline.export import export
from tf_requant.pipeline.simulate import checked_model
from tf_requant.sample import evaluation_path, model_path
from tf_requant.simulator.mac import AccumulatorOverflow
from tf_requant.simulator.profiles import NNA, PROFILES
from tf_requant.simulator.simulator import Simulator
from tf_requant.targets import builtin_targets, load_target

HOST_ONLY = {"softmax"}
"""What the sample's last op writes: no program computes a SOFTMAX."""


@cache
def _images() -> NDArray[np.uint8]:
    with np.load(evaluation_path()) as file:
        return file["images"]


def _equal(program: Program, computed: Mapping[int, NDArray[Any]], expected: Mapping[int, NDArray[Any]]) -> None:
    """Every tensor of the simulator's that no host op stands before, bit for bit, and no other."""
    assert set(computed) == set(expected) - behind_the_host(program)
    for index, codes in computed.items():
        np.testing.assert_array_equal(codes, expected[index], program.tensors[index].name)
        assert codes.dtype == expected[index].dtype


QUICK = (
    "tflite_int8", "tflite_uint8", "tflite_int16x8", "nna_sym8", "nna_sym8_pow2", "nna_sym8_per_channel", "nna_usym8_pow2",
    "q7_legacy", "dpu_pow2", "gemmini_f32", "k210_kpu",
)  # fmt: skip
"""Targets that differ in more than their scales; the others run among the slow tests."""


@pytest.mark.parametrize("target", [t if t in QUICK else pytest.param(t, marks=pytest.mark.slow) for t in builtin_targets()])
def test_the_sample_network_runs_in_c_as_in_the_simulator(target: str) -> None:
    model = tf_requant.requantize(model_path(), target, corrections="none").model
    exported = export(model, target, _images(), samples=2)
    program, graph = exported.program, model.main
    for sample in exported.samples:
        _equal(program, replay(program, [sample[t] for t in program.inputs]), sample)
    names = {graph.tensors[t].name for t in behind_the_host(program)}
    assert names == HOST_ONLY, "everything but the last op is computed in C"
    _equal_on_extremes(model, target, program)


def test_activations_narrower_than_the_rest_run_in_c_as_in_the_simulator() -> None:
    target = load_target("nna_sym8_per_channel").derive(name="mixed", activation={"bits": [8, 5]})
    model = tf_requant.requantize(model_path(), target, activation_bits=5).model
    exported = export(model, target, _images(), samples=2)
    for sample in exported.samples:
        _equal(exported.program, replay(exported.program, [sample[t] for t in exported.program.inputs]), sample)
    _equal_on_extremes(model, target, exported.program)


def _equal_on_extremes(model: Any, target: Any, program: Program) -> None:
    """Codes at both ends of the type at random, against the public simulate."""
    tensor = model.main.tensors[program.inputs[0]]
    codes = np.random.default_rng(7).choice(code_limits(tensor.dtype), tensor.shape).astype(tensor.dtype)
    expected = tf_requant.simulate(model, codes, arithmetic=target, tensors="all")
    by_index = {i: expected[t.name] for i, t in enumerate(model.main.tensors) if t.name in expected and not t.is_constant}
    _equal(program, replay(program, [codes]), by_index)


def _variants() -> dict[str, Arithmetic]:
    """Every profile and target, and what none of them has: each rounding, narrow registers, every style of ADD and pool."""
    found = dict(PROFILES) | {name: load_target(name).arithmetic for name in builtin_targets()}
    for r in Rounding:
        once = (Stage("rest", r),)
        found[f"shift {r.value}"] = replace(
            NNA,
            requantizer=Requantizer("shift", 0, (-30, 31), once),
            add=AddStyle("shift_align", rounding=r),
            average_pool=AveragePoolStyle("divide", 0, r),
        )
        found[f"two stages {r.value}"] = replace(
            NNA,
            requantizer=Requantizer("multiplier_shift", 24, (-30, 31), (Stage(12, r), Stage("rest", Rounding.HALF_EVEN))),
            add=AddStyle("tflite", rounding=r),
            average_pool=AveragePoolStyle("reciprocal", 30, r, ((9, 7, 6), (4, 1, 2))),
        )
    narrow = {
        "saturates at 16 bits": Accumulator(16, "saturate"),
        "wraps at 16 bits in each step": Accumulator(16, "wrap", "each_step"),
        "saturates at 18 bits in each step": Accumulator(18, "saturate", "each_step"),
        "34 bits, 20 of them read": Accumulator(34, "saturate", "after_bias", 20),
    }
    found |= {name: replace(NNA, accumulator=a, pad="zero" if "wraps" in name else "zero_point") for name, a in narrow.items()}
    found["wide multiplier"] = replace(NNA, requantizer=Requantizer("multiplier_shift", 52, (-60, 64), (Stage("rest", Rounding.HALF_UP),)))
    alike: dict[str, str] = {}
    for name, arithmetic in found.items():
        alike.setdefault(repr(replace(arithmetic, name="")), name)
    return {name: found[name] for name in alike.values()}


ARITHMETICS = _variants()


def _graph(code: str, dtype: str, seed: int, arithmetic: Arithmetic) -> Graph | None:
    power_of_two = arithmetic.requantizer.kind == "shift" or seed % 2 == 0
    try:
        return checked_model(CASES[code](Draw(seed, dtype, power_of_two, symmetric=seed % 4 < 2))).main
    except RequantError:
        return None  # TFLite has no such kernel


def _compare(code: str, dtype: str, seed: int, arithmetic: Arithmetic) -> bool:
    """One random model in both; whether the program computes it."""
    graph = _graph(code, dtype, seed, arithmetic)
    if graph is None:
        return False
    try:
        simulator = Simulator(graph, arithmetic, strict=True)
    except RequantError:
        return False  # the arithmetic cannot hold a ratio of this model
    program = lower(graph, arithmetic, simulator.placed, {})
    assert len(program.ops) == len(graph.ops) and len(program.tensors) == len(graph.tensors)
    inputs = dict(zip(graph.inputs, random_inputs(seed, [graph.tensors[t] for t in graph.inputs])))
    if isinstance(program.ops[0].kind, Host):
        assert program.ops[0].host_reason
        return False
    _equal(program, replay(program, list(inputs.values())), simulator.run(inputs, "all"))
    return True


MOVING = sorted(LOWERINGS.keys() & MOVES.keys() - {"CONCATENATION"})
"""Ops whose codes no arithmetic decides."""
COMPUTING = sorted(LOWERINGS.keys() & CASES.keys() - set(MOVING))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in builtin_targets() else n for n in ARITHMETICS]
)
def test_every_op_that_computes_runs_in_c_as_in_the_simulator(name: str) -> None:
    ran = set()
    for number, code in enumerate(COMPUTING):
        dtype = DTYPES[(number + len(ran) + len(name)) % len(DTYPES)]
        # The first model whose ratios the requantizer can hold, in this type or, where the op has none such, in int8.
        seeds = range(100 * number + len(name), 100 * number + len(name) + 8)
        if any(_compare(code, kind, seed, ARITHMETICS[name]) for kind in dict.fromkeys((dtype, "int8")) for seed in seeds):
            ran.add(code)
    tables = {"LOGISTIC", "TANH", "HARD_SWISH"}
    assert set(COMPUTING) - tables <= ran


@pytest.mark.parametrize("code", MOVING)
def test_every_op_that_moves_codes_runs_in_c_as_in_the_simulator(code: str) -> None:
    assert any([_compare(code, dtype, seed, NNA) for dtype in DTYPES for seed in range(3)])


def test_what_a_register_refuses_is_refused_in_c_as_in_the_simulator() -> None:
    arithmetic = replace(NNA, accumulator=Accumulator(12, "error"))
    for seed in range(40):
        graph = _graph("CONV_2D", "int8", seed, arithmetic)
        assert graph is not None
        inputs = dict(zip(graph.inputs, random_inputs(seed, [graph.tensors[t] for t in graph.inputs])))
        simulator = Simulator(graph, arithmetic, strict=True)
        program = lower(graph, arithmetic, simulator.placed, {})
        try:
            expected = simulator.run(inputs, "all")
        except AccumulatorOverflow:
            assert run(program, list(inputs.values())).returncode == 3
            continue
        _equal(program, replay(program, list(inputs.values())), expected)


def test_a_program_with_one_wrong_number_is_found_out() -> None:
    model = tf_requant.requantize(model_path(), "nna_sym8_pow2", corrections="none").model
    exported = export(model, "nna_sym8_pow2", _images(), samples=1)
    program, sample = exported.program, exported.samples[0]
    kind: Any = program.ops[3].kind
    rescale = replace(kind.layer.output.rescale, shift=(kind.layer.output.rescale.shift[0] + 1,))
    wrong = replace(kind, layer=replace(kind.layer, output=replace(kind.layer.output, rescale=rescale)))
    ops = (*program.ops[:3], replace(program.ops[3], kind=wrong), *program.ops[4:])
    computed = replay(replace(program, ops=ops), [sample[t] for t in program.inputs])
    unequal = {i for i, codes in computed.items() if not np.array_equal(codes, sample[i])}
    before = {t for op in program.ops[:3] for t in op.outputs}
    assert set(program.ops[3].outputs) <= unequal and not unequal & before
