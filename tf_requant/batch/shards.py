"""One shard of a validation: the sums of its samples, and how shards are put together again.

Shards begin at multiples of `validate`'s batch, so that batches are the same and their sums fold to the very same figures,
however the data is cut and in whatever order the shards come.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from tf_requant.batch.jobs import Job
from tf_requant.calibration.statistics import digest
from tf_requant.io.data import Samples, load_samples
from tf_requant.model.graph import Model
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.record import read_record
from tf_requant.pipeline.runners import exactness_of, interpreted, layer_table
from tf_requant.pipeline.source import Source, load_source
from tf_requant.pipeline.validate import BATCH, LAYER_SAMPLES
from tf_requant.validation.quality import Part, measure_parts
from tf_requant.validation.tensors import LayerPart

BACKEND = "litert"

Shard = dict[str, Any]
"""JSON-ready: `start`, `parts`, `layers`, `overlap`, `exactness`, `notes`, and `sentence` where it failed."""


@dataclass(frozen=True, eq=False)
class Data:
    """What a job measures on.

    Attributes:
        source: the model that it came from.
        samples: those that count.
    """

    source: Source
    samples: Samples


def open_data(job: Job) -> Data:
    """The job's source and validation data.

    Raises:
        RequantError: they cannot be read or don't fit.
    """
    source = load_source(job.model, job.graph_options)
    samples = load_samples(job.data, input_specs(source.model))
    return Data(source, samples if job.samples is None else samples.part(0, job.samples))


def measure_shard(job: Job, start: int, size: int) -> Shard:
    """The sums over one shard.

    Args:
        job: the job; its result is there.
        start: the shard's first sample.
        size: how many it holds at most, a multiple of 32.

    Raises:
        RequantError: a model or the data cannot be used, or an interpreter failed.
    """
    if not job.data:
        return {"start": start}
    data, candidate = open_data(job), load_source(job.output)
    part = data.samples.part(start, start + size)
    shard: Shard = {"start": start, "of": len(data.samples), "overlap": _overlap(candidate.model, part, start)}
    if shard["overlap"]:
        return shard  # figures on samples that shaped the model are not looked at
    pairs = ((data.source.tflite(), data.source.model), (candidate.tflite(), candidate.model))
    with ExitStack() as stack:
        runners = [interpreted(stack, BACKEND, content, model, data.source.model) for content, model in pairs]
        labels = data.samples.labels
        found = measure_parts(runners[0], runners[1], part.codes(BATCH), labels, start=start)
        shard["parts"] = [asdict(p) for p in found]
    count = min(len(part), job.layers - start)
    shard["layers"] = _layers(pairs, part, start, count) if count > 0 else []
    if job.exactness and start == 0:
        proof = exactness_of(pairs[1][0], candidate.model, data.source.model, part, job.layers or LAYER_SAMPLES)
        shard["exactness"] = {key: value for key, value in proof.to_dict().items() if key != "tensors"}
        shard["exactness"]["first"] = None if proof.first is None else str(proof.first)
    shard["notes"] = [f"input {name!r} was not in the data and was held at zero" for name in part.zero_filled]
    return shard


def merge(groups: Iterable[list[Shard]]) -> list[Shard]:
    """Puts lists of shards together; one that came twice counts once. Associative and commutative: a combiner's.

    >>> merge([[{"start": 32}], [{"start": 0}, {"start": 32}]])
    [{'start': 0}, {'start': 32}]
    """
    found = {shard["start"]: shard for group in groups for shard in group}
    return [found[start] for start in sorted(found)]


def parts_of(shards: Iterable[Shard]) -> list[Part]:
    """The parts of a quality."""
    return [Part(**part) for shard in shards for part in shard.get("parts", ())]


def layers_of(shards: Iterable[Shard]) -> list[LayerPart]:
    """The parts of a layer table."""
    return [
        LayerPart(start, {name: (sums[0], sums[1], sums[2]) for name, sums in told.items()})
        for shard in shards
        for start, told in shard.get("layers", ())
    ]


def _overlap(candidate: Model, samples: Samples, start: int) -> list[int]:
    """The numbers of the samples that shaped the candidate."""
    shaped = set(read_record(candidate).calibration)
    return [start + n for n, sample in enumerate(samples.codes(1)) if digest(sample) in shaped] if shaped else []


def _layers(pairs: tuple[tuple[bytes, Model], ...], samples: Samples, start: int, count: int) -> list[Any]:
    """The sums of every comparable tensor of the first samples, one entry a sample."""
    (reference, source), (candidate, model) = pairs
    table = layer_table(reference, candidate, source, model, samples.part(0, count), count, BACKEND, start)
    return [[part.start, {name: list(sums) for name, sums in part.sums.items()}] for part in table.parts]
