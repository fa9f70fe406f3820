"""tf_requant calibrate."""

from absl import flags as absl_flags

from tf_requant.cli.graph_flags import define_graph_flags, graph_options
from tf_requant.cli.output import checked_output
from tf_requant.cli.progress import progress
from tf_requant.cli.requantize import required
from tf_requant.io.tflite_writer import save
from tf_requant.pipeline.calibrate import calibrate

SUMMARY = "runs a source model on data once and saves what every target's corrections need"
EXAMPLE = "tf_requant calibrate --model=model.tflite --data=images/ --output=model_calibration.npz"


def define(values: absl_flags.FlagValues) -> None:
    """Declares the verb's flags."""
    text = absl_flags.DEFINE_string
    text("model", None, "The source: a quantized .tflite file or TF1 graph.", flag_values=values)
    text("data", None, "A folder of images, .npy, .npz or TFRecord; the first 200 samples count.", flag_values=values)
    text("output", None, "The .npz file to write; requantize takes it as --calibration.", flag_values=values)
    absl_flags.DEFINE_boolean("overwrite", False, "Replace an existing output file.", flag_values=values)
    define_graph_flags(values)


def run(values: absl_flags.FlagValues) -> int:
    """Runs the verb and returns its exit code."""
    model, data, output = (required(values, name) for name in ("model", "data", "output"))
    path = checked_output(output, ".npz", values.overwrite, data)
    with progress("calibrating") as step:
        found = calibrate(model, data, options=graph_options(values), progress=step)
    save(path, found.to_bytes(), overwrite=True)
    print(f"{len(found)} samples, {len(found.histograms)} tensors counted, {len(found.noise)} with noise measured")
    print(f"wrote {output} ({path.stat().st_size} bytes)")
    return 0
