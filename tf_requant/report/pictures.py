"""The page's pictures, as inline SVG: the error along the network, histograms of the worst layers, the scores.

matplotlib draws in placeholder colours, which become the page's CSS variables, so that a picture follows the light or
dark scheme; ids are made the picture's own and whatever names another site is dropped.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, SOURCE, RESULT, ALONE, FAULT = (f"#0101{i:02x}" for i in range(1, 8))
VARIABLES = dict(zip((INK, MUTED, LINE, SOURCE, RESULT, ALONE, FAULT), "ink muted line source result alone fault".split()))
# Beyond these a picture shows nothing more, only its file grows.
MOST_BINS = 256
MOST_POINTS = 2000
RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tf_requant",
    "font.size": 11,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
}


class Pictures(NamedTuple):
    """What the page shows; an empty text where there is nothing to draw.

    Attributes:
        network: the error along the network, one picture for wide and one for narrow screens.
        layers: of each of the document's worst layers, (activation, weights).
        scatter: the scores.
        scattered: how many scores it shows.
    """

    network: str
    layers: list[tuple[str, str]]
    scatter: str
    scattered: int


def draw(document: Mapping[str, Any]) -> Pictures:
    """Every picture of a validation document, independent of the user's own matplotlib settings."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        network = "".join(_network(document, wide) for wide in (True, False))
        told = document["pictures"] or {"layers": [], "scatter": {"reference": [], "result": []}}
        layers = [_worst(i, layer) for i, layer in enumerate(told["layers"])]
        pairs = _finite_pairs(told["scatter"]["reference"], told["scatter"]["result"])
        return Pictures(network, layers, _scatter(pairs), len(pairs))


def _axes(width: float, height: float, left: float, bottom: float, top: float) -> "tuple[Figure, Axes]":
    """Axes with fixed margins in CSS pixels: they don't depend on which fonts are installed."""
    from matplotlib.figure import Figure

    # 72 to the inch: a point of the file is a pixel of the page.
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + 12) / width, 1 - (bottom + top) / height))
    axes.patch.set_alpha(0)
    figure.patch.set_alpha(0)
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: "Figure", name: str, title: str, style: str, titles: Mapping[str, str] | None = None) -> str:
    """The figure as an element of the page.

    Args:
        figure: what was drawn.
        name: unique on the page; the prefix of its ids.
        title: what a reader who cannot see it is told.
        style: its CSS classes.
        titles: by link, what a point says when pointed at.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    box = re.search(r'viewBox="([^"]*)"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'xlink:href="#(?!layer-)', f'href="#{name}-', body).replace("url(#", f"url(#{name}-")
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"|<path [^>]*opacity: 0"/>|; font-family: [^;"]*(?=[;"])', "", body)
    # A hundredth of a pixel is enough; numbers between tags are labels, and stay.
    body = re.sub(r'(?<=[ "(])-?[0-9]+\.[0-9]{3,}(?=[ ")])', lambda m: f"{float(m[0]):.2f}", body)
    for link, told in (titles or {}).items():
        # Hundreds of points are no stations for the keyboard: the table's rows say the same.
        pointed = f'<a href="{link}" tabindex="-1"><title>{escape(told)}</title>'
        body = body.replace(f'<a xlink:href="{link}" target="_blank">', pointed)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r"\n\s*", "\n", body).replace("\n</", "</").replace("\n", " ")
    view = box[1] if box else ""
    label = f'aria-labelledby="{name}-title"'
    return f'<svg class="{style}" viewBox="{view}" role="img" {label}><title id="{name}-title">{escape(title)}</title>{body}</svg>'


def _values(layers: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """float64[layers]: the figure in dB, not-a-number where there is none."""
    found = [row[key] if row["compared"] and row[key] is not None else math.nan for row in layers]
    values = np.array(found, np.float64)
    return np.where(np.isfinite(values), values, math.nan)


def _sayings(layers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By link to its row, what a layer's point says."""
    sayings: dict[str, str] = {}
    for row in layers:
        running, alone = (
            f"{row[key]:.1f} dB" if row[key] is not None else "exact" if row[measured] else "not measured"
            for key, measured in (("sqnr", "compared"), ("isolated_sqnr", "isolated"))
        )
        told = f"op {row['index']} {row['op']} {row['name']}: accumulated {running}, isolated {alone}"
        sayings.setdefault(f"#layer-{row['index']}", told)
    return sayings


