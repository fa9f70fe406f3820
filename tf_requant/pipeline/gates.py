"""Gates: what a model has to reach, the same for every target or a number for each."""

from collections.abc import Mapping
from dataclasses import asdict

from tf_requant.errors import UsageError
from tf_requant.pipeline.check import Thresholds

Gate = float | Mapping[str, float] | None
"""A threshold: for all targets, by target name, or none."""


def gates(targets: tuple[str, ...], min_agreement: Gate, max_top1_drop: Gate, max_layer_error: Gate) -> dict[str, Thresholds]:
    """The thresholds by target, as arguments tell them.

    Raises:
        UsageError: one is no number, is for a target that was not asked for, or can never be met.
    """
    asked = {"min_agreement": min_agreement, "max_top1_drop": max_top1_drop, "max_layer_error": max_layer_error}
    found: dict[str, dict[str, float]] = {name: {} for name in targets}
    for gate, value in asked.items():
        values = value if isinstance(value, Mapping) else {} if value is None else dict.fromkeys(targets, value)
        for name, number in values.items():
            if name not in found:
                raise UsageError(f"{gate} has a number for the target {name!r}; asked for are: {', '.join(targets)}")
            found[name][gate] = _number(gate, number)
    return {name: Thresholds(**numbers) for name, numbers in found.items()}


def asked_for(thresholds: Mapping[str, Thresholds]) -> tuple[str, ...]:
    """The names of the gates that any target has."""
    return tuple(sorted({gate for t in thresholds.values() for gate, number in asdict(t).items() if number is not None}))


def _number(gate: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UsageError(f"{gate} is {value!r}, expected a number")
    if gate == "min_agreement" and not 0 <= value <= 1:
        raise UsageError(f"{gate} is {value}, expected a share from 0 to 1")
    return float(value)
