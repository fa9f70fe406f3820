"""tf_requant inspect."""

import json

from absl import flags as absl_flags

from tf_requant.cli.requantize import required
from tf_requant.pipeline.inspect import inspect

SUMMARY = "prints what a model holds, and what a target would leave to the host"
EXAMPLE = "tf_requant inspect --model=model.tflite --target=nna_sym8"


def define(values: absl_flags.FlagValues) -> None:
    """Declares the verb's flags."""
    absl_flags.DEFINE_string("model", None, "A .tflite file.", flag_values=values)
    absl_flags.DEFINE_string("target", None, "A built-in target's name or a target .json file.", flag_values=values)
    absl_flags.DEFINE_enum("format", "text", ["text", "json"], "How to print.", flag_values=values)


def run(values: absl_flags.FlagValues) -> int:
    """Runs the verb and returns its exit code."""
    inspection = inspect(required(values, "model"), values.target)
    print(json.dumps(inspection.to_dict(), indent=1) if values.format == "json" else inspection)
    return 0
