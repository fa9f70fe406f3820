"""`auto` keeps what samples held back speak for: few samples judge, so bias alone has to win clearly."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests.builders import conv2d, edited
from tf_requant.io.tflite import read
from tf_requant.pipeline.correct import Corrector
from tf_requant.pipeline.reconstruct import Outcome
from tf_requant.plan import Plan
from tf_requant.sample import calibration_path, model_path

ALL = ("thresholds", "equalization", "rounding", "scale_search", "gptq", "error_folding", "bias")
UNCHANGED = np.full(8, 1.0)
ALTERNATING = np.array([1.0, -1.0] * 4)


@pytest.mark.parametrize(
    "whole, alone, kept",
    [
        (np.full(8, 0.8), np.full(8, 0.6), "bias"),  # each sample says so
        (np.full(8, 0.8), 0.75 + 0.3 * ALTERNATING, "all"),  # better on average, by chance
        (np.full(8, 0.8), np.full(8, 0.79), "all"),  # certain, and too little to speak of
        (np.full(8, 1.1), np.full(8, 0.9), "bias"),  # all of it loses
        (np.full(8, 1.1), 0.95 + 0.5 * ALTERNATING, "bias"),
        (np.full(8, 1.1), np.full(8, 1.05), "nothing"),
        (np.full(8, 0.4), np.full(8, 0.1), "all"),  # a clear gain is not put to the question
    ],
)
def test_bias_alone_takes_the_place_of_all_only_where_it_clearly_wins(
    whole: NDArray[np.float64], alone: NDArray[np.float64], kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Corrector, plan: Plan, methods: frozenset[str], samples: Callable[..., Any], judging: bool) -> Any:
        errors = UNCHANGED if not methods else alone if methods == {"bias"} else whole
        return Outcome(errors=errors / 100), plan, 8

    monkeypatch.setattr(Corrector, "_run", run)
    with np.load(calibration_path()) as file:
        calibration = tf_requant.calibrate(model_path(), file["images"][:40])
    corrector = Corrector(read(model_path()), tf_requant.load_target("nna_sym8_per_channel"), (*ALL, "folding"), False)
    found = corrector.correct(calibration)
    assert found.applied == {"all": ALL, "bias": ("rounding", "bias"), "nothing": ("rounding",)}[kept]


def test_a_sample_that_is_there_twice_does_not_judge_what_was_learned_from_it() -> None:
    with np.load(calibration_path()) as file:
        images = file["images"][:24]
    alone = tf_requant.requantize(model_path(), "nna_sym8", calibration=np.repeat(images[:1], 20, axis=0))
    assert "1 different calibration samples are too few" in alone.report.notes[0]
    assert alone.report.corrections == ("rounding", "bias")
    plain, doubled = (
        tf_requant.requantize(model_path(), "nna_sym8", calibration=data, corrections="scale_search,gptq,bias").model_bytes
        for data in (images, np.repeat(images, 2, axis=0))
    )
    assert plain == doubled
    once, twice = (tf_requant.calibrate(model_path(), x, noise=False) for x in (images, np.repeat(images, 2, axis=0)))
    assert len(twice) == 48
    np.testing.assert_array_equal(*(next(iter(c.inputs.values())) for c in (once, twice.without_repeats())))


def test_a_weight_that_is_clipped_at_the_sources_step_is_something_to_correct() -> None:
    """-128 becomes -127: every step is one, and yet the model moved."""

    def clipped(model: Any) -> None:
        buffer = model.buffers[model.subgraphs[0].tensors[model.subgraphs[0].operators[0].inputs[1]].buffer]
        buffer.data = np.where(np.arange(len(buffer.data)) % 9 == 0, 128, buffer.data).astype(np.uint8)

    source = edited(conv2d("int8"), clipped)
    data = np.random.default_rng(0).integers(-128, 128, (12, 8, 8, 4)).astype(np.int8)
    result = tf_requant.requantize(source, "nna_sym8", calibration=data)
    assert "exact" not in result.report.notes[0] and "bias" in result.report.notes[0]
