"""What a batch costs over the same conversions one process each, and what one job costs, so what very many would.

python benchmarks/batch_cost.py [--models=../shared/models] [--targets=a,b] [--workers=2]

Prints each conversion's time alone, their sum over the workers, the batch's time, and whether
batch <= 1.15 * sum / workers + 20 s; then seconds, bytes read and bytes shuffled of a job, and what 100,000 models come to.
Run it on an idle machine: both sides are wall-clock times of the same minutes. Seconds of processor time, which another
program at work disturbs less, stand beside them.
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = (
    "tflite_int8", "tflite_int8_per_tensor", "tflite_uint8", "tflite_int16x8", "nna_sym8", "nna_sym8_per_channel",
    "nna_sym8_pow2", "nna_sym8_pow2_per_channel", "nna_usym8", "nna_usym8_pow2",
)  # fmt: skip
SHARE, START = 1.15, 20.0
MANY = 100_000


def processor() -> float:
    """Seconds of processor time of all processes that ended so far."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def run(*arguments: str, threads: int) -> tuple[float, int]:
    share = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(threads))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **share}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "tf_requant", *arguments], env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 2, 3):
        raise SystemExit(done.stderr)
    return time.monotonic() - start, done.returncode


def alone(models: list[Path], targets: list[str], folder: Path, threads: int) -> dict[tuple[str, str], float]:
    """Seconds of each conversion in a process of its own; refusals count as well."""
    seconds = {}
    for model in models:
        for target in targets:
            output = folder / f"{model.stem}.{target}.tflite"
            took, code = run("requantize", f"--model={model}", f"--target={target}", f"--output={output}", threads=threads)
            seconds[model.name, target] = took
            print(f"{model.name:<48} {target:<28} {took:7.2f} s{'  refused' if code else ''}", flush=True)
    return seconds


def together(models: list[Path], targets: list[str], folder: Path, workers: int, threads: int) -> tuple[float, Path]:
    jobs = folder / "jobs.jsonl"
    jobs.write_text("".join(json.dumps({"model": str(m), "targets": targets}) + "\n" for m in models))
    flags = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing", "--verbosity=-1"]
    took, _ = run("batch", f"--jobs={jobs}", f"--output={folder / 'batch'}", *flags, threads=threads)
    return took, folder / "batch"


def same_bytes(models: list[Path], targets: list[str], folder: Path) -> int:
    """How many of the batch's files are not those of the single processes."""
    pairs = [(folder / f"{m.stem}.{t}.tflite", folder / "batch" / m.stem / f"{t}.tflite") for m in models for t in targets]
    return sum((a.read_bytes() if a.exists() else b"") != (b.read_bytes() if b.exists() else b"") for a, b in pairs)


def scaling(output: Path, models: list[Path], workers: int) -> None:
    """The costs of one job, and of very many on paper."""
    rows = json.loads((output / "summary.json").read_text())["jobs"]
    done = [row for row in rows if row["seconds_convert"] is not None]
    if not done:
        return
    seconds = sum(row["seconds_convert"] + (row["seconds_validate"] or 0) for row in done) / len(done)
    # A conversion reads its source twice (hash, parse) and its result twice (hash, legality); validation reads both again.
    read = sum(2 * row["source_bytes"] + 2 * row["bytes"] for row in done) / len(done)
    record = sum(f.stat().st_size for f in (output / ".work/results").iterdir()) / len(rows)
    place = len(pickle.dumps((MANY, 500 * MANY)))
    shuffled = 3 * place + len(pickle.dumps((MANY << 20, (500 * MANY, 0))))
    per_model = len(rows) / len(models)
    print(f"one job: {seconds:.2f} s of a worker, {read / 1e6:.1f} MB read, {shuffled} bytes shuffled", end=" ")
    print(f"and what its shards measured, {record:.0f} bytes of record")
    jobs = MANY * per_model
    hours = jobs * seconds / 3600
    print(f"{MANY:,} models x {per_model:.0f} targets: {hours:,.0f} worker hours, {hours / workers:,.0f} on {workers}", end=", ")
    print(f"{hours / 100:,.0f} on 100; {jobs * read / 1e12:.1f} TB read", end=", ")
    print(f"{jobs * shuffled / 1e9:.2f} GB shuffled, {jobs * record / 1e9:.1f} GB of records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=str(Path(os.environ.get("TF_REQUANT_SHARED", ROOT.parent / "shared")) / "models"))
    parser.add_argument("--targets", default=",".join(CORE))
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    models, targets = sorted(Path(given.models).glob("*.tflite")), given.targets.split(",")
    threads = max(1, (os.cpu_count() or 1) // given.workers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sum_alone, busy_alone = sum(alone(models, targets, folder, threads).values()), processor()
        took, output = together(models, targets, folder, given.workers, threads)
        busy = processor() - busy_alone
        counts = json.loads((output / "summary.json").read_text())["counts"]
        bound = SHARE * sum_alone / given.workers + START
        print(f"alone {sum_alone:.1f} s in all, over {given.workers} workers {sum_alone / given.workers:.1f} s")
        verdict = "within" if took <= bound else "BEYOND"
        share = (took - START) / (sum_alone / given.workers)
        print(f"batch {took:.1f} s: {share:.2f} of that plus {START:.0f} s; {verdict} {SHARE}")
        print(f"processor time: alone {busy_alone:.1f} s, batch {busy:.1f} s: {busy / busy_alone:.2f} of that", end="; ")
        print(f"load average {os.getloadavg()[0]:.1f}")
        print(f"{counts}; files that differ: {same_bytes(models, targets, folder)}")
        scaling(output, models, given.workers)


if __name__ == "__main__":
    main()
