"""The child process that holds one interpreter package: `python -m tf_requant.runtime.worker PACKAGE`.

Answers one message with one message until its standard input ends. Everything that kernels print goes
to standard error, for standard output carries the answers. A message is an 8-byte length, a JSON header
of that length, then the arrays that the header lists as (key, dtype, shape), raw. It is not pickle: a
child that a hostile model has taken over can send its parent arrays and nothing else.
"""

import importlib
import json
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import UsageError

_LENGTH = struct.Struct("<Q")
_Arrays = dict[str, NDArray[Any]]
_Reply = tuple[dict[str, Any], _Arrays]


@dataclass(frozen=True)
class Backend:
    """An interpreter package and the op resolver (the kernels) to ask it for.

    Attributes:
        name: what `--against` calls it.
        package: the Python package that must be installed.
        resolver: a member of that package's `OpResolverType`.

    """

    name: str
    package: str
    resolver: str = "AUTO"


BACKENDS = {
    "litert": Backend("litert", "ai_edge_litert"),
    "litert_ref": Backend("litert_ref", "ai_edge_litert", "BUILTIN_REF"),
    "litert_opt": Backend("litert_opt", "ai_edge_litert", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"),
    "tflite_runtime": Backend("tflite_runtime", "tflite_runtime"),
    "tf": Backend("tf", "tensorflow"),
}


def available_backends() -> tuple[str, ...]:
    """Names of the backends whose package is installed; imports none of them."""
    return tuple(name for name, backend in BACKENDS.items() if find_spec(backend.package))


def find_backend(name: str) -> Backend:
    """Look the name up in the table; UsageError where it is unknown or its package is not installed."""
    if name not in BACKENDS:
        raise UsageError(f"there is no interpreter '{name}': choose one of {', '.join(BACKENDS)}")
    if name not in available_backends():
        raise UsageError(f"interpreter '{name}' needs the package {BACKENDS[name].package}, which is not installed")
    return BACKENDS[name]


@dataclass(frozen=True)
class TensorDetails:
    """An input or output as the interpreter describes it; scale 0.0 means not quantized."""

    name: str
    index: int
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int

    def as_samples(self, array: NDArray[Any]) -> NDArray[Any] | None:
        """View the array as `[samples, *shape]`, the model's own batches; None where it does not fit."""
        if array.dtype.name != self.dtype:
            return None
        if array.shape == self.shape:
            return array[None]
        if array.ndim == len(self.shape) and self.shape and array.shape[1:] == self.shape[1:]:
            return array.reshape(-1, *self.shape) if len(array) % self.shape[0] == 0 else None
        return array if array.ndim and array.shape[1:] == self.shape else None


@dataclass(frozen=True)
class ModelDetails:
    """What the interpreter says of the loaded model.

    Attributes:
        inputs: in the model's order.
        outputs: in the model's order.
        observable: indices that `run` can return: the outputs; with `preserve_all` also the inputs and
            everything that an op computes.
        sample_bytes: what all observable tensors of one sample weigh.

    """

    inputs: tuple[TensorDetails, ...]
    outputs: tuple[TensorDetails, ...]
    observable: tuple[int, ...]
    sample_bytes: int

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ModelDetails":
        """Rebuild what `asdict` and JSON made of it."""

        def tensor(item: dict[str, Any]) -> TensorDetails:
            return TensorDetails(**item | {key: tuple(item[key]) for key in ("shape", "shape_signature")})

        inputs, outputs = (tuple(map(tensor, values[role])) for role in ("inputs", "outputs"))
        return cls(inputs, outputs, tuple(values["observable"]), values["sample_bytes"])


def main() -> None:
    """Serve the parent until it closes the pipe."""
    commands, answers = os.fdopen(os.dup(0), "rb"), _private_stdout()
    package, session = sys.argv[1], None
    while (message := receive(commands)) is not None:
        header, arrays = message
        try:
            session = session or _Session(package)
            reply = getattr(session, header.pop("command"))(arrays, **header)
        except Exception as error:  # every refusal belongs to the parent, which words it
            reply = {"error": str(error) or type(error).__name__}, {}
        send(answers, *reply)


def _private_stdout() -> BinaryIO:
    """Duplicate standard output for the answers, then point descriptor 1 at standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


class _Session:
    """One interpreter package and the model that it currently holds."""

    def __init__(self, package: str) -> None:
        module = importlib.import_module("tensorflow" if package == "tensorflow" else f"{package}.interpreter")
        self._api = module.lite if package == "tensorflow" else module
        self._resolvers = (self._api.experimental if package == "tensorflow" else module).OpResolverType
        self._interpreter: Any = None

    def load(self, arrays: _Arrays, resolver: str, preserve_all: bool, num_threads: int) -> _Reply:
        """Build and allocate an interpreter; answer with what its parent must know of the model."""
        self._interpreter = None
        self._interpreter = self._api.Interpreter(
            model_content=arrays["model"].tobytes(),
            num_threads=num_threads,
            experimental_op_resolver_type=getattr(self._resolvers, resolver),
            experimental_preserve_all_tensors=preserve_all,
        )
        self._interpreter.allocate_tensors()
        inputs = tuple(_describe(detail) for detail in self._interpreter.get_input_details())
        outputs = tuple(_describe(detail) for detail in self._interpreter.get_output_details())
        observable = [item.index for item in outputs]
        if preserve_all:
            computed = {int(index) for op in self._interpreter._get_ops_details() for index in op["outputs"]}
            observable = sorted(index for index in computed | {item.index for item in inputs} if index >= 0)
        details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}
        size = sum(_bytes_of(details[index]) for index in observable if index in details)
        return asdict(ModelDetails(inputs, outputs, tuple(observable), size)), {}

    def run(self, arrays: _Arrays, tensors: list[int], skip_null: bool, samples: int) -> _Reply:
        """Invoke the model once a sample; stack each tensor along a new leading axis.

        Args:
            arrays: one array for each input index, `[samples, *input shape]`.
            tensors: the tensor indices to return.
            skip_null: leave out, and list as `missing`, the tensors that the interpreter keeps no data of.
            samples: how many.

        """
        results: _Arrays = {}
        missing: list[int] = []
        for sample in range(samples):
            self._interpreter.reset_all_variables()
            for key, array in arrays.items():
                self._interpreter.set_tensor(int(key), array[sample])
            self._interpreter.invoke()
            for index in tensors:
                if index not in missing:
                    value = self._read(index, skip_null)
                    if value is None:
                        missing.append(index)
                        results.pop(str(index), None)
                    else:
                        _store(results, index, value, sample, samples)
        return {"missing": missing}, results

    def _read(self, index: int, skip_null: bool) -> NDArray[Any] | None:
        try:
            return np.asarray(self._interpreter.get_tensor(index))
        except ValueError:
            if skip_null:
                return None
            raise


def _store(results: _Arrays, index: int, value: NDArray[Any], sample: int, count: int) -> None:
    """Write one sample's tensor into its stack."""
    if value.dtype.hasobject:
        raise ValueError(f"tensor {index} holds strings, which cannot be compared as arrays")
    if str(index) not in results:
        results[str(index)] = np.empty((count, *value.shape), value.dtype)
    stack = results[str(index)]
    if stack.shape[1:] != value.shape:
        raise ValueError(
            f"tensor {index} has shape {list(value.shape)} for one sample and {list(stack.shape[1:])} "
            "for those before it, so they cannot be stacked"
        )
    stack[sample] = value


def _describe(detail: dict[str, Any]) -> TensorDetails:
    scale, zero_point = detail["quantization"]
    return TensorDetails(
        name=detail["name"],
        index=int(detail["index"]),
        shape=tuple(int(length) for length in detail["shape"]),
        shape_signature=tuple(int(length) for length in detail["shape_signature"]),
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scale),
        zero_point=int(zero_point),
    )


def _bytes_of(detail: dict[str, Any]) -> int:
    return int(np.prod(detail["shape"], dtype=np.int64)) * np.dtype(detail["dtype"]).itemsize


def send(stream: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write one message: length, JSON header, raw arrays."""
    blocks = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    listing = [(key, block.dtype.str, arrays[key].shape) for key, block in blocks.items()]
    text = json.dumps({**header, "arrays": listing}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for block in blocks.values():
        stream.write(block.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Read one message; None where the stream ends, even in the middle of one."""
    prefix = stream.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        return None
    header = json.loads(stream.read(_LENGTH.unpack(prefix)[0]))
    arrays = {}
    for key, dtype, shape in header.pop("arrays"):
        array = np.empty(shape, np.dtype(dtype))
        if stream.readinto(array.reshape(-1).view(np.uint8).data) < array.nbytes:
            return None
        arrays[key] = array
    return header, arrays


if __name__ == "__main__":
    main()
