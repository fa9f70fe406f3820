"""What a re-expressed model remembers of how it came about: an entry of its metadata, and an attribute of a written graph."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tf_requant.model.graph import Graph, Model, Tensor
from tf_requant.model.quant import code_limits
from tf_requant.plan import Plan
from tf_requant.validation.constants import bias_moves
from tf_requant.validation.correspondence import Correspondence
from tf_requant.version import __version__

METADATA = "tf_requant"
"""The name of the entry."""
_FELT = 0.25
"""Steps of a layer's output from which on a move of its bias is remembered."""
_TURNS, _CHANNELS = 16, 1 << 20
"""Conversions that may have split a layer, and channels of one: more is no record of ours."""
Pixels = tuple[str, float, int]
"""dtype, scale and zero point of the input that gives a pixel its meaning."""


@dataclass(frozen=True)
class Record:
    """What a later verb has to know.

    Attributes:
        gains: tensor name -> what its real value was multiplied by since the first model of a chain of conversions, one
            number or one a channel.
        calibration: hashes of the samples that shaped the model.
        pixels: input name -> the source's input, where a pixel means another code here.
        target: what it was made for.
        biases: tensor name -> channel -> how far the bias behind it was moved, in steps of the tensor; None where what
            it was made from was itself re-expressed, or a graph: moves count from an original.
        widths: tensor name -> bits that the target stores of it, where they are not its own 8 or 16.
        copies: name, in the model that was converted, of what a layer writes -> input channels that it reads once more
            (`corrections.splitting`), of each conversion that split it.
    """

    gains: dict[str, Any] = field(default_factory=dict)
    calibration: tuple[str, ...] = ()
    pixels: dict[str, Pixels] = field(default_factory=dict)
    target: str = ""
    biases: dict[str, dict[int, float]] | None = None
    widths: dict[str, int] = field(default_factory=dict)
    copies: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """JSON; empty where there is nothing to remember."""
        if not (self.gains or self.calibration or self.pixels or self.widths or self.copies or self.biases is not None):
            return b""
        document: dict[str, Any] = {"version": __version__, "target": self.target, "gains": self.gains}
        if self.calibration:
            document["calibration"] = sorted(self.calibration)
        if self.pixels:
            document["pixels"] = {name: list(held) for name, held in self.pixels.items()}
        if self.biases is not None:
            document["biases"] = self.biases
        if self.widths:
            document["widths"] = self.widths
        if self.copies:
            document["copies"] = self.copies
        return json.dumps(document, sort_keys=True).encode()


def read_record(model: Model) -> Record:
    """A model's record; an empty one where it has none, or another program's entry of that name."""
    try:
        held = json.loads(model.metadata.get(METADATA, b"{}"))
        pixels = {str(n): (str(d), float(s), int(z)) for n, (d, s, z) in held.get("pixels", {}).items()}
        calibration = tuple(map(str, held.get("calibration", ())))
        biases = held.get("biases")
        if biases is not None:
            biases = {str(n): {int(c): float(x) for c, x in moves.items()} for n, moves in biases.items()}
        widths = {str(n): b for n, b in held.get("widths", {}).items() if isinstance(b, int) and 2 <= b <= 8}
        gains = {str(n): np.asarray(g, np.float64).tolist() for n, g in held.get("gains", {}).items()}
        if not all(np.all(np.isfinite(g)) and np.all(np.greater(g, 0)) for g in gains.values()):
            raise ValueError("a gain is no positive number")
        copies = {str(n): [tuple(own) for own in turns] for n, turns in held.get("copies", {}).items() if _are_channels(turns)}
        return Record(gains, calibration, pixels, str(held.get("target", "")), biases, widths, copies)
    except (ValueError, AttributeError, TypeError, OverflowError):
        return Record()


def _are_channels(turns: Any) -> bool:
    """Whether a record's entry is a list of lists of channels."""
    lists = isinstance(turns, list) and len(turns) <= _TURNS and all(isinstance(own, list) for own in turns)
    return lists and all(type(c) is int and 0 <= c < _CHANNELS for own in turns for c in own)


def with_recorded_widths(model: Model) -> Model:
    """The model, each tensor of its main graph with the width that its record gives it."""
    widths = read_record(model).widths
    if not widths:
        return model
    tensors = tuple(t.with_(bits=widths[t.name]) if t.name in widths and _is_stored(t) else t for t in model.main.tensors)
    return model.with_(graphs=(model.main.with_(tensors=tensors), *model.graphs[1:]))


