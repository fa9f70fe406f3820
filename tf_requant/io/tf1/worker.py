"""What runs in a process of its own: `python -m tf_requant.io.tf1.worker FOLDER`.

TensorFlow takes seconds to import, gigabytes of disk and, where its converter meets a graph it did not expect, the whole
process with it. The folder holds `request.json`; the answer is `reply.json` and the files that it names.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tf_requant.errors import RequantError

RECORD = "_tf_requant"
"""The attribute of an output's node that holds what a written graph remembers."""


def read(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """A graph file -> a TFLite file, the canonical frozen graph, and what is in it."""
    from tf_requant.io.tf1.audit import check_graph
    from tf_requant.io.tf1.convert import convert
    from tf_requant.io.tf1.freeze import canonical, find_interface, open_source
    from tf_requant.io.tf1.nodes import Nodes, input_range
    from tf_requant.io.tf1.survey import survey

    source = open_source(Path(request["path"]))
    nodes = Nodes(source.graph)
    shapes = {name: tuple(shape) for name, shape in request["shapes"].items()}
    found = find_interface(source, nodes, request["inputs"], request["outputs"])
    check_graph(nodes, found.inputs, found.outputs)
    frozen = source.frozen([*found.outputs, *found.views])
    graph = canonical(frozen, found.inputs, found.outputs, shapes)
    stats = request["input_stats"]
    unknown = [n for n in found.inputs if input_range(Nodes(graph, found.inputs), n) is None]
    warnings = list(found.warnings)
    if stats is not None and not unknown:
        warnings.append("input_stats: left aside, since the graph's own FakeQuant node says what the input means")
    if stats is None:
        stats = (127.5, 127.5)
        if unknown:
            warnings.append(
                f"the graph does not say what a pixel means to {', '.join(unknown)}: (pixel - 127.5) / 127.5 was taken, "
                "as for inputs from -1 to 1; --input_stats=MEAN:STD says otherwise"
            )
    held = survey(graph, found.inputs, tuple(stats))
    model = convert(graph, found.inputs, found.outputs, held.ranges, tuple(stats))
    (folder / "model.tflite").write_bytes(model)
    whole = canonical(frozen, found.inputs, [*found.outputs, *found.views], shapes) if found.views else graph
    (folder / "graph.pb").write_bytes(whole.SerializeToString(deterministic=True))
    np.savez(folder / "survey.npz", **held.arrays())
    keep = [*found.outputs, *found.views]
    record = next((n.attr[RECORD].s.decode() for n in source.graph.node if RECORD in n.attr), "")
    return {"keep": keep, "warnings": warnings, "survey": held.to_json(), "record": record}


def write(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """A canonical graph and edits -> the edited graph."""
    from tensorflow.compat import v1

    from tf_requant.io.tf1.edit import Edit, edited

    graph = v1.GraphDef()
    graph.ParseFromString((folder / "graph.pb").read_bytes())
    with np.load(folder / "edits.npz") as arrays:
        held = dict(arrays)
    edits = [Edit.from_json(i, document, held) for i, document in enumerate(request["edits"])]
    made = edited(graph, edits, request["keep"])
    if request["record"]:
        next(n for n in made.node if n.name == request["keep"][0]).attr[RECORD].s = request["record"].encode()
    (folder / "edited.pb").write_bytes(made.SerializeToString(deterministic=True))
    return {}


def _refusals() -> tuple[type[Exception], ...]:
    """What TensorFlow raises over a graph that it does not take."""
    import tensorflow as tf

    return tf.errors.OpError, ValueError


def main(folder: Path) -> None:
    """Answers one request."""
    request = json.loads((folder / "request.json").read_text())
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        sentence = (
            f"reading a TF1 graph takes TensorFlow, which cannot be imported here ({error}); "
            "install it with: pip install 'tf_requant[tensorflow]'"
        )
        (folder / "reply.json").write_text(json.dumps({"error": "UsageError", "sentence": sentence}))
        return
    try:
        reply = {"read": read, "write": write}[request["verb"]](folder, request)
    except RequantError as error:
        reply = {"error": type(error).__name__, "sentence": str(error)}
    except _refusals() as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        reply = {"error": "UnsupportedModelError", "sentence": f"TensorFlow refuses the graph: {first[:200]}"}
    (folder / "reply.json").write_text(json.dumps(reply))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
