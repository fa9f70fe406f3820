"""Bit widths of a model's layers: what is asked for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tf_requant.errors import UsageError
from tf_requant.plan import WEIGHTS
from tf_requant.targets import Target


@dataclass(frozen=True)
class Asked:
    """The widths that may be chosen, and how much they may take.

    Attributes:
        widths: rising.
        budget: what they may take, over what the target's widest width takes; None for one width everywhere.
        kind: of what: `weights` for their bytes, or a cost of the target's table.
    """

    widths: tuple[int, ...]
    budget: float | None = None
    kind: str = WEIGHTS


def asked_widths(target: Target, bits: Any, budget: Any) -> Asked | None:
    """Reads what a user asks for.

    >>> from tf_requant.targets import load_target
    >>> asked_widths(load_target("nna_sym8").derive(name="n", weight={"bits": [8, 6, 4]}), "4,6,8", "weights:0.6")
    Asked(widths=(4, 6, 8), budget=0.6, kind='weights')

    Args:
        target: the accelerator.
        bits: a number, several, or a text with commas; nothing for the target's widest width.
        budget: `weights:0.6`, or a cost of the target's table instead of weights, or a mapping of the same, or nothing.

    Returns:
        None where nothing is asked for.

    Raises:
        UsageError: a width that is none or that the target has not, several without a budget, or a budget that is none.
    """
    widths = _numbers(bits)
    if not widths:
        if budget not in (None, "", ()):
            raise UsageError("--budget says how much the widths of --bits may take: give --bits, such as --bits=4,5,6,8")
        return None
    if target.weight.codebook is not None:
        raise UsageError(f"target {target.name} stores indices of {target.weight.codebook} bits into a codebook: leave out --bits")
    missing = [b for b in widths if b not in target.weight.bits]
    if missing:
        held = ", ".join(str(b) for b in sorted(target.weight.bits))
        raise UsageError(
            f"target {target.name} stores weights of {held} bits, not of {', '.join(map(str, missing))}: give --bits among those, "
            'or a target file whose "weight" has the widths in "bits"'
        )
    kind, share = _share(target, budget)
    if share is None and len(widths) > 1:
        raise UsageError(
            f"--bits={','.join(map(str, widths))} leaves a choice: say what it may take with --budget=weights:SHARE, a share of "
            f"the bytes at {max(target.weight.bits)} bits"
        )
    return Asked(widths, share, kind)


def _numbers(bits: Any) -> tuple[int, ...]:
    parts = bits.split(",") if isinstance(bits, str) else list(bits) if isinstance(bits, Iterable) else [bits]
    found = [p for p in parts if p not in (None, "")]
    try:
        numbers = [int(p) for p in found]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != len(found) or any(isinstance(p, float) and p != int(p) for p in found):
        raise UsageError(f"--bits={bits!r} are no widths: give whole numbers of bits, such as --bits=4,5,6,8")
    return tuple(sorted(set(numbers)))


def _share(target: Target, budget: Any) -> tuple[str, float | None]:
    """What is limited, and to which share."""
    if budget in (None, "", ()):
        return WEIGHTS, None
    if isinstance(budget, Mapping) and len(budget) == 1:
        ((kind, share),) = budget.items()
    else:
        kind, _, share = str(budget).partition(":")
    try:
        number = float(share)
    except (TypeError, ValueError):
        number = float("nan")
    known = (WEIGHTS, *target.weight.costs)
    if kind not in known or not 0 < number <= 1:
        costs = f"; target {target.name} also has a table of {', '.join(target.weight.costs)}" if target.weight.costs else ""
        raise UsageError(
            f"--budget={budget!r} is no budget: give weights:SHARE, a share above 0 and up to 1 of the bytes that the weights take "
            f"at the widest width, such as weights:0.6{costs}"
        )
    return str(kind), number
