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
    """The picture, once for wide and once for narrow screens; an empty text where nothing was measured."""
    measured = [row for row in rows if row["agreement"] is not None]
    if not measured:
        return ""
    import matplotlib

    by_target: dict[str, list[float]] = {}
    for row in measured:
        by_target.setdefault(row["target"], []).append(row["agreement"])
    names = sorted(by_target, key=lambda n: (tightness_of(n), -float(np.median(by_target[n])), n))
    lines = _lines(measured, {name: n for n, name in enumerate(names)})
    style: Any = RC
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        return "".join(_drawn(names, [by_target[name] for name in names], lines, wide) for wide in (True, False))


def _drawn(names: list[str], found: list[list[float]], lines: list[list[tuple[int, float]]], wide: bool) -> str:
    """Targets along the wide picture, down the narrow one, with agreement on the other axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6) if wide else (4.7, 1.1 + 0.42 * len(names)), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    for patch in (figure.patch, axes.patch):
        patch.set_alpha(0)  # the page's own paper, light or dark

    def across(places: Sequence[int], percents: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        return (places, percents) if wide else (percents, places)

    for line in lines:
        axes.plot(*across([x for x, _ in line], [100 * y for _, y in line]), "o-", color=LINE, linewidth=1, markersize=3, zorder=1)
    middle, low, high = ([100 * float(np.quantile(values, q)) for values in found] for q in (0.5, 0.25, 0.75))
    (axes.vlines if wide else axes.hlines)(range(len(names)), low, high, color=MUTED, linewidth=3, zorder=2)
    axes.plot(*across(range(len(names)), middle), "o", color=INK, markersize=6, zorder=3)
    best = front([(tightness_of(name), value) for name, value in zip(names, middle)])
    axes.plot(*across(best, [middle[i] for i in best]), "o-", color=RESULT, markersize=8, zorder=4)
    if wide:
        axes.set_xticks(range(len(names)), [f"{name}\n({tightness_of(name)})" for name in names], rotation=25, ha="right")
        axes.set_ylabel("agreement with the source, %")
    else:
        axes.set_yticks(range(len(names)), [f"{name} ({tightness_of(name)})" for name in names])
        axes.set_xlabel("agreement with the source, %")
        axes.invert_yaxis()
    axes.grid(axis="y" if wide else "x")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), "wide" if wide else "narrow")


def _lines(rows: Sequence[Mapping[str, Any]], place: Mapping[str, int]) -> list[list[tuple[int, float]]]:
    """One line a model, by target."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        lines.setdefault(row["model"], []).append((place[row["target"]], row["agreement"]))
    return [] if len(lines) > MOST_LINES else [sorted(line) for line in lines.values()]


def _inline(svg: str, style: str) -> str:
    """The SVG for a page: placeholder colours as the page's variables, ids its own, no prologue, nothing that names a site."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{style}-", body)
    title = "agreement with the source, by target"
    link = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    head = rf'<svg class="{style}" role="img" aria-label="{title}" viewBox="\1" {link}>'
    body = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', head, body)
    for colour, name in VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    return body
