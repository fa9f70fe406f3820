"""Calibration and evaluation data: images, arrays, TFRecord, tf.data -> samples for a model's inputs.

What a pixel means: pixel p is the source's input code p where that input is uint8, p - 128 where it is
int8, so the real value is `s_src * (code - z_src)`; a float input takes `(p - mean) / std`. A uint8 array
holds pixels, an array in the input's own dtype holds its codes, a float array holds real values.
"""

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import CalibrationError
from tf_requant.io.pixels import InputSpec, feed, quantize, source_codes
from tf_requant.io.tfrecord import parse_example, record_spans

__all__ = ["InputSpec", "Samples", "feed", "load_samples", "source_codes"]

_Arrays = dict[str, NDArray[Any]]
_Stats = tuple[float, float]
_Read = Callable[..., Iterator[_Arrays]]
_Loaded = tuple[int, NDArray[Any] | None, _Read]
_DEFAULT_STATS = (127.5, 127.5)
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}


_LEAST_SHARE = 64
"""Real values that fill less of their input than this part were meant for another scale."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Data for a model's inputs, decoded when asked for.

    Attributes:
        inputs: the source model's inputs.
        count: the number of samples.
        labels: one a sample, or None.
        input_stats: mean and standard deviation that turn a pixel into a float input's value.
        read: starts over at sample `start`, by default the first, and yields `{input name: sample without batch axis}`;
            uint8 pixels or the input's dtype.
        zero_filled: inputs that the data does not provide, held at real zero (the state of a recurrent model).

    """

    inputs: tuple[InputSpec, ...]
    count: int
    labels: NDArray[Any] | None
    input_stats: _Stats
    read: _Read
    zero_filled: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def part(self, start: int, stop: int) -> "Samples":
        """The samples from `start` up to `stop`, or to the last one; of files, what lies before is not decoded."""
        stop = min(stop, self.count)
        count = max(0, stop - start)
        labels = None if self.labels is None else self.labels[start:stop]

        def read(first: int = 0) -> Iterator[_Arrays]:
            return islice(self.read(start + first), max(0, count - first))

        return replace(self, count=count, labels=labels, read=read)

    def batches(self, size: int) -> Iterator[_Arrays]:
        """Yield `{input name: [size or fewer, ...]}` of uint8 pixels, or of values in the input's own dtype."""
        stream, seen = self.read(), 0
        zeros = {spec.name: np.full(spec.shape[1:], spec.zero_point, spec.dtype) for spec in self.inputs}
        while chunk := [zeros | sample for sample in islice(stream, size)]:
            seen += len(chunk)
            yield {spec.name: np.stack([sample[spec.name] for sample in chunk]) for spec in self.inputs}
        if seen != self.count:
            raise CalibrationError(
                f"the data gave {self.count} samples at first and {seen} when read again: "
                "give a callable or a dataset that starts over each time"
            )

    def codes(self, size: int) -> Iterator[_Arrays]:
        """Yield `{input name: [size or fewer, ...]}` of the source's input codes (reals for a float input)."""
        specs = {spec.name: spec for spec in self.inputs}
        for batch in self.batches(size):
            yield {name: _codes_of(value, specs[name], self.input_stats) for name, value in batch.items()}


def _codes_of(value: NDArray[Any], spec: InputSpec, input_stats: _Stats) -> NDArray[Any]:
    """The input codes of pixels or codes: pixels by way of the input that gives them their meaning."""
    if spec.pixels is not None and value.dtype == np.uint8 and spec.dtype != "uint8":
        return feed(value, spec.pixels, spec, input_stats)
    return source_codes(value, spec.dtype, input_stats)


def load_samples(source: Any, inputs: Sequence[InputSpec], input_stats: _Stats = _DEFAULT_STATS) -> Samples:
    """Open data for a model's inputs; images are decoded only when they are read.

    Args:
        source: a folder of images, `.npy`, `.npz`, TFRecord, an array, a dict of arrays, a tf.data.Dataset or a
            representative_dataset callable. Images alone leave a model's other inputs at real zero.
        inputs: the source model's inputs.
        input_stats: mean and standard deviation for a float input.

    Raises:
        CalibrationError: the data cannot be read or does not fit the inputs.

    """
    inputs = tuple(inputs)
    if isinstance(source, str | os.PathLike):
        count, labels, read = _open_path(Path(source), inputs)
    elif isinstance(source, Mapping):
        count, labels, read = _from_arrays({str(name): source[name] for name in source}, inputs, "the data")
    elif hasattr(source, "__array__"):
        count, labels, read = _from_arrays({"images": source}, inputs, "the data")
    else:
        count, labels, read = _from_stream(source, inputs)
    if count == 0:
        raise CalibrationError(f"{source if isinstance(source, str | os.PathLike) else 'the data'} holds no sample")
    provided = next(read())
    missing = tuple(spec.name for spec in inputs if spec.name not in provided)
    return Samples(inputs, count, labels, input_stats, read, missing)


