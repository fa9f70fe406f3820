"""The record of a job: what became of it, in one JSON document."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tf_requant.batch.jobs import Job
from tf_requant.batch.keys import content
from tf_requant.batch.opened import open_samples
from tf_requant.batch.shards import Shard, layers_of, merge, parts_of
from tf_requant.batch.work import Work
from tf_requant.errors import CalibrationError, InterpreterError
from tf_requant.io import tflite
from tf_requant.pipeline.check import Thresholds
from tf_requant.pipeline.validate import failures_of
from tf_requant.pipeline.validate import refuse_overlap as refuse_overlap  # the verb's own sentences
from tf_requant.validation.legality import Legality
from tf_requant.validation.quality import Quality, fold
from tf_requant.validation.tensors import TensorQuality, fold_layers

DONE, FAILED, SKIPPED, LOST = "done", "failed", "skipped", "lost"


def base(job: Job, run: str, status: str, sentence: str = "") -> dict[str, Any]:
    """A record that holds no figures."""
    return {
        "id": job.id, "run": run, "line": job.line, "number": job.number, "model": job.model, "target": job.target,
        "output": job.output, "status": status, "sentence": sentence, "passed": False,
    }  # fmt: skip


def failed(work: Work, job: Job, sentence: str) -> None:
    """Records that a job could not be done; what another attempt of this run finished stands."""
    if work.record(job) is not None:
        return
    record = base(job, work.run, FAILED, sentence)
    facts, prepared = work.read("converted", job.id) or {}, work.read("prepared", job.id) or {}
    if facts.get("conversion") and facts["conversion"] == prepared.get("conversion"):
        record |= {name: facts[name] for name in ("bytes", "sha256", "source_bytes", "legal")}
    else:
        record["output"] = None  # what may lie there is an older job's
    work.write("results", job.id, record)


def finished(work: Work, job: Job, key: str) -> bool:
    """Whether an earlier run finished this very job; its record is this run's then."""
    found = work.read("results", job.id)
    if found is None or found.get("key") != key or found.get("status") not in (DONE, SKIPPED):
        return False
    if found.get("run") == work.run:
        return True
    if not Path(job.output).is_file() or content(job.output) != found.get("sha256"):
        return False
    moved = base(job, work.run, SKIPPED, found["sentence"]) | {"passed": found["passed"]}
    work.write("results", job.id, found | moved)
    return True


def conclude(work: Work, job: Job, shards: Iterable[Shard]) -> None:
    """Writes the record of a job whose shards are all there.

    Raises:
        RequantError: a shard failed, samples are missing, or the data shaped the model.
    """
    ordered = merge([list(shards)])
    for shard in ordered:
        if shard.get("sentence"):
            raise InterpreterError(shard["sentence"])
    facts = work.read("converted", job.id)
    key = (work.read("prepared", job.id) or {}).get("key")
    if facts is None or key is None:
        raise InterpreterError("the state of this job was lost while it ran: run the batch again")
    if any(shard.get("overlap") for shard in ordered):
        # The verb counts them over all samples and says so; it looks again, since only jobs that fail come here.
        refuse_overlap(tflite.read(Path(job.output)), open_samples(job))
        raise CalibrationError("the data or the model changed while the batch ran: run it again")
    quality, tensors = _measured(job, ordered)
    legality = Legality(job.target, facts["accelerated"], (), tuple(facts["violations"]))
    proof = next((shard["exactness"] for shard in ordered if shard.get("exactness")), None)
    measured = {} if quality is None else {"litert": quality}
    failures = [*failures_of(measured, tensors, legality, Thresholds(**job.thresholds)), *_inexact(proof)]
    record = base(job, work.run, DONE, "; ".join(failures)) | {
        "key": key, "passed": not failures, "failures": failures,
        "quality": None if quality is None else asdict(quality),
        "layers": [[t.name, t.sqnr, t.largest] for t in tensors],
        "exactness": proof, "notes": [*facts["notes"], *(ordered[0].get("notes") or ())],
        "seconds": {"convert": facts["seconds"], "validate": sum(shard.get("seconds", 0.0) for shard in ordered)},
        **{name: facts[name] for name in ("bytes", "sha256", "source_bytes", "legal", "accelerated", "host_ops")},
    }  # fmt: skip
    work.write("results", job.id, record)


def _measured(job: Job, shards: list[Shard]) -> tuple[Quality | None, tuple[TensorQuality, ...]]:
    if not job.data:
        return None, ()
    quality = fold(parts_of(shards))
    if quality.samples != shards[0]["of"]:
        raise CalibrationError(f"{quality.samples} of {shards[0]['of']} samples came back from validation: run the batch again")
    names = [t.name for t in tflite.read(Path(job.output)).main.tensors if t.is_activation]
    return quality, fold_layers(layers_of(shards), list(dict.fromkeys(names)))


def _inexact(proof: dict[str, Any] | None) -> list[str]:
    if proof is None:
        return []
    if not (proof["elements"] and proof["simulated_ops"]):
        return ["the simulator could not be proved: it computes no tensor that the interpreter shows"]
    if proof["first"] is not None:
        return [f"the simulator is not exact: {proof['mismatches']} elements differ, the first at {proof['first']}"]
    return []
