"""Re-expression against unpacking and re-packing the same file with the schema's own object API, in one run.

Usage: python benchmarks/rewrite_speed.py [MODEL.tflite] [RUNS]
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

import tf_requant

SHARED = Path(os.environ.get("TF_REQUANT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def repack(data: bytes) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "models/mobilenet_v2_1.0_224_quant.tflite"
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 9
    data = path.read_bytes()
    targets = tf_requant.builtin_targets()
    ratios: dict[str, list[float]] = {t: [] for t in targets}
    times: dict[str, list[float]] = {t: [] for t in targets}
    for _ in range(runs):
        for target in targets:  # in turn, so that both see the same machine
            peer = seconds(lambda: repack(data))
            own = seconds(lambda: tf_requant.requantize(data, target, corrections="none").model_bytes)  # noqa: B023
            times[target].append(own)
            ratios[target].append(own / peer)
    print(f"{path.name}: requantize(corrections='none') over unpack + re-pack, {runs} runs")
    print(f"{'target':<28} {'ms, median':>10} {'ratio, median':>14} {'ratio, min':>11}")
    for target in targets:
        print(
            f"{target:<28} {1e3 * statistics.median(times[target]):>10.1f} "
            f"{statistics.median(ratios[target]):>14.2f} {min(ratios[target]):>11.2f}"
        )


if __name__ == "__main__":
    main()