def _open_path(path: Path, inputs: tuple[InputSpec, ...]) -> _Loaded:
    if not path.exists():
        raise CalibrationError(f"there is no data at {path}")
    if path.is_dir():
        return _from_folder(path, inputs)
    if path.suffix not in (".npy", ".npz"):
        return _from_records(path, inputs)
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else {"images": loaded}
    except Exception as error:  # zip, zlib, struct and numpy each have errors of their own
        raise CalibrationError(f"{path} cannot be read as a {path.suffix} file: {error}") from error
    return _from_arrays(arrays, inputs, str(path))


def _from_folder(path: Path, inputs: tuple[InputSpec, ...]) -> _Loaded:
    files = sorted((file for file in path.iterdir() if file.suffix.lower() in _IMAGE_SUFFIXES), key=lambda f: f.name)
    found = [re.match(r"(\d+)_", file.name) for file in files]
    labels = np.array([int(match[1]) for match in found if match])
    spec = _image_input(inputs, str(path))
    return (
        len(files),
        labels if len(labels) == len(files) else None,
        lambda start=0: ({spec.name: _decode(file.read_bytes(), spec, str(file))} for file in files[start:]),
    )


def _image_input(inputs: tuple[InputSpec, ...], where: str) -> InputSpec:
    fitting = [spec for spec in inputs if len(spec.shape) == 4 and spec.shape[3] in (1, 3)]
    fitting = fitting or [spec for spec in inputs if len(spec.shape) == 3]
    if len(fitting) != 1:
        shapes = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in inputs)
        raise CalibrationError(f"{where} holds images, but which input takes one is not clear: {shapes}")
    return fitting[0]


def _decode(data: bytes, spec: InputSpec, where: str) -> NDArray[np.uint8]:
    from PIL import Image

    height, width, *channels = spec.shape[1:]
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = image.convert("RGB" if channels == [3] else "L")
            if pixels.size != (width, height):
                pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    except Exception as error:  # each of Pillow's decoders has errors of its own
        raise CalibrationError(f"{where} cannot be decoded as an image: {error}") from error
    return np.array(pixels, np.uint8).reshape(spec.shape[1:])


def _from_arrays(arrays: _Arrays, inputs: tuple[InputSpec, ...], where: str) -> _Loaded:
    names = {spec.name for spec in inputs}
    labels = None if "labels" in names else arrays.pop("labels", None)
    if len(inputs) == len(arrays) == 1:
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    elif "images" in arrays and "images" not in names:
        arrays[_image_input(inputs, where).name] = arrays.pop("images")
    elif set(arrays) != names:
        raise CalibrationError(f"{where} holds arrays {sorted(arrays)}, the model's inputs are {sorted(names)}")
    if set(arrays) - names:
        raise CalibrationError(f"{where} holds arrays for no input: {sorted(set(arrays) - names)}")
    given = [(spec, _fit(arrays[spec.name], spec, where)) for spec in inputs if spec.name in arrays]
    counts = {len(array) for _, array in given} | ({len(labels)} if labels is not None else set())
    if len(counts) != 1:
        raise CalibrationError(f"{where} holds arrays of different lengths {sorted(counts)}, labels included")
    count = counts.pop()
    return (
        count,
        None if labels is None else np.asarray(labels),
        lambda start=0: ({spec.name: _values(array[i], spec, where) for spec, array in given} for i in range(start, count)),
    )


def _fit(value: Any, spec: InputSpec, where: str) -> NDArray[Any]:
    """View the value as `[samples, ...]` of a dtype that the input understands."""
    array: NDArray[Any] = np.asanyarray(value)  # keeps a memory map
    array = array[None] if array.shape == spec.shape[1:] else array
    pixels = array.dtype == np.uint8 and (spec.dtype in ("int8", "float32") or spec.pixels is not None)
    reals = array.dtype.kind == "f" and (spec.scale or spec.dtype == "float32")
    if array.shape[1:] != spec.shape[1:] or not array.ndim or not (array.dtype.name == spec.dtype or pixels or reals):
        raise CalibrationError(
            f"{where}: input '{spec.name}' takes {spec.dtype} codes, uint8 pixels (uint8, int8 and float32 inputs) or "
            f"real values of shape {['samples', *spec.shape[1:]]}, got {array.dtype} {list(array.shape)}"
        )
    return array


