"""The post_export verb: what a pipeline has after training, re-expressed for several targets and held to their gates.

It is called `tf_requant.post_export`; the module lies here, beside the other verbs, so that importing it cannot put a
module where the package has its function.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from absl import logging
from numpy.typing import NDArray

from tf_requant.calibration.statistics import Calibration, digest
from tf_requant.corrections import chosen
from tf_requant.errors import CalibrationError, UnsupportedModelError, UsageError
from tf_requant.io import tflite_writer
from tf_requant.io.data import load_samples
from tf_requant.io.tf1 import GRAPH_SUFFIX, GraphOptions, is_graph
from tf_requant.model.graph import Model
from tf_requant.model.verify import refuse_unsupported
from tf_requant.pipeline.calibrate import calibrate
from tf_requant.pipeline.check import Check, Thresholds
from tf_requant.pipeline.conversion import converted, needs_conversion, own_dataset
from tf_requant.pipeline.destinations import destinations, folders, made
from tf_requant.pipeline.exported import Exported, GatesMissed
from tf_requant.pipeline.gates import Gate, asked_for, gates
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.reporting import make
from tf_requant.pipeline.requantize import Result, TargetSource, prove, requantize
from tf_requant.pipeline.source import NO_OPTIONS, Source, load_source
from tf_requant.pipeline.steps import tensor_steps
from tf_requant.pipeline.validate import validate
from tf_requant.planning.wishes import Interface
from tf_requant.targets import Target, load_target
from tf_requant.validation.legality import check_legality

CONVERSION = "requantization.json"
"""The decisions in a report's folder, under the name that `requantize --report` gives them."""


