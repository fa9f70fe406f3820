"""How validation runs a model: in an interpreter, in the simulator, or in both to compare them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from numpy.typing import NDArray

from tf_requant.errors import CalibrationError
from tf_requant.io.data import InputSpec, Samples, feed
from tf_requant.model.graph import Model
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.record import gains_between
from tf_requant.pipeline.simulate import ArithmeticSource, Simulation
from tf_requant.runtime import InterpreterProcess
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.validation.exactness import Exactness
from tf_requant.validation.tensors import LayerTable, comparable, real_values

EXACT = "litert_ref"
"""The interpreter that the simulator is proved against."""

Runner = Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]
"""The source's input codes by name, several samples -> the outputs in real values."""


def feeds(source: Model, model: Model) -> list[tuple[InputSpec, InputSpec]]:
    """The source's inputs with the candidate's, by position: converters keep the order, not always the name."""
    ours, theirs = input_specs(source), input_specs(model)
    if [s.shape[1:] for s in ours] != [s.shape[1:] for s in theirs]:
        raise CalibrationError(
            f"the candidate's inputs are {[list(s.shape) for s in theirs]}, the reference's {[list(s.shape) for s in ours]}; "
            "expected the same shapes: is this the right reference?"
        )
    return list(zip(ours, theirs))


def interpreted(
    stack: ExitStack, backend: str, data: bytes, model: Model, source: Model
) -> Runner:
    """Runs a model in an interpreter; the process ends with the stack."""
    process = stack.enter_context(InterpreterProcess(backend))
    details = process.load(data)
    pairs = feeds(source, model)
    tensors = [model.main.tensors[t] for t in model.main.outputs]

    def run(batch: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        fed = (feed(batch[ours.name], ours, theirs) for ours, theirs in pairs)
        inputs: dict[str | int, NDArray[Any]] = {d.index: codes for d, codes in zip(details.inputs, fed)}
        outputs = process.run(inputs)
        results = [outputs[d.index] for d in details.outputs]
        return [r if t.quant is None else real_values(r, t) for r, t in zip(results, tensors)]

    return run


def simulated(
    stack: ExitStack, model: Model, source: Model, arithmetic: ArithmeticSource
) -> Runner:
    """Runs a model in the simulator."""
    simulation = stack.enter_context(Simulation(model, arithmetic))
    pairs = feeds(source, model)
    graph = model.main

    def run(batch: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        codes = simulation.run({theirs.name: feed(batch[ours.name], ours, theirs) for ours, theirs in pairs})
        results = [(codes[simulation.names[t]], graph.tensors[t]) for t in graph.outputs]
        return [r if t.quant is None else real_values(r, t) for r, t in results]

    return run


def exactness_of(data: bytes, model: Model, source: Model, samples: Samples, count: int) -> Exactness:
    """The candidate in the simulator as tflite_ref against the reference kernels, fed forward on its own outputs."""
    table, pairs = Exactness(TFLITE_REF.name, EXACT, model.main), feeds(source, model)
    with InterpreterProcess(EXACT) as process, Simulation(model, TFLITE_REF) as simulation:
        process.load(data, preserve_all=True)
        table.simulated_ops = sum(place.where != "host" for _, place in simulation.report.placed)
        for batch in first(samples.codes(1), count):
            inputs: dict[str | int, NDArray[Any]] = {
                t: feed(batch[a.name], a, b) for t, (a, b) in zip(model.main.inputs, pairs)
            }
            expected = {i: codes[0] for i, codes in process.run(inputs, tensors="all").items()}
            table.add(simulation.walk({int(t): codes for t, codes in inputs.items()}), expected)
    return table


def layer_table(
    reference: bytes, candidate: bytes, source: Model, model: Model, samples: Samples, layers: int, backend: str, start: int = 0
) -> LayerTable:
    """Every comparable tensor of the first samples, the candidate's against the source's; `start` is the first one's number."""
    table = LayerTable(comparable(source), comparable(model), gains_between(source, model), start=start)
    with InterpreterProcess(backend) as ours, InterpreterProcess(backend) as theirs:
        runs = [(ours, ours.load(reference, preserve_all=True), source), (theirs, theirs.load(candidate, preserve_all=True), model)]
        for batch in first(samples.codes(1), layers):
            observed = []
            for process, details, m in runs:
                fed = (feed(batch[a.name], a, b) for a, b in feeds(source, m))
                inputs: dict[str | int, NDArray[Any]] = {d.index: f for d, f in zip(details.inputs, fed)}
                codes = process.run(inputs, tensors="all")
                observed.append({m.main.tensors[i].name: c for i, c in codes.items() if i < len(m.main.tensors)})
            table.add(*observed)
    return table


def first(batches: Iterator[dict[str, NDArray[Any]]], count: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The first batches."""
    for _, batch in zip(range(count), batches):
        yield batch
