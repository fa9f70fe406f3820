"""The Beam pipeline: the only file that knows Beam, which it imports when it is asked for.

One line of transforms, and everything hangs on the last: a runner that computes only what its last transform needs (Dask's)
computes all of it. No side inputs and no sinks, whose faults differ by runner: every step writes its own files by rename.
Elements are whole numbers, which hash alike in all processes (text does not, and Dask groups by hash), and each is grouped by
a key of its own, which spreads the work and counts an element once that a runner produced twice.
"""

import argparse
import difflib
import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from tf_requant.batch import shards, steps
from tf_requant.batch.work import Work
from tf_requant.errors import UsageError

DIRECT = "DirectRunner"
DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"
_ALIASES = {"DaskRunner": DASK}
"""Names that Beam itself does not take."""


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """Refuses.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}, in the flags for Beam")


def beam_flags(runner: str, flags: Sequence[str], own: Sequence[str]) -> list[str]:
    """The flags for Beam, checked, with the runner's full name in front.

    Args:
        runner: a runner's name.
        flags: what the command line holds beside the verb's own flags.
        own: the names of those, for a hint.

    Raises:
        UsageError: Beam is not installed, there is no such runner, or a flag that neither knows.
    """
    name = _ALIASES.get(runner, runner)
    _require(name)
    parser = _Parser(allow_abbrev=False, add_help=False)
    for options in _all_options():
        options._add_argparse_args(parser)
    known = [text for action in parser._actions for text in action.option_strings]
    _, unknown = parser.parse_known_args(list(flags))
    for flag in unknown:
        if not flag.startswith("-"):
            raise UsageError(f"{flag!r} is not a flag; see tf_requant batch --help")
        spelled = flag.split("=")[0]
        near = difflib.get_close_matches(spelled, [*known, *(f"--{n}" for n in own)], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"unknown flag {spelled}: neither tf_requant batch nor Beam knows it{hint}")
    return [f"--runner={name}", *flags]


def _require(runner: str) -> None:
    """Imports Beam and the runner, whose options it then knows.

    Raises:
        UsageError: one of them is not there.
    """
    try:
        with _quiet():
            # Beam's own helper imports what a runner's name stands for.
            create = importlib.import_module("apache_beam.runners.runner").create_runner
    except ImportError as error:
        raise UsageError(f"batch needs Apache Beam ({error}): pip install 'tf_requant[beam]'") from error
    try:
        with _quiet():
            made = create(runner)
            if runner == DASK:
                importlib.import_module("dask.distributed")
    except ImportError as error:
        if runner == DASK:
            raise UsageError("the Dask runner needs Dask: pip install 'apache-beam[dask]'") from error
        raise UsageError(f"--runner={runner} cannot be imported ({error})") from error
    except (ValueError, AttributeError, TypeError) as error:
        near = difflib.get_close_matches(runner, ["DaskRunner", *_runners()], n=1)
        hint = f": did you mean {near[0]}?" if near else f"; known are: {', '.join(['DaskRunner', *_runners()])}"
        raise UsageError(f"unknown runner {runner!r}{hint}") from error
    if not isinstance(made, importlib.import_module("apache_beam.runners.runner").PipelineRunner):
        raise UsageError(f"--runner={runner} is a {type(made).__name__}, expected a runner of Beam's")


@contextmanager
def _quiet() -> Iterator[None]:
    """Imports Beam without what it says of cloud packages that are not there; later it speaks as loudly as everything else."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
    logging.getLogger("apache_beam").setLevel(logging.DEBUG if logging.root.level <= logging.DEBUG else logging.WARNING)


def _runners() -> list[str]:
    options = importlib.import_module("apache_beam.options.pipeline_options").StandardOptions
    return sorted(name.rpartition(".")[2] for name in options.ALL_KNOWN_RUNNERS)


def _all_options() -> list[Any]:
    """Every class that declares flags of Beam, each once."""
    base = importlib.import_module("apache_beam.options.pipeline_options").PipelineOptions
    found: dict[str, Any] = {}
    left = list(base.__subclasses__())
    while left:
        options = left.pop(0)
        found.setdefault(f"{options.__module__}.{options.__name__}", options)
        left += options.__subclasses__()
    return [options for options in found.values() if "_add_argparse_args" in vars(options)]


def run(work: Work, places: Sequence[tuple[int, int]], flags: Sequence[str]) -> None:
    """Runs the jobs and returns when the runner is done with them.

    Args:
        work: the batch.
        places: of each job, its group and where it stands.
        flags: for Beam, the runner among them.
    """
    with _quiet():
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

    # Prism, which Beam would prefer for small pipelines, is a program to download; a pipeline that allows unsafe triggers
    # (this one has none) runs in Python.
    options = PipelineOptions([*flags, "--allow_unsafe_triggers"])
    pipeline = beam.Pipeline(options=options)
    key = tuple[int, int]
    (
        pipeline
        | "jobs" >> beam.Create(list(places), reshuffle=False).with_output_types(key)
        | "by calibration" >> beam.GroupByKey()
        | "calibrate" >> beam.FlatMap(steps.calibrate_once, work).with_output_types(key)
        | "by job" >> beam.GroupByKey()
        | "convert" >> beam.FlatMap(steps.convert, work).with_output_types(tuple[int, tuple[int, int]])
        | "by shard" >> beam.GroupByKey()
        | "validate" >> beam.FlatMap(steps.validate_shard, work).with_output_types(tuple[int, Any])
        | "merge" >> beam.CombinePerKey(shards.merge)
        | "finish" >> beam.Map(steps.finish, work)
    )
    pipeline.run().wait_until_finish()
