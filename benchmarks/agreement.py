"""What each correction is worth: agreement of every target's result with its source on held-out labelled images.

Rows: no correction, `auto` without data, plain bias correction and `auto` on 200 calibration images of other pictures; with
--ablation also each correction alone, and `auto`'s list without each of them. Agreement and the paired top-1 difference
carry 95 % intervals.

Usage: python benchmarks/agreement.py [--case=NAME] [--ablation] [TARGET ...]
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tf_requant
from tf_requant.corrections import ALIGNMENT, DISTILLATION, NAMES, WITHOUT_DATA, chosen

SHARED = Path(os.environ.get("TF_REQUANT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
CORE = (
    "nna_sym8", "nna_sym8_per_channel", "nna_sym8_pow2", "nna_sym8_pow2_per_channel", "nna_usym8", "nna_usym8_pow2",
    "tflite_int8", "tflite_int8_per_tensor", "tflite_uint8", "tflite_int16x8",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model with data that it never met."""

    model: str
    calibration: str
    evaluation: str


CASES = {
    "mobilenet_v2": Case("mobilenet_v2_1.0_224_quant.tflite", "imagenet_sample/calibration", "imagenet_sample/eval"),
    "mobilenet_v1": Case("mobilenet_v1_0.25_128_quant.tflite", "imagenet_sample/calibration", "imagenet_sample/eval"),
    "tf2_mobilenet_v2": Case("tf2_mobilenet_v2_1.0_224_ptq.tflite", "imagenet_sample/calibration", "imagenet_sample/eval"),
    "cifar10_qat": Case("tf1/mnv2_cifar_qat_uint8.tflite", "cifar10/calibration.npz", "cifar10/eval.npz"),
    "resnet8": Case("resnet8_cifar10_int8.tflite", "cifar10/calibration.npz", "cifar10/eval.npz"),
}


def main() -> None:
    options = [a for a in sys.argv[1:] if a.startswith("--")]
    unknown = [o for o in options if o != "--ablation" and not o.startswith("--case=")]
    if unknown:
        sys.exit(__doc__)
    name = next((o.split("=")[1] for o in options if o.startswith("--case=")), "mobilenet_v2")
    case, targets = CASES[name], [a for a in sys.argv[1:] if not a.startswith("--")] or list(CORE)
    source = SHARED / "models" / case.model
    calibration = tf_requant.calibrate(source, _data(case.calibration))
    data, labels = _evaluation(case.evaluation)
    print(f"{name}: {len(calibration)} calibration samples, evaluated with LiteRT's default kernels on both sides")
    figures = f"{'agreement':>9} {'95 %':>13} {'top-1':>6} {'drop':>7} {'95 %':>15} {'SQNR':>6} {'s':>5}"
    print(f"{'target':<26} {'corrections':<24} {figures}")
    for target in targets:
        for label, corrections, with_data in rows("--ablation" in options):
            start = time.perf_counter()
            result = tf_requant.requantize(
                source, target, corrections=corrections, calibration=calibration if with_data else None
            )
            seconds = time.perf_counter() - start
            check = tf_requant.validate(
                result.model_bytes, reference=source, data=data, labels=labels, target=target, layers=0
            )
            q = check.quality["litert"]
            assert q.top1 is not None and q.top1_drop is not None and q.top1_drop_interval is not None
            print(
                f"{target:<26} {label:<24} {q.agreement:>9.4f} {_interval(q.agreement_interval):>13} {q.top1:>6.3f} "
                f"{100 * q.top1_drop:>7.2f} {_interval(tuple(100 * b for b in q.top1_drop_interval), 2):>15} "
                f"{q.sqnr:>6.1f} {seconds:>5.0f}{'' if check.passed else '  ILLEGAL'}",
                flush=True,
            )


def rows(ablation: bool) -> Iterator[tuple[str, str, bool]]:
    """(label, corrections, whether data is given) of each row of the table."""
    yield "none", "none", False
    yield "auto, no data", "auto", False
    for name in (n for n in NAMES if n != DISTILLATION) if ablation else ("bias",):
        # Alignment leaves part of its work to the bias.
        names = f"{name},bias" if name == ALIGNMENT else name
        yield f"only {names}", names, name not in WITHOUT_DATA or name == "bias"
    if ablation:
        every = chosen("auto", True)
        for name in every:
            without = {name, ALIGNMENT} if name == "bias" else {name}
            yield f"all but {name}", ",".join(n for n in every if n not in without), True
    yield "auto, with data", "auto", True


def _data(name: str) -> Any:
    path = SHARED / "data" / name
    return np.load(path)["images"][:200] if path.suffix == ".npz" else path


def _evaluation(name: str) -> tuple[Any, Any]:
    path = SHARED / "data" / name
    if path.suffix != ".npz":
        return path, None
    with np.load(path) as file:
        return file["images"], file["labels"].reshape(-1)


def _interval(bounds: tuple[float, ...], digits: int = 3) -> str:
    return f"{bounds[0]:.{digits}f}..{bounds[1]:.{digits}f}"


if __name__ == "__main__":
    main()
