"""A representative dataset as its two readers want it: TensorFlow's converter, and the loaders of this package.

TFLite's contract is a callable that starts over; a step of it is `[array, ...]`, `{input: array}` or
`(signature, {input: array})` in real values, one sample a step, with the names of the signature. Ours takes these and
more (`io.data.load_samples`), by the names of tensors.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tf_requant.errors import CalibrationError
from tf_requant.model.graph import Model

Steps = Callable[[], Iterator[Any]]
_ENDLESS = -1
"""What tf.data calls the cardinality of a dataset without end."""


def converter_steps(dataset: Any) -> Steps:
    """The dataset as TensorFlow's converter calls it.

    Args:
        dataset: a callable or `tf.lite.RepresentativeDataset`, which is TFLite's own contract and passed on as it is; an
            array or a dict of arrays, all samples along the first axis; a `tf.data.Dataset` or another iterable of batches,
            `x` or `(x, label)`, as `fit` takes them.

    Raises:
        CalibrationError: the dataset is a path, cannot be read twice or never ends, or holds pixels, whose real value only
            a quantized model tells.
    """
    dataset = getattr(dataset, "input_gen", dataset)
    if callable(dataset):
        return dataset  # type: ignore[no-any-return]
    if isinstance(dataset, str | os.PathLike):
        raise CalibrationError(
            f"{os.fspath(dataset)} cannot calibrate TensorFlow's converter: give the real values as training feeds them, in an "
            "array, a dataset or a callable"
        )
    if isinstance(dataset, Mapping) or hasattr(dataset, "__array__"):
        return lambda: _samples(dataset)
    refuse_unreadable(dataset)
    return lambda: (step for batch in dataset for step in _samples(_inputs_of(batch)))


def tensor_steps(dataset: Any, model: Model) -> Any:
    """The dataset with a signature's names replaced by the model's, as `load_samples` takes it."""
    names = {name: model.main.tensors[t].name for s in model.signatures if s.graph == 0 for name, t in s.inputs}
    dataset = getattr(dataset, "input_gen", dataset)
    if isinstance(dataset, Mapping):
        return _renamed(dataset, names)
    if dataset is None or isinstance(dataset, str | os.PathLike) or hasattr(dataset, "__array__"):
        return dataset
    if not callable(dataset):
        refuse_unreadable(dataset)
    return lambda: (_step(step, names) for step in (dataset() if callable(dataset) else dataset))


def refuse_unreadable(dataset: Any) -> None:
    """Refuses what cannot be stepped through again and again.

    Raises:
        CalibrationError: an iterator, something that is none at all, or a dataset without end.
    """
    if not hasattr(dataset, "__iter__") or iter(dataset) is dataset:
        raise CalibrationError(
            f"{type(dataset).__name__} cannot be read twice: give an array, a dataset or a callable that returns a new iterator"
        )
    if hasattr(dataset, "cardinality") and int(dataset.cardinality()) == _ENDLESS:
        raise CalibrationError("the dataset is infinite: add take(count)")


def _inputs_of(batch: Any) -> Any:
    """The `x` of a batch `(x, label)`."""
    return batch[0] if isinstance(batch, tuple) and len(batch) == 2 else batch


def _samples(batch: Any) -> Iterator[Any]:
    """A batch's samples one by one, each with its batch axis."""
    if isinstance(batch, Mapping):
        rows = {str(name): _reals(value) for name, value in batch.items()}
        for n in range(min(map(len, rows.values()), default=0)):
            yield {name: value[n : n + 1] for name, value in rows.items()}
        return
    columns = [_reals(value) for value in (batch if isinstance(batch, list | tuple) else [batch])]
    for n in range(min(map(len, columns), default=0)):
        yield [value[n : n + 1] for value in columns]


def _reals(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype == np.uint8:
        raise CalibrationError(
            "the representative dataset holds uint8 pixels, which mean nothing to a model before it is quantized: give the "
            "real values as training feeds them"
        )
    if not array.ndim:
        raise CalibrationError("the representative dataset holds single numbers: give samples along a first axis")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _step(step: Any, names: Mapping[str, str]) -> Any:
    if isinstance(step, tuple) and len(step) == 2:
        if isinstance(step[0], str):
            return _renamed(step[1], names)
        if isinstance(step[0], Mapping):
            return _renamed(step[0], names), step[1]
    return _renamed(step, names) if isinstance(step, Mapping) else step


def _renamed(values: Mapping[Any, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(str(name), str(name)): value for name, value in values.items()}
