"""Constraint against fidelity: what a tighter target costs, over all models of a batch, as inline SVG."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_requant.errors import TargetError
from tf_requant.report.pictures import INK, LINE, MUTED, RC, RESULT, VARIABLES
from tf_requant.targets import Target, load_target

MOST_LINES = 40
"""Models whose own line is drawn; of more, only medians and quartiles."""


def tightness(target: Target) -> int:
    """How many freedoms of TFLite's own scheme a target gives up.

    >>> [tightness(load_target(n)) for n in ("tflite_int16x8", "tflite_int8", "nna_sym8", "nna_sym8_pow2")]
    [0, 1, 3, 6]
    """
    activation, weight = target.activation, target.weight
    return sum(
        (
            max(activation.bits) < 16,
            activation.symmetric and not activation.unsigned_after_relu and max(activation.bits) < 16,
            weight.granularity == "tensor",
            activation.scale == "power_of_two",
            weight.scale == "power_of_two",
            target.requantizer.kind == "shift",
            target.bias.bits < 32,
        )
    )


def tightness_of(name: str) -> int:
    """The tightness of a built-in target; of one from a file, which is not at hand any more, that of the tightest."""
    try:
        return tightness(load_target(name))
    except TargetError:
        return 7


def front(points: Sequence[tuple[int, float]]) -> list[int]:
    """Which points no other beats: at least as tight, at least as faithful, and better in one.

    Args:
        points: (tightness, fidelity).

    >>> front([(0, 0.9), (1, 0.99), (2, 0.95), (2, 0.97)])
    [1, 3]
    """

    def beaten(i: int) -> bool:
        t, f = points[i]
        return any(a >= t and b >= f and (a, b) != (t, f) for a, b in points)

    return [i for i in range(len(points)) if not beaten(i)]


def picture(rows: Sequence[Mapping[str, Any]]) -> str:
    """The picture; an empty text where nothing was measured."""
    measured = [row for row in rows if row["agreement"] is not None]
    if not measured:
        return ""
    import matplotlib
    from matplotlib.figure import Figure

    by_target: dict[str, list[float]] = {}
    for row in measured:
        by_target.setdefault(row["target"], []).append(row["agreement"])
    names = sorted(by_target, key=lambda n: (tightness_of(n), -float(np.median(by_target[n])), n))
    place = {name: n for n, name in enumerate(names)}
    middle = [float(np.median(by_target[name])) for name in names]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        figure = Figure(figsize=(11, 4.6), dpi=72, layout="constrained")
        axes = figure.add_subplot()
        for line in _lines(measured, place):
            axes.plot([x for x, _ in line], [100 * y for _, y in line], color=LINE, linewidth=1, marker="o", markersize=3, zorder=1)
        low, high = ([100 * float(np.quantile(by_target[n], q)) for n in names] for q in (0.25, 0.75))
        axes.vlines(range(len(names)), low, high, color=MUTED, linewidth=3, zorder=2)
        axes.plot(range(len(names)), [100 * m for m in middle], "o", color=INK, markersize=6, zorder=3)
        best = front([(tightness_of(name), value) for name, value in zip(names, middle)])
        axes.plot(best, [100 * middle[i] for i in best], "o-", color=RESULT, markersize=8, zorder=4)
        axes.set_xticks(range(len(names)), [f"{name}\n({tightness_of(name)})" for name in names], rotation=25, ha="right")
        axes.set_ylabel("agreement with the source, %")
        axes.grid(axis="y")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue())


def _lines(rows: Sequence[Mapping[str, Any]], place: Mapping[str, int]) -> list[list[tuple[int, float]]]:
    """One line a model, by target."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        lines.setdefault(row["model"], []).append((place[row["target"]], row["agreement"]))
    return [] if len(lines) > MOST_LINES else [sorted(line) for line in lines.values()]


def _inline(svg: str) -> str:
    """The SVG for a page: placeholder colours as the page's variables, no prologue, nothing that names another site."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    link = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    body = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg role="img" viewBox="\1" {link}>', body)
    for colour, name in VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    return body
