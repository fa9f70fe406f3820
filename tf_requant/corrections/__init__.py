"""Methods that bring a result nearer to its source, one file each; each is usable alone and `auto` composes them.

One acts on the source, two where scales are chosen (`planning` is handed what they need), four on a finished plan, four
inside the pass in which `pipeline` runs source and result side by side, one behind it.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

from tf_requant.corrections.rounding import preserve_channel_sums
from tf_requant.errors import UsageError
from tf_requant.model.graph import Model
from tf_requant.plan import Plan
from tf_requant.targets import Target

Correction = Callable[[Model, Plan], Plan]

PLANNED = ("thresholds", "folding")
"""Scales of activations from the source's exact code histograms; gains weighed by how noise reaches the scores."""
CORRECTIONS: dict[str, Correction] = {"rounding": preserve_channel_sums}
"""Corrections of a plan that look at no data."""
LAYERWISE = ("scale_search", "gptq", "error_folding", "bias")
"""Corrections of one layer after the other, behind the corrected ones before it."""

ALIGNMENT = "alignment"
"""Coarser steps whose thresholds are the source's, where accumulators are; half a step of the source is part of `bias`."""

EQUALIZATION = "equalization"
"""Factors per channel between filters, from the peaks of the channels on data."""

MOMENTS = "moments"
"""Scales that fit the rounded filter best: not in `auto`, since it helps some networks and harms others."""

SPLITTING = "splitting"
"""Weights beyond the target's codes, on copies of the channels they read: not in `auto`, since it adds ops."""

DISTILLATION = "distillation"
"""Filters, codebooks and biases moved by gradient (extra `tensorflow`): not in `auto`, since it takes minutes."""

AUTO = "auto"
"""Everything but `BY_NAME`, kept where it helps."""

BY_NAME = (SPLITTING, MOMENTS, DISTILLATION)
"""What `auto` leaves out."""
NAMES = (SPLITTING, *PLANNED, ALIGNMENT, EQUALIZATION, *CORRECTIONS, MOMENTS, *LAYERWISE, DISTILLATION)
"""Every name, in running order."""
WITHOUT_DATA = (SPLITTING, "rounding", MOMENTS, "bias")
"""Those that work without data: `bias` then takes synthetic inputs."""


def wants_noise(asked: Iterable[str], target: Target) -> bool:
    """Whether one of the corrections asks calibration for what noise on each tensor does to the scores."""
    asked = set(asked)
    return EQUALIZATION in asked or ("folding" in asked and target.activation.scale == "power_of_two")


def chosen(names: str | Iterable[str], with_data: bool = False) -> tuple[str, ...]:
    """The corrections that `auto`, `none` or a comma-separated list asks for, in running order.

    >>> chosen("auto"), chosen("auto,splitting")
    (('rounding', 'bias'), ('splitting', 'rounding', 'bias'))

    Raises:
        UsageError: an unknown name, or one that needs data where there is none.
    """
    asked = listed(names)
    if asked == ["none"]:
        return ()
    for name in sorted(asked, key=lambda n: n in NAMES):  # a name that is none comes first
        if name not in (*NAMES, AUTO):
            if name == "none":
                raise UsageError("corrections names 'none' beside others: it stands alone")
            near = get_close_matches(name.lower(), (*NAMES, AUTO), 1)
            hint = f"did you mean {near[0]}? " if near else ""
            known = f"none alone, auto (with {', '.join(BY_NAME)} where wanted), {', '.join(NAMES)}"
            raise UsageError(f"corrections names {name!r}; {hint}known are: {known}")
        if name not in (*WITHOUT_DATA, AUTO) and not with_data:
            raise UsageError(f"corrections names {name!r}, which measures on data: give calibration data (--calibration)")
    if AUTO in asked:
        asked += [n for n in (NAMES if with_data else WITHOUT_DATA) if n not in BY_NAME]
    if ALIGNMENT in asked and "bias" not in asked:
        raise UsageError(f"corrections names {ALIGNMENT!r} without 'bias', which takes off what it adds to the mean: name both")
    return tuple(n for n in NAMES if n in asked)


def judged(names: str | Iterable[str]) -> bool:
    """Whether what was asked for is kept only where it helps: `auto`; what edits the source (splitting) is done either way."""
    return AUTO in listed(names)


def listed(names: str | Iterable[str]) -> list[str]:
    """The names as they were given; an empty list asks for none."""
    if not isinstance(names, str):
        names = ",".join(map(str, names)) if isinstance(names, Iterable) else str(names)
    return [n.strip() for n in names.split(",")] if names else ["none"]
