"""tf_requant requantize."""

import json
from pathlib import Path

from absl import flags as absl_flags
from absl import logging

from tf_requant.cli.graph_flags import MODEL_HELP, define_graph_flags, graph_options
from tf_requant.cli.output import checked_output
from tf_requant.cli.progress import progress
from tf_requant.errors import UsageError
from tf_requant.io.tf1 import GRAPH_SUFFIX, is_graph
from tf_requant.io.tflite_writer import save
from tf_requant.pipeline.reporting import make
from tf_requant.pipeline.requantize import prove, requantize
from tf_requant.plan import ACTIVATIONS
from tf_requant.report.frontier import frontier_picture

SUMMARY = "re-expresses a quantized model for a target"
EXAMPLE = "tf_requant requantize --model=model.tflite --target=nna_sym8_pow2 --output=model_nna.tflite"


CONVERSION = "requantization.json"
"""What `--report` writes; `validate --conversion` reads it."""


def define(values: absl_flags.FlagValues) -> None:
    """Declares the verb's flags."""
    text, listed, switch = absl_flags.DEFINE_string, absl_flags.DEFINE_multi_string, absl_flags.DEFINE_boolean
    text("model", None, MODEL_HELP, flag_values=values)
    text("target", None, "A built-in target's name (tf_requant targets) or a target .json file.", flag_values=values)
    written = "The .tflite file to write; for a TF1 graph also .pb: the graph, its ranges re-expressed."
    text("output", None, written, flag_values=values)
    data = "A folder of images, .npy, .npz or TFRecord, whose first 200 samples count; or what `calibrate` saved."
    text("calibration", None, data, flag_values=values)
    text("corrections", "auto", "auto, none, or names separated by commas; auto,splitting adds to auto.", flag_values=values)
    absl_flags.DEFINE_enum(
        "io", "target", ["target", "source", "float"], "The interface of the output model.", flag_values=values
    )
    listed("pin_range", [], "TENSOR:MIN:MAX: that tensor's range in real units; may be repeated.", flag_values=values)
    listed(
        "keep", [], "Keep ops whose code or output tensor matches this regular expression at the source's precision; "
        "may be repeated.", flag_values=values,
    )  # fmt: skip
    widths = "Widths of the weights (with codebooks, of indices) among the target's, such as 4,5,6,8: one, or some to choose among."
    text("bits", None, widths, flag_values=values)
    between = "Widths of the activations between layers, likewise, such as 6,8."
    text("activation_bits", None, between, flag_values=values)
    share = "weights:SHARE, activations:SHARE or both with a comma: what they may take, over what they take at the widest width."
    text("budget", None, share, flag_values=values)
    text("search", None, "A file that keeps what the search for widths measured, to go on from.", flag_values=values)
    switch("int4", False, "Write filters of four bits as INT4, two codes a byte.", flag_values=values)
    learned = "Learn the widths of weights by gradient instead of measuring each; needs TensorFlow."
    switch("train_widths", False, learned, flag_values=values)
    switch("pareto", False, "Print what other budgets allow; with --report, draw it as pareto.svg.", flag_values=values)
    switch("dry_run", False, "Print the plan with a reason per tensor; write nothing.", flag_values=values)
    text("report", None, f"A folder for {CONVERSION}: every decision with its reason.", flag_values=values)
    switch("overwrite", False, "Replace an existing output file.", flag_values=values)
    define_graph_flags(values)
    behind = "TF1 graph: what filters are rounded from: the codes it computes with, or the floats that training left behind them."
    absl_flags.DEFINE_enum("weights", "codes", ["codes", "trained"], behind, flag_values=values)


def run(values: absl_flags.FlagValues) -> int:
    """Runs the verb and returns its exit code."""
    model, target = required(values, "model"), required(values, "target")
    empty = [name for name in ("bits", "activation_bits", "budget", "search") if values[name].value == ""]
    if empty:
        raise UsageError("\n".join(f"--{name}= is empty: give a value, or leave it out" for name in empty))
    if values.pareto and not values.budget:
        raise UsageError("--pareto shows what budgets allow: give --bits=4,5,6,8 --budget=weights:0.75 or the like")
    if values.pareto and values.train_widths:
        raise UsageError("--pareto shows what was measured, and --train_widths learns widths instead: leave one of them out")
    if values.search and not values.budget:
        raise UsageError("--search keeps what a budget measures: give --budget with --bits or --activation_bits, or leave it out")
    if values.search and values.output and Path(values.search).absolute() == Path(values.output).absolute():
        raise UsageError(f"--search and --output both name {values.output}: give each a file of its own")
    output, options = None, graph_options(values)
    if not values.dry_run:
        suffixes = (".tflite", GRAPH_SUFFIX) if is_graph(Path(model)) else (".tflite",)
        output = checked_output(required(values, "output"), suffixes, values.overwrite, model)
    with progress("requantizing", "step") as step:
        result = requantize(
            model,
            target,
            calibration=values.calibration,
            corrections=values.corrections,
            io=values.io,
            pin_range=_pins(values.pin_range),
            keep=values.keep,
            dry_run=values.dry_run,
            inputs=options.inputs,
            outputs=options.outputs,
            input_stats=options.input_stats,
            weights=values.weights,
            bits=values.bits,
            activation_bits=values.activation_bits,
            budget=values.budget,
            search=values.search,
            train_widths=values.train_widths,
            int4=values.int4,
            progress=step,
        )
    report = result.report
    for choice in report.widths if values.pareto else ():
        print(choice.table())
    if values.dry_run:
        print(report.details())
        print(report)
        return 0
    assert output is not None
    logging.info("running the result once in the interpreter")
    warning = prove(result)
    content = result.graph_bytes if output.suffix == GRAPH_SUFFIX else result.model_bytes
    if values.report:
        _save_report(Path(values.report), report.to_dict())
        for choice in report.widths if values.pareto else ():
            name = "pareto.svg" if choice.kind != ACTIVATIONS else "pareto_activations.svg"
            save(Path(values.report) / name, frontier_picture(choice).encode())
    save(output, content, overwrite=True)
    print(report)
    if warning:
        print(f"warning: {warning}")
    print(f"wrote {output} ({len(content)} bytes, from {report.source_bytes})")
    return 0


def required(values: absl_flags.FlagValues, name: str) -> str:
    """The value of a flag that has to be given.

    Raises:
        UsageError: it is missing.
    """
    value = values[name].value
    if not value:
        raise UsageError(f"--{name} is required; see --help")
    return str(value)


def _pins(pins: list[str]) -> dict[str, tuple[float, float]]:
    result = {}
    for pin in pins:
        try:
            name, low, high = pin.rsplit(":", 2)
            result[name] = (float(low), float(high))
        except ValueError:
            raise UsageError(f"--pin_range={pin!r} is not TENSOR:MIN:MAX with two numbers") from None
    return result


def _save_report(folder: Path, document: dict[str, object]) -> None:
    make(folder)
    save(folder / CONVERSION, json.dumps(document, indent=1).encode())
