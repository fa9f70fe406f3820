"""A chip of one's own: derive its target, write it as JSON, re-express a model for it, compute its very integers.

For an NPU team before there is a compiler: what would 8-bit biases cost us, or a narrower accumulator? Change a fact,
run it again, read the figures.

    python examples/custom_target.py --output=build/my_npu --accumulator_bits=24
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

import tf_requant
from tf_requant import sample
from tf_requant.cli import job

FLAGS = flags.FLAGS
flags.DEFINE_string("base", "nna_sym8_pow2", "The target to derive from.")
flags.DEFINE_integer("accumulator_bits", 24, "The width of the accumulator.", 8, 64)
flags.DEFINE_integer("samples", 8, "Images to simulate.", 1)
flags.DEFINE_string("output", None, "The folder to write.", required=True)


def main() -> None:
    """Derives, writes, re-expresses, simulates."""
    bits = FLAGS.accumulator_bits
    target = tf_requant.load_target(FLAGS.base).derive(
        name="my_npu",
        description=f"{FLAGS.base} with {bits} bits in the accumulator",
        accumulator={"bits": bits},
        bias={"bits": min(bits, 32)},
    )
    folder = Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_npu.json").write_text(json.dumps(target.to_dict(), indent=2) + "\n")

    # From here on the file is the target, as for any tool that reads it.
    models = tf_requant.post_export(
        sample.model_path(), [folder / "my_npu.json"], data=sample.evaluation_path(), output=folder, min_agreement=0.9
    )
    exported = models["my_npu"]
    with np.load(sample.evaluation_path()) as file:
        pixels = file["images"][: FLAGS.samples]
    # To the network a pixel p means (p - 128) / 128; the chip's symmetric int8 input holds that as p - 128.
    codes = (pixels.astype(np.int16) - 128).astype(np.int8)
    print(exported)
    for arithmetic in ("tflite_ref", str(folder / "my_npu.json")):
        seen = tf_requant.simulate(exported.model_bytes, codes, arithmetic=arithmetic, tensors="all")
        scores = list(seen.values())[-1]
        print(f"  {Path(arithmetic).name}: {len(seen)} tensors, answers {scores.reshape(len(codes), -1).argmax(1).tolist()}")
    print(f"  wrote {folder / 'my_npu.json'} and {exported.path}")


if __name__ == "__main__":
    job.run(main)