def _network(document: Mapping[str, Any], wide: bool) -> str:
    """SQNR of every layer, accumulated and isolated, the culprits marked; empty where no layer differs."""
    layers = document["layers"]
    running, alone = _values(layers, "sqnr"), _values(layers, "isolated_sqnr")
    if not np.isfinite(np.concatenate([running, alone])).any():
        return ""
    figure, axes = _axes(1000, 320, 48, 40, 32) if wide else _axes(340, 330, 46, 40, 48)
    where = np.array([row["index"] for row in layers], np.float64)
    links = np.array([f"#layer-{row['index']}" for row in layers])
    series = ((running, RESULT, "-", "o", "accumulated"), (alone, ALONE, "--", "s", "isolated"))
    for values, colour, dash, marker, label in series:
        there = np.isfinite(values)
        axes.plot(where, values, color=colour, linestyle=dash, linewidth=1.2)
        points = axes.scatter(where[there], values[there], s=20 if wide else 10, marker=marker, color=colour)
        points.set_urls(list(links[there]))
        axes.plot([], [], color=colour, linestyle=dash, marker=marker, markersize=4, label=label)
    equal = np.array([row["compared"] and row["sqnr"] is None for row in layers], bool)
    if equal.any():
        top = axes.get_xaxis_transform()
        axes.plot(where[equal], np.full(equal.sum(), 0.985), "v", color=MUTED, markersize=4, transform=top, label="exact")
    _mark_culprits(axes, document, where, running, alone, most=10 if wide else 5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("op index")
    axes.set_ylabel("SQNR, dB (higher is better)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5 if wide else 2, borderaxespad=0.3)
    title = "Error along the network: SQNR of each layer over its op index; the layer table has the figures"
    return _svg(figure, "wide" if wide else "narrow", title, "wide" if wide else "narrow", _sayings(layers))


def _mark_culprits(
    axes: "Axes", document: Mapping[str, Any], where: np.ndarray, running: np.ndarray, alone: np.ndarray, most: int
) -> None:
    """A line down to each culprit's rank; the room below the curves holds the ranks, neighbours one above the other."""
    height = np.where(np.isfinite(running), running, alone)
    low, high = float(np.nanmin([running, alone])), float(np.nanmax([running, alone]))
    span = max(high - low, 1.0)
    axes.set_ylim(low - 0.24 * span, high + 0.10 * span)
    left, right = float(where.min()), float(where.max())
    margin = max(0.02 * (right - left), 0.5)
    axes.set_xlim(left - margin, right + margin)
    room = (right - left + 2 * margin) / axes.get_window_extent().width * 72 * 0.25
    taken: list[list[float]] = [[], [], []]
    for rank, culprit in enumerate(document["culprits"], 1):
        x, colour = float(culprit["index"]), FAULT if culprit["fault"] else INK
        at = np.flatnonzero(where == x)
        if not at.size or (rank > most and not culprit["fault"]):
            continue
        if np.isfinite(height[at[0]]):
            axes.plot([x], [height[at[0]]], "o", markersize=9, fillstyle="none", color=colour, markeredgewidth=1.4)
        row = next((r for r in range(3) if all(abs(x - other) > room for other in taken[r])), None)
        if row is not None:
            taken[row].append(x)
            floor = 0.015 + 0.065 * row
            axes.axvline(x, ymin=floor + 0.06, color=colour, linewidth=0.8, linestyle=":")
            text = f"{rank}!" if culprit["fault"] else str(rank)
            axes.text(x, floor, text, color=colour, ha="center", weight="bold", transform=axes.get_xaxis_transform())
    if document["culprits"]:
        told = "culprit: its rank" + (", ! a fault" if any(c["fault"] for c in document["culprits"]) else "")
        axes.plot([], [], "o", markersize=8, fillstyle="none", color=INK, markeredgewidth=1.4, label=told)


def _worst(number: int, layer: Mapping[str, Any]) -> tuple[str, str]:
    """The histograms of one of the worst layers: its values, its weights."""
    where = f"op {layer['index']} {layer['name']}"
    activation = _histogram(layer["activation"], f"worst{number}a", "activation", where)
    return activation, _histogram(layer["weights"], f"worst{number}w", "weights", where)


def _bins(histogram: Mapping[str, Any] | None) -> tuple[np.ndarray, np.ndarray] | None:
    """(edges, share of elements per bin), trimmed to where elements are, coarser where there are very many bins."""
    if histogram is None or not histogram["counts"] or sum(histogram["counts"]) == 0:
        return None
    edges, counts = np.array(histogram["edges"], np.float64), np.array(histogram["counts"], np.float64)
    step = -(-len(counts) // MOST_BINS)
    starts = np.arange(0, len(counts), step)
    counts, edges = np.add.reduceat(counts, starts), np.append(edges[starts], edges[-1])
    inside = np.flatnonzero(counts)
    first, last = int(inside[0]), int(inside[-1]) + 1
    edges, counts = edges[first : last + 1], counts[first:last]
    return (edges, counts / counts.sum()) if edges[-1] > edges[0] else None


def _histogram(pair: Mapping[str, Any] | None, name: str, what: str, where: str) -> str:
    """Source against candidate, shares on a logarithmic axis; where bins differ in width, per the first's mean width."""
    kept = {key: _bins(pair[key]) for key in ("source", "result")} if pair else {}
    drawn = {key: bins for key, bins in kept.items() if bins is not None}
    if not drawn:
        return ""
    figure, axes = _axes(300, 190, 52, 38, 24)
    width = next(float(edges[-1] - edges[0]) / len(shares) for edges, shares in drawn.values())
    scaled = {key: (edges, shares * width / np.maximum(np.diff(edges), 1e-12 * width)) for key, (edges, shares) in drawn.items()}
    # A bin of few elements must stay visible, an empty one must fall to the floor.
    floor = min(float(shares[shares > 0].min()) for _, shares in scaled.values()) / 2
    if "source" in scaled:
        edges, shares = scaled["source"]
        axes.stairs(np.maximum(shares, floor), edges, baseline=floor, fill=True, color=SOURCE, alpha=0.55, label="source")
    if "result" in scaled:
        edges, shares = scaled["result"]
        axes.stairs(np.maximum(shares, floor), edges, baseline=floor, color=RESULT, linewidth=1.2, label="candidate")
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.minorticks_off()
    axes.set_xlabel("weight, real value" if what == "weights" else "activation, real value")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2)
    told = " against ".join("candidate" if key == "result" else key for key in drawn)
    return _svg(figure, name, f"Histogram of the {what} of {where}, {told}", "histogram")


def _finite_pairs(reference: Sequence[float], result: Sequence[float]) -> np.ndarray:
    """float64[n, 2]: the scores that both have, evenly thinned out to `MOST_POINTS`."""
    pairs = np.array(list(zip(reference, result)), np.float64).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    return pairs[:: -(-len(pairs) // MOST_POINTS) or 1]


def _scatter(pairs: np.ndarray) -> str:
    """The candidate's scores over the source's; on the diagonal they are equal."""
    if not len(pairs):
        return ""
    figure, axes = _axes(360, 330, 52, 40, 8)
    low, high = float(pairs.min()), float(pairs.max())
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=MUTED, linewidth=1, linestyle="--")
    axes.plot(pairs[:, 0], pairs[:, 1], "o", color=RESULT, markersize=3, markeredgewidth=0, alpha=0.45)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.grid(True, axis="x")
    axes.set_xlabel("score of the source")
    axes.set_ylabel("score of the candidate")
    return _svg(figure, "scatter", f"Scatter of {len(pairs)} scores: the candidate's over the source's", "scatter")