def _values(value: NDArray[Any], spec: InputSpec, where: str) -> NDArray[Any]:
    """Keep pixels and codes; quantize real values with the input's own parameters."""
    if value.dtype.kind != "f":
        return np.asarray(value)
    if spec.dtype == "float32":
        if not np.isfinite(value).all():
            raise CalibrationError(f"{where}: input '{spec.name}' holds NaN or infinite values")
        return np.asarray(value, np.float32)
    limits = np.iinfo(spec.dtype)
    low, high = (spec.scale * (limit - spec.zero_point) for limit in (limits.min, limits.max))
    if np.isnan(value).any():
        raise CalibrationError(f"{where}: input '{spec.name}' holds NaN")
    if np.ptp(value) < (high - low) / _LEAST_SHARE and np.abs(value).max(initial=0.0) < (high - low) / _LEAST_SHARE and value.any():
        raise CalibrationError(
            f"{where}: real values {np.min(value):g} to {np.max(value):g} fill less than 1/{_LEAST_SHARE} of what input "
            f"'{spec.name}' means, {low:g} to {high:g}: were they scaled for another model? give pixels as uint8, or real values"
        )
    if not (np.min(value) >= 2 * low - high and np.max(value) <= 2 * high - low):
        raise CalibrationError(
            f"{where}: real values {np.min(value):g} to {np.max(value):g} lie far outside what input '{spec.name}' "
            f"can hold, {low:g} to {high:g}: give pixels as uint8, codes as {spec.dtype}, or real values"
        )
    return quantize(value.astype(np.float64), spec)


def _from_stream(source: Any, inputs: tuple[InputSpec, ...]) -> _Loaded:
    """Read a tf.data.Dataset, a representative_dataset callable or any iterable that starts over; never all at once."""
    source = getattr(source, "input_gen", source)  # a tf.lite.RepresentativeDataset holds the callable there
    if not callable(source) and (not hasattr(source, "__iter__") or iter(source) is source):
        raise CalibrationError(
            f"{type(source).__name__} cannot be read twice: give a path, an array, a dict of arrays, "
            "a dataset or a callable that returns a new iterator each time"
        )
    if hasattr(source, "cardinality") and int(source.cardinality()) == -1:
        raise CalibrationError("the dataset is infinite: add take(count)")

    def elements() -> Iterator[tuple[_Arrays, Any]]:
        for element in source() if callable(source) else source:
            values, label = _split(element, inputs)
            yield (
                {spec.name: _fit(value, spec, "the dataset") for spec, value in zip(inputs, values, strict=True)},
                label,
            )

    def read(start: int = 0) -> Iterator[_Arrays]:
        return islice(values(), start, None)

    def values() -> Iterator[_Arrays]:
        for arrays, _ in elements():
            for i in range(len(arrays[inputs[0].name])):
                yield {spec.name: _values(arrays[spec.name][i], spec, "the dataset") for spec in inputs}

    count, labels = 0, []
    for arrays, label in elements():
        size = len(arrays[inputs[0].name])
        count += size
        rows = np.asarray(label)
        labels += list(rows) if rows.ndim and len(rows) == size else [rows]
    usable = len(labels) == count and all(row.dtype.kind in "iuf" and row.shape == labels[0].shape for row in labels)
    return count, np.stack(labels) if usable and count else None, read


def _split(element: Any, inputs: tuple[InputSpec, ...]) -> tuple[list[Any], Any]:
    """Part a step's `x`, `(x, label)`, `[x1, x2]`, `(x1, x2, label)`, `{name: x}` or `({name: x}, label)`."""
    names = [spec.name for spec in inputs]
    if isinstance(element, Mapping):
        if not set(names) <= set(element):
            raise CalibrationError(f"the dataset holds {sorted(element)}, the model's inputs are {sorted(names)}")
        return [element[name] for name in names], element.get("labels")
    if not isinstance(element, tuple | list):
        element = [element]
    if len(element) == 2 and isinstance(element[0], Mapping | tuple | list):
        return _split(element[0], inputs)[0], element[1]
    if len(element) not in (len(names), len(names) + 1):
        raise CalibrationError(f"the dataset gives {len(element)} values a step, the model has {len(names)} inputs")
    return list(element[: len(names)]), element[len(names)] if len(element) > len(names) else None


def _from_records(path: Path, inputs: tuple[InputSpec, ...]) -> _Loaded:
    """Index a TFRecord file of tf.train.Example; the images stay in the file until they are read."""
    spec = _image_input(inputs, str(path))
    spans = list(record_spans(path))

    def examples(start: int = 0) -> Iterator[tuple[bytes, int | None]]:
        with path.open("rb") as file:
            for number, (offset, length) in enumerate(spans[start:], start):
                file.seek(offset)
                yield parse_example(file.read(length), f"{path} record {number}")

    def read(start: int = 0) -> Iterator[_Arrays]:
        for number, (image, _) in enumerate(examples(start), start):
            yield {spec.name: _decode(image, spec, f"{path} record {number}")}

    labels = [label for _, label in examples()]
    return len(spans), None if None in labels else np.array(labels), read

