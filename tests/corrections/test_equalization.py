"""Equalization moves range between filters and leaves the function alone, clamps included."""

import numpy as np
import pytest

import tf_requant
from tf_requant.corrections import equalization
from tf_requant.corrections.equalization import MARGIN, channel_factors, equalize, wanted_codes
from tf_requant.io.tflite import read
from tf_requant.model.graph import Model
from tf_requant.plan import Plan
from tf_requant.planning.planner import plan_model
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.validation.legality import check_legality


def images(path: object, count: int) -> np.ndarray:
    with np.load(path) as file:  # type: ignore[call-overload]
        return np.asarray(file["images"][:count])


def test_the_factor_makes_both_ranges_equal() -> None:
    found = channel_factors(np.array([4.0, 1.0]), np.array([1.0, 1.0]), np.array([0.1, 0.1]), 6.0)
    np.testing.assert_allclose(found, [1.0, 2.0])  # sqrt(r2 / r1), ranges relative to the largest


def test_a_channel_that_reaches_the_clamp_keeps_its_factor_of_one() -> None:
    found = channel_factors(np.array([1.0, 1.0, 1.0]), np.array([0.1, 1.0, 0.1]), np.array([6.0, 6.0, 0.1]), 6.0)
    assert found[0] == found[1] == 1.0 and found[2] == pytest.approx(np.sqrt(0.1))


def test_a_channel_grows_only_as_far_as_it_stays_below_the_clamp() -> None:
    found = channel_factors(np.array([1.0, 0.01]), np.array([1.0, 1.0]), np.array([1.0, 3.0]), 6.0)
    assert found[1] == pytest.approx(6.0 / (3.0 * MARGIN))


def test_a_dead_channel_is_left_alone() -> None:
    assert (channel_factors(np.array([1.0, 0.0]), np.array([1.0, 1.0]), np.array([1.0, 0.0]), 6.0) == 1).all()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equalizes whatever can be, worth it or not."""
    monkeypatch.setattr(equalization, "_WORTH", 1e9)


def planned(target: str) -> tuple[Model, Plan, Plan]:
    source = read(model_path())
    plain = plan_model(source, tf_requant.load_target(target))
    found = tf_requant.calibrate(source, images(calibration_path(), 30), noise=False)
    return source, plain, equalize(source, plain, found.peaks)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2", "tflite_int8_per_tensor"])
def test_filters_and_biases_move_by_exactly_the_factors(target: str) -> None:
    source, plain, moved = planned(target)
    graph, before, after = source.main, plain.graphs[0], moved.graphs[0]
    factors = {t: a.channel_gains for t, a in after.activations.items() if a.channel_gains is not None}
    assert len(factors) >= 5 and any((f != 1).any() for f in factors.values())
    depthwise = 0
    for (index, position), constant in after.constants.items():
        op = graph.ops[index]
        if position != 1:
            continue
        old, new = (wanted_codes(graph, index, c[index, 1]) * float(c[index, 1].params.scale[0]) for c in (before.constants, after.constants))
        groups, outputs, taps = old.shape
        written = factors.get(op.outputs[0], np.ones(groups * outputs)).reshape(groups, outputs, 1)
        read_by = factors.get(op.inputs[0], np.ones(1))
        if read_by.size > 1 and groups == 1:
            read_by = np.tile(read_by, taps // read_by.size)[None, None]
        elif read_by.size > 1:
            read_by = read_by[:, None, None]
        depthwise += op.code == "DEPTHWISE_CONV_2D" and bool((written != 1).any())
        np.testing.assert_allclose(new, old * written / read_by, rtol=1e-6)
        bias = op.inputs[2]
        codes = graph.tensors[bias].data
        assert codes is not None
        real = [codes * np.asarray(c[index, 2].step) * c[index, 2].params.scale for c in (before.constants, after.constants)]
        np.testing.assert_allclose(real[1], real[0] * written.reshape(-1), rtol=1e-5)
        assert constant.codes is None or np.abs(constant.codes).max() <= 127
    assert depthwise >= 2


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2"])
def test_the_function_stays(target: str) -> None:
    seen, unseen = images(calibration_path(), 60), images(evaluation_path(), 50)
    result = tf_requant.requantize(model_path(), target, corrections="equalization,bias", calibration=seen)
    assert check_legality(read(result.model_bytes), tf_requant.load_target(target)).legal
    check = tf_requant.validate(result.model_bytes, reference=model_path(), data=unseen)
    assert check.quality["litert"].agreement >= 0.9
    # Compared channel by channel through the factors in the record: an inverted one leaves 0 dB.
    assert min(t.sqnr for t in check.tensors) > 10


def test_what_has_nothing_to_gain_is_left_alone() -> None:
    _, plain, moved = planned("nna_sym8_per_channel")
    assert moved.graphs[0].constants == plain.graphs[0].constants


def test_auto_leaves_it_out_and_it_can_be_asked_for() -> None:
    data = images(calibration_path(), 10)
    asked = tf_requant.requantize(model_path(), "nna_sym8", corrections="equalization,bias", calibration=data)
    assert asked.report.corrections == ("equalization", "bias")
    assert "equalization" not in tf_requant.requantize(model_path(), "nna_sym8", calibration=data).report.corrections
