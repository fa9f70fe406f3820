"""Bit widths of a model's layers: what is asked for, what was chosen, and what other budgets would allow."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import log10
from typing import Any

from tf_requant.errors import UsageError
from tf_requant.targets import Target

WEIGHTS = "weights"
"""What a budget limits, unless it names a cost of the target's table: the bytes of the weights."""


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


@dataclass(frozen=True)
class Frontier:
    """The best that each budget allows.

    Attributes:
        share: what is limited, over what it is at the widest width.
        bytes: weight bytes on the accelerator.
        error: predicted squared error of the scores, over their squared value, that narrower weights add.
        layers: how many layers get each width.
    """

    share: float
    bytes: float
    error: float
    layers: Mapping[int, int]


@dataclass(frozen=True)
class Choice:
    """The widths of a model's layers.

    Attributes:
        bits: by op of the source's main graph.
        elements: weights of each of those ops.
        widest: the width that shares are counted against.
        predicted: squared error of the scores, over their squared value, as the layers' own errors add up; None unmeasured.
        measured: the same of the model with these widths, ahead of the corrections; None where it was not run.
        frontier: what other budgets allow, the widest first.
        note: one sentence on the search.
        kind: what the budget limits.
        spent: of that, over what it is at the widest width; None without a budget.
    """

    bits: Mapping[int, int]
    elements: Mapping[int, int]
    widest: int
    predicted: float | None = None
    measured: float | None = None
    frontier: tuple[Frontier, ...] = ()
    note: str = ""
    kind: str = WEIGHTS
    spent: float | None = None

    @property
    def bytes(self) -> float:
        """Weight bytes on the accelerator."""
        return sum(self.bits[i] * self.elements[i] for i in self.bits) / 8

    @property
    def share(self) -> float:
        """Those over the bytes of the widest width."""
        return self.bytes * 8 / max(1, self.widest * sum(self.elements.values()))

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        rows = [{"op": i, "bits": b, "elements": self.elements[i]} for i, b in sorted(self.bits.items())]
        frontier = [asdict(point) | {"layers": {str(b): n for b, n in point.layers.items()}} for point in self.frontier]
        figures = {"bytes": self.bytes, "share": self.share, "predicted": self.predicted, "measured": self.measured}
        figures |= {"budget": self.kind, "spent": self.spent}
        return {"widest": self.widest, **figures, "layers": rows, "frontier": frontier}

    def table(self) -> str:
        """The frontier, a line a budget."""
        lines = [f"{'share':>6} {'bytes':>12} {'predicted, dB':>14}  layers"]
        for point in self.frontier:
            error = f"{10 * log10(point.error):.1f}" if point.error > 0 else "none"
            layers = ", ".join(f"{n} at {b} bits" for b, n in sorted(point.layers.items()))
            lines.append(f"{point.share:>6.3f} {point.bytes:>12,.0f} {error:>14}  {layers}")
        return "\n".join(lines)
