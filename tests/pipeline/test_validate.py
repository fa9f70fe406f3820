"""validate, end to end on the bundled model."""

import json

import numpy as np
import pytest

import tf_requant
from tf_requant.errors import CalibrationError, UsageError
from tf_requant.sample import evaluation_path, model_path


@pytest.fixture(scope="module")
def candidate() -> bytes:
    return tf_requant.requantize(model_path(), "nna_sym8_pow2").model_bytes


def test_a_power_of_two_model_stays_close_and_legal(candidate: bytes) -> None:
    check = tf_requant.validate(candidate, reference=model_path(), data=evaluation_path(), target="nna_sym8_pow2")
    # The source's resolvers agree with each other on 97 to 99 % of such samples; 256 samples give one point of error.
    assert check.agreement >= 0.95
    assert check.passed and check.legality is not None and check.legality.legal
    assert check.reference_top1 is not None and check.top1 is not None and abs(check.top1 - check.reference_top1) < 0.03


def test_layers_are_compared_after_their_gain(candidate: bytes) -> None:
    check = tf_requant.validate(candidate, reference=model_path(), data=evaluation_path(), layers=2)
    by_name = {t.name: t.sqnr for t in check.tensors}
    assert by_name["conv0/Relu6"] > 20  # its gain is 1.323: uncorrected, the difference alone would leave 10 dB


def test_a_model_equals_itself() -> None:
    check = tf_requant.validate(model_path(), reference=model_path(), data=evaluation_path(), layers=1)
    assert check.agreement == 1.0 and all(t.largest == 0 for t in check.tensors)
    assert json.loads(json.dumps(check.to_dict()))["quality"]["litert"]["sqnr"] is None


def test_a_missed_threshold_is_a_sentence(candidate: bytes) -> None:
    images = np.load(evaluation_path())["images"][:32]
    check = tf_requant.validate(candidate, reference=model_path(), data=images, layers=0, min_agreement=1.01, target="nna_sym8")
    assert not check.passed and "expected at least 1.01" in check.failures[0]


def test_an_illegal_model_fails() -> None:
    images = np.load(evaluation_path())["images"][:2]
    recentred = tf_requant.requantize(model_path(), "tflite_int8").model_bytes
    check = tf_requant.validate(recentred, reference=model_path(), data=images, layers=0, target="nna_sym8")
    assert not check.passed and "zero point" in check.failures[0]


def test_what_cannot_be_compared_is_refused(candidate: bytes, shared) -> None:  # noqa: ANN001
    with pytest.raises(UsageError, match="known are"):
        tf_requant.validate(candidate, reference=model_path(), data=evaluation_path(), against=("lite",))
    other = shared / "models/mobilenet_v1_0.25_128_quant.tflite"
    with pytest.raises(CalibrationError, match="right reference"):
        tf_requant.validate(candidate, reference=other, data=np.zeros((1, 128, 128, 3), np.uint8))


def test_the_simulator_is_a_backend_and_is_proved_exact() -> None:
    candidate = tf_requant.requantize(model_path(), target="nna_sym8_pow2").model_bytes
    check = tf_requant.validate(
        candidate, reference=model_path(), data=evaluation_path(), target="nna_sym8_pow2", against=("litert_ref", "sim"), layers=2
    )
    assert list(check.quality) == ["litert_ref", "sim"] and check.exactness is not None
    assert check.exactness.first is None and check.exactness.mismatches == 0 and check.exactness.samples == 2
    assert check.exactness.elements > 100_000
    assert check.to_dict()["exactness"]["arithmetic"] == "tflite_ref"
    assert "0 of" in str(check) and check.passed


def test_the_simulated_candidate_runs_its_target_s_arithmetic() -> None:
    candidate = tf_requant.requantize(model_path(), target="nna_sym8").model_bytes
    plain, own = (
        tf_requant.validate(candidate, reference=model_path(), data=evaluation_path(), target=target, against=("sim",), layers=0)
        for target in (None, "nna_sym8")
    )
    # nna averages with a 15-bit reciprocal and rounds once, so that some outputs move.
    assert plain.quality["sim"].sqnr != own.quality["sim"].sqnr
