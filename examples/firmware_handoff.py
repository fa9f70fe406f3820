"""From a quantized model to what a firmware team gets: the integer program, golden vectors, and a list of both.

For NPU and firmware teams, and for those who hand over to them: everything in the folder is integers, and the golden
vectors are what the device has to answer, bit for bit.

    python examples/firmware_handoff.py --output=build/handoff --target=nna_sym8_pow2
"""

from pathlib import Path

from absl import flags

import tf_requant
from tf_requant import sample
from tf_requant.cli import job
from tf_requant.pipeline.export import export

FLAGS = flags.FLAGS
flags.DEFINE_string("model", str(sample.model_path()), "A quantized .tflite file or TF1 graph.")
flags.DEFINE_string("data", str(sample.evaluation_path()), "What the golden vectors are computed from.")
flags.DEFINE_string("target", "nna_sym8_pow2", "A built-in name or a target .json file.")
flags.DEFINE_string("output", None, "The folder to write.", required=True)
flags.DEFINE_integer("samples", 4, "Samples in the golden vectors.", 1)


def main() -> None:
    """Re-expresses, exports, lists."""
    models = tf_requant.post_export(FLAGS.model, FLAGS.target, output=Path(FLAGS.output) / "{target}.tflite")
    (handed,) = models.values()
    program = export(handed.model_bytes, FLAGS.target, FLAGS.data, samples=FLAGS.samples)
    folder = Path(FLAGS.output) / "program"
    program.save(folder, overwrite=True)
    print(program)
    print(f"\n{'what firmware gets':<44} bytes")
    for file in (handed.path, *sorted(folder.rglob("*"))):
        if file.is_file() and file.suffix != ".h":
            print(f"{file.relative_to(FLAGS.output).as_posix():<44} {file.stat().st_size}")
    headers = list((folder / "golden").glob("*.h"))
    print(f"{f'program/golden/*.h ({len(headers)} headers)':<44} {sum(h.stat().st_size for h in headers)}")


if __name__ == "__main__":
    job.run(main)
