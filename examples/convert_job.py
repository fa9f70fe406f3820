"""One quantized model, several chips, one gate each: a conversion as a scheduled job.

For a team that converts models in jobs rather than by hand: every setting is an absl flag, so that a flagfile holds the
job, and the exit code tells the scheduler what became of it (0 done, 2 bad input, 3 a gate was missed).

    python examples/convert_job.py --flagfile=examples/job.flags --output=build/models

Models that missed a gate are not written. Without --model it converts the bundled network and judges it on bundled images.
"""

from absl import flags, logging

import tf_requant
from tf_requant import sample
from tf_requant.cli import job

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "A quantized .tflite file or TF1 graph; default: the bundled network.")
flags.DEFINE_list("targets", None, "Built-in names or target .json files, separated by commas.", required=True)
flags.DEFINE_string("calibration", None, "A folder of images, .npy, .npz or TFRecord that corrections measure on.")
flags.DEFINE_string("data", None, "The same that models are judged on; default: the bundled images for the bundled network.")
flags.DEFINE_string("output", None, "A folder, or a file name with {target} in it.", required=True)
flags.DEFINE_string("report", None, "A folder for each target's report.")
flags.DEFINE_float("min_agreement", None, "The least top-1 agreement with the source, 0 to 1.", 0, 1)
flags.DEFINE_float("max_top1_drop", None, "The largest loss of top-1, in points.")
flags.DEFINE_float("max_layer_error", None, "The largest error of any layer, dB.")


def main() -> None:
    """Converts, judges, writes."""
    bundled = FLAGS.model is None
    models = tf_requant.post_export(
        sample.model_path() if bundled else FLAGS.model,
        FLAGS.targets,
        representative_dataset=FLAGS.calibration,
        data=FLAGS.data or (sample.evaluation_path() if bundled else None),
        output=FLAGS.output,
        report=FLAGS.report,
        min_agreement=FLAGS.min_agreement,
        max_top1_drop=FLAGS.max_top1_drop,
        max_layer_error=FLAGS.max_layer_error,
    )
    for exported in models.values():
        logging.info("%s", exported.report)
        print(f"{exported}\n  wrote {exported.path}")


if __name__ == "__main__":
    job.run(main)
