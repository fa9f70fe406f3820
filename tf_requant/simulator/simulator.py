"""Simulator: a whole graph, prepared once for an arithmetic, then run in integers on any number of samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import RequantError, UnsupportedOpError, UsageError
from tf_requant.model.graph import Graph
from tf_requant.model.ops import info
from tf_requant.model.quant import code_limits
from tf_requant.numerics.arithmetic import Arithmetic
from tf_requant.simulator.engine import Engine, compiled
from tf_requant.simulator.mac import AccumulatorOverflow
from tf_requant.simulator.observe import Observation
from tf_requant.simulator.ops import KERNELS
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site, device_width, narrow_width

ExecuteHost = Callable[[Graph, int, Sequence[NDArray[Any] | None]], Sequence[NDArray[Any]]]
"""(graph, op index, the op's inputs) -> its outputs: runs what no accelerator computes."""


@dataclass(frozen=True)
class Placed:
    """How one op runs.

    Attributes:
        op_index: which op.
        where: `device`: by the arithmetic; `reference`: in integers by TFLite's reference rules, since the
            arithmetic cannot hold it; `host`: outside, by `execute_host`.
        reason: why not on the device; empty there.
    """

    op_index: int
    where: Literal["device", "reference", "host"]
    reason: str = ""


@dataclass
class Run:
    """One sample on its way through a graph.

    Attributes:
        values: by tensor index, what a later op still reads.
        variables: by tensor index, the state.
    """

    values: dict[int, NDArray[Any]]
    variables: dict[int, NDArray[Any]]


class Simulator:
    """A graph ready to run, by one thread at a time.

    Args:
        graph: the graph; not changed.
        arithmetic: what the device does.
        execute_host: runs the ops that no kernel here runs; without it they are refused.
        strict: refuse every op that the arithmetic itself cannot run.
        observe: count saturations, ties and accumulator bits (slower: everything is computed by the definition).
        engine: what computes the layers; "auto" takes numba where it is installed.
        host: ops that the device leaves to its host, by index, with the reason: they run by the reference rules.

    Raises:
        UnsupportedOpError: ops that cannot run, all of them in one message.
    """

    def __init__(
        self,
        graph: Graph,
        arithmetic: Arithmetic,
        *,
        execute_host: ExecuteHost | None = None,
        strict: bool = False,
        observe: bool = False,
        engine: Engine = "auto",
        host: Mapping[int, str] | None = None,
    ) -> None:
        self.graph, self.arithmetic = graph, arithmetic
        self._left_to_host = host or {}
        # Counting needs every element computed by the definition.
        self._fast = compiled("numpy" if observe else engine)
        self._execute_host = execute_host
        self.observations = {i: self._observation(i) for i in range(len(graph.ops))} if observe else {}
        self._kernels: list[Kernel] = []
        placed, refused = [], []
        for index in range(len(graph.ops)):
            kernel, place = self._prepare(index)
            if place.where == "host" and (strict or execute_host is None) or place.where == "reference" and strict:
                refused.append(
                    f"{graph.where(index)}: the arithmetic {arithmetic.name!r} cannot run it: {place.reason}"
                )
            self._kernels.append(kernel)
            placed.append(place)
        if refused:
            raise UnsupportedOpError("\n".join(refused))
        self.placed = tuple(placed)
        self._last_use = {t: i for i, op in enumerate(graph.ops) for t in op.inputs if t >= 0}

    @property
    def engine(self) -> str:
        """What computes the layers."""
        return "numpy" if self._fast is None else str(self._fast.NAME)

    def _observation(self, index: int) -> Observation:
        return Observation(index, self.graph.tensors[self.graph.ops[index].outputs[0]].name)

    def _prepare(self, index: int) -> tuple[Kernel, Placed]:
        """The kernel of an op: the arithmetic's own, else the reference rules', else the host's."""
        op = self.graph.ops[index]
        prepare = KERNELS.get(op.code)
        if prepare is None:
            return self._host_kernel(index), Placed(index, "host", "the simulator has no such op")
        observation = self.observations.get(index)
        try:
            if op.code in self.arithmetic.host_ops:
                raise CannotRun(f"{self.arithmetic.name!r} does not define it")
            if index in self._left_to_host:
                raise CannotRun(self._left_to_host[index])
            site = Site(self.graph, index, self.arithmetic, observation, self._fast)
            return narrowed(site, prepare(site)), Placed(index, "device")
        except CannotRun as why:
            reason = str(why)
        try:
            kernel = prepare(Site(self.graph, index, TFLITE_REF, observation, self._fast))
            return kernel, Placed(index, "reference", reason)
        except CannotRun:
            return self._host_kernel(index), Placed(index, "host", reason)

    def _host_kernel(self, index: int) -> Kernel:
        def run(arrays: Sequence[NDArray[Any] | None]) -> Sequence[NDArray[Any]]:
            if self._execute_host is None:
                raise UnsupportedOpError(f"{self.graph.where(index)}: there is no host to run it")
            return self._execute_host(self.graph, index, arrays)

        return run

    def run(
        self, inputs: Mapping[int, NDArray[Any]], tensors: Literal["all", "outputs"] = "outputs"
    ) -> dict[int, NDArray[Any]]:
        """One run; variable tensors start at zero.

        Args:
            inputs: codes by tensor index, every input of the graph.
            tensors: "all" keeps every computed tensor, and variables as the run leaves them; "outputs" only the
                graph's.

        Returns:
            Codes by tensor index (float32 and indices where a tensor holds those), graph inputs included.
        """
        result = {}
        for index, value in self.walk(inputs):
            if tensors == "all" or index in self.graph.outputs:
                result[index] = value
        return result

    def walk(self, inputs: Mapping[int, NDArray[Any]]) -> Iterator[tuple[int, NDArray[Any]]]:
        """One run, tensor by tensor: yields (index, codes) of inputs, of each op's outputs, of variables at the end.

        Nothing is kept longer than its last reader needs it.
        """
        run = self.begin(inputs)
        yield from list(run.values.items())
        for index in self.graph.outputs:
            constant = self.graph.tensors[index].data
            if constant is not None:
                yield index, constant
        for position in range(len(self.graph.ops)):
            yield from self.step(position, run).items()
        yield from run.variables.items()

    def begin(self, inputs: Mapping[int, NDArray[Any]]) -> "Run":
        """A run ahead of its first op: inputs by tensor index, variables at zero."""
        graph = self.graph
        missing = [graph.tensors[t].name for t in graph.inputs if t not in inputs]
        if missing:
            raise UsageError(f"the input {missing[0]!r} was not given")
        values = {index: checked_input(graph, index, inputs[index]) for index in graph.inputs}
        return Run(values, {i: zeros(graph, i) for i, t in enumerate(graph.tensors) if t.is_variable})

    def step(self, position: int, run: "Run") -> dict[int, NDArray[Any]]:
        """Runs the next op: its outputs by tensor index; what no later op reads leaves the run."""
        op = self.graph.ops[position]
        for index in run.variables.keys() & {*op.inputs}:
            # A kernel updates its state in place; what earlier ops made of it stays as it was.
            run.variables[index] = run.variables[index].copy()
        arrays = [self._read(run, t, position) for t in op.inputs]
        outputs = dict(zip(op.outputs, self._call(self._kernels[position], arrays, position)))
        run.values.update(outputs)
        for index in {*op.inputs, *op.outputs}:
            if self._last_use.get(index, -1) <= position:
                run.values.pop(index, None)
        return outputs

    def execute(self, position: int, arrays: Sequence[NDArray[Any] | None]) -> Sequence[NDArray[Any]]:
        """One op alone: its outputs for these inputs, constants among them, None where an optional one is absent."""
        return self._call(self._kernels[position], arrays, position)

    def revise(self, graph: Graph, position: int) -> None:
        """Goes on with a graph in which one op's constants are others."""
        self.graph = graph
        self._kernels[position] = self._prepare(position)[0]

    def _read(self, run: "Run", index: int, position: int) -> NDArray[Any] | None:
        if index < 0:
            return None
        data = self.graph.tensors[index].data
        if data is not None:
            return data
        if index in run.variables:
            return run.variables[index]
        if index not in run.values:
            tensor = self.graph.tensors[index]
            if not tensor.size and index not in self.graph.producers:
                return np.empty(tensor.shape, tensor.dtype)  # an empty constant has no bytes in the file
            raise UsageError(f"{self.graph.where(position)} reads {tensor.name!r}, which nothing computes")
        return run.values[index]

    def _call(self, kernel: Kernel, arrays: Sequence[NDArray[Any] | None], position: int) -> Sequence[NDArray[Any]]:
        try:
            return kernel(arrays)
        except AccumulatorOverflow as overflow:
            raise AccumulatorOverflow(f"{self.graph.where(position)}: {overflow}") from overflow
        except RequantError:
            raise
        except (ValueError, IndexError) as error:
            shapes = [None if a is None else list(a.shape) for a in arrays]
            raise UsageError(
                f"{self.graph.where(position)}: its inputs of shapes {shapes} do not fit: {error}"
            ) from error


def narrowed(site: Site, kernel: Kernel) -> Kernel:
    """The kernel of an op of a device whose codes are narrower than their tensors' type: what it reads saturates first.

    So codes of a graph input or of a constant that the device cannot hold never get further, and what only moves codes
    writes none beyond the width. QUANTIZE is how wider codes come in, and reads them whole.

    Raises:
        CannotRun: TFLite fixes the op's output so that its codes need all of int8.
    """
    arithmetic, row = site.arithmetic, info(site.op)
    outputs = [site.graph.tensors[t] for t in site.op.outputs]
    held = [device_width(t, arithmetic) for t in (*site.inputs, *outputs) if t is not None and t.quant is not None]
    bits = arithmetic.activation_bits or min((b for b in held if b is not None), default=None)
    if bits is None:
        return kernel
    if row is None:
        raise CannotRun(f"nothing is known of its codes in {bits} bits")
    if row.fixed_params("int8") is not None and any(t.dtype == "int8" and device_width(t, arithmetic) for t in outputs):
        raise CannotRun(f"TFLite fixes its output for codes of 8 bits, and it has {bits}")
    bounds = {
        position: site.limits(tensor)
        for position, tensor in enumerate(site.inputs)
        if tensor is not None and position != row.filter and narrow_width(tensor, arithmetic) and site.op.code != "QUANTIZE"
    }

    def run(arrays: Arrays) -> Sequence[NDArray[Any]]:
        return kernel([a.clip(*bounds[i]) if i in bounds and a is not None else a for i, a in enumerate(arrays)])

    return run if bounds else kernel


def checked_input(graph: Graph, index: int, codes: NDArray[Any]) -> NDArray[Any]:
    """An input's codes in the tensor's type, a copy: what a run returns is the caller's to keep.

    Raises:
        UsageError: they are no integers, or do not fit the type or the shape.
    """
    tensor, array = graph.tensors[index], np.asarray(codes)
    if list(array.shape[1:]) != list(tensor.shape[1:]) or array.ndim != len(tensor.shape):
        raise UsageError(f"input {tensor.name!r} has shape {list(array.shape)}, expected {list(tensor.shape)}")
    if array.dtype == np.dtype(tensor.dtype):
        return np.array(array)
    if tensor.quant is None or tensor.dtype not in ("uint8", "int8", "int16") or array.dtype.kind not in "iu":
        raise UsageError(f"input {tensor.name!r} is {array.dtype}, expected {tensor.dtype}: pass its codes")
    low, high = code_limits(tensor.dtype)
    if array.size and (array.min() < low or array.max() > high):
        raise UsageError(f"input {tensor.name!r} holds {array.min()}..{array.max()}, expected codes in {low}..{high}")
    return array.astype(tensor.dtype)


def zeros(graph: Graph, index: int) -> NDArray[Any]:
    """A variable tensor at real zero."""
    tensor = graph.tensors[index]
    point = 0 if tensor.quant is None else int(tensor.quant.zero_point[0])
    return np.full(tensor.shape, point, tensor.dtype)
