"""The summary as one HTML file: a table models x targets and a picture, nothing fetched."""

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from tf_requant.batch.pareto import picture, tightness_of
from tf_requant.report.page import percent, points

MOST_MODELS = 400
"""Rows of the page's table, the models with the worst cells first where there are more; the CSV has all."""
_RANK = {"lost": 0, "failed": 1, "missed": 2, "pass": 3}


def render(document: Mapping[str, Any]) -> str:
    """The page of a summary document; the same document gives the same text."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "points": lambda share: points(100 * share), "count": lambda n: f"{n:,}"}
    # A file's name may break behind what joins its words.
    environment.filters["breakable"] = lambda name: Markup("<wbr>").join(re.split(r"(?<=[-_./])(?=[^-_./])", name))
    rows = document["jobs"]
    targets = sorted({row["target"] for row in rows}, key=lambda name: (tightness_of(name), name))
    models: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        models.setdefault(row["model"], {}).setdefault(row["target"], []).append(row)
    shown = list(models)
    if len(shown) > MOST_MODELS:
        worst = {m: min(_RANK[row["verdict"]] for cells in models[m].values() for row in cells) for m in models}
        shown = sorted(shown, key=lambda m: worst[m])[:MOST_MODELS]
    source = resources.files("tf_requant.batch").joinpath("summary.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        d=document,
        targets=targets,
        models={name: models[name] for name in shown},
        hidden=len(models) - len(shown),
        problems=[row for row in rows if row["verdict"] != "pass" and row["model"] in set(shown)],
        picture=Markup(picture(rows)),
    )
