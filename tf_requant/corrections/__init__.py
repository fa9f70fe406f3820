"""Methods that refine a Plan, one file each; each is usable alone and `auto` composes them."""

from collections.abc import Callable

from tf_requant.corrections.rounding import preserve_channel_sums
from tf_requant.errors import UsageError
from tf_requant.model.graph import Model
from tf_requant.plan import Plan

Correction = Callable[[Model, Plan], Plan]

CORRECTIONS: dict[str, Correction] = {"rounding": preserve_channel_sums}
"""Every correction by its name on the command line, in the order in which they run."""

BIAS = "bias"
"""Bias correction, which runs the model on data: `pipeline` carries it out with `corrections.bias`."""

NAMES = (*CORRECTIONS, BIAS)
"""Every name, in running order."""

AUTO = ("rounding",)
"""What `auto` applies without data; with data, it also tries `bias`."""


def chosen(names: str, with_data: bool = False) -> tuple[str, ...]:
    """The corrections that `auto`, `none` or a comma-separated list asks for, in running order.

    Raises:
        UsageError: an unknown name, or one that needs data where there is none.
    """
    if names in ("auto", "none", ""):
        return () if names != "auto" else (*AUTO, BIAS) if with_data else AUTO
    asked = [n.strip() for n in names.split(",")]
    unknown = [n for n in asked if n not in NAMES]
    if unknown:
        raise UsageError(f"corrections names {unknown[0]!r}; known are: auto, none, {', '.join(NAMES)}")
    if BIAS in asked and not with_data:
        raise UsageError("corrections names 'bias', which measures on data: give calibration data (--calibration)")
    return tuple(n for n in NAMES if n in asked)
