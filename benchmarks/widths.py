"""What fewer bits cost, on held-out labelled images: four tables, each conversion on 200 calibration images of others.

  weights      mixed widths of weights within budgets, beside one width everywhere
  activations  the same of activations
  int7         7 bits everywhere (EasyQuant): with the search for scales and without, beside the same target at 8 bits
  codebook     16 levels a filter (DDQ's idea) beside uniform 4 bits
  indices      widths of indices into codebooks within budgets, beside one width everywhere

A row has its share of the bytes at the widest width (of weights counted from the codes in the file, each layer at the width of
its largest code), its agreement with the source with a 95 % interval, the paired top-1 drop and the scores' SQNR. For a budget,
the best uniform width of at most that size stands beside it. With --correlation, plans all over the frontier and around it are
measured ahead of the corrections, and the rank correlation of predicted and measured error is printed instead. With --device,
each result also runs on the simulated device, which saturates at a width that LiteRT does not know. With --trained (extra
`tensorflow`), budgets of weights and indices are also met by learned widths, and those of indices with `distillation` behind.

Usage: python benchmarks/widths.py [--case=mobilenet_v2] [--base=TARGET] [--budgets=0.55,0.75] [--device] [--correlation]
       [--trained] [TABLE ...]
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from agreement import CASES, SHARED, _data, _evaluation, _interval

import tf_requant
from tf_requant.pipeline.activation_errors import ActivationErrors
from tf_requant.pipeline.correct import Corrector
from tf_requant.pipeline.source import load_source
from tf_requant.pipeline.width_errors import WidthErrors
from tf_requant.pipeline.widths import Search
from tf_requant.plan import ACTIVATIONS, WEIGHTS

PLANS = 40
"""Random plans for the correlation."""
INT7 = Path(__file__).resolve().parents[1] / "tests" / "targets" / "int7.json"


@dataclass(frozen=True)
class Bench:
    """One model with data that it never met.

    Attributes:
        case: its name in `agreement.CASES`.
        base: the target to derive from, or empty for each table's own.
        budgets: of mixed widths, or empty likewise.
        against: what runs the results.
        trained: whether budgets are also met by learned widths.
    """

    case: str
    base: str
    budgets: tuple[float, ...]
    against: tuple[str, ...] = ("litert",)
    trained: bool = False

    @cached_property
    def source(self) -> Path:
        return SHARED / "models" / CASES[self.case].model

    @cached_property
    def calibration(self) -> Any:
        return tf_requant.calibrate(self.source, _data(CASES[self.case].calibration))

    @cached_property
    def evaluation(self) -> Any:
        return _evaluation(CASES[self.case].evaluation)

    def row(self, target: Any, label: str, **asked: Any) -> tuple[float, float]:
        """Prints one conversion, a line a backend; its share of the bytes and its agreement in LiteRT."""
        start, data = time.perf_counter(), {} if asked.get("corrections") == "none" else {"calibration": self.calibration}
        result = tf_requant.requantize(self.source, target, **data, **asked)
        seconds, report, (images, labels) = time.perf_counter() - start, result.report, self.evaluation
        share = sum(row.bytes for row in report.weights) / sum(row.elements for row in report.weights)
        if len(target.activation.bits) > 1:
            share = sum(r.bytes for r in report.activations) / sum(r.elements for r in report.activations)
        found = tf_requant.validate(
            result.model_bytes, reference=self.source, data=images, labels=labels, target=target, layers=0, against=self.against
        )
        for backend in self.against:
            q = found.quality[backend]
            drop = f"{100 * q.top1_drop:>6.2f}" if q.top1_drop is not None else f"{'-':>6}"
            print(
                f"{target.name:<26} {label:<24} {backend:<7} {share:>6.3f} {q.agreement:>9.4f} "
                f"{_interval(q.agreement_interval):>13} {drop} {q.sqnr:>6.1f} {seconds:>5.0f}{'' if found.passed else '  ILLEGAL'}",
                flush=True,
            )
        return share, found.quality["litert"].agreement

    def mixed(self, kind: str, target: Any, widths: tuple[int, ...], budgets: tuple[float, ...]) -> None:
        """One width everywhere for each, then budgets, each beside the best of those of at most its size."""
        flag = "activation_bits" if kind == ACTIVATIONS else "bits"
        uniform = [self.row(target, f"{b} bits", **{flag: b}) for b in widths]
        whole = 1.0 if target.weight.codebook is None else uniform[-1][0]  # budgets count from the widest, shares from 8 bits
        state = Path(tempfile.mkdtemp()) / "search.json"
        for budget in sorted(self.budgets or budgets):
            asked = {flag: widths, "budget": f"{kind}:{budget}", "search": state}
            found = self.row(target, f"budget {budget:g}", **asked)
            best = max((row for row in uniform if row[0] <= budget * whole), key=lambda row: row[1], default=(0.0, 0.0))
            verdict = "beats" if found[1] > best[1] else "DOES NOT BEAT"
            print(f"{'':<26} {verdict} the best uniform width of at most that size ({best[1]:.4f} at {best[0]:.3f})", flush=True)
            if self.trained and kind == WEIGHTS:
                learned = {flag: widths, "budget": f"{kind}:{budget}", "train_widths": True}
                self.row(target, f"budget {budget:g}, trained", **learned)
                if target.weight.codebook is not None:
                    every = "thresholds,rounding,scale_search,gptq,error_folding,bias,distillation"
                    self.row(target, f"budget {budget:g}, distilled", **learned, corrections=every)


def weights(bench: Bench) -> None:
    widths, base = (4, 5, 6, 8), bench.base or "tflite_int8"
    target = tf_requant.load_target(base).derive(name=f"{base}_mixed", weight={"bits": [*widths]})
    bench.mixed(WEIGHTS, target, widths, (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9))


def activations(bench: Bench) -> None:
    widths, base = (6, 8), bench.base or "nna_sym8_per_channel"
    target = tf_requant.load_target(base).derive(name=f"{base}_mixed", activation={"bits": [8, 6]})
    bench.mixed(ACTIVATIONS, target, widths, (0.8, 0.85, 0.9, 0.95))


def int7(bench: Bench) -> None:
    narrow = tf_requant.load_target(INT7)
    wide = narrow.derive(
        name="int7_at_8_bits", activation={"bits": [8]}, weight={"bits": [8]}, accumulator={"intermediate": None}
    )
    rows = {"none": "none", "bias": "bias", "all but the search": "rounding,gptq,bias", "auto (with the search)": "auto"}
    for target in (wide, narrow):
        for label, corrections in rows.items():
            bench.row(target, label, corrections=corrections)


def codebook(bench: Bench) -> None:
    base = bench.base or "nna_sym8_per_channel"
    coded = tf_requant.load_target(base).derive(name=f"{base}_codebook4", weight={"codebook": 4})
    uniform = tf_requant.load_target(base).derive(name=f"{base}_uniform4", weight={"bits": [4]})
    for corrections in ("none", "bias", "auto"):
        for target in (coded, uniform):
            bench.row(target, corrections, corrections=corrections)


def indices(bench: Bench) -> None:
    widths, base = (2, 3, 4), bench.base or "nna_sym8_per_channel"
    target = tf_requant.load_target(base).derive(name=f"{base}_codebooks", weight={"codebook": [*widths]})
    bench.mixed(WEIGHTS, target, widths, (0.6, 0.75, 0.9))


TABLES: dict[str, Callable[[Bench], None]] = {
    "weights": weights, "activations": activations, "int7": int7, "codebook": codebook, "indices": indices
}  # fmt: skip
CASE_OF = {"codebook": "cifar10_qat", "indices": "cifar10_qat"}
"""MobileNetV2 elsewhere."""


def main() -> None:
    options = dict(a.removeprefix("--").partition("=")[::2] for a in sys.argv[1:] if a.startswith("--"))
    tables = [a for a in sys.argv[1:] if not a.startswith("--")] or list(TABLES)
    if set(options) - {"case", "base", "budgets", "device", "correlation", "trained"} or set(tables) - TABLES.keys():
        sys.exit(__doc__)
    budgets = tuple(float(b) for b in options.get("budgets", "").split(",") if b)
    for table in tables:
        case = options.get("case", CASE_OF.get(table, "mobilenet_v2"))
        against = ("litert", "sim") if "device" in options else ("litert",)
        bench = Bench(case, options.get("base", ""), budgets, against, "trained" in options)
        if "correlation" in options:
            correlate(bench, table)
            continue
        print(f"\n{table}: {case}, {len(bench.calibration)} calibration samples")
        figures = f"{'share':>6} {'agreement':>9} {'95 %':>13} {'drop':>6} {'SQNR':>6} {'s':>5}"
        print(f"{'target':<26} {'weights or corrections':<24} {'in':<7} {figures}")
        TABLES[table](bench)


def correlate(bench: Bench, table: str) -> None:
    """Predicted against measured error of plans on the frontier and of random ones."""
    of_activations = table == "activations"
    model, base = load_source(bench.source).model, bench.base or ("nna_sym8_per_channel" if of_activations else "tflite_int8")
    widths = (6, 8) if of_activations else (4, 5, 6, 8)
    part = {"activation": {"bits": [8, 6]}} if of_activations else {"weight": {"bits": [*widths]}}
    corrector = Corrector(model, tf_requant.load_target(base).derive(name="mixed", **part), ("thresholds",), False)
    measure = ActivationErrors if of_activations else WidthErrors
    calibration = replace(bench.calibration, noise={})
    search = Search(measure(corrector, widths, calibration), None, ACTIVATIONS if of_activations else WEIGHTS)
    rng, least = np.random.default_rng(0), min(widths) / max(widths) + 0.02
    plans = [search.within(share) for share in np.linspace(least, 0.98, PLANS)]
    for _ in range(PLANS):
        # Each as wide as its neighbour on the frontier, or by chance another.
        near = search.within(float(rng.uniform(least, 0.98)))
        plans.append({i: int(rng.choice(widths)) if rng.random() < 0.2 else b for i, b in near.items()})
    for name, some in (("on the frontier", plans[:PLANS]), ("around it", plans[PLANS:]), ("all", plans)):
        measured = [float(search.candidates.measured(p).sum()) for p in some]
        ranks = [np.argsort(np.argsort(errors)) for errors in ([search.predicted(p) for p in some], measured)]
        found = np.corrcoef(*ranks)[0, 1]
        print(f"{table}: rank correlation of predicted and measured error, {len(some)} plans {name}: {found:.3f}", flush=True)


if __name__ == "__main__":
    main()
