"""The report's figures: bounds that nothing exceeds, errors measured where a correction ran."""

import numpy as np
import pytest

import tf_requant
from tf_requant.sample import calibration_path, evaluation_path, model_path


def images(path: object, count: int) -> np.ndarray:
    with np.load(path) as file:  # type: ignore[call-overload]
        return np.asarray(file["images"][:count])


@pytest.mark.parametrize("target", ["nna_sym8_pow2", "tflite_int8", "tflite_uint8", "tflite_int16x8"])
def test_no_accumulator_exceeds_its_bound(target: str) -> None:
    result = tf_requant.requantize(model_path(), target, calibration=images(calibration_path(), 10))
    bounds = {row.name: row for row in result.report.accumulators}
    with tf_requant.Simulation(result.model_bytes, "tflite_ref", observe=True) as simulation:
        spec = result.model.main.tensors[result.model.main.inputs[0]]
        low, high = np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max
        random = np.random.default_rng(0).integers(low, high + 1, (2, *spec.shape[1:])).astype(spec.dtype)
        simulation.run(random)
        seen = [o for o in simulation.report.observations if o.worst_case_bits is not None]
    assert len(seen) >= 10
    for observation in seen:
        row = bounds[observation.output]
        assert max(abs(observation.lowest), abs(observation.highest)) <= row.bound
        assert observation.observed_bits <= row.bits == observation.worst_case_bits


def test_the_readable_report_tells_the_widest_accumulator() -> None:
    result = tf_requant.requantize(model_path(), "nna_sym8_pow2")
    widest = max(row.bits for row in result.report.accumulators)
    assert f"accumulators: at most {widest} of the target's 32 bits" in str(result.report)
    assert result.report.to_dict()["accumulators"][0].keys() == {"graph", "name", "bound", "bits"}


def test_every_tensor_behind_a_correction_has_a_measured_error() -> None:
    result = tf_requant.requantize(model_path(), "nna_sym8_pow2", calibration=images(calibration_path(), 20))
    rows = [r for r in result.report.tensors if r.role == "activation"]
    measured = [r.measured for r in rows if r.measured is not None]
    assert len(measured) >= len(rows) - 2  # the input, and what stands behind the scores
    check = tf_requant.validate(result.model_bytes, reference=model_path(), data=images(evaluation_path(), 20))
    sqnr = {t.name: t.sqnr for t in check.tensors}
    # The same tensors on other images in LiteRT: their errors lie near those measured.
    found = [10 * np.log10(r.measured) + sqnr[r.name] for r in rows if r.measured and r.name in sqnr and np.isfinite(sqnr[r.name])]
    assert len(found) >= 10 and abs(np.median(found)) < 3
