"""tf_requant validate."""

import json
import sys
from pathlib import Path

from absl import flags as absl_flags

from tf_requant.cli.graph_flags import define_graph_flags, graph_options
from tf_requant.cli.progress import progress
from tf_requant.cli.requantize import required
from tf_requant.io.tflite_writer import save
from tf_requant.pipeline.validate import validate

SUMMARY = "compares a model with its source on data, and checks it against its target"
EXAMPLE = "tf_requant validate --model=model_nna.tflite --reference=model.tflite --data=images/ --target=nna_sym8_pow2"


def define(values: absl_flags.FlagValues) -> None:
    """Declares the verb's flags."""
    text, number = absl_flags.DEFINE_string, absl_flags.DEFINE_float
    text("model", None, "The candidate, a .tflite file or TF1 graph.", flag_values=values)
    text("reference", None, "The source that it came from.", flag_values=values)
    text("data", None, "A folder of images, .npy, .npz or TFRecord.", flag_values=values)
    text("target", None, "A built-in target's name or a target .json file that the candidate has to obey.", flag_values=values)
    backends = "Interpreters: litert, litert_ref, litert_opt, tflite_runtime, tf; sim, the simulator."
    absl_flags.DEFINE_list("against", ["litert"], backends, flag_values=values)
    number("min_agreement", None, "The least top-1 agreement, 0 to 1.", 0, 1, flag_values=values)
    number("max_top1_drop", None, "The largest loss of top-1, in points.", flag_values=values)
    layer = "The largest error of any layer, in dB relative to its signal (-20: SQNR 20 dB)."
    number("max_layer_error", None, layer, flag_values=values)
    text("json", None, "A file for the whole result.", flag_values=values)
    define_graph_flags(values)


def run(values: absl_flags.FlagValues) -> int:
    """Runs the verb and returns its exit code."""
    arguments = [required(values, name) for name in ("model", "reference", "data")]
    with progress("validating") as step:
        check = validate(
            arguments[0],
            reference=arguments[1],
            data=arguments[2],
            target=values.target,
            against=tuple(values.against),
            min_agreement=values.min_agreement,
            max_top1_drop=values.max_top1_drop,
            max_layer_error=values.max_layer_error,
            options=graph_options(values),
            progress=step,
        )
    if values.json:
        save(Path(values.json), json.dumps(check.to_dict(), indent=1).encode())
    print(check)
    for failure in check.failures:
        print(f"tf_requant validate: {failure}", file=sys.stderr)
    return 0 if check.passed else 3
