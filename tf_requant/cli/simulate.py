"""tf_requant simulate."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags as absl_flags
from numpy.typing import NDArray
from tqdm import tqdm

from tf_requant.cli.requantize import required
from tf_requant.errors import UsageError
from tf_requant.io.tflite_writer import save
from tf_requant.pipeline.inputs import input_codes
from tf_requant.pipeline.simulate import Simulation

SUMMARY = "runs a model on the bit-exact fixed-point simulator"
EXAMPLE = "tf_requant simulate --model=model_nna.tflite --input=images/ --output=codes.npz --arithmetic=nna"


def define(values: absl_flags.FlagValues) -> None:
    """Declares the verb's flags."""
    text, switch = absl_flags.DEFINE_string, absl_flags.DEFINE_boolean
    text("model", None, "A .tflite file.", flag_values=values)
    data = "Codes: .npy, or .npz by tensor name, in the input's own type; or a folder of images."
    text("input", None, data, flag_values=values)
    text("output", None, "The .npz that receives the codes by tensor name.", flag_values=values)
    arithmetic = "tflite_ref, tflite_optimized, tflite_xnnpack, tosa, nna, a target's name, or a target .json file."
    text("arithmetic", "tflite_ref", arithmetic, flag_values=values)
    switch("all_tensors", False, "Write every tensor instead of the outputs.", flag_values=values)
    switch("strict", False, "Refuse ops that the arithmetic cannot run.", flag_values=values)
    counts = "Count saturations, rounding ties and accumulator bits (slower), and print them."
    switch("observe", False, counts, flag_values=values)
    switch("overwrite", False, "Replace an existing output.", flag_values=values)


def run(values: absl_flags.FlagValues) -> int:
    """Runs the verb and returns its exit code."""
    model, source, output = (required(values, name) for name in ("model", "input", "output"))
    path = Path(output)
    if path.suffix != ".npz":
        raise UsageError(f"--output={output}: expected a name that ends in .npz")
    if path.exists() and not values.overwrite:
        raise UsageError(f"--output={output} exists; pass --overwrite to replace it")
    with Simulation(model, values.arithmetic, strict=values.strict, observe=values.observe) as simulation:
        codes = input_codes(simulation.model, source)
        with tqdm(total=0, unit="sample", disable=not sys.stderr.isatty(), leave=False) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            result = simulation.run(codes, "all" if values.all_tensors else "outputs", progress)
        save(path, _npz(result))
        print(simulation.report)
    print(f"{len(result)} tensors written to {output}")
    return 0


def _npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
