"""The simulate verb: a whole model in integers, with every tensor observable."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import TargetError, UsageError
from tf_requant.model.graph import Graph, Model
from tf_requant.model.verify import check
from tf_requant.numerics.arithmetic import Arithmetic
from tf_requant.pipeline.host import Host
from tf_requant.pipeline.requantize import Result, TargetSource
from tf_requant.pipeline.source import ModelSource, load_source
from tf_requant.report.names import short_name
from tf_requant.simulator.engine import Engine
from tf_requant.simulator.observe import Observation
from tf_requant.simulator.profiles import PROFILES
from tf_requant.simulator.simulator import Placed, Simulator
from tf_requant.targets import Target, builtin_targets, load_target

ArithmeticSource = TargetSource | Arithmetic
Which = Literal["all", "outputs"]


def load_arithmetic(source: ArithmeticSource) -> tuple[Arithmetic, Target | None]:
    """The arithmetic that a profile's name, a target's name, a target file, a Target or an Arithmetic stands for.

    Returns:
        The arithmetic, and the target that it belongs to, if any.

    Raises:
        TargetError: there is no such name, or the file is no target.
    """
    if isinstance(source, Arithmetic):
        return source, None
    if isinstance(source, str) and source in PROFILES:
        return PROFILES[source], None
    if isinstance(source, str) and not source.lower().endswith(".json") and source not in builtin_targets():
        names = ", ".join([*PROFILES, *builtin_targets()])
        raise TargetError(f'unknown arithmetic "{source}": expected one of {names}, or the path of a .json target file')
    target = load_target(source)
    return target.arithmetic, target


def unlisted(graph: Graph, target: Target | None) -> dict[int, str]:
    """The ops that a target leaves to its host, with the reason."""
    if target is None:
        return {}
    reason = f"the target {target.name!r} does not list it"
    return {index: reason for index, op in enumerate(graph.ops) if target.rule(op.code) is None}


@dataclass(frozen=True)
class SimulationReport:
    """What a simulation is made of and what it saw.

    Attributes:
        arithmetic: its name.
        engine: what computes: `numpy`, or `numba` where the extra `fast` is installed.
        placed: how each op runs.
        observations: counts by op, where they were asked for.
    """

    arithmetic: str
    engine: str
    placed: tuple[tuple[str, Placed], ...]
    observations: tuple[Observation, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        elsewhere = [
            {"op_index": p.op_index, "op": where, "runs": p.where, "reason": p.reason}
            for where, p in self.placed
            if p.where != "device"
        ]
        return {
            "arithmetic": self.arithmetic,
            "engine": self.engine,
            "ops": len(self.placed),
            "not_on_device": elsewhere,
            "observations": [o.to_dict() for o in self.observations],
        }

    def __str__(self) -> str:
        """How it ran first, then what left the device, then the layers that saturate or come near their width."""
        device = sum(p.where == "device" for _, p in self.placed)
        lines = [
            f"arithmetic {self.arithmetic}, engine {self.engine}: {device} of {len(self.placed)} ops on the device"
        ]
        lines += [f"  {p.where}: {where}: {p.reason}" for where, p in self.placed if p.where != "device"]
        for o in self.observations:
            counts = [f"{o.saturated} saturated", f"{o.ties} ties"] if o.elements else []
            if o.register_bits is not None:
                counts.append(
                    f"accumulator: {o.observed_bits} bits seen, {o.worst_case_bits} at worst, {o.register_bits} there"
                )
            if o.overflowed:
                counts.append(f"{o.overflowed} sums overflowed")
            if counts:
                lines.append(f"  op {o.op_index} ({short_name(o.output)}): {o.elements} codes, " + ", ".join(counts))
        return "\n".join(lines)


class Simulation:
    """A model ready to run on a described arithmetic.

    Args:
        model: a path, bytes, a `Model` or a requantization's `Result`.
        arithmetic: `tflite_ref`, `tosa`, `nna`, another profile's or a target's name, a target file, a `Target`.
        strict: refuse the ops that the arithmetic cannot run, instead of leaving them to the host.
        observe: count saturations, ties and accumulator bits; see `report`.
        engine: "auto" (numba where it is installed), "numpy" or "numba"; the codes are the same.

    Raises:
        RequantError: the model, the arithmetic or an op cannot be used.
    """

    def __init__(
        self,
        model: ModelSource | Result,
        arithmetic: ArithmeticSource = "tflite_ref",
        *,
        strict: bool = False,
        observe: bool = False,
        engine: Engine = "auto",
    ) -> None:
        self.model = checked_model(model)
        self.arithmetic, target = load_arithmetic(arithmetic)
        self._host = Host(self.model)
        self._simulator = Simulator(
            self.model.main,
            self.arithmetic,
            execute_host=None if strict else self._host,
            strict=strict,
            observe=observe,
            engine=engine,
            host=unlisted(self.model.main, target),
        )
        self.names = tensor_names(self.model.main)

    def __enter__(self) -> "Simulation":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the host's process, if one was needed."""
        self._host.close()

    @property
    def report(self) -> SimulationReport:
        """How each op runs, and the counts so far."""
        graph, simulator = self.model.main, self._simulator
        placed = tuple((graph.where(p.op_index), p) for p in simulator.placed)
        return SimulationReport(self.arithmetic.name, simulator.engine, placed, tuple(simulator.observations.values()))

    def run(
        self,
        x: NDArray[Any] | Mapping[str, NDArray[Any]],
        tensors: Which = "outputs",
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Codes in, codes out.

        Args:
            x: the codes of the one input, or of every input by name: one sample, or several along the first axis.
                Where some inputs hold several, an input with one sample serves all of them.
            tensors: "outputs", or "all".
            progress: called with (runs done, runs in all).

        Returns:
            Codes by tensor name. Several runs of a model are joined along the first axis where that is the batch,
            and stacked along a new one where it is not.
        """
        if tensors not in ("all", "outputs"):
            raise UsageError(f'tensors is {tensors!r}, expected "all" or "outputs"')
        graph = self.model.main
        inputs, count = split_inputs(graph, x)
        parts: dict[int, list[NDArray[Any]]] = {}
        for number, sample in enumerate(inputs):
            for index, codes in self._simulator.run(sample, tensors).items():
                parts.setdefault(index, []).append(codes)
            if progress is not None:
                progress(number + 1, count)
        batch = _batch(graph)
        return {self.names[i]: _joined(codes, graph.tensors[i].shape, batch) for i, codes in parts.items()}

    def walk(self, sample: Mapping[int, NDArray[Any]]) -> Iterator[tuple[int, NDArray[Any]]]:
        """One run, tensor by tensor, by index: (index, codes); see `Simulator.walk`."""
        return self._simulator.walk(sample)


def simulate(
    model: ModelSource | Result,
    x: NDArray[Any] | Mapping[str, NDArray[Any]],
    *,
    arithmetic: ArithmeticSource = "tflite_ref",
    tensors: Which = "outputs",
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, NDArray[Any]]:
    """Runs a model on the bit-exact fixed-point simulator; stateful tensors start at zero.

    Args:
        model: a path, bytes, a `Model` or a requantization's `Result`.
        x: input codes: one array for a model with one input, or a dict by tensor name; single or batched.
        arithmetic: `tflite_ref` (LiteRT's reference kernels), `tosa`, `nna`, `tflite_optimized`, `tflite_xnnpack`,
            a target's name or file.
        tensors: "outputs", or "all" for every computed tensor.
        strict: refuse ops that the arithmetic cannot run.
        progress: called with (runs done, runs in all).

    Returns:
        Codes by tensor name.

    Raises:
        RequantError: the model, the codes or the arithmetic cannot be used; in strict mode every op that cannot run.
    """
    with Simulation(model, arithmetic, strict=strict) as simulation:
        return simulation.run(x, tensors, progress)


def checked_model(source: ModelSource | Result) -> Model:
    """A model, verified.

    Raises:
        RequantError: it cannot be read, or breaks a rule of TFLite's.
    """
    return check(source.model if isinstance(source, Result) else load_source(source).model)


def tensor_names(graph: Graph) -> tuple[str, ...]:
    """A name for each tensor, made unique by its index where a file repeats one."""
    seen: set[str] = set()
    names = []
    for index, tensor in enumerate(graph.tensors):
        names.append(f"{tensor.name}#{index}" if tensor.name in seen or not tensor.name else tensor.name)
        seen.add(names[-1])
    return tuple(names)


def split_inputs(
    graph: Graph, x: NDArray[Any] | Mapping[str, NDArray[Any]]
) -> tuple[Iterator[dict[int, NDArray[Any]]], int]:
    """The inputs of each run, by tensor index, and how many runs there are.

    Raises:
        UsageError: an input is missing or unknown, or the numbers of samples differ.
    """
    unique = tensor_names(graph)
    names = {unique[t]: t for t in graph.inputs}
    if not isinstance(x, Mapping):
        if len(names) != 1:
            raise UsageError(f"the model has {len(names)} inputs ({', '.join(names)}); pass a dict of arrays by name")
        x = {next(iter(names)): x}
    wrong = [n for n in x if n not in names] + [n for n in names if n not in x]
    if wrong:
        raise UsageError(f"expected arrays for the inputs {', '.join(names)}, got {', '.join(map(str, x)) or 'none'}")
    runs = {names[name]: _runs(graph, names[name], np.asarray(array)) for name, array in x.items()}
    counts = {len(r) for r in runs.values() if len(r) != 1}
    if len(counts) > 1:
        raise UsageError("the inputs hold different numbers of samples: " + ", ".join(str(c) for c in sorted(counts)))
    count = counts.pop() if counts else 1
    return ({t: r[i if len(r) > 1 else 0] for t, r in runs.items()} for i in range(count)), count


def _runs(graph: Graph, index: int, array: NDArray[Any]) -> NDArray[Any]:
    """An input as [runs, *shape of one run].

    Raises:
        UsageError: it is neither one sample nor several.
    """
    tensor = graph.tensors[index]
    shape = tensor.shape
    if not array.size:
        raise UsageError(f"input {tensor.name!r} is empty: there is no sample to run")
    if array.ndim == len(shape) + 1 and array.shape[1:] == shape:
        return array
    if shape[:1] == (1,) and array.shape == shape[1:]:
        return array[None, None]
    if array.ndim != len(shape) or array.shape[1:] != shape[1:] or (shape and array.shape[0] % shape[0]):
        raise UsageError(
            f"input {tensor.name!r} has shape {list(array.shape)}, expected {list(shape)} or several of it"
        )
    return array.reshape(-1, *shape)


def _batch(graph: Graph) -> int:
    shapes = [graph.tensors[t].shape for t in graph.inputs]
    return shapes[0][0] if shapes and shapes[0] else 1


def _joined(codes: list[NDArray[Any]], shape: tuple[int, ...], batch: int) -> NDArray[Any]:
    if len(codes) == 1:
        return codes[0]
    if shape and shape[0] == batch:
        return np.concatenate(codes)
    return np.stack(codes)
