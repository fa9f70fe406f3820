"""tf_requant inspect."""

import json

from absl import flags as absl_flags

from tf_requant.cli.graph_flags import MODEL_HELP, define_graph_flags, graph_options
from tf_requant.cli.requantize import required
from tf_requant.pipeline.inspect import inspect

SUMMARY = "prints what a model holds, and what a target would leave to the host"
EXAMPLE = "tf_requant inspect --model=model.tflite --target=nna_sym8"


def define(values: absl_flags.FlagValues) -> None:
    """Declares the verb's flags."""
    absl_flags.DEFINE_string("model", None, MODEL_HELP, flag_values=values)
    absl_flags.DEFINE_string("target", None, "A built-in target's name or a target .json file.", flag_values=values)
    absl_flags.DEFINE_enum("format", "text", ["text", "json"], "How to print.", flag_values=values)
    define_graph_flags(values)


def run(values: absl_flags.FlagValues) -> int:
    """Runs the verb and returns its exit code."""
    inspection = inspect(required(values, "model"), values.target, options=graph_options(values))
    print(json.dumps(inspection.to_dict(), indent=1) if values.format == "json" else inspection)
    return 0
