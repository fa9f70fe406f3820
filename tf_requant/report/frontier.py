"""The frontier of bit widths as a picture: what each share of the bytes costs the scores."""

import io
from math import log10

from tf_requant.plan import ACTIVATIONS, WEIGHTS, WidthPlan
from tf_requant.report.pictures import RC

INK, LINE, RESULT = "#44505c", "#d5dbe1", "#c8501e"
"""Of a picture that stands alone."""


def frontier_picture(choice: WidthPlan) -> str:
    """An SVG: predicted error over the share of bytes, and the choice on it.

    Args:
        choice: with its frontier.
    """
    import matplotlib
    from matplotlib.figure import Figure

    points = [(point.share, 10 * log10(point.error)) for point in choice.frontier if point.error > 0]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        figure = Figure(figsize=(8, 4), dpi=72, layout="constrained")
        axes = figure.add_subplot()
        axes.plot([100 * x for x, _ in points], [y for _, y in points], "o-", color=INK, markersize=4, linewidth=1, label="best")
        marks = ((choice.predicted or 0.0, "o", "predicted"), (choice.measured or 0.0, "s", "measured, ahead of the corrections"))
        for error, mark, label in marks:
            if error > 0:
                at = 100 * (choice.spent or 0.0)
                axes.plot([at], [10 * log10(error)], mark, color=RESULT, markersize=8, label=f"chosen: {label}")
        what = f"bytes of the {choice.kind}" if choice.kind in (WEIGHTS, ACTIVATIONS) else choice.kind
        axes.set_xlabel(f"{what}, % of those at {choice.widest} bits")
        axes.set_ylabel("squared error of the scores, dB")
        axes.grid(color=LINE)
        axes.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return text.getvalue()
