"""The requantize verb: verify, plan, correct, rewrite, verify again, report."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tf_requant.corrections import DISTILLATION, SPLITTING, chosen, judged, wants_noise
from tf_requant.corrections.splitting import GATHER, Copies, named, observed_of, outliers, split
from tf_requant.errors import InterpreterError, ModelFormatError, UsageError
from tf_requant.io import tflite_writer
from tf_requant.io.int4 import packed
from tf_requant.io.tf1 import GRAPH_SUFFIX, GraphOptions
from tf_requant.model.graph import Model
from tf_requant.model.ops import OPS, info
from tf_requant.model.verify import check, refuse_unsupported
from tf_requant.pipeline.calibrate import calibrate
from tf_requant.pipeline.correct import Corrector
from tf_requant.pipeline.distill import distill, refuse_untrainable
from tf_requant.pipeline.graphs import graph_edits
from tf_requant.pipeline.record import read_record, recorded
from tf_requant.pipeline.source import ModelSource, Source, Weights, load_source
from tf_requant.pipeline.widths import asked_widths, choose_widths
from tf_requant.plan import ACTIVATIONS, Plan
from tf_requant.planning.places import place_ops, unmatched
from tf_requant.planning.schemes import activation_dtype, narrowed, weight_limits
from tf_requant.planning.wishes import Interface, Wishes
from tf_requant.report import Report, build
from tf_requant.rewrite.rewriter import apply
from tf_requant.runtime import prove_runs
from tf_requant.targets import Target, load_target

TargetSource = str | os.PathLike[str] | Mapping[str, Any] | Target


@dataclass(frozen=True, eq=False)
class Result:
    """A re-expressed model with how it came about.

    Attributes:
        model: the re-expressed model.
        plan: every decision.
        report: the same, readable.
    """

    model: Model
    plan: Plan
    source_report: Report
    source: Source
    target: Target

    @cached_property
    def model_bytes(self) -> bytes:
        """The TFLite file."""
        return tflite_writer.write(self.model)

    @property
    def report(self) -> Report:
        """What was done and why: printable, and `to_dict()` for machines."""
        return replace(self.source_report, source_bytes=self.source.size, result_bytes=len(self.model_bytes))

    @cached_property
    def graph_bytes(self) -> bytes:
        """The frozen GraphDef that the source was converted from, its FakeQuant ranges on the target's grid.

        Every filter's range moves, activations' ranges move, and the input and pools, which TFLite rounds too, get a
        FakeQuant node. Filters keep their trained floats (times the gains) wherever those round to the planned code, so
        that training can go on from there; folded batch norms become constants.

        Raises:
            UsageError: the source was no TF1 graph.
            UnsupportedModelError: FakeQuant nodes cannot say what the target makes of it.
        """
        held = self.source.graph
        if held is None:
            raise UsageError("the source is a TFLite model: only a TF1 graph can be written back as one")
        if SPLITTING in self.source_report.corrections:
            raise UsageError("splitting adds ops that the TF1 graph does not have: write a .tflite file, or leave it out")
        record = replace(read_record(self.model), pixels={}).to_bytes()
        return held.edited(graph_edits(self.source.model, self.plan, self.target, held.survey), record)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Writes the TFLite file atomically; for a name in .pb, the TF1 graph.

        Raises:
            UsageError: the folder cannot be written, or the file exists and `overwrite` is false.
        """
        content = self.graph_bytes if Path(path).suffix.lower() == GRAPH_SUFFIX else self.model_bytes
        tflite_writer.save(Path(path), content, overwrite=overwrite)