def post_export(
    source: Any,
    targets: TargetSource | Iterable[TargetSource],
    *,
    representative_dataset: Any = None,
    data: Any = None,
    labels: NDArray[Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    corrections: str | Iterable[str] = "auto",
    io: Interface = "target",
    pin_range: Mapping[str, tuple[float, float]] | None = None,
    keep: str | Iterable[str] = (),
    against: Sequence[str] = ("litert",),
    min_agreement: Gate = None,
    max_top1_drop: Gate = None,
    max_layer_error: Gate = None,
    inputs: str | Sequence[str] = (),
    outputs: str | Sequence[str] = (),
    input_stats: tuple[float, float] | None = None,
    overwrite: bool = True,
) -> dict[str, Exported]:
    """Makes one model per target of what a training pipeline ends with, and holds each to the gates.

    The source is converted and calibrated once, whatever the number of targets. All targets are judged before anything
    is written. Then each model that passed is written, by rename; one that failed is not, and an older file of its name
    stays as it was; reports are written of both. Last, where anything failed, one error tells everything that did.

    Args:
        source: a TFLite file's bytes or path; a `tf.lite.TFLiteConverter`; a Keras model; a SavedModel's folder; a TF1
            graph trained for quantization; a `tf_requant.Model`. A converter that has a representative dataset or integer
            inputs converts as it was configured; another one is told to quantize to int8, for this conversion alone.
        targets: built-in names, paths of target files, documents or Targets; or a single one.
        representative_dataset: what float models are quantized on and corrections measure on: TFLite's callable, in real
            values, or an array, a dict of arrays by input name or a `tf.data.Dataset` of batches. For a source that is
            quantized already also a path, or pixels. Default: the converter's own; none measures nothing.
        data: what the models are judged on, by the same names; never samples that shaped them.
        labels: the right class of each sample, where the data carries none.
        output: a folder for `TARGET.tflite`, a file name with `{target}` in it, or, for one target, a file name.
        report: a folder for each target's report in `TARGET/`, or a name with `{target}` in it.
        corrections: as for `requantize`, like `io`, `pin_range` and `keep`.
        io: the interface of the results: `target`, `source` or `float`.
        pin_range: tensor name -> (minimum, maximum) in real units.
        keep: regular expressions of ops that stay at the source's precision.
        against: the backends that judge, as for `validate`; gates hold for each of them.
        min_agreement: the least share of equal top-1 answers, 0 to 1: a number, or a number by target name.
        max_top1_drop: the largest loss of top-1 in points, likewise.
        max_layer_error: the largest error of any layer in dB, likewise.
        inputs: of a TF1 graph, the nodes to feed.
        outputs: of a TF1 graph, the nodes to fetch.
        input_stats: of a TF1 graph, (mean, deviation) of a pixel.
        overwrite: whether files that exist are replaced.

    Returns:
        Target name -> its model, in the order asked for.

    Raises:
        GatesMissed: a `ValidationFailed`, where a gate was missed or a model breaks its target's rules.
        RequantError: the source, a target or an argument cannot be used, or an interpreter failed; nothing was written.
    """
    aims = targets_by_name(targets)
    limits = gates(tuple(aims), min_agreement, max_top1_drop, max_layer_error)
    needing = (*asked_for(limits), *(() if labels is None else ("labels",)))
    if data is None and needing:
        raise UsageError(f"{' and '.join(needing)} given without data to judge the models on: pass data")
    suffixes = (".tflite", GRAPH_SUFFIX) if isinstance(source, str | os.PathLike) and is_graph(Path(source)) else (".tflite",)
    files = {} if output is None else destinations(output, tuple(aims), suffixes, source, overwrite)
    pages = {} if report is None else folders(report, tuple(aims))
    dataset = own_dataset(source) if representative_dataset is None else representative_dataset
    measured = chosen(corrections, dataset is not None)
    loaded = _loaded(source, dataset, GraphOptions(_names(inputs), _names(outputs), input_stats))
    observed = None
    if dataset is not None and measured:
        logging.info("calibrating %s", _name(source))
        noise = "folding" in measured and any(aim.activation.scale == "power_of_two" for aim in aims.values())
        observed = calibrate(loaded.model, tensor_steps(dataset, loaded.model), noise=noise)
    judging = tensor_steps(data, loaded.model)
    if observed is not None and judging is not None:
        _refuse_shared(loaded.model, observed, judging)
    judge = _Judge(loaded, _name(source), judging, labels, tuple(against), limits, bool(pages))
    exported = {}
    for name, aim in aims.items():
        logging.info("re-expressing for %s", name)
        result = requantize(
            loaded.model, aim, calibration=observed, corrections=corrections, io=io, pin_range=pin_range, keep=keep
        )
        exported[name] = judge.judged(replace(result, source=loaded), aim)
    written = _written(exported, files, pages)
    if not all(e.passed for e in written.values()):
        raise GatesMissed(written)
    return written


def targets_by_name(targets: TargetSource | Iterable[TargetSource]) -> dict[str, Target]:
    """One target or several, each once, by name.

    Raises:
        UsageError: none, or two of one name.
        TargetError: one is none.
    """
    single = isinstance(targets, str | os.PathLike | Mapping | Target)
    aims = [load_target(cast(TargetSource, t)) for t in ([targets] if single else cast(Iterable[TargetSource], targets))]
    if not aims:
        raise UsageError("targets names no target")
    twice = sorted({a.name for a in aims if sum(b.name == a.name for b in aims) > 1})
    if twice:
        raise UsageError(f"targets names {', '.join(map(repr, twice))} more than once: each target is written under its name")
    return {aim.name: aim for aim in aims}


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _name(source: Any) -> str:
    """What reports call the source."""
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    return "bytes" if isinstance(source, bytes | bytearray | memoryview) else type(source).__name__


def _loaded(source: Any, dataset: Any, options: GraphOptions) -> Source:
    """The source as a quantized model.

    Raises:
        RequantError: it is none, or cannot be made one.
    """
    if not needs_conversion(source):
        loaded = load_source(source, options)
        refuse_unsupported(loaded.model)
        return loaded
    if options != NO_OPTIONS:
        raise UsageError("inputs, outputs and input_stats are for TF1 graphs, and the source is none")
    logging.info("converting %s to int8", _name(source))
    loaded = load_source(converted(source, dataset))
    try:
        refuse_unsupported(loaded.model)
    except UnsupportedModelError as error:
        hint = "" if dataset is not None else "; give a representative_dataset"
        raise UnsupportedModelError(f"TensorFlow's converter did not quantize the model fully: {error}{hint}") from error
    return loaded


def _refuse_shared(model: Model, observed: Calibration, data: Any) -> None:
    """Refuses to judge on what was measured on, before any work is done; `validate` would only where it shaped the result.

    Raises:
        CalibrationError: a sample of the data is in the representative dataset.
    """
    seen, samples = set(observed.digests), load_samples(data, input_specs(model))
    found = [n for n, sample in enumerate(samples.codes(1)) if digest(sample) in seen]
    if found:
        raise CalibrationError(
            f"data: {len(found)} of {len(samples)} samples (the first is number {found[0]}) are in the representative dataset "
            "too, so that figures on them would flatter the models: judge on others"
        )


@dataclass(frozen=True, eq=False)
class _Judge:
    """What every target's model is compared with, and on what."""

    source: Source
    name: str
    data: Any
    labels: NDArray[Any] | None
    against: tuple[str, ...]
    limits: Mapping[str, Thresholds]
    isolate: bool

    def judged(self, result: Result, aim: Target) -> Exported:
        """The verdict on one target's model; without data, that it runs and is legal."""
        if self.data is None:
            note = prove(result)
            legality = check_legality(load_source(result.model_bytes).model, aim)
            failures = tuple(f"breaks the target: {v}" for v in legality.violations)
            return Exported(aim.name, result, legality, None, failures, (note,) if note else ())
        check = self._check(result, aim)
        assert check.legality is not None
        return Exported(aim.name, result, check.legality, check, check.failures, check.notes)

    def _check(self, result: Result, aim: Target) -> Check:
        graph, model = self.source.graph, self.source.model
        # A graph that was written here remembers in the model's metadata what a pixel means, which its TFLite file lacks.
        reference = self.source.tflite() if graph is None else tflite_writer.write(model)
        limits = self.limits[aim.name]
        try:
            check = validate(
                result.model_bytes, reference=reference, data=self.data, labels=self.labels, target=aim, against=self.against,
                min_agreement=limits.min_agreement, max_top1_drop=limits.max_top1_drop,
                max_layer_error=limits.max_layer_error, isolate=self.isolate, conversion=result.report.to_dict(),
            )  # fmt: skip
        except CalibrationError as error:
            raise CalibrationError(f"data: {error}") from error
        names = {"model": f"{aim.name}.tflite", "reference": self.name}
        return replace(check, **{role: replace(getattr(check, role), name=name) for role, name in names.items()})


def _written(exported: dict[str, Exported], files: Mapping[str, Path], pages: Mapping[str, Path]) -> dict[str, Exported]:
    """The same with the paths of what was written."""
    for name, folder in pages.items():
        make(folder)
        if exported[name].check is not None:
            exported[name].check.save(folder)  # type: ignore[union-attr]
        document = exported[name].report.to_dict()
        tflite_writer.save(folder / CONVERSION, json.dumps(document, indent=1).encode())
    passed = {name: path for name, path in files.items() if exported[name].passed}
    made(passed)
    for name, path in passed.items():
        exported[name].save(path)
        logging.info("wrote %s", path)
    return {name: replace(e, path=passed.get(name)) for name, e in exported.items()}
