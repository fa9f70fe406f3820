"""The error of each layer as an overlay of Model Explorer: node-data files that colour the candidate's graph.

The format is `ModelNodeData` of `ai-edge-model-explorer` 0.1.34 (`node_data_builder.py`): graph id -> results by node
id, with a name and colours. A graph holds one figure a node, so that each metric is a file of its own; the viewer lists
several side by side. Its TFLite adapter calls the main graph `main`, whatever the file calls it, and an op by its index.
Every field is written out, defaults too, so that the package's own classes give the same JSON.
"""

import math
from collections.abc import Mapping
from typing import Any

GRAPH = "main"
"""How the adapter calls the graph that an interpreter runs first."""

EXACT = 200.0
"""What stands for "nothing differs", in dB, so that a sorted list ends with it. Beyond any figure of 16-bit codes: one
step against the type's range is 96 dB, and one such element among 10^10 adds 100."""

NOT_COMPARED = "not compared"
"""The result of an op that has no counterpart in the source, such as a QUANTIZE op between accelerator and host. The
viewer shows text as it is, and leaves it out of its statistics."""

METRICS = {
    "sqnr": "SQNR of the running model, dB",
    "isolated_sqnr": "SQNR of the layer alone, dB",
}
"""Key of a layer in the validation document -> how the viewer calls it; each is one file."""

_MEASURED = {"sqnr": "compared", "isolated_sqnr": "isolated"}
"""Key of a layer -> what tells that the figure was measured, so that its null means that nothing differs."""

_COLOURS = (
    (10.0, "#d73027"),
    (20.0, "#fc8d59"),
    (30.0, "#fee08b"),
    (40.0, "#d9ef8b"),
    (EXACT - 0.01, "#91cf60"),
    (EXACT, "#1a9850"),
)
"""Up to this many dB, this colour; absolute, so that two models can be compared. ColorBrewer's RdYlGn, whose steps stay
apart for most colour-blind readers. 40 dB is about what rounding to 8 bits alone leaves of a tensor that fills its type."""

_GREY = "#cccccc"


def overlays(document: Mapping[str, Any], graph: str = GRAPH) -> dict[str, dict[str, Any]]:
    """File name -> node data, one file a metric."""
    return {f"{metric}.json": node_data(document, metric, graph) for metric in METRICS}


def node_data(document: Mapping[str, Any], metric: str = "sqnr", graph: str = GRAPH) -> dict[str, Any]:
    """The node data of one metric: a result for every op of the candidate's main graph.

    Args:
        document: a validation document (`schemas/report.schema.json`).
        metric: a key of `METRICS`.
        graph: the id of the graph in the viewer.
    """
    return {
        graph: {
            "results": _results(document, metric),
            "name": METRICS[metric],
            "thresholds": [{"value": value, "bgColor": colour} for value, colour in _COLOURS],
            "gradient": [],
            "hideInAggregatedStatsTable": False,
            "hideInChildrenStatsTable": False,
            # Neither a sum nor a mean of decibels means anything.
            "hideAggregatedStats": ["sum", "avg"],
            "showExpandedSummaryOnGroupNode": False,
            "showLabelCountColumnsInChildrenStatsTable": False,
        }
    }


def _results(document: Mapping[str, Any], metric: str) -> dict[str, dict[str, Any]]:
    """A result for each op; the worst of its tensors for one that writes several."""
    figures: dict[str, float] = {str(layer["index"]): math.inf for layer in document["layers"]}
    for layer in document["layers"]:
        if layer[_MEASURED[metric]]:
            figure = EXACT if layer[metric] is None else min(round(float(layer[metric]), 2), EXACT)
            figures[str(layer["index"])] = min(figures[str(layer["index"])], figure)
    nothing = {"value": NOT_COMPARED, "bgColor": _GREY}
    return {index: {"value": figure} if math.isfinite(figure) else dict(nothing) for index, figure in figures.items()}
