"""Codebook targets: every filter takes its few levels, and they do better than as many uniform ones."""

import numpy as np
import pytest

import tf_requant
from tests import builders
from tf_requant.io import tflite
from tf_requant.model.ops import info
from tf_requant.numerics.codebook import LEVEL_MULTIPLES, nearest, shared_levels
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.targets import Target, load_target
from tf_requant.validation.legality import check_legality

BASES = ("nna_sym8", "nna_sym8_per_channel", "nna_sym8_pow2", "nna_sym8_pow2_per_channel", "tflite_int8")


def coded(base: str, bits: int) -> Target:
    return load_target(base).derive(name="coded", weight={"codebook": bits})


def filters(result: tf_requant.Result) -> list[np.ndarray]:
    graph = result.model.main
    return [graph.tensors[op.inputs[info(op).filter]].data for op in graph.ops if info(op) and info(op).filter is not None]


def images(count: int) -> np.ndarray:
    return np.load(calibration_path())["images"][:count]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("bits", [2, 4])
def test_every_filter_takes_no_more_codes_than_its_table_holds(base: str, bits: int) -> None:
    target = coded(base, bits)
    result = tf_requant.requantize(model_path(), target, corrections="rounding")
    counts = [np.unique(codes).size for codes in filters(result)]
    assert max(counts) <= 2**bits and sum(c == 2**bits for c in counts) > len(counts) // 2
    assert check_legality(result.model, target).legal
    weights = result.report.weights
    assert {row.bits for row in weights} <= set(range(1, bits + 1)) and max(row.levels for row in weights) == 2**bits
    wide = tf_requant.requantize(model_path(), base, corrections="none").model
    verdict = check_legality(wide, target)
    assert not verdict.legal and any("different codes" in v for v in verdict.violations)


def test_corrections_stay_in_the_table() -> None:
    target = coded("nna_sym8_per_channel", 3)
    for corrections in ("auto", "error_folding", "rounding,bias"):
        result = tf_requant.requantize(model_path(), target, calibration=images(20), corrections=corrections)
        assert check_legality(result.model, target).legal, corrections


def test_four_bits_of_a_codebook_beat_four_uniform_bits_at_the_same_corrections() -> None:
    """On 256 images that neither saw: 22.6 against 21.7 dB were seen."""
    data, known = np.load(evaluation_path())["images"], images(64)
    found = {}
    for name, target in (("table", coded("nna_sym8_per_channel", 4)), ("uniform", None)):
        aim = target or load_target("nna_sym8_per_channel").derive(name="uniform", weight={"bits": [4]})
        result = tf_requant.requantize(model_path(), aim, calibration=known)
        check = tf_requant.validate(result.model_bytes, reference=model_path(), data=data, target=aim, layers=0)
        found[name] = check.quality["litert"].sqnr
    assert found["table"] > found["uniform"]


@pytest.mark.parametrize("build", [builders.conv2d, builders.depthwise, builders.fully_connected, builders.transpose_conv])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_every_op_with_a_filter_takes_a_codebook(build, dtype: str) -> None:  # noqa: ANN001
    options = {"batch": 1} if build is builders.fully_connected else {}
    result = tf_requant.requantize(tflite.read(build(dtype, **options)), coded("nna_sym8_per_channel", 2))
    assert [np.unique(codes).size <= 4 for codes in filters(result)] == [True]


def test_rows_that_share_levels_only_gain_by_their_own_steps() -> None:
    rng = np.random.default_rng(0)
    rows = rng.laplace(0, 20, (12, 80)) * rng.uniform(0.3, 1, (12, 1))
    rows, weights = rows.clip(-127, 127), rng.random((12, 80))
    tried = np.stack([np.full(12, m) for m in LEVEL_MULTIPLES[False]])

    def error(levels: np.ndarray, multiple: np.ndarray) -> float:
        step = multiple[:, None]
        return float((weights * (nearest(rows / step, levels) * step - rows) ** 2).sum())

    alone, ones = shared_levels(rows, weights, 16, -127, 127, np.ones((1, 1)))
    levels, multiple = shared_levels(rows, weights, 16, -127, 127, tried)
    assert ones.tolist() == [1.0] and levels.size <= 16
    assert error(levels, multiple) < 0.97 * error(alone, np.ones(12))
