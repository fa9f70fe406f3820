"""Methods that refine a Plan, one file each; each is usable alone and `auto` composes them."""

from collections.abc import Callable

from tf_requant.corrections.rounding import preserve_channel_sums
from tf_requant.errors import UsageError
from tf_requant.model.graph import Model
from tf_requant.plan import Plan

Correction = Callable[[Model, Plan], Plan]

CORRECTIONS: dict[str, Correction] = {"rounding": preserve_channel_sums}
"""Every correction by its name on the command line, in the order in which they run."""

AUTO = ("rounding",)
"""What `auto` applies without data."""


def chosen(names: str) -> tuple[str, ...]:
    """The corrections that `auto`, `none` or a comma-separated list asks for, in running order.

    Raises:
        UsageError: an unknown name.
    """
    if names in ("auto", "none", ""):
        return AUTO if names == "auto" else ()
    asked = [n.strip() for n in names.split(",")]
    unknown = [n for n in asked if n not in CORRECTIONS]
    if unknown:
        raise UsageError(f"corrections names {unknown[0]!r}; known are: auto, none, {', '.join(CORRECTIONS)}")
    return tuple(n for n in CORRECTIONS if n in asked)
