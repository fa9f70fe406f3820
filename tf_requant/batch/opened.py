"""What a worker process holds between the steps of a batch: the model and the data that were opened last.

A target of a model, or a shard of its data, needs what the one before it needed: a TF1 graph that TensorFlow converts for
seconds, an archive that numpy unpacks whole, the index of a record file. One of each is held, and let go before the next is
opened, so that a worker's memory is that of one job however many it sees.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from tf_requant.batch.jobs import Job
from tf_requant.batch.keys import state
from tf_requant.io.data import Samples, load_samples
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.source import Source, load_source

_Thing = TypeVar("_Thing")


class Latest(Generic[_Thing]):
    """Holds the latest thing that was opened, for the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: tuple[object, _Thing] | None = None

    def get(self, key: object, opened: Callable[[], _Thing]) -> _Thing:
        """The thing held, where the key is still its own; else another one, opened now.

        Args:
            key: what the thing depends on.
            opened: opens it; what it raises leaves nothing held.
        """
        with self._lock:
            if self._held is not None and self._held[0] == key:
                return self._held[1]
            self._held = None
            thing = opened()
            self._held = (key, thing)
            return thing


    def release(self) -> None:
        """Holds nothing any more."""
        with self._lock:
            self._held = None


_SOURCE: Latest[Source] = Latest()
_SAMPLES: Latest[Samples] = Latest()


def open_source(job: Job) -> Source:
    """The job's source model; opened anew where a file of it changed.

    Raises:
        RequantError: it cannot be read.
    """
    weights = job.options.get("weights", "codes")
    key = (job.model, state(job.model), job.graph_options, weights)
    return _SOURCE.get(key, lambda: load_source(job.model, job.graph_options, weights))


def open_samples(job: Job) -> Samples:
    """The samples that the job is validated on; opened anew where a file of them changed.

    Raises:
        RequantError: they cannot be read or don't fit the model.
    """
    specs = input_specs(open_source(job).model)
    samples = _SAMPLES.get((job.data, state(str(job.data)), specs), lambda: load_samples(job.data, specs))
    return samples if job.samples is None else samples.part(0, job.samples)


def release() -> None:
    """Lets go what is held: a cluster's workers outlive the batch."""
    _SOURCE.release()
    _SAMPLES.release()
