"""Mutated files: refused with a RequantError or re-expressed into something that runs; nothing else."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tf_requant
from tf_requant.errors import RequantError
from tf_requant.io import tflite
from tf_requant.runtime import prove_runs
from tf_requant.sample import model_path

SAMPLE = model_path().read_bytes()
LARGE = 256  # bytes: a longer constant holds weights, where any byte is as good as another


def structure() -> list[int]:
    """The bytes of the file that are not the inside of a large constant."""
    inside = np.zeros(len(SAMPLE), bool)
    origin = np.frombuffer(SAMPLE, np.uint8).__array_interface__["data"][0]
    for buffer in tflite.read(SAMPLE).opaque.buffers:
        if buffer is not None and buffer.size > LARGE:
            start = buffer.__array_interface__["data"][0] - origin
            inside[start : start + buffer.size] = True
    return np.flatnonzero(~inside).tolist()


PLACES = structure()
EDITS = st.lists(st.tuples(st.sampled_from(PLACES), st.integers(0, 255)), min_size=1, max_size=4)
TARGETS = st.sampled_from(tf_requant.builtin_targets())


def mutated(edits: list[tuple[int, int]]) -> bytes:
    data = bytearray(SAMPLE)
    for place, value in edits:
        data[place] = value
    return bytes(data)


@settings(max_examples=400, deadline=5000, derandomize=True, suppress_health_check=list(HealthCheck))
@given(EDITS, TARGETS)
def test_a_mutated_file_is_refused_or_re_expressed(edits: list[tuple[int, int]], target: str) -> None:
    try:
        assert tf_requant.requantize(mutated(edits), target, corrections="none").model_bytes
    except RequantError as error:
        assert str(error)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(EDITS, TARGETS)
def test_what_is_accepted_runs(edits: list[tuple[int, int]], target: str) -> None:
    try:
        result = tf_requant.requantize(mutated(edits), target, corrections="none").model_bytes
    except RequantError:
        return
    prove_runs(result, ("litert", "litert_ref"))


@settings(max_examples=200, deadline=5000, derandomize=True)
@given(st.integers(0, len(SAMPLE) - 1))
def test_a_truncated_file_is_refused_or_loses_nothing(length: int) -> None:
    whole = tf_requant.requantize(SAMPLE, "nna_sym8", corrections="none").model_bytes
    try:
        assert tf_requant.requantize(SAMPLE[:length], "nna_sym8", corrections="none").model_bytes == whole
    except RequantError as error:
        assert str(error)


@settings(max_examples=200, deadline=5000, derandomize=True)
@given(st.binary(max_size=400))
def test_random_bytes_behind_the_identifier_are_refused(noise: bytes) -> None:
    with pytest.raises(RequantError):
        tf_requant.requantize(b"\x08\x00\x00\x00TFL3" + noise, "nna_sym8")


def test_truncation_inside_the_archive_keeps_the_result_and_warns(shared: Path) -> None:
    data = (shared / "models/mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    model = tflite.read(data)
    behind = len(data) - len(model.opaque.archive.content)
    whole = tf_requant.requantize(data, "nna_sym8", corrections="none")
    network = whole.model_bytes[: len(whole.model_bytes) - len(model.opaque.archive.content)]
    for length in (behind, behind + 1, behind + 100, len(data) - 1):
        cut = tf_requant.requantize(data[:length], "nna_sym8", corrections="none")
        assert cut.model_bytes == network
        assert any("associated files" in w for w in cut.report.warnings)
    with pytest.raises(RequantError, match="truncated or damaged"):
        tf_requant.requantize(data[: behind - 1], "nna_sym8")