def _is_stored(tensor: Tensor) -> bool:
    """Whether a width says something of a tensor: an activation, or a constant that shares an activation's parameters."""
    quant = tensor.quant
    return tensor.dtype == "int8" and quant is not None and not quant.per_channel and not quant.zero_point.any()


def recorded(
    result: Model, source: Model, plan: Plan, digests: tuple[str, ...], copies: Mapping[str, tuple[int, ...]] | None = None
) -> Model:
    """The result with its record, what its source remembered of samples and pixels included.

    Args:
        result: the re-expressed model.
        source: what it was made from.
        plan: how.
        digests: hashes of the samples that shaped it.
        copies: input channels that layers were given once more ahead of the plan, by what they write.
    """
    before = read_record(source)
    new = {
        graph.tensors[t].name: np.asarray(activation.gains).tolist()
        for graph, graph_plan in zip(source.graphs, plan.graphs)
        for t, activation in sorted(graph_plan.activations.items())
        if np.any(np.not_equal(activation.gains, 1.0))
    }
    gains = _composed(before.gains, new, np.multiply)
    calibration = tuple(sorted({*digests, *before.calibration}))
    biases = None if before.target else _moves(Correspondence(source.main, result.main, gains))
    widths = {t.name: t.bits for t in result.main.tensors if t.bits is not None}
    turns = dict(before.copies)
    for name, own in (copies or {}).items():
        turns[name] = [*turns.get(name, []), own]
    pixels = _pixels(source.main, result.main, before)
    content = Record(gains, calibration, pixels, plan.target, biases, widths, turns).to_bytes()
    kept = {k: v for k, v in result.metadata.items() if k != METADATA}
    return result.with_(metadata=kept | ({METADATA: content} if content else {}))


def gains_between(source: Model, result: Model) -> dict[str, Any]:
    """What each tensor's real value was multiplied by from one model to the other, where it was; by tensor name.

    A record counts from the first model of a chain of conversions.
    """
    return _composed(read_record(result).gains, read_record(source).gains, np.divide)


def copies_between(source: Model, result: Model) -> dict[str, list[tuple[int, ...]]]:
    """What layers were split by from one model to the other, of one conversion after the other; by what they write."""
    before, found = read_record(source).copies, {}
    for name, turns in read_record(result).copies.items():
        own = before.get(name, [])
        if turns[: len(own)] == own:
            found[name] = turns[len(own) :]
    return found


def _composed(first: dict[str, Any], second: dict[str, Any], by: np.ufunc) -> dict[str, Any]:
    pairs = {n: (np.asarray(first.get(n, 1.0)), np.asarray(second.get(n, 1.0))) for n in sorted({*first, *second})}
    # Models of different origin may have tensors of one name and different channels: nothing is known of those.
    found = {n: by(a, b) for n, (a, b) in pairs.items() if not (a.ndim and b.ndim) or a.shape == b.shape}
    return {n: gain.tolist() for n, gain in found.items() if np.any(np.not_equal(gain, 1.0))}


def _moves(meet: Correspondence) -> dict[str, dict[int, float]]:
    """How far each bias was moved, where an output can feel it."""
    found = {}
    for index in meet.ops:
        steps = bias_moves(meet, index)
        felt = np.flatnonzero(np.abs(steps) >= _FELT) if steps is not None else np.zeros(0, np.int64)
        if steps is not None and felt.size:
            found[meet.written(index)] = {int(c): round(float(steps[c]), 2) for c in felt}
    return found


def _pixels(source: Graph, result: Graph, before: Record) -> dict[str, Pixels]:
    """The inputs whose codes no longer are the source's pixels, and whose they were."""
    found = {}
    for old, new in zip((source.tensors[t] for t in source.inputs), (result.tensors[t] for t in result.inputs)):
        if old.name in before.pixels:
            found[new.name] = before.pixels[old.name]
        elif old.quant is not None and old.dtype in ("uint8", "int8") and new.quant is not None and not _same_pixels(old, new):
            found[new.name] = (old.dtype, float(old.quant.scale[0]), int(old.quant.zero_point[0]))
    return found


def _same_pixels(old: Tensor, new: Tensor) -> bool:
    assert old.quant is not None and new.quant is not None
    shift = code_limits(new.dtype)[0] - code_limits(old.dtype)[0]
    moved = int(new.quant.zero_point[0]) - int(old.quant.zero_point[0])
    return new.dtype in ("uint8", "int8") and bool(new.quant.scale[0] == old.quant.scale[0]) and moved == shift
