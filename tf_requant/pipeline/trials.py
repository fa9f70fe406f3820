"""What the choice of widths tries: changes of one model, judged by what they do to its scores."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.statistics import Calibration
from tf_requant.errors import UsageError
from tf_requant.io.tflite_writer import save
from tf_requant.model.graph import Model
from tf_requant.pipeline.correct import HELD_BACK, Corrector, arithmetic_of, with_indices_for_names
from tf_requant.pipeline.lanes import Inputs, Lane, behind, in_reals, real_scores, scores
from tf_requant.plan import Plan
from tf_requant.version import __version__

MEASURING, JUDGING, LEARNING = 8, 8, 48
"""Calibration samples that changes are measured on, others that exchanges are judged by, and others that filters are rounded by.

What is measured on the samples that a filter was rounded by flatters it: eight rows fit a fully connected layer exactly.
"""
_LEAST = 0.02
"""Of what the narrowest width does to the scores, the share that is the width's at least: wider is never as bad."""


class Trials:
    """The model that every trial starts from: everything at its widest.

    Args:
        corrector: the source, the target and how plans are made and applied.
        calibration: samples.
        plan: of the corrector's source.

    Attributes:
        source: the source, each tensor named by its index.
        result: what the plan makes of it.
        judged: the tensors of the result that judge.
        stop: the op behind the last that these need.
    """

    def __init__(self, corrector: Corrector, calibration: Calibration, plan: Plan) -> None:
        self.corrector, self.calibration, self.plan = corrector, calibration, plan
        self.source = with_indices_for_names(corrector.source)
        self.result = corrector.rewrite(self.source, plan)
        self.arithmetic = arithmetic_of(corrector.target)
        self.judged = self._judged(self.result)
        self.stop = behind(self.result.main, self.judged)

    def parts(self) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Of the calibration: the samples that measure, that judge, that are learned from."""
        # Those that judge the corrections later take no part.
        free = [n for n in range(len(self.calibration)) if n % HELD_BACK != HELD_BACK - 1]
        measuring, judging = (min(most, max(1, len(free) // 4)) for most in (MEASURING, JUDGING))
        return free[:measuring], free[measuring : measuring + judging], free[measuring + judging :][:LEARNING]

    def lane(self, samples: Iterable[int]) -> Lane:
        """The result at its first op, of these samples."""
        inputs = self.corrector.samples(self.calibration, 0)(self.result).result
        return Lane(self.result, [inputs[n] for n in samples], self.arithmetic)

    def scores(self, samples: Iterable[int]) -> list[Inputs]:
        """The judged tensors of the result, of each sample."""
        lane = self.lane(samples)
        try:
            return lane.branch(lane.graph, self.stop, self.judged)
        finally:
            lane.close()

    def relative(self, found: Sequence[Inputs], right: Sequence[Inputs]) -> float:
        """Squared error over squared value, of the judged tensors; what `found` lacks is as it was."""
        graph, error, power = self.result.main, 0.0, 0.0
        for one, other in zip(found, right):
            for t in self.judged:
                x = in_reals(other[t], graph, t)
                power += float((x**2).sum())
                error += float(((in_reals(one[t], graph, t) - x) ** 2).sum()) if t in one else 0.0
        return error / max(power, 1e-30)

    def against_source(self, model: Model, plan: Plan) -> NDArray[np.float64]:
        """Squared error of another result's scores for the source's, over their squared value, on the samples that judge.

        Args:
            model: what a plan of the same source makes of it.
            plan: that plan.

        Returns:
            Each sample's part of the sum.
        """
        judged, wanted = self._judged(model), scores(self.source.main)
        inputs = self.corrector.samples(self.calibration, 0)(model).result
        lane = Lane(model, [inputs[n] for n in self.parts()[1]], self.arithmetic)
        try:
            found = lane.branch(model.main, behind(model.main, judged), judged)
        finally:
            lane.close()
        gains, power = plan.graphs[0].activations, 0.0
        errors = np.zeros(len(found))
        for n, (one, right) in enumerate(zip(found, self._right)):
            for t, j in zip(wanted, judged):
                gain = gains[t].gains if t in gains else 1.0
                errors[n] += ((in_reals(one[j], model.main, j) / gain - right[t]) ** 2).sum()
                power += float((right[t] ** 2).sum())
        return errors / max(power, 1e-30)

    @cached_property
    def _right(self) -> list[Inputs]:
        """The source's scores on the samples that judge, in real units."""
        inputs = self.corrector.samples(self.calibration, 0)(self.result).source
        return real_scores(self.source, [inputs[n] for n in self.parts()[1]])

    def _judged(self, model: Model) -> tuple[int, ...]:
        places = {tensor.name: t for t, tensor in enumerate(model.main.tensors)}
        return tuple(places[str(t)] for t in scores(self.source.main))

    def key(self, *others: Plan) -> str:
        """What a measurement depends on.

        Args:
            others: plans that were measured, beside the one that every trial starts from.
        """
        calibration, target = self.calibration, self.corrector.target
        digest = hashlib.sha256(f"{__version__} {calibration.model} {target} {calibration.digests}".encode())
        for plan in (self.plan.graphs[0], *(other.graphs[0] for other in others)):
            for constant in (*plan.constants.values(), *plan.activations.values()):
                digest.update(constant.params.scale.tobytes() + constant.params.zero_point.tobytes())
            digest.update(repr(plan.ops).encode())
        return digest.hexdigest()


