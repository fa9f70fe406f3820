"""The rewriter, called as TFX 1.21's `converters` calls one, with stand-ins for TFX's classes."""

import abc
import enum
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from tests import builders
from tf_requant.errors import ModelFormatError, RequantError, UnsupportedModelError, UsageError, ValidationFailed
from tf_requant.pipeline.tfx_rewriter import Rewriter

ModelType = enum.Enum("ModelType", ["ANY_MODEL", "SAVED_MODEL", "TFLITE_MODEL", "TFJS_MODEL"])
Description = namedtuple("Description", ["model_type", "path"])
NET = builders.small_net()


class Base(abc.ABC):
    """The abstract parts of TFX's base class, and the sequence in which it calls them."""

    @property
    @abc.abstractmethod
    def name(self): ...

    @abc.abstractmethod
    def _pre_rewrite_validate(self, original_model): ...

    @abc.abstractmethod
    def _rewrite(self, original_model, rewritten_model): ...

    @abc.abstractmethod
    def _post_rewrite_validate(self, rewritten_model): ...

    def perform_rewrite(self, original_model, rewritten_model):
        self._pre_rewrite_validate(original_model)
        self._rewrite(original_model, rewritten_model)
        self._post_rewrite_validate(rewritten_model)


class Derived(Rewriter, Base):
    """What a pipeline writes whose types are checked."""


@pytest.fixture
def exported(tmp_path) -> Path:
    """A folder as a rewriter to TFLite leaves it: the file has no suffix, the assets lie beside it."""
    folder = tmp_path / "exported"
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "labels.txt").write_text("cat\ndog\n")
    (folder / "tflite").write_bytes(NET)
    return folder


def rewrite(rewriter, source: Path, folder: Path, kind=ModelType.TFLITE_MODEL, original=ModelType.TFLITE_MODEL) -> None:
    """What TFX does with a rewriter: descriptions with text for paths, then one call."""
    assert rewriter.name
    rewriter.perform_rewrite(Description(original, str(source)), Description(kind, str(folder)))


@pytest.mark.parametrize("kind", [Rewriter, Derived])
def test_it_fills_the_folder_with_a_model_per_target_and_the_assets(exported, tmp_path, kind):
    rewriter = kind(["nna_sym8", "tflite_int16x8"], name="npu", corrections="none")
    rewrite(rewriter, exported, tmp_path / "out", ModelType.ANY_MODEL, ModelType.ANY_MODEL)
    assert rewriter.name == "npu"
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {"nna_sym8.tflite", "tflite_int16x8.tflite", "assets/labels.txt"}
    assert {n: e.passed for n, e in rewriter.exported.items()} == {"nna_sym8": True, "tflite_int16x8": True}


def test_a_file_of_ones_own_name_without_the_assets(exported, tmp_path):
    rewrite(Rewriter("nna_sym8", filename="model.tflite", copy_assets=False, corrections="none"), exported / "tflite", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.tflite"]


def test_a_missed_gate_ends_the_step(exported, tmp_path):
    data = np.random.default_rng(0).integers(-128, 128, (4, 8, 8, 3), np.int8)
    rewriter = Derived(["nna_sym8"], data=data, corrections="none", max_layer_error=-120.0)
    with pytest.raises(ValidationFailed, match="nna_sym8: layer"):
        rewrite(rewriter, exported, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("original", "kind", "error", "sentence"),
    [
        (ModelType.TFJS_MODEL, ModelType.TFLITE_MODEL, UnsupportedModelError, "the original is a TFJS_MODEL"),
        # rewrite_saved_model's default
        (ModelType.TFLITE_MODEL, ModelType.SAVED_MODEL, UnsupportedModelError, "to be a SAVED_MODEL, but a fixed-point model is a TFLite"),
    ],
)
def test_types_that_cannot_be_are_refused(exported, tmp_path, original, kind, error, sentence):
    with pytest.raises(error, match=sentence):
        rewrite(Rewriter("nna_sym8"), exported, tmp_path / "out", kind, original)
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_or_not_clear_is_refused(exported, tmp_path):
    with pytest.raises(UsageError, match="there is no model at"):
        rewrite(Rewriter("nna_sym8"), tmp_path / "nowhere", tmp_path / "out")
    (exported / "second.tflite").write_bytes(NET)
    with pytest.raises(UsageError, match="several TFLite files, second.tflite, tflite"):
        rewrite(Rewriter("nna_sym8"), exported, tmp_path / "out")
    for options, sentence in (({"name": ""}, "needs a name"), ({"output": "x"}, "leave it out")):
        with pytest.raises(UsageError, match=sentence):
            Rewriter("nna_sym8", **options)
    with pytest.raises(RequantError, match="unknown target"):
        Rewriter("nowhere")


def test_what_was_written_is_read_back(exported, tmp_path):
    rewriter, folder = Rewriter(["nna_sym8"], corrections="none"), tmp_path / "out"
    rewrite(rewriter, exported, folder)
    (folder / "nna_sym8.tflite").write_bytes(NET)  # the source: int8, but with filters per channel
    with pytest.raises(ValidationFailed, match="breaks the target"):
        rewriter._post_rewrite_validate(Description(ModelType.TFLITE_MODEL, str(folder)))
    (folder / "nna_sym8.tflite").unlink()
    with pytest.raises(ModelFormatError, match="was not written"):
        rewriter._post_rewrite_validate(Description(ModelType.TFLITE_MODEL, str(folder)))
