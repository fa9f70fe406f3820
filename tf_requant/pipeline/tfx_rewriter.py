"""A rewriter for TFX's Trainer: what `tfx.components.trainer.rewriting` calls, without importing TFX.

TFX hands `perform_rewrite` two descriptions, each with a `path` and a `model_type` (an enum; only its names are looked
at), where the first is what the Trainer exported and the second a folder to fill. It needs no base class; where one is
asked for, `class Mine(tf_requant.Rewriter, BaseRewriter)` fills its abstract methods in.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tf_requant.errors import ModelFormatError, UnsupportedModelError, UsageError, ValidationFailed
from tf_requant.io.tflite import IDENTIFIER
from tf_requant.pipeline.destinations import PLACEHOLDER, destinations
from tf_requant.pipeline.exported import Exported
from tf_requant.pipeline.post_export import post_export, targets_by_name
from tf_requant.pipeline.requantize import TargetSource
from tf_requant.pipeline.source import load_source
from tf_requant.validation.legality import check_legality

_READ = ("SAVED_MODEL", "TFLITE_MODEL", "ANY_MODEL")
_WRITTEN = ("TFLITE_MODEL", "ANY_MODEL")
_ASSETS = ("assets", "assets.extra")
"""What travels with a SavedModel: vocabularies and labels, warm-up requests."""
_IDENTIFIER_AT = 4
"""Bytes before a flatbuffer's identifier."""


class Rewriter:
    """Re-expresses the exported model for every target, into one folder.

    Args:
        targets: as for `post_export`.
        name: how TFX's messages call it.
        filename: of each model in the folder; holds `{target}`, or is a plain name where there is one target.
        copy_assets: whether `assets` and `assets.extra` go along.
        **options: everything else that `post_export` takes, the representative dataset, data and gates above all.

    Raises:
        RequantError: a target is none, or an option is one that TFX decides.
    """

    def __init__(
        self,
        targets: TargetSource | Iterable[TargetSource],
        *,
        name: str = "tf_requant",
        filename: str = f"{PLACEHOLDER}.tflite",
        copy_assets: bool = True,
        **options: Any,
    ) -> None:
        if not name:
            raise UsageError("a rewriter needs a name")
        if "output" in options:
            raise UsageError("output is what TFX says: leave it out, and name files with filename")
        self._targets = tuple(targets_by_name(targets).values())
        self._name, self._filename, self._copy_assets, self._options = name, filename, copy_assets, options
        self.exported: dict[str, Exported] = {}

    @property
    def name(self) -> str:
        """How TFX's messages call it."""
        return self._name

    def perform_rewrite(self, original_model: Any, rewritten_model: Any) -> None:
        """Checks the original, writes the models, and checks what was written; TFX calls this and nothing else.

        Args:
            original_model: `path` of a SavedModel's folder, a .tflite file or a folder that holds one; `model_type`.
            rewritten_model: `path` of the folder to fill; `model_type` TFLITE_MODEL or ANY_MODEL.

        Raises:
            RequantError: as `post_export` does; a ValidationFailed where a gate was missed, after what passed was written.
        """
        self._pre_rewrite_validate(original_model)
        self._rewrite(original_model, rewritten_model)
        self._post_rewrite_validate(rewritten_model)

    def _pre_rewrite_validate(self, original_model: Any) -> None:
        """Refuses an original that is nothing to re-express.

        Raises:
            UnsupportedModelError: its type.
            UsageError: no such path.
        """
        kind = _kind(original_model)
        if kind not in _READ:
            raise UnsupportedModelError(f"{self.name}: the original is a {kind}, expected one of {', '.join(_READ)}")
        if not Path(original_model.path).exists():
            raise UsageError(f"{self.name}: there is no model at {original_model.path}; a remote path has to be copied here first")

    def _rewrite(self, original_model: Any, rewritten_model: Any) -> None:
        """Writes every target's model into the folder, then copies the assets.

        Raises:
            RequantError: as `post_export` does.
        """
        kind = _kind(rewritten_model)
        if kind not in _WRITTEN:
            raise UnsupportedModelError(
                f"{self.name}: the rewritten model is to be a {kind}, but a fixed-point model is a TFLite file: "
                f"ask for {' or '.join(_WRITTEN)}"
            )
        source, folder = Path(original_model.path), Path(rewritten_model.path)
        self.exported = post_export(_model_at(source), self._targets, output=folder / self._filename, **self._options)
        if self._copy_assets:
            for assets in (source / part for part in _ASSETS):
                if assets.is_dir():
                    shutil.copytree(assets, folder / assets.name, dirs_exist_ok=True)

    def _post_rewrite_validate(self, rewritten_model: Any) -> None:
        """Reads back what was written: every target has its file, and the file obeys it.

        Raises:
            ModelFormatError: a file is missing or damaged.
            ValidationFailed: one breaks its target's rules.
        """
        names = [t.name for t in self._targets]
        files = destinations(Path(rewritten_model.path) / self._filename, names, (Path(self._filename).suffix,))
        broken = []
        for target in self._targets:
            if not files[target.name].is_file():
                raise ModelFormatError(f"{self.name}: {files[target.name]} was not written")
            legality = check_legality(load_source(files[target.name]).model, target)
            broken += [f"{self.name}: {files[target.name]}: breaks the target: {v}" for v in legality.violations]
        if broken:
            raise ValidationFailed("\n".join(broken))


def _kind(description: Any) -> str:
    """The name of a description's type; one without a type says nothing against it."""
    kind = getattr(description, "model_type", None)
    return "ANY_MODEL" if kind is None else str(getattr(kind, "name", kind)).rsplit(".", 1)[-1]


def _model_at(path: Path) -> Path:
    """The path itself, or the TFLite file in a folder, under whatever name the rewriter before this one gave it.

    Raises:
        UsageError: a folder with several TFLite files.
    """
    if not path.is_dir() or (path / "saved_model.pb").exists():
        return path
    found = [file for file in sorted(path.iterdir()) if file.is_file() and _is_tflite(file)]
    if len(found) > 1:
        raise UsageError(f"{path} holds several TFLite files, {', '.join(f.name for f in found)}: hand over the one to re-express")
    return found[0] if found else path


def _is_tflite(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(_IDENTIFIER_AT + len(IDENTIFIER))[_IDENTIFIER_AT:] == IDENTIFIER
