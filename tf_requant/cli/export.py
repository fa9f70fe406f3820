"""tf_requant export."""

from pathlib import Path

from absl import flags as absl_flags

from tf_requant.cli.graph_flags import MODEL_HELP, define_graph_flags, graph_options
from tf_requant.cli.progress import progress
from tf_requant.cli.requantize import required
from tf_requant.errors import UsageError
from tf_requant.export.folder import checked
from tf_requant.pipeline.export import SAMPLES, export

SUMMARY = "writes the fixed-point program and golden test vectors for a hardware or firmware team"
EXAMPLE = "tf_requant export --model=model_nna.tflite --target=nna_sym8_pow2 --data=images/ --output=program/"


def define(values: absl_flags.FlagValues) -> None:
    """Declares the verb's flags."""
    text, switch = absl_flags.DEFINE_string, absl_flags.DEFINE_boolean
    text("model", None, f"A model that was re-expressed for the target. {MODEL_HELP}", flag_values=values)
    text("target", None, "A built-in target's name or a target .json file.", flag_values=values)
    text("data", None, "A folder of images, .npy, .npz or TFRecord: what the golden vectors are computed from.", flag_values=values)
    folder = "The folder to write: program.nna (schemas/nna_program.fbs), program.json, golden/ with golden.npz and C headers."
    text("output", None, folder, flag_values=values)
    absl_flags.DEFINE_integer("samples", SAMPLES, "Samples in golden.npz.", 1, flag_values=values)
    which = "C headers, one an op, of the first sample: auto leaves out ops of more than 65536 elements."
    absl_flags.DEFINE_enum("headers", "auto", ["auto", "all", "none"], which, flag_values=values)
    switch("overwrite", False, "Replace an earlier export in that folder.", flag_values=values)
    define_graph_flags(values)


def run(values: absl_flags.FlagValues) -> int:
    """Runs the verb and returns its exit code."""
    model, target, data, output = (required(values, name) for name in ("model", "target", "data", "output"))
    folder = checked(Path(output), values.overwrite)
    for name, source in (("model", model), ("data", data)):
        if Path(source).resolve() in (folder.resolve(), *folder.resolve().parents) and Path(source).is_dir():
            raise UsageError(f"--output={output} is or lies in the folder of --{name}; choose another one")
        if folder.resolve() in Path(source).resolve().parents:
            raise UsageError(f"--output={output} holds the --{name} itself; choose another folder")
    with progress("exporting") as step:
        found = export(
            model, target, data, samples=values.samples, headers=values.headers, options=graph_options(values), progress=step
        )
    found.save(folder, overwrite=values.overwrite)
    print(found)
    print(f"wrote {output}")
    return 0
