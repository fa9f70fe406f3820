"""Agreement of every target's result with its source on held-out labelled images, with intervals.

Without corrections, with what `auto` does without data, and with `auto` on 200 calibration images of other pictures.

Usage: python benchmarks/agreement.py [TARGET ...]
"""

import os
import sys
from pathlib import Path

import tf_requant

SHARED = Path(os.environ.get("TF_REQUANT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
CALIBRATION = SHARED / "data/imagenet_sample/calibration"


def main() -> None:
    source, data = SHARED / "models/mobilenet_v2_1.0_224_quant.tflite", SHARED / "data/imagenet_sample/eval"
    print(f"{'target':<28} {'corrections':<12} {'agreement':>9} {'95 %':>15} {'top-1':>7} {'drop':>7} {'95 %':>16}")
    for target in sys.argv[1:] or tf_requant.builtin_targets():
        for name, corrections, calibration in (("none", "none", None), ("auto", "auto", None), ("data", "auto", CALIBRATION)):
            result = tf_requant.requantize(source, target, corrections=corrections, calibration=calibration)
            check = tf_requant.validate(result.model_bytes, reference=source, data=data, target=target, layers=0)
            q = check.quality["litert"]
            assert q.top1 is not None and q.top1_drop is not None and q.top1_drop_interval is not None
            print(
                f"{target:<28} {name:<12} {q.agreement:>9.4f} {_interval(q.agreement_interval):>15} {q.top1:>7.4f} "
                f"{q.top1_drop:>7.4f} {_interval(q.top1_drop_interval):>16}{'' if check.passed else '  ILLEGAL'}",
                flush=True,
            )


def _interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.3f}..{bounds[1]:.3f}"


if __name__ == "__main__":
    main()
