"""tf_requant validate."""

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from tf_requant.cli.graph_flags import define_graph_flags, graph_options
from tf_requant.cli.progress import progress
from tf_requant.cli.requantize import CONVERSION, required
from tf_requant.errors import UsageError
from tf_requant.io.tflite_writer import save
from tf_requant.pipeline.reporting import check_folder
from tf_requant.pipeline.validate import validate
from tf_requant.report.junit import junit

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
    whole = "A folder for report.html, report.json, junit.xml, outputs.npz and model_explorer/*.json; isolates layers."
    text("report", None, whole, flag_values=values)
    bisect = "Restore each layer to the source's precision by itself, and print what that buys."
    absl_flags.DEFINE_boolean("bisect", False, bisect, flag_values=values)
    samples = "Samples that layers are compared on; 0 leaves them out. Default: 8, or 16 where layers are isolated."
    absl_flags.DEFINE_integer("layers", None, samples, 0, flag_values=values)
    told = "What `requantize --report` wrote, the file or its folder: the conversion's reasons, for the layer table."
    text("conversion", None, told, flag_values=values)
    text("json", None, "A file for the whole result.", flag_values=values)
    text("junit", None, "A file for the result as JUnit XML.", flag_values=values)
    define_graph_flags(values)


def run(values: absl_flags.FlagValues) -> int:
    """Runs the verb and returns its exit code."""
    arguments = [required(values, name) for name in ("model", "reference", "data")]
    conversion = _conversion(values.conversion)
    for name in ("json", "junit"):
        _writable(name, values[name].value)
    if values.report:
        check_folder(Path(values.report))
    with progress("validating") as step:
        check = validate(
            arguments[0],
            reference=arguments[1],
            data=arguments[2],
            target=values.target,
            against=tuple(values.against),
            layers=values.layers,
            min_agreement=values.min_agreement,
            max_top1_drop=values.max_top1_drop,
            max_layer_error=values.max_layer_error,
            isolate=bool(values.report or values.bisect),
            conversion=conversion,
            options=graph_options(values),
            progress=step,
        )
    if values.json:
        save(Path(values.json), json.dumps(check.to_dict(), indent=1).encode())
    if values.junit:
        save(Path(values.junit), junit(check.to_dict()).encode())
    print(check)
    if values.bisect:
        print(check.bisection())
    if values.report:
        print(f"wrote {check.save(values.report)}")
    for failure in check.failures:
        print(f"tf_requant validate: {failure}", file=sys.stderr)
    return 0 if check.passed else 3


def _writable(flag: str, path: str | None) -> None:
    """Refuses a file that cannot be written before the work is done.

    Raises:
        UsageError: its folder does not exist.
    """
    if path and not Path(path).resolve().parent.is_dir():
        raise UsageError(f"--{flag}={path}: the folder does not exist")


def _conversion(path: str | None) -> dict[str, Any] | None:
    """The document of a requantization.

    Raises:
        UsageError: the file is none.
    """
    if not path:
        return None
    file = Path(path) / CONVERSION if Path(path).is_dir() else Path(path)
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"--conversion={path}: {file} cannot be read as JSON ({error})") from error
    rows = document.get("tensors") if isinstance(document, dict) and "corrections" in document else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and {"name", "reason"} <= row.keys() for row in rows):
        raise UsageError(f"--conversion={path}: {file} is no report of a requantization")
    return document
