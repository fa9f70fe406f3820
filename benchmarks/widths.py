"""What fewer bits cost: mixed widths of weights against uniform ones, on held-out labelled images.

Each row is one conversion with `auto` corrections on 200 calibration images: its bytes (counted from the codes in the file,
each layer at the width of its largest code), its agreement with the source with a 95 % interval, the paired top-1 drop and
the scores' SQNR. For a budget, the best uniform width of at most that size stands beside it. With --correlation, plans all
over the frontier and around it are also measured ahead of the corrections, and the rank correlation of predicted and
measured error is printed.

Usage: python benchmarks/widths.py [--case=mobilenet_v2] [--base=tflite_int8] [--correlation] [BUDGET ...]
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from agreement import CASES, SHARED, _data, _evaluation, _interval

import tf_requant
from tf_requant.model.verify import check
from tf_requant.pipeline.correct import Corrector
from tf_requant.pipeline.source import load_source
from tf_requant.pipeline.width_errors import WidthErrors
from tf_requant.pipeline.widths import Search
from tf_requant.planning.planner import plan_model
from tf_requant.rewrite.rewriter import apply

WIDTHS = (4, 5, 6, 8)
BUDGETS = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
PLANS = 40
"""Random plans for the correlation."""


def main() -> None:
    options = dict(a.removeprefix("--").partition("=")[::2] for a in sys.argv[1:] if a.startswith("--"))
    if set(options) - {"case", "base", "correlation"}:
        sys.exit(__doc__)
    case = CASES[options.get("case", "mobilenet_v2")]
    base = options.get("base", "tflite_int8")
    budgets = [float(a) for a in sys.argv[1:] if not a.startswith("--")] or list(BUDGETS)
    target = tf_requant.load_target(base).derive(name=f"{base}_mixed", weight={"bits": list(WIDTHS)})
    source = SHARED / "models" / case.model
    calibration = tf_requant.calibrate(source, _data(case.calibration))
    data, labels = _evaluation(case.evaluation)
    if "correlation" in options:
        _correlate(source, target, calibration)
    print(f"{'target':<22} {'weights':<18} {'share':>6} {'agreement':>9} {'95 %':>13} {'drop':>6} {'SQNR':>6} {'s':>5}")
    uniform = {b: _row(source, target, calibration, data, labels, f"{b} bits", bits=b) for b in WIDTHS}
    state = Path(tempfile.mkdtemp()) / "search.json"
    for budget in sorted(budgets):
        asked = {"bits": WIDTHS, "budget": f"weights:{budget}", "search": state}
        found = _row(source, target, calibration, data, labels, f"budget {budget:g}", **asked)
        best = max((row for row in uniform.values() if row[0] <= budget), default=(0.0, 0.0))
        verdict = "beats" if found[1] > best[1] else "DOES NOT BEAT"
        print(f"{'':<22} {verdict} the best uniform width of at most that size ({best[1]:.4f} at {best[0]:.3f})", flush=True)


def _row(source: Any, target: Any, calibration: Any, data: Any, labels: Any, label: str, **asked: Any) -> tuple[float, float]:
    """Prints one conversion; its share of the 8-bit bytes and its agreement."""
    start = time.perf_counter()
    result = tf_requant.requantize(source, target, calibration=calibration, **asked)
    seconds = time.perf_counter() - start
    weights = result.report.weights
    share = sum(row.bytes for row in weights) / sum(row.elements for row in weights)
    found = tf_requant.validate(result.model_bytes, reference=source, data=data, labels=labels, target=target, layers=0)
    q = found.quality["litert"]
    drop = f"{100 * q.top1_drop:>6.2f}" if q.top1_drop is not None else f"{'-':>6}"
    print(
        f"{target.name:<22} {label:<18} {share:>6.3f} {q.agreement:>9.4f} {_interval(q.agreement_interval):>13} {drop} "
        f"{q.sqnr:>6.1f} {seconds:>5.0f}{'' if found.passed else '  ILLEGAL'}",
        flush=True,
    )
    return share, q.agreement


def _correlate(source: Any, target: Any, calibration: Any) -> None:
    """Predicted against measured error of plans on the frontier and of random ones."""
    model = load_source(source).model
    corrector = Corrector(
        model, target, (), False, lambda c, t: plan_model(model, target, None, c, t), lambda m, p: check(apply(m, p))
    )
    search = Search(WidthErrors(corrector, WIDTHS, replace(calibration, noise={})))
    search.run(0.75)
    rng = np.random.default_rng(0)
    plans = [search.within(share) for share in np.linspace(0.52, 0.98, PLANS)]
    for _ in range(PLANS):
        # Each layer as wide as its neighbour on the frontier, or by chance another.
        near = search.within(float(rng.uniform(0.52, 0.98)))
        plans.append({i: int(rng.choice(WIDTHS)) if rng.random() < 0.2 else b for i, b in near.items()})
    for name, some in (("on the frontier", plans[:PLANS]), ("around it", plans[PLANS:]), ("all", plans)):
        ranks = [np.argsort(np.argsort([f(p) for p in some])) for f in (search.predicted, search.layers.measured)]
        print(f"rank correlation of predicted and measured error, {len(some)} plans {name}: {np.corrcoef(*ranks)[0, 1]:.3f}")


if __name__ == "__main__":
    main()
