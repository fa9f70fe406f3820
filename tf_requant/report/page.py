"""The validation document as one HTML file: everything a browser needs is inside, nothing is fetched.

A pure function of the document (`schemas/report.schema.json`). Each figure shown carries its path into the document
(`data-figure`) and its exact value there (`data-value`), so that the page and the JSON can be checked against each other.
"""

import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from tf_requant.report import pictures

if TYPE_CHECKING:
    from markupsafe import Markup

EXACT = "exact"
NOTHING = "–"
# A list of places longer than this is folded away behind its head.
SHOWN = 5


def hundredths(value: float) -> str:
    """Percent or points with two decimals; what is not quite all or nothing is not shown as such.

    >>> hundredths(97.254), hundredths(99.9999), hundredths(0.0004), hundredths(-0.0)
    ('97.25', '>99.99', '<0.01', '0.00')
    """
    text = f"{value:.2f}"
    if text == "100.00" and value < 100:
        return ">99.99"
    if text in ("0.00", "-0.00"):
        return "0.00" if value == 0 else "<0.01" if value > 0 else ">-0.01"
    return text


def percent(share: float) -> str:
    """A share in percent, two decimals: 0.9725 is `97.25 %`."""
    return f"{hundredths(100 * share)} %"


def drop(share: float) -> str:
    """A difference of two shares in points, two decimals: 0.0025 is `0.25 points`."""
    return f"{hundredths(100 * share)} points"


def points(value: float) -> str:
    """What is given in points already: 0.5 is `0.50 points`."""
    return f"{hundredths(value)} points"


def decibels(value: float) -> str:
    """Decibels, one decimal: 34.06 is `34.1 dB`."""
    text = f"{value:.1f}"
    return f"{'0.0' if text == '-0.0' else text} dB"


def count(value: int) -> str:
    """A whole number with its thousands apart: 12345 is `12,345`."""
    return f"{value:,}"


def size(value: int) -> str:
    """A file's size: 3577760 is `3,577,760 bytes`."""
    return f"{value:,} bytes"


def real(value: float) -> str:
    """A real value or a number of steps, four digits: 0.0123456 is `0.01235`."""
    return f"{value:.4g}"


def steps(value: float) -> str:
    """Steps of a tensor, one decimal: 3.14 is `3.1 steps`."""
    return f"{value:.1f} steps"


def gained(value: float) -> str:
    """A difference in decibels, two decimals: 0.3861 is `+0.39 dB`."""
    return f"{value:+.2f} dB"


def breakable(name: str) -> "Markup":
    """A tensor's name that breaks behind slashes; of names that a converter joined into one, the first is shown."""
    from markupsafe import Markup

    first, *others = (Markup("/<wbr>").join(part.split("/")) for part in name.split(";"))
    if not others:
        return first
    return Markup('<span title="{}">{}</span><span hidden>;{}</span>').format(name, first, Markup(";").join(others))


FORMATS: dict[str, Callable[[Any], str]] = {
    "percent": percent,
    "drop": drop,
    "points": points,
    "dB": decibels,
    "count": count,
    "size": size,
    "real": real,
    "steps": steps,
    "gain": gained,
}


def dotted(path: tuple[str | int, ...]) -> str:
    """A path as one word: keys and list indices between dots; in a key `~` is written `~0` and a dot `~1`.

    >>> dotted(("quality", "litert", "agreement_interval", 0)), dotted(("quality", "v2.3"))
    ('quality.litert.agreement_interval.0', 'quality.v2~13')
    """
    return ".".join(str(key).replace("~", "~0").replace(".", "~1") for key in path)


def shown(value: Any, kind: str, missing: str = NOTHING, unit: bool = True) -> str:
    """A figure as the reader sees it; `unit=False` where a table's head says the unit."""
    if value is None:
        return missing
    text = FORMATS[kind](value)
    return text if unit else text.partition(" ")[0]


def restored(culprit: Mapping[str, Any]) -> bool:
    """Whether a culprit's layer was put back to the source's precision, so that its gain was measured."""
    return culprit["samples"] > 0 or culprit["gain"] is not None


def render(document: Mapping[str, Any]) -> str:
    """The page of a validation document.

    Args:
        document: what `schemas/report.schema.json` describes.

    Returns:
        HTML; the same document gives the same text.
    """
    import jinja2
    from markupsafe import Markup

    def figure(*path: str | int, kind: str, missing: str = NOTHING, unit: bool = True) -> Markup:
        value: Any = document
        for key in path:
            value = value[key]
        span = Markup('<span class="figure" data-figure="{}" data-value="{}">{}</span>')
        return span.format(dotted(path), json.dumps(value), shown(value, kind, missing, unit))

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"figure": figure, "EXACT": EXACT, "NOTHING": NOTHING, "SHOWN": SHOWN}
    environment.tests["restored"] = restored
    # A name may wrap behind its slashes; as text it stays the same.
    environment.filters["breakable"] = breakable
    source = resources.files("tf_requant.report").joinpath("page.html.j2").read_text("utf-8")
    drawn = pictures.draw(document)
    return environment.from_string(source).render(
        d=document,
        ranks=_ranks(document),
        anchors=_anchors(document),
        layers={row["index"]: row for row in reversed(document["layers"])},
        apart=_apart(document),
        network=Markup(drawn.network),
        layer_pictures=[tuple(Markup(svg) for svg in pair) for pair in drawn.layers],
        scatter=Markup(drawn.scatter),
        scattered=drawn.scattered,
    )


def _ranks(document: Mapping[str, Any]) -> dict[int, int]:
    """The rank of each culprit by its op's index."""
    ranks: dict[int, int] = {}
    for rank, culprit in enumerate(document["culprits"], 1):
        ranks.setdefault(culprit["index"], rank)
    return ranks


def _anchors(document: Mapping[str, Any]) -> dict[int, int]:
    """The row of the layer table that a link to an op leads to; an op with several outputs has several rows."""
    anchors: dict[int, int] = {}
    for row, layer in enumerate(document["layers"]):
        anchors.setdefault(layer["index"], row)
    return anchors


def _apart(document: Mapping[str, Any]) -> list[str]:
    """The violations that no rule of the table tells."""
    legality = document["legality"]
    if legality is None:
        return []
    told = {place for rule in legality["rules"] for place in rule["broken"]}
    return [sentence for sentence in legality["violations"] if sentence not in told]
