"""Activations narrower than int8: without data, the plan clips nothing that TFLite's kernels, which know no such width, keep."""

from typing import Any

import numpy as np
import pytest

import tf_requant
from tests.builders import unary
from tf_requant.model.ops import Activation, fused_activation
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.numerics.affine import reexpress
from tf_requant.numerics.integers import limits
from tf_requant.pipeline.simulate import checked_model
from tf_requant.planning.activations import choose
from tf_requant.planning.activations import limits as planned_limits
from tf_requant.planning.ranges import ValueRange
from tf_requant.planning.schemes import activation_dtype, activation_limits
from tf_requant.sample import evaluation_path, model_path
from tf_requant.targets import Target, builtin_targets, load_target
from tf_requant.validation.legality import check_legality


def narrow(name: str, bits: int) -> Target:
    return load_target(name).derive(name="narrow", activation={"bits": [bits]})


def drawn(random: np.random.Generator, data: bool = False) -> ValueRange:
    """Any range of 8-bit codes, with or without data whose tails are rare."""
    low, high = int(random.integers(-255, 1)), int(random.integers(1, 256))
    counts = None
    if data:
        counts = np.zeros(high - low + 1, np.int64)
        counts[-low], counts[0], counts[-1] = 10**6, 1, 1
    return ValueRange(float(random.uniform(1e-3, 1.0)), low, high, None, low == 0, bool(random.random() < 0.5), counts, low)


@pytest.mark.parametrize("name", ["nna_sym8_per_channel", "nna_sym8_pow2"])
@pytest.mark.parametrize("bits", range(2, 8))
def test_every_value_of_the_source_fits_without_a_clamp(name: str, bits: int) -> None:
    random, target = np.random.default_rng(bits), narrow(name, bits)
    low, high = limits(bits)
    for _ in range(200):
        values = drawn(random)
        choice = choose(target, QuantParams("uint8", np.float32(values.scale), -values.low), values)
        assert (choice.params.dtype, int(choice.params.zero_point[0])) == ("int8", 0) and "clipping" not in choice.reason
        step = values.scale / float(choice.params.scale[0])
        codes = reexpress(np.arange(values.low, values.high + 1), step, -(10**6), 10**6)
        assert low <= codes.min() and codes.max() <= high
        # And no coarser than that takes: the next finer power of two, or anything finer, would not hold them.
        finer = 2 * step if name.endswith("pow2") else step * 1.001
        assert step == pytest.approx(1, rel=1e-6) or values.high * finer > high or values.low * finer < low


@pytest.mark.parametrize("name", ["nna_sym8_per_channel", "nna_sym8_pow2"])
@pytest.mark.parametrize("bits", [4, 6, 7])
def test_data_clip_what_is_rare(name: str, bits: int) -> None:
    random, target, clipped = np.random.default_rng(bits), narrow(name, bits), 0
    low, high = limits(bits)
    for _ in range(50):
        values = drawn(random, data=True)
        v, p = values.prior
        choice = choose(target, QuantParams("uint8", np.float32(values.scale), -values.low), values)
        step = values.scale / float(choice.params.scale[0])
        fit = min(high / values.high, low / values.low if values.low else np.inf)
        if name.endswith("pow2"):
            fit = values.scale * 2.0 ** np.floor(np.log2(fit / values.scale))
        # Recomputed as the device saturates: never worse than holding every value.
        chosen, holding = (((reexpress(v, s, low, high) / s - v) ** 2) @ p for s in (step, fit))
        assert chosen <= holding * (1 + 1e-5)
        assert choice.error == pytest.approx(chosen * values.scale**2, rel=1e-5)
        clipped += "clipping" in choice.reason
    assert clipped


def test_a_range_that_fits_keeps_the_sources_own_step() -> None:
    target, source = narrow("nna_sym8", 7), QuantParams("int8", np.float32(0.3), 0)
    choice = choose(target, source, ValueRange(float(np.float32(0.3)), -64, 63))
    assert choice.params.scale[0] == np.float32(0.3) and choice.error == 0 and "at the source's step" in choice.reason
    assert choose(target, source, ValueRange(float(np.float32(0.3)), -65, 63)).params.scale[0] > np.float32(0.3)


@pytest.mark.parametrize("name", builtin_targets())
def test_types_that_a_width_fills_keep_their_limits(name: str) -> None:
    target, dtype = load_target(name), activation_dtype(load_target(name))
    assert activation_limits(target) == ((-32767, 32767) if dtype == "int16" else code_limits(dtype))
    rectified = ValueRange(0.1, 0, 255, rectified=True)
    assert planned_limits(target, rectified)[1] == (0 if target.activation.unsigned_after_relu else activation_limits(target)[0])


@pytest.fixture(scope="module")
def images() -> Any:
    with np.load(evaluation_path()) as file:
        return file["images"][:4]


@pytest.mark.parametrize("name", ["nna_sym8", "nna_sym8_pow2"])
def test_relu6_stays_where_the_width_alone_would_clamp(name: str, images: Any) -> None:
    target = narrow(name, 7)
    result = tf_requant.requantize(model_path(), target)
    before, after = (checked_model(m).main for m in (model_path(), result))
    kinds = [[i for i, op in enumerate(g.ops) if fused_activation(op) is Activation.RELU6] for g in (before, after)]
    assert kinds[0] == kinds[1] and kinds[1]
    assert check_legality(checked_model(result), target).legal
    # So TFLite, which does not know the width, keeps it behind every clamp.
    source, quant = before.tensors[before.inputs[0]].quant, after.tensors[after.inputs[0]].quant
    assert source is not None and quant is not None
    step = float(source.scale[0]) / float(quant.scale[0])
    x = reexpress(images.astype(np.int64) - int(source.zero_point[0]), step, -128, 127).astype(np.int8)
    assert -64 <= x.min() and x.max() <= 63
    codes = tf_requant.simulate(result, x, tensors="all")
    clamped = [after.tensors[op.outputs[0]].name for op in after.ops if fused_activation(op) is Activation.RELU6]
    assert clamped and all(codes[n].min() >= 0 and codes[n].max() <= 63 for n in clamped)


@pytest.mark.parametrize("code", ["LOGISTIC", "TANH"])
def test_an_op_that_tflite_fixes_over_all_of_int8_stays_on_the_host(code: str) -> None:
    target = narrow("nna_sym8", 7)
    result = tf_requant.requantize(unary(code, "int8"), target, corrections="none")
    verdict = check_legality(checked_model(result), target)
    assert verdict.legal and any(code in host.where for host in verdict.host_ops)