def requantize(
    model: ModelSource,
    target: TargetSource,
    *,
    calibration: Any = None,
    corrections: str | Iterable[str] = "auto",
    io: Interface = "target",
    pin_range: Mapping[str, tuple[float, float]] | None = None,
    keep: str | Iterable[str] = (),
    dry_run: bool = False,
    inputs: str | Sequence[str] = (),
    outputs: str | Sequence[str] = (),
    input_stats: tuple[float, float] | None = None,
    weights: Weights = "codes",
    bits: Any = None,
    activation_bits: Any = None,
    budget: Any = None,
    search: str | os.PathLike[str] | None = None,
    train_widths: bool = False,
    int4: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Re-expresses an already quantized model for a target.

    Args:
        model: a path (a .tflite file, or a TF1 graph trained for quantization: a frozen GraphDef's .pb, a SavedModel's
            folder, a checkpoint's .meta), a TFLite file's bytes, or a Model.
        target: a built-in name, a path to a target file, a document or a Target.
        calibration: images, arrays, a dataset or a callable, a Calibration or a saved one's path: what the corrections
            measure on; one sample in five only judges.
        corrections: `auto`, `none`, or names, in a list or separated by commas; `auto,splitting` adds one that `auto` leaves out.
        io: the interface of the result: `target`, `source` or `float`.
        pin_range: tensor name -> (minimum, maximum) in real units.
        keep: regular expressions of ops (code or output tensor name) that stay at the source's precision.
        dry_run: decide everything, edit nothing: the result carries the source's own model.
        inputs: of a TF1 graph, the nodes to feed, NAME or NAME:1x224x224x3; found where none is named.
        outputs: of a TF1 graph, the nodes to fetch; found likewise.
        input_stats: of a TF1 graph, (mean, deviation): real value = (pixel - mean) / deviation.
        weights: of a TF1 graph, `trained` to round filters from the floats that training left behind the codes.
        bits: widths of the weights, or of their indices into codebooks, among those of the target: one for every layer of the
            main graph, or several to choose among.
        activation_bits: widths of the activations between layers, likewise; inputs and outputs keep the target's first.
        budget: `weights:0.6`: the share of the widest width's bytes that the weights may take, `activations:0.8` that of the
            activations between layers, or both with a comma between them; the widths of least error within it are measured on the
            calibration data (HMQ, arXiv 2007.09952, without training).
        search: a file that keeps what the search for widths measured, so that one that was broken off goes on; a dry run
            leaves it alone.
        train_widths: learn the widths of a weights' budget by gradient (HMQ's blocks; extra `tensorflow`) instead of measuring
            each.
        int4: write filters of four bits as INT4, two codes a byte, which LiteRT's kernels read beside int8 activations.
        progress: called with (steps done, steps in all) of each part of the work.

    Raises:
        RequantError: the model, the target or an argument cannot be used; nothing was written.
    """
    asked = chosen(corrections, calibration is not None)
    aim = load_target(target)
    narrow = asked_widths(aim, bits, budget, activation_bits)
    if train_widths and not any(one.budget is not None and one.kind != ACTIVATIONS for one in narrow):
        raise UsageError("--train_widths learns the widths of weights within a budget: give --bits and --budget, or leave it out")
    measured = [one for one in narrow if one.budget is not None and (one.kind == ACTIVATIONS or not train_widths)]
    if search is not None and not measured:
        raise UsageError("--search keeps what a budget measures: give --budget with --bits or --activation_bits, or leave it out")
    pinned = tuple((name, *bounds) for name, bounds in (pin_range or {}).items())
    wishes = Wishes(io, pinned, (keep,) if isinstance(keep, str) else tuple(keep))
    loaded = load_source(model, GraphOptions(_names(inputs), _names(outputs), input_stats), weights)
    source = loaded.model
    refuse_unsupported(source)
    unproven = _run_where_rules_end(source)
    whole, copies, divided = source, dict[int, Copies](), ""
    if SPLITTING in asked:
        # A layer that is given a narrower one has been split for the widest.
        width = max((b for one in narrow if one.kind != ACTIVATIONS for b in one.widths), default=aim.weight.bits[0])
        copies, divided = _copies(whole, aim, width, wishes, judged(corrections))
        source = check(split(whole, copies)) if copies else whole
        loaded = replace(loaded, model=source, content=b"") if copies else loaded
    if train_widths or DISTILLATION in asked:
        refuse_untrainable(source)
    observed = None
    if calibration is not None:
        observed = calibrate(whole, calibration, noise=wants_noise(asked, aim), progress=progress)
        observed = observed_of(observed, whole, source).without_repeats()
    corrector = Corrector(
        source,
        aim,
        tuple(name for name in asked if name not in (SPLITTING, DISTILLATION)),
        not judged(corrections),
        wishes,
        progress,
    )
    state = None if search is None or dry_run else Path(search)
    # Errors of rounding add up, so weights and activations are chosen for apart, each beside the other at its widest.
    widths = tuple(choose_widths(corrector, asked_for, observed, state, progress, train_widths) for asked_for in narrow)
    for choice in widths:
        part = "activation_widths" if choice.kind == ACTIVATIONS else "widths"
        wishes = replace(wishes, **{part: choice.bits})
    corrector = replace(corrector, wishes=wishes)
    corrected = corrector.correct(observed)
    if DISTILLATION in asked and observed is not None:
        corrected = distill(corrector, corrected, observed)
    plan, notes = corrected.plan, tuple(n for n in (divided, corrected.note, *(choice.note for choice in widths)) if n)
    applied = (*((SPLITTING,) if copies else ()), *corrected.applied)
    learned = corrected.learned or any(choice.measured is not None for choice in widths)
    digests = observed.digests if observed is not None and learned else ()
    if dry_run:
        result = whole
    else:
        result = recorded(apply(source, plan), source, plan, digests, named(whole.main, copies))
        result = check(result.with_(graphs=tuple(map(packed, result.graphs))) if int4 else result)
    idle = int4 and not dry_run and not any(t.packed for g in result.graphs for t in g.tensors)
    why = "a codebook's levels have eight" if aim.weight.codebook else "no filter beside int8 activations has codes of four bits"
    nothing = (f"--int4 changed nothing: {why}",) if idle else ()
    idle_patterns = (f"keep names {p!r}, which matches no op" for p in unmatched(source.graphs, wishes.keep))
    warnings = (*source.warnings, *unproven, *nothing, *idle_patterns)
    return Result(result, plan, build(source, result, plan, aim, applied, warnings, notes, widths), loaded, aim)


def _copies(
    source: Model, target: Target, width: int, wishes: Wishes, optional: bool
) -> tuple[dict[int, Copies], str]:
    """The input channels that a target's layers are to read once more, and a sentence on them.

    Raises:
        UsageError: the target has no op for it, or looks its weights up in tables, and it is not optional.
    """
    why = ""
    if target.rule(GATHER) is None or not OPS[GATHER].runs(activation_dtype(target)):
        why = f"splitting copies channels by {GATHER}, which target {target.name} does not run"
    elif target.weight.codebook is not None:
        why = f"splitting does not widen the codebook in which target {target.name} looks its weights up"
    if why and not optional:
        raise UsageError(f"{why}: leave it out")
    if why:
        return {}, f"{why}: left out"
    if not target.weight.symmetric:
        return {}, "splitting: this target holds every weight of 8 bits"
    layers = [i for i, op in enumerate(place_ops(source.main, target, wishes.keep)) if op.on_accelerator]
    copies = outliers(source.main, layers, *weight_limits(narrowed(target, width)))
    if not copies:
        return {}, "splitting: no convolution over all channels and no fully connected layer has a few outlying weights"
    return copies, f"splitting: {sum(map(len, copies.values()))} input channels of {len(copies)} layers are read once more"


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def prove(result: Result) -> str:
    """Runs the re-expressed model in the default interpreter, in a process of its own.

    Args:
        result: the re-expressed model; what the interpreter cannot run of its source to begin with proves nothing.

    Returns:
        A warning where no proof is possible (a custom op without a kernel here), else an empty string.

    Raises:
        InterpreterError: the result, or the source already, does not run.
    """
    try:
        prove_runs(result.model_bytes, ("litert",))
    except InterpreterError as error:
        custom = sorted({op.name for g in result.model.graphs for op in g.ops if op.code == "CUSTOM"})
        try:
            prove_runs(result.source.tflite(), ("litert",))
        except InterpreterError as own:
            if custom:
                return f"the result could not be run: this interpreter has no kernel for the custom op {', '.join(custom)}"
            raise InterpreterError(f"the source model does not run in the interpreter, so it was not re-expressed: {own}") from own
        raise InterpreterError(f"the re-expressed model does not run ({error}); please report this model and target") from error
    return ""


def _run_where_rules_end(source: Model) -> tuple[str, ...]:
    """Runs a model once that holds ops whose soundness no static rule can judge.

    Returns:
        A warning where even that is impossible: a custom op that this interpreter has no kernel for.

    Raises:
        ModelFormatError: it does not run as it is.
    """
    strange = sorted({op.name for g in source.graphs for op in g.ops if info(op) is None})
    if not strange:
        return ()
    try:
        prove_runs(tflite_writer.write(source), ("litert", "litert_ref"))
    except InterpreterError as error:
        if "custom op" in str(error) and any(op.code == "CUSTOM" for g in source.graphs for op in g.ops):
            return (f"could not be run here: the interpreter has no kernel for a custom op among {', '.join(strange)}",)
        raise ModelFormatError(f"the source model does not run in the interpreter: {error}") from error
    return ()