class Kept:
    """Measurements in a file, so that a search that was broken off goes on.

    Args:
        path: the file, or None: nothing is kept.
        kind: whose widths: the file holds each kind's own.
        key: what they depend on: those of another are left alone, and written over.
    """

    def __init__(self, path: Path | None, kind: str, key: str) -> None:
        self._path, self._kind, self._key = path, kind, key

    def load(self) -> dict[int, dict[int, float]]:
        """By candidate and width.

        Raises:
            UsageError: the file is none of a search.
        """
        held = self._document().get(self._kind, {})
        try:
            errors = {int(i): {int(b): float(e) for b, e in row.items()} for i, row in dict(held.get("errors", {})).items()}
            return errors if held.get("key") == self._key else {}
        except (ValueError, AttributeError, TypeError) as error:
            raise UsageError(f"{self._path} is no file of a search: what it holds is no measurement") from error

    def save(self, errors: Mapping[int, Mapping[int, float]]) -> None:
        """Writes them beside the other kinds'."""
        if self._path is not None:
            document = {**self._document(), self._kind: {"key": self._key, "errors": errors}}
            save(self._path, json.dumps(document).encode(), overwrite=True)

    def _document(self) -> dict[str, dict[str, object]]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            held = json.loads(self._path.read_text())
        except OSError as error:
            raise UsageError(f"{self._path} is no file of a search: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"{self._path} is no file of a search: it holds no JSON") from error
        parts = held.values() if isinstance(held, dict) else (None,)
        if not all(isinstance(part, dict) and {"key", "errors"} <= part.keys() for part in parts):
            raise UsageError(f"{self._path} is no file of a search: it lacks a key or errors")
        return dict(held)


def of_widths(changes: Mapping[int, float], found: Mapping[int, float], widths: Iterable[int]) -> dict[int, float]:
    """What each width adds to the scores' error: the part of what was found that goes with the change itself.

    Args:
        changes: by narrow width, the squared error of what a candidate writes.
        found: by narrow width, that of the scores behind it.
        widths: all of them; those that change nothing add nothing.
    """
    narrow = sorted(changes)
    added = {b: 0.0 for b in widths if b not in changes}
    if narrow:
        x, y = np.array([changes[b] for b in narrow]), np.array([found[b] for b in narrow])
        added |= dict(zip(narrow, (slope_beside_a_floor(x, y) * x).tolist()))
    return added


def slope_beside_a_floor(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The slope of y = slope * x + floor, neither below zero, by least squares.

    >>> slope_beside_a_floor(np.array([1.0, 4.0, 16.0]), np.array([2.5, 4.0, 10.0]))
    0.5

    Args:
        x: what the floor does not depend on, narrowest width first.
        y: what was measured.
    """
    if not x.any():
        return 0.0
    spread = x - x.mean()
    slope = float((spread * y).sum() / (spread**2).sum()) if (spread**2).sum() > 0 else np.inf
    if y.mean() < slope * x.mean():
        slope = float((x * y).sum() / (x**2).sum())  # a floor below zero is none
    return max(slope, _LEAST * float(y[0]) / float(x.max()))
