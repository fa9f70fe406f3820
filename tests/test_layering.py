"""The direction of imports that ARCHITECTURE.md states, read off the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tf_requant"

LEAVES = {"errors", "version"}
BASE = LEAVES | {"numerics"}
MODEL = BASE | {"model"}
ALLOWED = {
    "numerics": BASE,
    "model": MODEL,
    "io": MODEL | {"io"},
    "targets": BASE | {"targets"},
    "plan": MODEL,
    "calibration": MODEL | {"calibration"},
    "runtime": LEAVES | {"runtime"},
    "planning": MODEL | {"targets", "plan", "calibration", "planning"},
    "corrections": MODEL | {"targets", "plan", "calibration", "corrections"},
    "rewrite": MODEL | {"targets", "plan", "rewrite"},
    "report": MODEL | {"targets", "plan", "report"},
    "simulator": MODEL | {"simulator"},
    "training": MODEL | {"training"},
    "export": MODEL | {"simulator", "export"},
    "validation": MODEL | {"targets", "plan", "validation"},
    "sample": {"sample"},
    "batch": MODEL
    | {"io", "targets", "plan", "calibration", "corrections", "runtime", "report", "validation", "pipeline", "batch"},
}
THIRD_PARTY = {"numpy", "flatbuffers", "absl", "ai_edge_litert", "jsonschema", "PIL", "tqdm", "numba", "jinja2", "matplotlib"}
LAZY = {"tensorflow", "apache_beam", "matplotlib", "jsonschema", "PIL", "tflite_runtime", "jinja2", "dask", "distributed"}


def sources() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py"))


def imports(path: Path, top_level_only: bool = False) -> list[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_layers_below_it(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if layer in ALLOWED:
        for name in imports(path):
            if name.startswith("tf_requant."):
                assert name.split(".")[1] in ALLOWED[layer], f"{path} imports {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_are_never_imported_at_module_level(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & LAZY


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_cli_prints(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] == "cli":
        return
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rounding_happens_in_numerics_rounding_only(path: Path) -> None:
    if path.name == "rounding.py" and path.parent.name == "numerics":
        return
    names = {
        f"{n.value.id}.{n.attr}"
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }
    assert not names & {"np.rint", "np.around"}
