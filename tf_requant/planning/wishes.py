"""What the user asks for beyond the target."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tf_requant.errors import UsageError

Interface = Literal["target", "source", "float"]
_LARGEST = 1e30
"""Of a range's ends: its scale stays well within float32."""


@dataclass(frozen=True)
class Wishes:
    """The user's overrides.

    Attributes:
        io: the interface of the output model.
        pinned: (tensor name, minimum, maximum) in real units: that tensor's range, whatever the source says.
        keep: regular expressions; an op whose code or output tensor's name matches keeps the source's precision.
        widths: bits of the weights of an op of the main graph, by its index; the target's widest where there is none.
        activation_widths: bits of an activation of the main graph, by its tensor; the target's first width where there is none.
            What one of the tensors that share parameters is given, all of them are.
    """

    io: Interface = "target"
    pinned: tuple[tuple[str, float, float], ...] = ()
    keep: tuple[str, ...] = ()
    widths: Mapping[int, int] = field(default_factory=dict)
    activation_widths: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks what can be checked without a model.

        Raises:
            UsageError: an unknown interface, an empty range, or a malformed pattern.
        """
        if self.io not in ("target", "source", "float"):
            raise UsageError(f"io is {self.io!r}, expected one of: target, source, float")
        for name, low, high in self.pinned:
            if not low < high or not -_LARGEST <= low <= 0 <= high <= _LARGEST:
                raise UsageError(
                    f"the range pinned on {name!r} is {low}:{high}; expected MIN < MAX with 0 between them, both finite"
                )
        for pattern in self.keep:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"--keep={pattern!r} is not a regular expression: {error}") from error
