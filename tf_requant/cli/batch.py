"""tf_requant batch."""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags

from tf_requant.cli.progress import progress
from tf_requant.cli.requantize import required

SUMMARY = "converts and validates many models for many targets, from a job file, on Apache Beam"
EXAMPLE = "tf_requant batch --jobs=jobs.jsonl --output=results/"
HANDS_ON = True
"""Flags that this verb does not know are Beam's."""

_JOBS = (
    "One JSON object a line: model, targets; calibration, data, thresholds (min_agreement, max_top1_drop, max_layer_error), "
    "output (below --output; {model} and {target} are filled in), samples, layers, exactness, and corrections, io, keep, "
    "pin_range, bits, activation_bits, budget, inputs, outputs, input_stats, weights as of requantize. Paths are relative to the "
    "file."
)


def define(values: absl_flags.FlagValues) -> None:
    """Declares the verb's flags."""
    text, number = absl_flags.DEFINE_string, absl_flags.DEFINE_integer
    text("jobs", None, _JOBS, flag_values=values)
    written = "The folder for models, summary.html, summary.json, summary.csv and dead_letters.jsonl; a rerun skips what is done."
    text("output", None, written, flag_values=values)
    runners = "A Beam runner: DirectRunner, with a process a core; DaskRunner; any other by name. All other flags are Beam's."
    text("runner", "DirectRunner", runners, flag_values=values)
    number("shard", 256, "Samples that are validated in one piece, a multiple of 32.", 1, flag_values=values)
    number("stalled", 3600, "Seconds without progress after which the runner is given up.", 1, flag_values=values)
    absl_flags.DEFINE_boolean("overwrite", False, "Replace files that no earlier run wrote.", flag_values=values)


def run(values: absl_flags.FlagValues, rest: Sequence[str] = ()) -> int:
    """Runs the verb and returns its exit code: 3 where a job failed, was lost or missed what was asked of it."""
    jobs, output = Path(required(values, "jobs")), Path(required(values, "output"))
    from tf_requant.batch.driver import run_batch

    with progress("batch", "job") as step:
        summary = run_batch(
            jobs, output, runner=values.runner, flags=rest, own=list(values), shard=values.shard,
            overwrite=values.overwrite, stalled=values.stalled, progress=step,
        )  # fmt: skip
    for problem in summary.problems:
        print(f"tf_requant batch: {problem}", file=sys.stderr)
    print(summary)
    print(f"wrote {output / 'summary.html'}")
    return 0 if summary.passed else 3
