"""Bit widths of a model's layers and activations: what is asked for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tf_requant.errors import UsageError
from tf_requant.plan import ACTIVATIONS, WEIGHTS
from tf_requant.targets import Target


@dataclass(frozen=True)
class Asked:
    """The widths that may be chosen, and how much they may take.

    Attributes:
        widths: rising.
        budget: what they may take, over what the target's widest width takes; None for one width everywhere.
        kind: of what: `weights` or `activations` for their bytes, or a cost of the target's table for weights.
    """

    widths: tuple[int, ...]
    budget: float | None = None
    kind: str = WEIGHTS

    @property
    def flag(self) -> str:
        """What the widths are asked for by."""
        return "--activation_bits" if self.kind == ACTIVATIONS else "--bits"


def asked_widths(target: Target, bits: Any, budget: Any, activation_bits: Any = None) -> tuple[Asked, ...]:
    """Reads what a user asks for: of weights, of activations, or of both.

    >>> from tf_requant.targets import load_target
    >>> asked_widths(load_target("nna_sym8").derive(name="n", weight={"bits": [8, 6, 4]}), "4,6,8", "weights:0.6")
    (Asked(widths=(4, 6, 8), budget=0.6, kind='weights'),)

    Args:
        target: the accelerator.
        bits: of the weights, a number, several, or a text with commas; nothing for the target's widest width.
        budget: `weights:0.6`, or a cost of the target's table instead of weights, `activations:0.8`, both with a comma
            between them, or a mapping of the same, or nothing.
        activation_bits: of the activations, as `bits`.

    Raises:
        UsageError: a width that is none or that the target has not, several without a budget, or a budget that is none.
    """
    shares, found = _shares(target, budget), []
    kinds = [kind for kind in shares if kind != ACTIVATIONS]
    if len(kinds) > 1:
        raise UsageError(f"--budget={budget!r} limits the weights twice, by {' and by '.join(kinds)}: give one of them")
    for kind, asked in ((kinds[0] if kinds else WEIGHTS, bits), (ACTIVATIONS, activation_bits)):
        one = _asked(target, kind, asked, shares.get(kind))
        found += [one] if one is not None else []
    return tuple(found)


def _asked(target: Target, kind: str, bits: Any, share: float | None) -> Asked | None:
    flag, what = Asked((), kind=kind).flag, "activations" if kind == ACTIVATIONS else "weights"
    coded = kind != ACTIVATIONS and target.weight.codebook is not None
    held = target.activation.bits if kind == ACTIVATIONS else target.weight.widths
    widths = _numbers(bits, flag)
    if not widths:
        if share is not None:
            raise UsageError(f"--budget says how much the widths of {flag} may take: give {flag}, such as {flag}=6,8")
        return None
    if kind == ACTIVATIONS and not target.activation.symmetric:
        raise UsageError(f"narrow activations have zero point 0, and those of target {target.name} need not: leave out {flag}")
    missing = [b for b in widths if b not in held]
    if missing:
        stored, key = ("indices into codebooks", "codebook") if coded else (what, "bits")
        raise UsageError(
            f"target {target.name} stores {stored} of {', '.join(str(b) for b in sorted(held))} bits, not of "
            f"{', '.join(map(str, missing))}: give {flag} among those, or a target file whose "
            f'"{what[:-1]}" has the widths in "{key}"'
        )
    if kind == ACTIVATIONS and max(held) > 8:
        raise UsageError(f"{flag} chooses among widths up to 8, and target {target.name} has {max(held)}: leave that one out of it")
    if share is None and len(widths) > 1:
        raise UsageError(
            f"{flag}={','.join(map(str, widths))} leaves a choice: say what it may take with --budget={what}:SHARE, a share of "
            f"the bytes at {max(held)} bits"
        )
    return Asked(widths, share, kind)


def _numbers(bits: Any, flag: str) -> tuple[int, ...]:
    parts = bits.split(",") if isinstance(bits, str) else list(bits) if isinstance(bits, Iterable) else [bits]
    found = [p for p in parts if p not in (None, "")]
    try:
        numbers = [int(p) for p in found]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != len(found) or any(isinstance(p, float) and p != int(p) for p in found):
        raise UsageError(f"{flag}={bits!r} are no widths: give whole numbers of bits, such as {flag}=6,8")
    return tuple(sorted(set(numbers)))


def _shares(target: Target, budget: Any) -> dict[str, float]:
    """Kind -> share of what is limited."""
    if budget in (None, "", ()):
        return {}
    parts = list(budget.items()) if isinstance(budget, Mapping) else [p.partition(":")[::2] for p in str(budget).split(",")]
    found: dict[str, float] = {}
    known = (WEIGHTS, ACTIVATIONS, *target.weight.costs)
    for kind, share in parts:
        try:
            number = float(share)
        except (TypeError, ValueError):
            number = float("nan")
        if kind not in known or kind in found or not 0 < number <= 1:
            costs = f"; target {target.name} also has a table of {', '.join(target.weight.costs)}" if target.weight.costs else ""
            raise UsageError(
                f"--budget={budget!r} is no budget: give weights:SHARE or activations:SHARE, once each, a share above 0 and up to "
                f"1 of the bytes that they take at the widest width, such as weights:0.6{costs}"
            )
        found[str(kind)] = number
    return found
