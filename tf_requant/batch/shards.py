"""One shard of a validation: the sums of its samples, and how shards are put together again.

Shards begin at multiples of `validate`'s batch, so that batches are the same and their sums fold to the very same figures,
however the data is cut and in whatever order the shards come.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from tf_requant.batch.jobs import Job
from tf_requant.batch.opened import open_samples, open_source
from tf_requant.calibration.statistics import digest
from tf_requant.io.data import Samples
from tf_requant.model.graph import Model
from tf_requant.pipeline.record import read_record
from tf_requant.pipeline.runners import exactness_of, interpreted, layer_table
from tf_requant.pipeline.source import load_source
from tf_requant.pipeline.validate import BATCH, LAYER_SAMPLES
from tf_requant.validation.quality import Part, measure_parts
from tf_requant.validation.tensors import LayerPart

BACKEND = "litert"

Shard = dict[str, Any]
"""JSON-ready: `start`, `of`, `overlap`, `parts`, `layers`, `exactness`, `notes`, and `sentence` where it failed."""


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
    source, samples, candidate = open_source(job), open_samples(job), load_source(job.output)
    part = samples.part(start, start + size)
    shard: Shard = {"start": start, "of": len(samples), "overlap": _overlaps(candidate.model, part)}
    if shard["overlap"]:
        return shard  # figures on samples that shaped the model are not looked at
    pairs = ((source.tflite(), source.model), (candidate.tflite(), candidate.model))
    with ExitStack() as stack:
        runners = [interpreted(stack, BACKEND, content, model, source.model) for content, model in pairs]
        found = measure_parts(runners[0], runners[1], part.codes(BATCH), samples.labels, start=start)
        shard["parts"] = [asdict(p) for p in found]
    count = min(len(part), job.layers - start)
    shard["layers"] = _layers(pairs, part, start, count) if count > 0 else []
    if job.exactness and start == 0:
        proof = exactness_of(pairs[1][0], candidate.model, source.model, part, job.layers or LAYER_SAMPLES)
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


def _overlaps(candidate: Model, samples: Samples) -> bool:
    """Whether samples shaped the candidate; `conclude` tells it in the verb's words."""
    shaped = set(read_record(candidate).calibration)
    return bool(shaped) and any(digest(sample) in shaped for sample in samples.codes(1))


def _layers(pairs: tuple[tuple[bytes, Model], ...], samples: Samples, start: int, count: int) -> list[Any]:
    """The sums of every comparable tensor of the first samples, one entry a sample."""
    (reference, source), (candidate, model) = pairs
    table = layer_table(reference, candidate, source, model, samples.part(0, count), count, BACKEND, start)
    return [[part.start, {name: list(sums) for name, sums in part.sums.items()}] for part in table.parts]
