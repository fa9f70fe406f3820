"""The flags of every verb that reads a model: what a TF1 graph does not say of itself."""

from absl import flags as absl_flags

from tf_requant.errors import UsageError
from tf_requant.io.tf1 import GraphOptions

MODEL_HELP = "A .tflite file, or a TF1 graph trained for quantization: frozen .pb, SavedModel folder, checkpoint .meta."


def define_graph_flags(values: absl_flags.FlagValues) -> None:
    """Declares --inputs, --outputs and --input_stats."""
    listed = absl_flags.DEFINE_list
    listed("inputs", [], "TF1 graph: the nodes to feed, NAME or NAME:1x224x224x3; found if not named.", flag_values=values)
    listed("outputs", [], "TF1 graph: the nodes to fetch; found if not named.", flag_values=values)
    stats = "TF1 graph: MEAN:STD, real value = (pixel - MEAN) / STD; 127.5:127.5 where the graph does not say."
    absl_flags.DEFINE_string("input_stats", None, stats, flag_values=values)


def graph_options(values: absl_flags.FlagValues) -> GraphOptions:
    """What the flags say.

    Raises:
        UsageError: --input_stats is not two numbers, the second above zero.
    """
    return GraphOptions(tuple(values.inputs), tuple(values.outputs), _stats(values.input_stats))


def _stats(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        mean, deviation = map(float, text.split(":"))
    except ValueError as error:
        raise UsageError(f"--input_stats={text}: expected MEAN:STD, two numbers") from error
    return mean, deviation
