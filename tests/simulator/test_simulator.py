"""What a user of the simulator meets: batches, states, names, strictness, counts."""

import importlib.util
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import tf_requant
from tests.builders import Builder, binary, conv2d, depthwise, fully_connected, small_net, unary
from tf_requant.errors import TargetError, UnsupportedOpError, UsageError
from tf_requant.io.tflite import read
from tf_requant.numerics.arithmetic import Accumulator
from tf_requant.sample import evaluation_path, model_path
from tf_requant.simulator.mac import AccumulatorOverflow
from tf_requant.simulator.ops import KERNELS
from tf_requant.simulator.profiles import NNA, PROFILES


def images(count: int) -> np.ndarray:
    with np.load(evaluation_path()) as file:
        return np.asarray(file["images"][:count])


def test_a_batch_is_its_samples_one_by_one() -> None:
    x = images(3)
    together = tf_requant.simulate(model_path(), x, tensors="all")
    for number in range(3):
        alone = tf_requant.simulate(model_path(), x[number], tensors="all")
        assert alone.keys() == together.keys()
        assert all(np.array_equal(together[name][number : number + 1], codes) for name, codes in alone.items())


def test_outputs_are_a_part_of_all_tensors() -> None:
    x = images(1)
    some, every = tf_requant.simulate(model_path(), x), tf_requant.simulate(model_path(), x, tensors="all")
    assert len(every) > 20 and all(np.array_equal(every[name], codes) for name, codes in some.items())


def test_a_dict_by_name_and_an_array_are_the_same() -> None:
    graph = read(small_net()).main
    x = np.random.default_rng(0).integers(-128, 128, (2, 8, 8, 3)).astype(np.int8)
    name = graph.tensors[graph.inputs[0]].name
    one, other = tf_requant.simulate(small_net(), x), tf_requant.simulate(small_net(), {name: x.astype(np.int64)})
    assert all(np.array_equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (np.zeros((1, 8, 8, 4), np.int8), "has shape"),
        (np.zeros((1, 8, 8, 3), np.float32), "pass its codes"),
        (np.full((1, 8, 8, 3), 200), "expected codes in -128..127"),
        (np.zeros((0, 8, 8, 3), np.int8), "no sample"),
        ({"other": np.zeros((1, 8, 8, 3), np.int8)}, "got other"),
    ],
)
def test_codes_that_do_not_fit_are_refused(x: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        tf_requant.simulate(small_net(), x)  # type: ignore[arg-type]


def test_an_unknown_arithmetic_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TargetError, match="tflite_ref, .*nna_sym8"):
        tf_requant.simulate(small_net(), np.zeros((1, 8, 8, 3), np.int8), arithmetic="quick")


def _two_strangers() -> bytes:
    b = Builder()
    data, middle, last = (b.activation([1, 6], "int8") for _ in range(3))
    b.op("ABS", [data], [middle])
    b.op("ABS", [middle], [last])
    return b.finish([data], [last])


def test_strict_refuses_every_op_before_running_in_one_message() -> None:
    x = np.arange(-3, 3).astype(np.int8)[None]
    with pytest.raises(UnsupportedOpError) as refusal:
        tf_requant.simulate(_two_strangers(), x, strict=True)
    assert [line.split(" (")[0] for line in str(refusal.value).splitlines()] == ["op 0", "op 1"]


def test_what_the_simulator_does_not_have_runs_on_the_host() -> None:
    x = np.asarray([[-3, -1, 0, 2, 5, 100]], np.int8)
    with tf_requant.Simulation(_two_strangers()) as simulation:
        assert next(iter(simulation.run(x).values())).tolist() == [[3, 1, 0, 2, 5, 100]]
        assert [p.where for _, p in simulation.report.placed] == ["host", "host"]


def test_a_ratio_that_a_shift_cannot_hold_runs_by_the_reference_rules_and_is_reported() -> None:
    data = conv2d("int8", seed=3)
    x = np.random.default_rng(1).integers(-128, 128, (1, 8, 8, 4)).astype(np.int8)
    with tf_requant.Simulation(data, "nna_sym8_pow2") as simulation:
        codes = simulation.run(x)
        assert [p.where for _, p in simulation.report.placed] == ["reference"]
        assert "a shift only holds powers of two" in str(simulation.report)
    assert all(np.array_equal(codes[k], v) for k, v in tf_requant.simulate(data, x).items())
    with pytest.raises(UnsupportedOpError, match="a shift only holds powers of two"):
        tf_requant.simulate(data, x, arithmetic="nna_sym8_pow2", strict=True)


