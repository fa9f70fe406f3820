"""A narrow bias leaves planning as mantissas behind one left shift, the smallest that holds the layer, rounded once."""

import numpy as np
import pytest

from tf_requant import requantize
from tf_requant.io.tflite import read
from tf_requant.model.graph import Graph
from tf_requant.model.ops import info
from tf_requant.planning.constants import aligned
from tf_requant.sample import model_path
from tf_requant.targets import load_target
from tf_requant.validation.legality import check_legality

SAMPLE = model_path().read_bytes()


def biases(graph: Graph) -> dict[str, np.ndarray]:
    layers = [op for op in graph.ops if (row := info(op)) is not None and row.filter is not None]
    return {graph.tensors[op.inputs[2]].name: graph.tensors[op.inputs[2]].data for op in layers}


@pytest.mark.parametrize(
    ("wanted", "bits", "codes", "shift"),
    [
        ([127.0, -128.0], 8, [127, -128], 0),
        ([127.4, 0.5, -0.5, -1.5], 8, [127, 1, -1, -2], 0),
        ([127.5], 8, [128], 1),
        ([-128.4, 3.0], 8, [-128, 3], 0),
        ([-129.0, 3.0, 1.0, -1.0], 8, [-130, 4, 2, -2], 1),
        # 127.55 halves round to 128, which takes one bit more than 8.
        ([254.9, 255.1], 8, [256, 256], 2),
        ([1e6, 3.0], 16, [1000000, 0], 5),
        ([2.0**30, -(2.0**30)], 16, [2**30, -(2**30)], 16),
        ([1e12, -1e12], 8, [127 * 2**24, -(2**31)], 24),
        ([0.0], 8, [0], 0),
    ],
)
def test_the_smallest_shift_that_holds_a_layer_is_taken(wanted, bits, codes, shift):
    found, by = aligned(np.array(wanted), bits)
    assert (found.tolist(), by) == (codes, shift)


def test_no_code_is_further_than_half_a_step_and_none_would_fit_a_smaller_shift():
    random = np.random.default_rng(3)
    for bits in (8, 10, 16, 24, 31):
        for _ in range(50):
            wanted = random.normal(0, 2.0 ** random.uniform(0, 28), random.integers(1, 40))
            codes, shift = aligned(wanted, bits)
            limit = 2 ** (bits - 1)
            assert np.abs(codes - wanted).max() <= 2**shift / 2
            assert not (codes % 2**shift).any() and -limit <= (codes >> shift).min() and (codes >> shift).max() < limit
            halves = wanted / 2.0 ** (shift - 1)
            assert shift == 0 or halves.max() >= limit - 0.5 or halves.min() <= -limit - 0.5


@pytest.mark.parametrize("bits", [8, 9, 10])
def test_the_emitted_biases_are_the_whole_ones_rounded(bits):
    whole = requantize(SAMPLE, "nna_sym8_pow2", corrections="none")
    target = load_target("nna_sym8_pow2").derive(name="narrow", bias={"bits": bits, "scale": "power_of_two"})
    narrow = requantize(SAMPLE, target, corrections="none")
    assert check_legality(read(narrow.model_bytes), target).legal
    assert not check_legality(read(whole.model_bytes), target).legal
    before, after = biases(whole.model.main), biases(read(narrow.model_bytes).main)
    assert before.keys() == after.keys() and any((before[n] != after[n]).any() for n in before)
    for name, codes in after.items():
        peak = int(np.abs(before[name]).max())
        step = max(1, peak >> (bits - 2))
        assert codes.dtype == np.int32 and np.abs(codes.astype(np.int64) - before[name]).max() <= step


def test_the_report_tells_the_width_and_the_shift():
    rows = [r for r in requantize(SAMPLE, "q7_legacy").report.tensors if r.role == "constant" and "ias" in r.name]
    assert rows and all("mantissas of 8 bits, shifted left by " in r.reason for r in rows)


def test_a_bias_that_is_already_narrow_is_left_alone():
    target = load_target("tflite_uint8").derive(name="narrow", bias={"bits": 24})
    source, result = read(SAMPLE).main, requantize(SAMPLE, target).model.main
    for name, codes in biases(result).items():
        assert np.array_equal(codes, biases(source)[name])


@pytest.mark.parametrize(("target", "dtype"), [("ethos_u", "int32"), ("q7_legacy", "int32"), ("tflite_int16x8", "int64")])
def test_a_bias_is_stored_in_the_type_that_the_kernels_read(target, dtype):
    assert {b.dtype.name for b in biases(requantize(SAMPLE, target).model.main).values()} == {dtype}
