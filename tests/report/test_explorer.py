"""The overlay for Model Explorer: its shape always, and in the slow test what the real package makes of it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import tf_requant
from tests.report.minimal import document, layer
from tf_requant.io import tflite
from tf_requant.report.explorer import EXACT, METRICS, NOT_COMPARED, node_data, overlays
from tf_requant.sample import model_path

LAYERS = [
    layer(0, "conv", sqnr=31.2345, isolated_sqnr=-3.0),
    layer(1, "quantize", op="QUANTIZE", compared=False, isolated=False, sqnr=None, isolated_sqnr=None),
    layer(2, "pool", sqnr=28.0, isolated_sqnr=None),
]


def colour(data: dict[str, Any], value: float) -> str:
    """What the viewer paints: the first threshold that a value does not exceed; nothing beyond the last."""
    return next((t["bgColor"] for t in data["main"]["thresholds"] if value <= t["value"]), "")


def test_there_is_a_file_for_each_metric() -> None:
    files = overlays(document(layers=LAYERS))
    assert list(files) == ["sqnr.json", "isolated_sqnr.json"]
    assert files["sqnr.json"]["main"]["results"]["0"] == {"value": 31.23}
    assert files["isolated_sqnr.json"]["main"]["results"]["0"] == {"value": -3.0}
    assert [f["main"]["name"] for f in files.values()] == list(METRICS.values())
    assert json.loads(json.dumps(files, allow_nan=False)) == files


def test_every_op_has_a_result_under_its_index() -> None:
    for data in overlays(document(layers=LAYERS)).values():
        assert list(data) == ["main"] and list(data["main"]["results"]) == ["0", "1", "2"]
    assert list(node_data(document(layers=LAYERS), graph="other")) == ["other"]


def test_a_layer_without_any_difference_is_best_and_one_without_counterpart_has_no_figure() -> None:
    results = node_data(document(layers=LAYERS), "isolated_sqnr")["main"]["results"]
    assert results["2"] == {"value": EXACT}
    assert results["1"]["value"] == NOT_COMPARED and results["1"]["bgColor"] not in [
        t["bgColor"] for t in node_data(document())["main"]["thresholds"]
    ]


def test_no_figure_exceeds_the_one_that_stands_for_no_difference() -> None:
    found = node_data(document(layers=[layer(0, "a", sqnr=1e9), layer(1, "b", sqnr=-80.0)]))["main"]["results"]
    assert found == {"0": {"value": EXACT}, "1": {"value": -80.0}}


def test_an_op_that_writes_several_tensors_shows_the_worst() -> None:
    rows = [layer(4, "first", sqnr=30.0), layer(4, "second", sqnr=12.0), layer(4, "third", sqnr=None)]
    assert node_data(document(layers=rows))["main"]["results"] == {"4": {"value": 12.0}}
    rows = [layer(4, "first", compared=False, sqnr=None), layer(4, "second", sqnr=12.0)]
    assert node_data(document(layers=rows))["main"]["results"] == {"4": {"value": 12.0}}


def test_bad_is_red_and_good_is_green() -> None:
    data = node_data(document())
    limits = [t["value"] for t in data["main"]["thresholds"]]
    assert limits == sorted(limits) and limits[-1] == EXACT

    def green_over_red(value: float) -> int:
        paint = colour(data, value)
        return int(paint[3:5], 16) - int(paint[1:3], 16)

    shades = [green_over_red(v) for v in (-50.0, 5.0, 15.0, 25.0, 35.0, 60.0)]
    assert shades == sorted(shades) and shades[0] < -100 and shades[-1] > 60
    # Exact has a green of its own, so that it is not taken for merely good.
    assert colour(data, EXACT) != colour(data, EXACT - 1) and green_over_red(EXACT) > 100


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explorer") / "candidate.tflite"
    tf_requant.requantize(model_path(), "nna_sym8_pow2", corrections="none").save(path)
    return path


@pytest.fixture(scope="module")
def files(candidate: Path) -> dict[str, Path]:
    """The overlays of the candidate, with figures that differ from layer to layer."""
    graph = tflite.read(candidate.read_bytes()).main
    rows = [
        layer(i, graph.tensors[op.outputs[0]].name, op=op.code, sqnr=60.0 - i, isolated_sqnr=None if i % 3 else 45.5)
        for i, op in enumerate(graph.ops)
    ]
    rows[5] |= {"compared": False, "isolated": False, "sqnr": None, "isolated_sqnr": None}
    found = {}
    for name, data in overlays(document(layers=rows)).items():
        found[name] = candidate.parent / name
        found[name].write_text(json.dumps(data))
    return found


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """The address of a running server of the real package, which asks no other host for anything."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # It looks for newer versions of itself; a dead proxy keeps that at home.
    offline = os.environ | {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", "from model_explorer.cmdline import main; main()"]
    command += [*arguments, "--host=127.0.0.1", f"--port={port}", "--no_open_in_browser", "--skip_health_check"]
    log = subprocess.PIPE
    with subprocess.Popen(command, env=offline, stdout=log, stderr=subprocess.STDOUT, text=True) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(120):
                assert process.poll() is None, process.stdout.read() if process.stdout else ""
                with suppress(urllib.error.URLError):
                    fetched(f"{address}/check_health")
                    break
                time.sleep(0.5)
            yield address
        finally:
            process.terminate()


def fetched(address: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=60) as response:
        return response.read().decode()


@pytest.mark.slow
def test_the_real_package_reads_back_what_we_wrote(candidate: Path, files: dict[str, Path]) -> None:
    pytest.importorskip("model_explorer")
    from model_explorer import node_data_builder as real
    from model_explorer.builtin_tflite_flatbuffer_adapter import BuiltinTfliteFlatbufferAdapter

    graphs = BuiltinTfliteFlatbufferAdapter().convert(str(candidate), {})["graphCollections"][0].graphs
    nodes = {g["id"]: [n["id"] for n in g["nodes"] if n["label"] not in ("GraphInputs", "GraphOutputs", "pseudo_const")] for g in graphs}
    for path in files.values():
        ours = json.loads(path.read_text())
        assert ours.keys() <= nodes.keys()
        rebuilt = {}
        for graph, data in ours.items():
            assert list(data["results"]) == nodes[graph]
            results = {k: real.NodeDataResult(**v) for k, v in data["results"].items()}
            colours = [real.ThresholdItem(**t) for t in data["thresholds"]]
            rebuilt[graph] = real.GraphNodeData(**{**data, "results": results, "thresholds": colours})
        # Equal text, not only equal content: nothing is left out, and nothing is in another order.
        assert real.ModelNodeData(graphsData=rebuilt).to_json_string() == path.read_text()


@pytest.mark.slow
def test_the_real_server_takes_the_model_and_the_overlays(candidate: Path, files: dict[str, Path]) -> None:
    pytest.importorskip("model_explorer")
    paths = ",".join(str(path) for path in files.values())
    with served(str(candidate), f"--node_data_paths={paths}") as address:
        assert fetched(f"{address}/check_health") == "model_explorer_ok"
        for path in files.values():
            # What the page asks for, for every path that the server was started with.
            answer = json.loads(fetched(f"{address}/api/v1/read_text_file?path={quote(str(path))}"))
            assert json.loads(answer["content"]) == json.loads(path.read_text())
        command = {
            "cmdId": "convert", "extensionId": "builtin_tflite_flatbuffer", "modelPath": str(candidate), "settings": {},
            "deleteAfterConversion": False,
        }  # fmt: skip
        shown = json.loads(fetched(f"{address}/api/v1/send_command?json={quote(json.dumps(command))}"))
        assert [g["id"] for g in shown["graphCollections"][0]["graphs"]] == ["main"]
