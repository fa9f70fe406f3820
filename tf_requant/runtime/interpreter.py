"""A TFLite interpreter in a child process: load, run, observe, and outlive what kernels do."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import InterpreterError, UsageError
from tf_requant.runtime.worker import ModelDetails, TensorDetails, find_backend, receive, send

_CHUNK_BYTES = 64 << 20
_LONGEST_MESSAGE = 600


class InterpreterProcess:
    """One child process with one interpreter package; it may load several models one after the other.

    Args:
        backend: a name in `BACKENDS`.
        timeout: seconds that any one answer may take before the child is killed.

    Raises:
        UsageError: the name is unknown or its package is not installed.

    """

    def __init__(self, backend: str = "litert", timeout: float = 600.0) -> None:
        self.backend = find_backend(backend)
        self.unobservable: tuple[int, ...] = ()
        self._resolver, self._timeout, self._details = self.backend.resolver, timeout, None
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tf_requant.runtime.worker", self.backend.package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "1"},
        )

    def __enter__(self) -> "InterpreterProcess":
        """Return itself; the child started with the object."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the child."""
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the child can still answer."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            try:
                stream.close()
            except OSError:  # what was buffered for a dead child
                continue

    def load(
        self, model: bytes, resolver: str | None = None, preserve_all: bool = False, num_threads: int = 1
    ) -> ModelDetails:
        """Build and allocate an interpreter for the model.

        Args:
            model: the flatbuffer.
            resolver: a member of `OpResolverType`; by default the backend's own.
            preserve_all: keep every intermediate tensor, so that `run` can return it.
            num_threads: threads for the kernels that use them.

        Raises:
            InterpreterError: the interpreter refused the model, died or gave no answer.

        """
        self._resolver, self._details = resolver or self.backend.resolver, None
        header = {"resolver": self._resolver, "preserve_all": preserve_all, "num_threads": num_threads}
        reply, _ = self._ask("load", "loading the model", header, {"model": np.frombuffer(model, np.uint8)})
        self._details = ModelDetails.from_json(reply)
        return self._details

    def details(self) -> ModelDetails:
        """Tell the inputs, outputs and observable tensors of the loaded model."""
        if self._details is None:
            raise UsageError(f"{self._who()} holds no model: call load() first")
        return self._details

    def run(
        self,
        inputs: Mapping[str | int, NDArray[Any]],
        tensors: str | Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[int, NDArray[Any]]:
        """Invoke the model once a sample, with its state reset before each.

        Args:
            inputs: for each input, by name or index, `[samples, *shape]`, or `[samples * shape[0], *shape[1:]]`
                for a model of any batch size; `shape` itself is one sample. The dtype is the input's own.
            tensors: None for the outputs, 'all' for everything observable, or tensor indices.
            progress: called with (samples done, samples in all) after each message; a message weighs about 64 MB.

        Returns:
            `{tensor index: [samples, *tensor shape]}`. Under 'all', tensors that the interpreter keeps no data
            of are left out and listed in `unobservable`.

        Raises:
            UsageError: an array does not fit its input, or a tensor cannot be observed.
            InterpreterError: the interpreter failed, died or gave no answer.

        """
        details = self.details()
        arrays = _arrange(inputs, details.inputs)
        total = len(next(iter(arrays.values()))) if arrays else 1
        if not total:
            raise UsageError("there is no sample to run: the input arrays are empty")
        header = {"tensors": _requested(tensors, details), "skip_null": tensors == "all"}
        weight = details.sample_bytes + sum(array.nbytes for array in arrays.values()) // total
        step = max(1, _CHUNK_BYTES // max(1, weight))
        parts = []
        for start in range(0, total, step):
            header["samples"] = min(step, total - start)
            chunk = {index: array[start : start + step] for index, array in arrays.items()}
            reply, results = self._ask("run", "running the model", header, chunk)
            self.unobservable = tuple(reply["missing"])
            parts.append(results)
            if progress:
                progress(start + header["samples"], total)
        return _join(parts)

    def _ask(
        self, command: str, doing: str, header: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Send one message and wait for its answer, for `timeout` seconds at most."""
        expired = threading.Event()
        watchdog = threading.Timer(self._timeout, lambda: (expired.set(), self._process.kill()))
        watchdog.daemon = True
        watchdog.start()
        try:
            send(self._process.stdin, {"command": command, **header}, arrays)
            answer = receive(self._process.stdout)
        except (OSError, ValueError):  # the pipe broke, or was closed with the child
            answer = None
        finally:
            watchdog.cancel()
        if answer is None:
            raise InterpreterError(f"{self._who()} {self._cause_of_death(expired.is_set())} while {doing}")
        if "error" in answer[0]:
            raise InterpreterError(f"{self._who()} failed while {doing}: {_one_line(answer[0]['error'])}")
        return answer

    def _who(self) -> str:
        return f"{self.backend.package} with resolver {self._resolver}"

    def _cause_of_death(self, expired: bool) -> str:
        self._process.kill()  # a closed pipe ends the conversation, whether or not the child has ended
        code = self._process.wait()
        if expired:
            return f"gave no answer within {self._timeout:g} s and was stopped"
        cause = f"died with exit code {code}"
        if code < 0:
            known = {member.value: f" ({member.name})" for member in signal.Signals}
            cause = f"died with signal {-code}{known.get(-code, '')}"
        return cause + self._last_words()

    def _last_words(self) -> str:
        """Quote the last error line that the child printed, if any."""
        if self._log.closed:
            return ""
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines()]
        spoken = [line for line in lines if line and not line.startswith(("INFO", "WARNING", "W0000", "I0000"))]
        return f", saying '{_one_line(spoken[-1])}'," if spoken else ""


def run_model(
    model: bytes,
    inputs: Mapping[str | int, NDArray[Any]],
    backend: str = "litert",
    tensors: str | Sequence[int] | None = None,
    *,
    num_threads: int = 1,
    timeout: float = 600.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, NDArray[Any]]:
    """Run a model over all samples in a process of its own.

    Args:
        model: the flatbuffer.
        inputs: as `InterpreterProcess.run` takes them; so are `tensors`, `progress` and what comes back.
        backend: a name in `BACKENDS`.
        tensors: other than None keeps every tensor.
        num_threads: threads for the kernels that use them.
        timeout: seconds that one message may take.
        progress: called after each message.

    Raises:
        InterpreterError: the interpreter refused the model, failed, died or gave no answer.
        UsageError: the inputs or the backend's name do not fit.

    """
    with InterpreterProcess(backend, timeout) as process:
        process.load(model, preserve_all=tensors is not None, num_threads=num_threads)
        return process.run(inputs, tensors, progress)


def prove_runs(
    model: bytes, backends: Sequence[str] = ("litert", "litert_opt", "litert_ref"), timeout: float = 600.0
) -> None:
    """Load the model and invoke it on zeros under every backend.

    Raises:
        InterpreterError: one sentence for each backend that refused the model, failed, died or hung.

    """
    failures: list[str] = []
    processes: dict[str, InterpreterProcess] = {}
    with ExitStack() as opened:
        for backend in map(find_backend, backends):
            process = processes.get(backend.package)
            if process is None or not process.alive:
                process = opened.enter_context(InterpreterProcess(backend.name, timeout))
                processes[backend.package] = process
            try:
                details = process.load(model, backend.resolver)
                process.run({item.index: np.zeros(item.shape, item.dtype) for item in details.inputs})
            except InterpreterError as error:
                failures.append(str(error))
    if failures:
        raise InterpreterError("\n".join(failures))


def _requested(tensors: str | Sequence[int] | None, details: ModelDetails) -> list[int]:
    if tensors is None:
        return [output.index for output in details.outputs]
    if isinstance(tensors, str):
        if tensors != "all":
            raise UsageError(f"tensors is '{tensors}': give None, 'all' or a list of tensor indices")
        return list(details.observable)
    unknown = sorted(set(map(int, tensors)) - set(details.observable))
    if unknown:
        raise UsageError(
            f"tensors {unknown} cannot be observed: only what an op computes can, and only outputs "
            "unless the model was loaded with preserve_all=True"
        )
    return [int(index) for index in tensors]


def _arrange(inputs: Mapping[str | int, NDArray[Any]], wanted: Sequence[TensorDetails]) -> dict[str, NDArray[Any]]:
    """View each input as `[samples, *shape]` under its index; one UsageError for all that do not fit."""
    known = {key for item in wanted for key in (item.name, item.index)}
    names = ", ".join(f"'{item.name}'" for item in wanted)
    problems = [f"the model has no input {key!r}, it has {names}" for key in inputs if key not in known]
    arranged = {}
    for item in wanted:
        array = inputs.get(item.index, inputs.get(item.name))
        if array is None:
            problems.append(f"input '{item.name}' (tensor {item.index}) is missing")
            continue
        stack = item.as_samples(np.asarray(array))
        if stack is None:
            got = f"{np.asarray(array).dtype} {list(np.shape(array))}"
            problems.append(f"input '{item.name}' takes {item.dtype} {list(item.shape)} a sample, got {got}")
        else:
            arranged[str(item.index)] = stack
    if len({len(stack) for stack in arranged.values()}) > 1:
        counts = ", ".join(f"'{item.name}' {len(arranged[str(item.index)])}" for item in wanted)
        problems.append(f"the inputs hold different numbers of samples: {counts}")
    if problems:
        raise UsageError("; ".join(problems))
    return arranged


def _join(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[int, NDArray[Any]]:
    """Append the messages' results to one another, for the tensors that every message brought."""
    common = [index for index in parts[0] if all(index in part for part in parts)]
    shapes = {index: {part[index].shape[1:] for part in parts} for index in common}
    changing = [int(index) for index in common if len(shapes[index]) > 1]
    if changing:
        raise InterpreterError(
            f"tensors {changing} change their shape from sample to sample, so they cannot be stacked"
        )
    return {int(index): np.concatenate([part[index] for part in parts]) for index in common}


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + " ..."
