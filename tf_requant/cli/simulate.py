"""tf_requant simulate."""

import io
import zipfile
from typing import Any

import numpy as np
from absl import flags as absl_flags
from numpy.typing import NDArray

from tf_requant.cli.graph_flags import MODEL_HELP, define_graph_flags, graph_options
from tf_requant.cli.output import checked_output
from tf_requant.cli.progress import progress
from tf_requant.cli.requantize import required
from tf_requant.io.tflite_writer import save
from tf_requant.pipeline.inputs import input_codes
from tf_requant.pipeline.simulate import Simulation
from tf_requant.pipeline.source import load_source

SUMMARY = "runs a model on the bit-exact fixed-point simulator"
EXAMPLE = "tf_requant simulate --model=model_nna.tflite --input=images/ --output=codes.npz --arithmetic=nna"


def define(values: absl_flags.FlagValues) -> None:
    """Declares the verb's flags."""
    text, switch = absl_flags.DEFINE_string, absl_flags.DEFINE_boolean
    text("model", None, MODEL_HELP, flag_values=values)
    data = (
        "Codes in the input's own type: .npy, or .npz by input name (a single array may have any). Pixels, uint8 arrays "
        "and folders of images, mean what they do to the model that this one was re-expressed from; to one that was not, "
        "pixel - 128 to an int8 input. Float arrays are real values."
    )
    text("input", None, data, flag_values=values)
    text("output", None, "The .npz that receives the codes by tensor name.", flag_values=values)
    arithmetic = "tflite_ref, tflite_optimized, tflite_xnnpack, tosa, nna, a target's name, or a target .json file."
    text("arithmetic", "tflite_ref", arithmetic, flag_values=values)
    switch("all_tensors", False, "Write every tensor instead of the outputs.", flag_values=values)
    switch("strict", False, "Refuse ops that the arithmetic cannot run.", flag_values=values)
    counts = "Count saturations, rounding ties and accumulator bits (slower), and print them."
    switch("observe", False, counts, flag_values=values)
    switch("overwrite", False, "Replace an existing output.", flag_values=values)
    define_graph_flags(values)


def run(values: absl_flags.FlagValues) -> int:
    """Runs the verb and returns its exit code."""
    model, source, output = (required(values, name) for name in ("model", "input", "output"))
    path = checked_output(output, ".npz", values.overwrite, source)
    loaded = load_source(model, graph_options(values)).model
    with Simulation(loaded, values.arithmetic, strict=values.strict, observe=values.observe) as simulation:
        codes = input_codes(simulation.model, source)
        with progress("simulating") as step:
            result = simulation.run(codes, "all" if values.all_tensors else "outputs", step)
        save(path, _npz(result))
        print(simulation.report)
        for warning in simulation.model.warnings:
            print(f"note: {warning}")
    print(f"{len(result)} tensors written to {output}")
    return 0


def _npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    """The archive of numpy's `savez`, whose keyword arguments not every tensor name can be."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()
