"""What post_export returns: one target's model with its verdict, and the error that carries those that failed."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tf_requant.errors import ValidationFailed
from tf_requant.pipeline.check import Check
from tf_requant.pipeline.requantize import Result
from tf_requant.report import Report
from tf_requant.validation.legality import Legality


@dataclass(frozen=True, eq=False)
class Exported:
    """The model of one target, with its verdict.

    Attributes:
        target: the target's name.
        result: the re-expressed model, its plan and report.
        legality: the verdict on it against the target.
        check: what validating it on the data found; None where no data was given.
        failures: a sentence for each gate missed and each rule broken; empty is a pass.
        notes: what could not be proved.
        path: the file that was written; None where it failed or no output was asked for.
    """

    target: str
    result: Result
    legality: Legality
    check: Check | None = None
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    path: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether every gate was met and the target is obeyed."""
        return not self.failures

    @property
    def model_bytes(self) -> bytes:
        """The TFLite file."""
        return self.result.model_bytes

    @property
    def report(self) -> Report:
        """What was done and why."""
        return self.result.report

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Writes the model as `Result.save` does, whatever the verdict."""
        self.result.save(path, overwrite=overwrite)

    def __str__(self) -> str:
        """One line of verdict, then what was missed."""
        judged = "legality alone, no data was given" if self.check is None else self.check.verdict
        lines = [f"{self.target}: {'passed' if self.passed else 'FAILED'} ({judged}), {len(self.model_bytes)} bytes"]
        return "\n".join([*lines, *(f"  {f}" for f in self.failures), *(f"  note: {n}" for n in self.notes)])


class GatesMissed(ValidationFailed):
    """At least one target missed a gate or its model breaks a rule; the message has a sentence for each.

    Attributes:
        exported: every target's model, the failed ones included, as `post_export` would have returned them.
    """

    def __init__(self, exported: dict[str, Exported]) -> None:
        super().__init__("\n".join(f"{name}: {f}" for name, e in exported.items() for f in e.failures))
        self.exported = exported