def test_an_op_that_the_target_does_not_list_runs_by_the_reference_rules() -> None:
    x = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 3)).astype(np.int8)
    with tf_requant.Simulation(small_net(), "nna_sym8") as simulation:
        simulation.run(x)
        elsewhere = [(where, p.where) for where, p in simulation.report.placed if p.where != "device"]
    assert len(elsewhere) == 1 and "SOFTMAX" in elsewhere[0][0] and elsewhere[0][1] == "reference"
    assert "does not list it" in str(simulation.report)


def test_an_overflow_that_is_an_error_names_the_op() -> None:
    narrow = replace(NNA, accumulator=Accumulator(12, "error"))
    with pytest.raises(AccumulatorOverflow, match=r"op 0 \(CONV_2D"):
        tf_requant.simulate(conv2d("int8"), np.full((1, 8, 8, 4), 127, np.int8), arithmetic=narrow)


def test_a_run_counts_saturations_ties_and_accumulator_bits() -> None:
    b = Builder()
    data = b.tensor([1, 4], "int8", 1.0, 0)
    weights = b.tensor([1, 4], "int8", 0.5, 0, [[1, 1, 1, 1]])
    bias = b.tensor([1], "int32", 0.5, 0, [0])
    output = b.tensor([1, 1], "int8", 1.0, 0)
    b.op("FULLY_CONNECTED", [data, weights, bias], [output], "FullyConnectedOptions", 4)
    x = np.asarray([[1, 0, 0, 0], [1, 1, 0, 0], [127, 127, 127, 0], [-128, -128, -128, -128]], np.int8)
    with tf_requant.Simulation(b.finish([data], [output]), "nna", observe=True) as simulation:
        codes = next(iter(simulation.run(x).values()))
        (seen,) = simulation.report.observations
    assert codes.reshape(-1).tolist() == [1, 1, 127, -128]  # 0.5 up, 1, 190.5 and -256 saturate
    assert (seen.elements, seen.saturated, seen.ties, seen.overflowed) == (4, 2, 2, 0)
    # -512..381 seen; 4 * 128 at worst, either sign.
    assert (seen.observed_bits, seen.worst_case_bits, seen.register_bits) == (10, 11, 32)


def test_a_table_s_clamps_are_counted() -> None:
    b = Builder()
    data, output = b.tensor([1, 4], "int8", 0.1, 0), b.tensor([1, 4], "int8", 0.05, 0)
    b.op("HARD_SWISH", [data], [output])
    with tf_requant.Simulation(b.finish([data], [output]), "nna", observe=True) as simulation:
        codes = next(iter(simulation.run(np.asarray([[10, 63, 64, 127]], np.int8)).values()))
        (seen,) = simulation.report.observations
    # Reals 0.667, 6.3, 6.4 and 12.7 in steps of 0.05: 126 fits, 128 and 254 do not.
    assert codes.tolist() == [[13, 126, 127, 127]] and (seen.elements, seen.saturated) == (4, 2)


def test_softmax_is_the_host_s_business_under_nna() -> None:
    with tf_requant.Simulation(unary("SOFTMAX", options="SoftmaxOptions", beta=1.0), "nna") as simulation:
        ((_, place),) = simulation.report.placed
    assert place.where == "reference" and "does not define it" in place.reason


def test_a_relu_that_clamps_at_the_type_s_limit_is_no_saturation() -> None:
    x = np.random.default_rng(0).integers(-128, 128, (1, 12)).astype(np.int8)
    b = Builder()
    data, output = b.tensor([1, 12], "int8", 0.1, 0), b.tensor([1, 12], "int8", 0.05, -128)
    b.op("RELU", [data], [output], version=2)
    with tf_requant.Simulation(b.finish([data], [output]), observe=True) as simulation:
        codes = next(iter(simulation.run(x).values()))
        assert simulation.report.observations[0].saturated == 0 and codes.min() == -128


def test_a_state_starts_at_zero_at_each_call(shared) -> None:  # type: ignore[no-untyped-def]
    path = shared / "models/keras_lstm_mnist_ptq.tflite"
    graph = read(path).main
    tensor = graph.tensors[graph.inputs[0]]
    x = np.random.default_rng(3).uniform(0, 1, tensor.shape).astype(tensor.dtype)
    with tf_requant.Simulation(path) as simulation:
        first, second = simulation.run(x, "all"), simulation.run(x, "all")
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_input_codes_are_not_changed() -> None:
    x = np.random.default_rng(0).integers(-128, 128, (2, 12)).astype(np.int8)
    before = x.copy()
    tf_requant.simulate(fully_connected("int8"), x, tensors="all")
    tf_requant.simulate(unary("RELU", shape=(2, 12)), x, tensors="all")
    assert np.array_equal(x, before)


