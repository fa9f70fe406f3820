"""What training leaves behind as a quantized TFLite file: a converter, a Keras model or a TF2 SavedModel.

TensorFlow is imported where one of these has to be converted, and nowhere else; a converter that its caller has
configured is asked to convert and needs no import. TensorFlow's own converter does the work, in this process, since the
caller's dataset lives here.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tf_requant.errors import RequantError, UnsupportedModelError, UsageError
from tf_requant.pipeline.steps import Steps, converter_steps

SAVED_MODEL = "saved_model.pb"
_TF2_FUNCTION = b"__inference_"
"""How TensorFlow 2 names the functions of a SavedModel; a TF1 graph has none."""
_TRAINED_RANGES = b"FakeQuant"
_UNREAD_VARIABLE = "READ_VARIABLE"
"""What calibration dies of where Keras 3's variables were saved by `tf.saved_model.save` (TensorFlow 2.21)."""
_CONFIGURED = ("optimizations", "representative_dataset", "inference_input_type", "inference_output_type")


def needs_conversion(source: Any) -> bool:
    """Whether TensorFlow's converter has to make a TFLite file of it first.

    A TF1 graph trained for quantization is not meant: `load_source` reads those, FakeQuant range by range.
    """
    return _is_converter(source) or _is_keras(source) or _is_tf2_saved_model(source)


def own_dataset(source: Any) -> Any:
    """The representative dataset that a converter was configured with; None for anything else."""
    return getattr(source, "representative_dataset", None) if _is_converter(source) else None


def converted(source: Any, dataset: Any) -> bytes:
    """A TFLite file, int8 inside and at its ends unless the caller configured the converter otherwise.

    Args:
        source: a converter, a Keras model or the folder of a TF2 SavedModel.
        dataset: what ranges are measured on, or None where the source needs none (its own, or trained FakeQuant ranges).

    Raises:
        UsageError: a representative dataset is needed and there is none, or TensorFlow is not installed.
        CalibrationError: the dataset cannot be stepped through.
        UnsupportedModelError: TensorFlow's converter refused the model or the dataset.
    """
    if _is_converter(source):
        if dataset is None or _is_configured(source):
            return _convert(source)
        with _quantizing(source, converter_steps(dataset)):
            return _convert(source)
    if _is_keras(source):
        with tempfile.TemporaryDirectory() as folder:
            # Not TFLiteConverter.from_keras_model, which prints the endpoints to stdout.
            _asked(lambda: source.export(folder, verbose=False), "Keras could not export the model")
            return _from_saved_model(Path(folder), dataset)
    return _from_saved_model(Path(source), dataset)


def _is_converter(source: Any) -> bool:
    return not isinstance(source, type) and callable(getattr(source, "convert", None))


def _is_keras(source: Any) -> bool:
    return callable(getattr(source, "export", None)) and hasattr(source, "trainable_variables")


def _is_tf2_saved_model(source: Any) -> bool:
    return isinstance(source, str | os.PathLike) and _TF2_FUNCTION in _saved(Path(source))


def _saved(folder: Path) -> bytes:
    file = folder / SAVED_MODEL
    try:
        return file.read_bytes() if file.is_file() else b""
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror})") from error


def _is_configured(converter: Any) -> bool:
    """Whether its caller said already how it is to quantize: with data of their own, or from trained ranges."""
    kinds = (getattr(converter, name, None) for name in ("inference_type", "inference_input_type"))
    return own_dataset(converter) is not None or any(getattr(kind, "is_integer", False) for kind in kinds)


def _from_saved_model(folder: Path, dataset: Any) -> bytes:
    trained = _TRAINED_RANGES in _saved(folder)
    if dataset is None and not trained:
        raise UsageError(
            "the model is float and carries no FakeQuant ranges: give a representative_dataset, from which TensorFlow's "
            "converter measures them"
        )
    steps = None if trained else converter_steps(dataset)
    converter = _tensorflow().lite.TFLiteConverter
    with _quantizing(_asked(lambda: converter.from_saved_model(str(folder)), "TensorFlow could not load the model"), steps) as made:
        try:
            return _convert(made)
        except UnsupportedModelError as error:
            if _UNREAD_VARIABLE not in str(error):
                raise
    with _quantizing(_frozen(folder), steps) as made:
        return _convert(made)


def _frozen(folder: Path) -> Any:
    """A converter of the SavedModel's one signature with its variables as constants."""
    tf = _tensorflow()
    from tensorflow.python.framework.convert_to_constants import (  # type: ignore[import-untyped]
        convert_variables_to_constants_v2,
    )

    loaded = tf.saved_model.load(str(folder))
    signatures = dict(loaded.signatures)
    if len(signatures) != 1:
        raise UnsupportedModelError(
            f"the SavedModel has the signatures {sorted(signatures)} and variables that TensorFlow's converter cannot read; "
            "write it with the Keras model's export(), or hand over the model itself"
        )
    constant = convert_variables_to_constants_v2(next(iter(signatures.values())))
    return tf.lite.TFLiteConverter.from_concrete_functions([constant], loaded)


@contextmanager
def _quantizing(converter: Any, steps: Steps | None) -> Iterator[Any]:
    """Full integer quantization for one conversion; the caller's converter is theirs again afterwards."""
    tf = _tensorflow()
    before = {name: getattr(converter, name) for name in _CONFIGURED if hasattr(converter, name)}
    allowed = converter.target_spec.supported_ops
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if steps is not None:
        converter.representative_dataset = steps
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        yield converter
    finally:
        converter.target_spec.supported_ops = allowed
        for name, value in before.items():
            setattr(converter, name, value)


def _convert(converter: Any) -> bytes:
    content = _asked(converter.convert, "TensorFlow's converter refused the model")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise UsageError(f"{type(converter).__name__}.convert() gave {type(content).__name__}, expected the bytes of a TFLite file")
    return bytes(content)


def _asked(work: Any, what: str) -> Any:
    """What TensorFlow answers; its errors are of many kinds, and none tells a caller's mistake from a bug."""
    try:
        return work()
    except RequantError:
        raise
    except Exception as error:
        raise UnsupportedModelError(f"{what}: {type(error).__name__}: {str(error).strip()[:1000]}") from error


def _tensorflow() -> Any:
    try:
        import tensorflow  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError("a model that is to be converted needs TensorFlow: pip install 'tf_requant[tensorflow]'") from error
    return tensorflow
