"""The notebooks: as they are committed, and as they run on the bundled model."""

import ast
import base64
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import tf_requant

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = ("requantize_mobilenet", "debug_layers", "sweep_targets")
HOST = re.compile(r"\w+://|\bwww\.|\b[\w-]+\.(com|org|net|io|dev|ai|edu|cloud|app)\b", re.IGNORECASE)
SECONDS = 300


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel of this interpreter, found ahead of whatever is installed, that imports this very package."""
    folder = tmp_path_factory.mktemp("jupyter")
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    paths = [str(Path(tf_requant.__file__).parents[1]), *filter(None, sys.path)]
    document = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
        "env": {
            "PYTHONPATH": os.pathsep.join(paths),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "IPYTHONDIR": str(folder / "ipython"),
        },
    }
    spec.write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        for name in [n for n in os.environ if n.startswith("TF_REQUANT_NOTEBOOK_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("notebooks")


def executed(name: str, work: Path, figures: str) -> tuple[nbformat.NotebookNode, dict]:
    """Runs a notebook in a folder; returns it with its outputs, and the value of an expression behind its last cell."""
    notebook = read(name)
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({figures}))"))
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(work)}})
    client.execute()  # an error in a cell raises
    last = notebook.cells.pop()
    return notebook, json.loads(last.outputs[0].text)


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    found = [o.data["image/png"] for c in notebook.cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})]
    return [base64.b64decode(data) for data in found]


def complaints(notebook: nbformat.NotebookNode) -> list[str]:
    """What a reader would see on stderr; where matplotlib keeps its fonts is the machine's affair."""
    said = [o.text for c in notebook.cells for o in c.get("outputs", ()) if o.get("name") == "stderr"]
    return [text for text in said if "matplotlib" not in text.lower()]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_clean(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for before, cell in zip([None, *notebook.cells], notebook.cells):
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert before is not None and before.cell_type == "markdown", f"{cell.id}: no text says what it shows"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_names_no_host(name: str) -> None:
    assert not HOST.findall((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_uses_public_names_only(name: str) -> None:
    code = [cell for cell in read(name).cells if cell.cell_type == "code" and cell.id != "install"]
    tree = ast.parse("\n".join(cell.source for cell in code))
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {m for m in imported if m.startswith("tf_requant")} <= {"tf_requant", "tf_requant.sample"}
    used = {
        n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "tf_requant"
    }
    assert used <= set(tf_requant.__all__)
    attributes = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert {a for a in attributes if a.startswith("_")} <= {"__version__"}


def test_requantize_mobilenet_runs(kernel: None, work: Path) -> None:
    notebook, found = executed(
        "requantize_mobilenet", work,
        '{"agreement": agreement, "top1": top1, "reference": reference_top1, "passed": [c.passed for c in checks.values()],'
        ' "all": [c.agreement for c in checks.values()], "wrong": proof.exactness.mismatches,'
        ' "elements": proof.exactness.elements, "same": int((before == after).sum()), "path": str(path)}',
    )  # fmt: skip
    # 256 pictures, one point of sampling error; 98.4 % without data and 99.2 % with it were seen.
    assert found["agreement"] >= 0.97 and abs(found["top1"] - found["reference"]) <= 0.03
    assert len(found["all"]) == 4 and min(found["all"]) >= 0.95 and all(found["passed"])
    assert found["wrong"] == 0 and found["elements"] > 100_000
    assert found["same"] >= 15
    assert (work / found["path"]).read_bytes()[4:8] == b"TFL3"
    folder = work / "requantized"
    assert {"report.html", "report.json", "junit.xml", "outputs.npz"} <= {f.name for f in (folder / "report").iterdir()}
    assert json.loads((folder / "requantization.json").read_text())["target"] == "nna_sym8_pow2"
    assert len(pictures(notebook)) == 4 and all(len(p) > 10_000 for p in pictures(notebook))
    assert not complaints(notebook)


def test_debug_layers_finds_what_it_planted(kernel: None, work: Path) -> None:
    notebook, found = executed(
        "debug_layers", work,
        '{"planted": planted, "culprits": [[c.name, c.fault, c.gain] for c in culprits], "agreements": agreements,'
        ' "scores": check.isolation.scores_sqnr, "restored": culprits[0].restored_sqnr, "moved": moved[0],'
        ' "report": str(folder / "report.html")}',
    )  # fmt: skip
    name, fault, gain = found["culprits"][0]
    assert name == found["planted"] == found["moved"] and fault
    assert gain > 10 and gain == pytest.approx(found["restored"] - found["scores"])
    assert all(not fault and other < gain / 4 for _, fault, other in found["culprits"][1:])
    assert found["agreements"]["candidate"] < 0.9 < 0.95 <= found["agreements"]["sound"] == found["agreements"]["mended"]
    assert b"block3/depthwise" in (work / found["report"]).read_bytes()
    assert len(pictures(notebook)) == 4 and all(len(p) > 5_000 for p in pictures(notebook))
    assert not complaints(notebook)


def test_sweep_targets_draws_every_target(kernel: None, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_REQUANT_NOTEBOOK_WORST", "1")
    notebook, found = executed(
        "sweep_targets", work,
        '{"lacking": lacking, "refused": refused, "unbeaten": sorted(unbeaten), "calibrated": {n: r["sqnr"] for n, r in'
        ' calibrated.items()}, "sqnr": {n: min(r["sqnr"], 999) for n, r in results.items()}, "legal": [r["legal"] for r in'
        ' results.values()], "agreement": {n: r["agreement"] for n, r in results.items()}}',
    )  # fmt: skip
    assert set(found["sqnr"]) == set(tf_requant.builtin_targets()) and not found["refused"] and all(found["legal"])
    # 256 pictures; 98.4 % at least was seen.
    assert min(found["agreement"].values()) >= 0.96
    assert found["agreement"]["tflite_uint8"] == 1 and found["sqnr"]["tflite_uint8"] == 999
    worst = min(found["sqnr"], key=lambda name: found["sqnr"][name])
    assert list(found["calibrated"]) == [worst] and found["calibrated"][worst] > found["sqnr"][worst]
    assert sum(found["lacking"]["nna_sym8_pow2"]) > sum(found["lacking"]["nna_sym8"]) > sum(found["lacking"]["tflite_int8"])
    assert "tflite_uint8" in found["unbeaten"] and "nna_sym8" not in found["unbeaten"]
    assert len(pictures(notebook)) == 2 and all(len(p) > 10_000 for p in pictures(notebook))
    assert not complaints(notebook)
