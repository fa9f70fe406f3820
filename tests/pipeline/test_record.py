"""What a re-expressed model remembers: its calibration samples, and what a pixel means."""

import numpy as np
import pytest

import tf_requant
from tests.corrections.test_bias import images
from tf_requant.errors import CalibrationError
from tf_requant.io import tflite
from tf_requant.io.data import feed
from tf_requant.model.graph import Graph, Model, Op, Tensor
from tf_requant.model.quant import QuantParams
from tf_requant.pipeline.inputs import input_codes, input_specs
from tf_requant.pipeline.record import METADATA, gains_between, read_record
from tf_requant.sample import calibration_path, evaluation_path, model_path


def pooled(scale: float, zero_point: int, dtype: str = "int8") -> Model:
    """Real values from 0 up, as images without a mean have them."""
    params = QuantParams(dtype, np.float32([scale]), np.int64([zero_point]))
    tensors = tuple(Tensor(n, dtype, (1, 4, 4, 3), params) for n in ("x", "y"))
    return Model((Graph("main", tensors, (Op("RELU", (0,), (1,)),), (0,), (1,)),))


@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2", "tflite_int16x8", "nna_usym8_pow2"])
@pytest.mark.parametrize(("source", "low"), [(pooled(1.0, -128), -128), (pooled(0.7, 0, "uint8"), 0)])
def test_a_pixel_keeps_its_real_value_whatever_the_input_became(source: Model, low: int, target: str) -> None:
    result = tf_requant.requantize(source, target).model
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    (ours,), (theirs,) = input_specs(source), input_specs(result)
    expected = feed(pixels if not low else (pixels.astype(int) - 128).astype(np.int8), ours, theirs)
    np.testing.assert_array_equal(input_codes(result, pixels)["x"], expected)


def test_codes_of_the_inputs_own_type_stay_codes() -> None:
    result = tf_requant.requantize(pooled(1.0, -128), "nna_sym8").model
    codes = np.arange(-24, 24, dtype=np.int8).reshape(1, 4, 4, 3)
    np.testing.assert_array_equal(input_codes(result, codes)["x"], codes)


def test_pixels_keep_their_meaning_through_a_second_conversion() -> None:
    first = tf_requant.requantize(model_path(), "nna_sym8_pow2").model
    second = tf_requant.requantize(first, "tflite_int16x8").model
    assert read_record(second).pixels == read_record(first).pixels != {}


def test_a_model_that_only_moved_to_int8_needs_no_record_of_pixels() -> None:
    assert not read_record(tf_requant.requantize(model_path(), "tflite_int8", corrections="none").model).pixels


def test_a_reference_that_was_re_expressed_is_fed_what_its_source_is() -> None:
    first = tf_requant.requantize(model_path(), "nna_sym8_pow2")
    data = np.load(evaluation_path())["images"][:50]
    assert tf_requant.validate(model_path(), reference=first.model_bytes, data=data, layers=0).agreement > 0.9


def test_the_samples_of_a_first_conversion_are_not_forgotten_by_a_second() -> None:
    data = images(calibration_path(), 20)
    first = tf_requant.requantize(model_path(), "nna_sym8_pow2", calibration=data)
    assert read_record(first.model).calibration
    second = tf_requant.requantize(first.model, "nna_sym8_pow2_per_channel")
    assert set(read_record(first.model).calibration) <= set(read_record(second.model).calibration)
    with pytest.raises(CalibrationError, match="calibrated on"):
        tf_requant.validate(second.model_bytes, reference=model_path(), data=data)


@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2", "tflite_int16x8"])
def test_every_move_of_a_bias_that_an_output_can_feel_is_remembered(target: str) -> None:
    """The biases read off both files by hand; what is left out is below a quarter of a step."""
    source, result = tflite.read(model_path().read_bytes()), tf_requant.requantize(model_path(), target).model
    held, origins = read_record(result), {source.main.tensors[op.outputs[0]].name: op for op in source.main.ops}
    assert held.biases is not None
    moved = 0
    for op in result.main.ops:
        output = result.main.tensors[op.outputs[0]]
        origin = origins.get(output.name)
        if op.code not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") or origin is None:
            continue
        new, old = result.main.tensors[op.inputs[2]], source.main.tensors[origin.inputs[2]]
        gain = float(held.gains.get(output.name, 1.0))
        real = new.data * new.quant.scale.astype(np.float64) - gain * old.data * old.quant.scale.astype(np.float64)
        steps = real / float(output.quant.scale[0])
        told = np.array([held.biases.get(output.name, {}).get(c, 0.0) for c in range(steps.size)])
        assert np.all(np.abs(steps - told) <= np.where(told == 0, 0.25, 0.0051)), output.name
        moved += np.count_nonzero(told)
    assert moved or target == "tflite_int16x8"


def test_moves_count_from_an_original_only() -> None:
    first = tf_requant.requantize(model_path(), "nna_sym8").model
    assert read_record(tf_requant.requantize(first, "nna_sym8_pow2").model).biases is None


ENTRIES = [b"", b"no json", b"[]", b'{"pixels": 3}', b'{"gains": 1}', b'{"calibration": 7}', b'{"biases": {"y": {"no": 1}}}']


@pytest.mark.parametrize("entry", ENTRIES)
def test_another_programs_entry_is_no_record(entry: bytes) -> None:
    held = read_record(pooled(1.0, 0).with_(metadata={METADATA: entry}))
    assert not (held.gains or held.calibration or held.pixels or held.biases)


def test_corrections_may_be_a_list() -> None:
    one, other = (tf_requant.requantize(model_path(), "nna_sym8", corrections=c) for c in (["rounding", "bias"], "bias,rounding"))
    assert one.model_bytes == other.model_bytes
    with pytest.raises(tf_requant.RequantError, match="names '3'"):
        tf_requant.requantize(model_path(), "nna_sym8", corrections=3)


@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2"])
def test_gains_count_from_the_first_model_of_a_chain(target: str) -> None:
    """Channels that were stretched, and powers of two that were folded, are no faults behind a second conversion."""
    data, unseen = images(calibration_path(), 20), images(evaluation_path(), 8)
    first = tf_requant.requantize(model_path(), target, corrections="equalization,bias", calibration=data)
    second = tf_requant.requantize(first.model, "tflite_int8")
    assert read_record(second.model).gains == read_record(first.model).gains != {}
    assert gains_between(first.model, second.model) == {}
    direct, chained = (tf_requant.validate(m, reference=model_path(), data=unseen) for m in (first.model, second.model))
    assert [round(t.sqnr, 6) for t in chained.tensors] == [round(t.sqnr, 6) for t in direct.tensors]
    exact = tf_requant.validate(second.model, reference=first.model, data=unseen)
    assert min(t.sqnr for t in exact.tensors) == np.inf


def test_gains_of_two_conversions_are_multiplied() -> None:
    first = tf_requant.requantize(model_path(), "nna_sym8_pow2", corrections="none")
    second = tf_requant.requantize(first.model, "nna_usym8_pow2", corrections="none")
    own = gains_between(first.model, second.model)
    for name, gain in read_record(second.model).gains.items():
        np.testing.assert_allclose(gain, np.asarray(read_record(first.model).gains.get(name, 1.0)) * np.asarray(own.get(name, 1.0)))
