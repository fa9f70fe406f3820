"""Widths from the command line: the frontier is printed and drawn, refusals are one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tf_requant.sample import calibration_path, model_path
from tf_requant.targets import load_target


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("target") / "my_npu.json"
    path.write_text(json.dumps(load_target("nna_sym8").derive(name="my_npu", weight={"bits": [8, 4]}, activation={"bits": [8, 6]}).to_dict()))
    return path


def run(target: Path, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tf_requant", "requantize", f"--model={model_path()}", f"--target={target}", f"--output={output}"]
    return subprocess.run([*command, *flags], capture_output=True, text=True)


def test_the_frontier_is_printed_and_drawn_and_the_bytes_are_told(target: Path, tmp_path: Path) -> None:
    both = ("--bits=4,8", "--activation_bits=6,8", "--budget=weights:0.8,activations:0.9")
    budget = (*both, f"--calibration={calibration_path()}", f"--search={tmp_path / 's.json'}")
    done = run(target, tmp_path / "m.tflite", *budget, "--corrections=bias", "--pareto", f"--report={tmp_path / 'r'}")
    assert done.returncode == 0, done.stderr
    assert " share        bytes  predicted, dB  layers" in done.stdout
    assert "weights: " in done.stdout and " at 4 bits, " in done.stdout and "widths: 17 layers among 4, 8 bits" in done.stdout
    assert "activations: " in done.stdout and " share        bytes  predicted, dB  tensors" in done.stdout
    assert all((tmp_path / f"r/{name}.svg").read_text().count("<svg") == 1 for name in ("pareto", "pareto_activations"))
    document = json.loads((tmp_path / "r/requantization.json").read_text())
    assert document["widths"]["share"] <= 0.8 and len(document["widths"]["layers"]) == 17
    assert document["widths"]["bytes"] == sum(row["bits"] * row["elements"] for row in document["widths"]["layers"]) / 8
    assert document["activation_widths"]["share"] <= 0.9
    held = json.loads((tmp_path / "s.json").read_text())
    assert len(held["weights"]["errors"]) == 17 and held["activations"]["errors"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--bits=3",), "stores weights of 4, 8 bits, not of 3"),
        (("--bits=4,8",), "leaves a choice"),
        (("--budget=weights:0.5",), "give --bits"),
        (("--bits=4,8", "--budget=weights:0.7"), "give calibration data"),
        (("--bits=4,8", "--budget=much"), "is no budget"),
        (("--activation_bits=6,8", "--budget=weights:0.7"), "give --bits"),
        (("--activation_bits=4",), "stores activations of 6, 8 bits, not of 4"),
        (("--bits=4,8", "--budget=weights:0.7", "--search=m.tflite"), "--search and --output both name"),
        (("--train_widths",), "--train_widths learns the widths of weights within a budget"),
        (("--bits=4,8", "--budget=weights:0.7", "--train_widths", "--pareto"), "leave one of them out"),
        (("--pareto",), "--pareto shows what budgets allow"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(target: Path, tmp_path: Path, flags: tuple[str, ...], sentence: str) -> None:
    done = run(target, tmp_path / "m.tflite", *(flag.replace("=m.tflite", f"={tmp_path / 'm.tflite'}") for flag in flags))
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "m.tflite").exists()


@pytest.mark.parametrize("flag", ["bits", "activation_bits", "budget", "search"])
def test_an_empty_flag_is_no_wish_for_nothing(target: Path, tmp_path: Path, flag: str) -> None:
    done = run(target, tmp_path / "m.tflite", f"--{flag}=")
    assert done.returncode == 2 and f"--{flag}= is empty: give a value, or leave it out" in done.stderr
    assert not (tmp_path / "m.tflite").exists()