def test_the_issue_s_ops_all_have_a_kernel() -> None:
    wanted = """CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV FULLY_CONNECTED ADD SUB MUL AVERAGE_POOL_2D MAX_POOL_2D MEAN
    CONCATENATION SPLIT PAD PADV2 RESHAPE SQUEEZE EXPAND_DIMS TRANSPOSE SLICE STRIDED_SLICE PACK UNPACK TILE GATHER
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SOFTMAX LOGISTIC TANH HARD_SWISH LEAKY_RELU PRELU RELU RELU6 QUANTIZE
    DEQUANTIZE MAXIMUM MINIMUM ARG_MAX UNIDIRECTIONAL_SEQUENCE_LSTM"""
    assert set(wanted.split()) <= set(KERNELS)


def test_a_profile_is_called_by_its_own_name() -> None:
    assert all(name == arithmetic.name for name, arithmetic in PROFILES.items())


def test_what_a_run_returns_is_the_caller_s_to_keep() -> None:
    x = np.arange(12).astype(np.int8)[None]
    b = Builder()
    data = b.activation([1, 12], "int8")
    output = b.activation([3, 4], "int8")
    b.op("RESHAPE", [data, b.integers([3, 4])], [output], "ReshapeOptions", newShape=[3, 4])
    with tf_requant.Simulation(b.finish([data], [output])) as simulation:
        result = next(iter(simulation.run(x).values()))
        x[:] = 99
        assert result.reshape(-1).tolist() == list(range(12))


def test_a_constant_output_is_returned() -> None:
    b = Builder()
    data, output = b.activation([1, 2], "int8"), b.activation([1, 2], "int8")
    constant = b.tensor([1, 2], "int8", 0.05, 0, [[3, 4]])
    b.op("RELU", [data], [output], version=2)
    codes = tf_requant.simulate(b.finish([data], [output, constant]), np.zeros((1, 2), np.int8))
    assert len(codes) == 2 and codes["tensor_2"].tolist() == [[3, 4]]


def test_an_overflow_in_each_step_is_counted() -> None:
    steps = replace(NNA, accumulator=Accumulator(14, "saturate", "each_step"))
    for data, shape in ((fully_connected("int8"), (2, 12)), (depthwise("int8"), (1, 8, 8, 4))):
        with tf_requant.Simulation(data, steps, observe=True) as simulation:
            simulation.run(np.full(shape, 127, np.int8))
            (seen,) = simulation.report.observations
        assert seen.overflowed > 0 and (seen.observed_bits or 0) > 14


def test_an_observed_run_is_numpy_s() -> None:
    with tf_requant.Simulation(small_net(), observe=True) as simulation:
        assert simulation.report.engine == "numpy"


@pytest.mark.parametrize("bits", [8, 16, 24, 31, 32, 33, 40, 52])
def test_every_width_of_a_multiplier_gives_the_definition_s_codes(bits: int) -> None:
    target = tf_requant.load_target("nna_sym8").derive(name="wide", requantizer={"multiplier_bits": bits})
    x = np.random.default_rng(bits).integers(-128, 128, (1, 8, 8, 4)).astype(np.int8)
    found = []
    for engine, observe in (("numpy", True), ("numpy", False), ("auto", False)):
        with tf_requant.Simulation(conv2d("int8", seed=bits), target, engine=engine, observe=observe) as simulation:  # type: ignore[arg-type]
            found.append(next(iter(simulation.run(x).values())))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


@pytest.mark.parametrize("shape", [(1, 512, 512, 8), (2, 512, 256, 8)])
def test_memory_stays_near_the_live_codes(shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    x = np.zeros(shape, np.int8)
    for code in ("ADD", "MUL"):
        with tf_requant.Simulation(binary(code, shapes=(shape, shape)), engine="numpy") as simulation:
            names = [simulation.names[t] for t in simulation.model.main.inputs]
            tracemalloc.start()
            simulation.run(dict.fromkeys(names, x))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 3 * size + (64 << 20) and peak < 8 * size  # both inputs, the output, and small temporaries


def test_numba_is_compared_wherever_it_is_installed() -> None:
    if importlib.util.find_spec("numba") is None:
        pytest.skip("numba is not installed (pip install 'tf_requant[fast]'): only numpy's code was tested")
    with tf_requant.Simulation(small_net()) as simulation:
        assert simulation.report.engine == "numba"
