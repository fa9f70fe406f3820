"""The export verb: a re-expressed model as its target's fixed-point program, with golden vectors from the simulator."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import CalibrationError, UnsupportedModelError, UsageError
from tf_requant.export.flatbuffer import to_bytes
from tf_requant.export.folder import GOLDEN, LISTING, PROGRAM, write
from tf_requant.export.golden import Sample, archive, checked
from tf_requant.export.headers import LIMIT, headers
from tf_requant.export.listing import listing
from tf_requant.export.lowering import lower, tensor_keys
from tf_requant.export.program import Program
from tf_requant.io.data import load_samples
from tf_requant.io.tf1 import GraphOptions
from tf_requant.model.graph import Model
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.requantize import Result, TargetSource
from tf_requant.pipeline.simulate import Simulation, split_inputs, tensor_names
from tf_requant.pipeline.source import NO_OPTIONS, ModelSource, load_source
from tf_requant.targets import Target, load_target
from tf_requant.validation.legality import check_legality

Headers = Literal["auto", "all", "none"]
SAMPLES = 4


@dataclass(frozen=True, eq=False)
class Export:
    """What a hardware or firmware team gets.

    Attributes:
        program: the fixed-point program.
        samples: what each run of the simulator gave, by tensor index.
        headers: which ops get a C header: `auto` those of at most 65,536 elements, `all`, `none`.
        notes: what else there is to know.
    """

    program: Program
    samples: tuple[Sample, ...]
    headers: Headers = "auto"
    notes: tuple[str, ...] = ()

    @cached_property
    def program_bytes(self) -> bytes:
        """The flatbuffer, `schemas/nna_program.fbs`."""
        return to_bytes(self.program)

    @cached_property
    def _headers(self) -> tuple[dict[str, str], tuple[str, ...]]:
        if self.headers == "none":
            return {}, ()
        return headers(self.program, self.samples[0], None if self.headers == "all" else LIMIT)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The ops that got no header, one sentence each."""
        return self._headers[1]

    def files(self) -> dict[str, bytes]:
        """Every file by its path in the folder."""
        keys, (texts, left_out) = tensor_keys(self.program), self._headers
        golden = {
            "archive": f"{GOLDEN}/golden.npz", "samples": len(self.samples),
            "headers": sorted(texts), "headers_left_out": list(left_out),
        }  # fmt: skip
        return {
            PROGRAM: self.program_bytes,
            LISTING: listing(self.program, keys, golden).encode(),
            f"{GOLDEN}/golden.npz": archive(keys, self.samples),
            **{f"{GOLDEN}/{name}": text.encode("ascii") for name, text in texts.items()},
        }

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the folder, whole or not at all; `overwrite` replaces an earlier export, and nothing else.

        Raises:
            UsageError: it cannot, or must not, be written.
        """
        write(Path(folder), self.files(), overwrite=overwrite)

    def __str__(self) -> str:
        """What is in it, then what the host has to do, then what was left out."""
        ops, texts = self.program.ops, self._headers[0]
        device = sum(not op.host_reason for op in ops)
        lines = [
            f"program for {self.program.target}: {len(ops)} ops, {device} on the accelerator, {len(self.program_bytes)} bytes",
            f"golden vectors: {len(self.samples)} samples of {len(self.samples[0])} tensors, {max(len(texts) - 1, 0)} headers",
        ]
        lines += [f"  host: op {i} ({op.code}): {op.host_reason}" for i, op in enumerate(ops) if op.host_reason]
        lines += [f"  no header: {sentence} (--headers=all writes it)" for sentence in self.left_out]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def export(
    model: ModelSource | Result,
    target: TargetSource,
    data: Any,
    *,
    samples: int = SAMPLES,
    headers: Headers = "auto",
    options: GraphOptions = NO_OPTIONS,
    progress: Callable[[int, int], None] | None = None,
) -> Export:
    """Lowers a model that was re-expressed for a target, and runs samples for golden vectors.

    Args:
        model: a path (of a TF1 graph too), a TFLite file's bytes, a `Model` or a requantization's `Result`.
        target: a built-in name, a path to a target file, a document or a Target.
        data: what `load_samples` takes; a pixel means what it means to the model's source.
        samples: how many of them, at least 1; all there are, where there are fewer.
        headers: which ops get a C header.
        options: what a TF1 graph does not say of itself.
        progress: called with (samples done, samples in all).

    Raises:
        UnsupportedModelError: the model breaks rules of the target (one sentence each), or none of its ops runs there.
        RequantError: the model, the target or the data cannot be used.
    """
    if samples < 1:
        raise UsageError(f"samples is {samples}; golden vectors take at least 1")
    if headers not in get_args(Headers):
        raise UsageError(f"headers is {headers!r}; expected {', '.join(get_args(Headers))}")
    aim = load_target(target)
    loaded = model.model if isinstance(model, Result) else load_source(model, options).model
    host = _host_ops(loaded, aim)
    with Simulation(loaded, aim) as simulation:
        graph = simulation.model.main
        placed = [place for _, place in simulation.report.placed]
        program = lower(graph, simulation.arithmetic, placed, host, aim.bias.bits, aim.weight.codebook)
        fed, count = split_inputs(graph, _codes(simulation.model, data, samples))
        runs = []
        for number, sample in enumerate(fed):
            runs.append(checked(program, dict(simulation.walk(sample))))
            if progress is not None:
                progress(number + 1, count)
    return Export(program, tuple(runs), headers, _notes(simulation.model, samples, count))


def _host_ops(model: Model, target: Target) -> dict[int, str]:
    """The main graph's ops that the target's rules leave to the host, with the reason.

    Raises:
        UnsupportedModelError: the model is not legal for the target, or runs nothing on it.
    """
    remedy = f"the model is not legal for {target.name!r}: re-express it with requantize first"
    violations = check_legality(model, target).violations
    if violations:
        raise UnsupportedModelError("\n".join([f"{remedy}: {violations[0]}", *violations[1:]]))
    judged = check_legality(model.with_(graphs=(model.main,)), target)
    if not judged.accelerated:
        first = judged.host_ops[0] if judged.host_ops else None
        why = "it has no op" if first is None else f"all its ops are left to the host, {first.where} because: {first.reason}"
        raise UnsupportedModelError(f"{remedy}: {why}")
    return {op.index: op.reason for op in judged.host_ops}


def _codes(model: Model, data: Any, samples: int) -> Mapping[str, NDArray[Any]]:
    """The input codes of the first samples, as many as make whole batches of the model's.

    Raises:
        CalibrationError: there are not enough for one.
    """
    shapes = [model.main.tensors[t].shape for t in model.main.inputs]
    batch = shapes[0][0] if shapes and shapes[0] else 1
    held = load_samples(data, input_specs(model))
    if len(held) < batch:
        raise CalibrationError(f"the data hold {len(held)} samples, and one run of the model takes {batch}")
    parts = list(islice(held.codes(1), min(samples, len(held) // batch) * batch))
    names = tensor_names(model.main)
    given = zip(model.main.inputs, held.inputs)
    return {names[t]: np.concatenate([part[spec.name] for part in parts]) for t, spec in given}


def _notes(model: Model, asked: int, count: int) -> tuple[str, ...]:
    notes = list(model.warnings)
    if count < asked:
        notes.append(f"{asked} samples were asked for, and the data hold {count}")
    if len(model.graphs) > 1:
        notes.append(f"the program is of the main graph; {len(model.graphs) - 1} more are what ops on the host call")
    return tuple(notes)
