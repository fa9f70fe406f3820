"""The step behind training: a Keras model becomes one model per chip, each held to a gate, before anything is deployed.

For the owner of a TensorFlow training pipeline. A small net learns for a few steps to tell four kinds of stripes apart
(put your model and data in their place); `post_export` lets TensorFlow's converter quantize it to int8, re-expresses it
for every target, judges each on data that shaped none of them, and writes those that passed.

    python examples/post_export_job.py --output=build/stripes --min_agreement=0.97 --max_top1_drop=2

Needs `pip install 'tf_requant[tensorflow]'`. Exit codes: 0 done, 2 bad input, 3 a gate was missed.
"""

from typing import Any

import numpy as np
from absl import flags
from numpy.typing import NDArray

import tf_requant
from tf_requant.cli import job
from tf_requant.errors import UsageError

EDGE, KINDS = 16, 4

FLAGS = flags.FLAGS
flags.DEFINE_list("targets", ["nna_sym8_pow2"], "Built-in names or target .json files, separated by commas.")
flags.DEFINE_string("output", None, "A folder, or a file name with {target} in it.", required=True)
flags.DEFINE_string("report", None, "A folder for each target's report.")
flags.DEFINE_integer("steps", 60, "Training steps.", 1)
flags.DEFINE_integer("seed", 0, "Of the weights and the pictures.")
flags.DEFINE_float("min_agreement", 0.97, "The least top-1 agreement with TensorFlow's int8 model, 0 to 1.", 0, 1)
flags.DEFINE_float("max_top1_drop", None, "The largest loss of top-1, in points.")
flags.DEFINE_float("max_layer_error", None, "The largest error of any layer, dB.")


def stripes(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Noisy stripes from -1 to 1, float32[count, EDGE, EDGE, 1], and which way each runs."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, KINDS, count)
    rows, columns = np.mgrid[:EDGE, :EDGE]
    along = np.stack([rows, columns, rows + columns, rows - columns])[kinds]
    waves = np.sin(along * 1.2 + random.uniform(0, 2 * np.pi, (count, 1, 1)))
    pictures = 0.6 * waves + random.normal(0, 0.2, along.shape)
    return np.clip(pictures, -1, 1)[..., None].astype(np.float32), kinds


def trained(steps: int, seed: int) -> Any:
    """A Keras model after a few steps."""
    try:
        import keras
    except ImportError as error:
        raise UsageError("this example trains: pip install 'tf_requant[tensorflow]'") from error
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((EDGE, EDGE, 1)),
            keras.layers.Conv2D(8, 5, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.8),
            keras.layers.ReLU(6.0),
            keras.layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            keras.layers.Conv2D(16, 1, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(KINDS),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pictures, kinds = stripes(64 * steps, seed)
    model.fit(pictures, kinds, batch_size=64, epochs=1, verbose=0)
    return model


def main() -> None:
    """Trains, converts, re-expresses, judges, writes."""
    model = trained(FLAGS.steps, FLAGS.seed)
    seen, _ = stripes(128, FLAGS.seed + 1)
    unseen, kinds = stripes(512, FLAGS.seed + 2)

    def representative() -> Any:
        for picture in seen:
            yield [picture[None]]

    models = tf_requant.post_export(
        model,
        FLAGS.targets,
        representative_dataset=representative,
        data=unseen,
        labels=kinds,
        output=FLAGS.output,
        report=FLAGS.report,
        min_agreement=FLAGS.min_agreement,
        max_top1_drop=FLAGS.max_top1_drop,
        max_layer_error=FLAGS.max_layer_error,
    )
    for exported in models.values():
        print(f"{exported}\n  top-1 {exported.check.top1:.2%} (TensorFlow's int8 model {exported.check.reference_top1:.2%})")
        print(f"  wrote {exported.path}")


if __name__ == "__main__":
    job.run(main)
