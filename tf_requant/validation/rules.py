"""What a rule of a target is: where it is checked, the sentence that it demands, and the verdict on a model.

A rule is a function from a place to verdicts, one for each thing that it looks at there: an empty string where it is
kept, else what is wrong. Its docstring, with the target's own values filled in, is the sentence the user reads.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import frexp
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from tf_requant.model.graph import Graph, Op, Tensor
from tf_requant.model.ops import ACTIVATION_DTYPES, OPS, OpInfo, info
from tf_requant.targets import Target

Verdicts = Iterator[str]


class HasTarget(Protocol):
    """A place that a rule is checked at."""

    @property
    def target(self) -> Target:
        """What the place is judged for."""


PlaceT = TypeVar("PlaceT", bound=HasTarget)


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor that an op on the accelerator reads or writes."""

    graph: Graph
    target: Target
    index: int

    @property
    def tensor(self) -> Tensor:
        """The tensor itself."""
        return self.graph.tensors[self.index]


@dataclass(frozen=True, eq=False)
class Site:
    """An op where it stands."""

    graph: Graph
    target: Target
    op: Op

    @property
    def row(self) -> OpInfo:
        """What TFLite's kernels make of the op; it has a row wherever a rule is checked."""
        row = info(self.op)
        assert row is not None
        return row

    @cached_property
    def activations(self) -> tuple[Activation, ...]:
        """The quantized tensors that it reads and writes, without its filter and bias."""
        row, inputs = info(self.op), self.op.inputs
        constants = {inputs[i] for i in (row.filter, row.bias) if i is not None and i < len(inputs)} if row else set()
        touched = [t for t in dict.fromkeys((*inputs, *self.op.outputs)) if t >= 0 and t not in constants]
        places = (Activation(self.graph, self.target, t) for t in touched)
        return tuple(a for a in places if a.tensor.quant is not None and a.tensor.dtype in ACTIVATION_DTYPES)

    @property
    def output(self) -> Tensor:
        """The first tensor that it writes."""
        return self.graph.tensors[self.op.outputs[0]]

    def input(self, position: int | None) -> Tensor | None:
        """The tensor at an operand's position, or None where the op has none."""
        if position is None or position >= len(self.op.inputs) or self.op.inputs[position] < 0:
            return None
        return self.graph.tensors[self.op.inputs[position]]


@dataclass(frozen=True)
class Rule(Generic[PlaceT]):
    """One demand of a target.

    Attributes:
        check: from a place to verdicts; its name is the rule's, its docstring the sentence.
        applies: whether a target makes the demand at all.
        decisive: whether the rules behind it mean nothing at a place that breaks it.
    """

    check: Callable[[PlaceT], Verdicts]
    applies: Callable[[Target], bool] = lambda _: True
    decisive: bool = False

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.check.__name__

    def sentence(self, target: Target) -> str:
        """What it demands of this target."""
        return " ".join((self.check.__doc__ or self.name).split()).format(**_facts(target))


def judged(rules: Iterable[Rule[PlaceT]], place: PlaceT) -> Iterator[tuple[str, str]]:
    """Checks rules in order at a place: (name, verdict), up to a decisive rule that is broken."""
    for rule in rules:
        if not rule.applies(place.target):
            continue
        verdicts = list(rule.check(place))
        yield from ((rule.name, verdict) for verdict in verdicts)
        if rule.decisive and any(verdicts):
            return


@dataclass(frozen=True)
class RuleVerdict:
    """What became of one rule.

    Attributes:
        name: the rule's name.
        sentence: what it demands of the target.
        checked: at how many places; a tensor is one wherever an op on the accelerator touches it.
        broken: one sentence for each place where it is broken.
    """

    name: str
    sentence: str
    checked: int
    broken: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-ready values."""
        return {"name": self.name, "sentence": self.sentence, "checked": self.checked, "broken": list(self.broken)}


@dataclass
class Ledger:
    """Counts verdicts, and keeps the broken ones in the order found."""

    checked: dict[str, int] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def note(self, where: str, rule: str, verdict: str) -> None:
        """Writes one verdict down. Two tensors of one name may say the same twice, which is kept once."""
        self.checked[rule] = self.checked.get(rule, 0) + 1
        if verdict:
            self.broken.setdefault(f"{where}: {verdict}", rule)

    def verdict(self, rule: Rule[Any], target: Target) -> RuleVerdict:
        """What became of a rule."""
        broken = tuple(sentence for sentence, name in self.broken.items() if name == rule.name)
        return RuleVerdict(rule.name, rule.sentence(target), self.checked.get(rule.name, 0), broken)


def activation_dtype(target: Target) -> str:
    """The type of a target's activations, in numpy's spelling; a file holds fewer than 8 bits in 8."""
    return ("int" if target.activation.signed else "uint") + str(max(8, target.activation.bits[0]))


def weight_dtype(target: Target) -> str:
    """The type that a file stores a target's weights in."""
    return "int8" if target.weight.signed else "uint8"


def weight_limits(target: Target) -> tuple[int, int]:
    """The lowest and highest code of a target's weights, at the widest of its widths."""
    bits = max(target.weight.bits)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if target.weight.signed else (0, 2**bits - 1)
    return low + int(target.weight.narrow), high


def bias_dtype(target: Target) -> str:
    """The type that TFLite's kernels read a bias in: 64 bits beside 16-bit activations, if the target holds them."""
    return "int64" if activation_dtype(target) == "int16" and target.bias.bits > 32 else "int32"


def copies_codes(row: OpInfo | None, target: Target) -> bool:
    """Whether TFLite's kernel copies or compares raw codes of the target's type, so that parameters have to be equal."""
    return row is not None and row.rule == "same" and activation_dtype(target) not in row.rescales


def powers_of_two(scales: NDArray[Any]) -> bool:
    """Whether every scale is exactly a power of two: frexp's mantissa is then 0.5."""
    return all(frexp(float(s))[0] == 0.5 for s in scales)


def _facts(target: Target) -> dict[str, Any]:
    """What docstrings may name: the target's own sections, and what follows from several of its values."""
    per_channel = ", ".join(target.weight.per_channel_ops) if target.weight.granularity == "channel" else ""
    tied = ", ".join(op for op, rule in target.ops.items() if rule.scale == "same" and not copies_codes(OPS.get(op), target))
    low, high = weight_limits(target)
    return {
        "bias": target.bias,
        "weight": target.weight,
        "requantizer": target.requantizer,
        "activation_dtype": activation_dtype(target),
        "activation_bits": target.activation.bits[0],
        "activation_widths": ", ".join(str(b) for b in sorted(target.activation.bits)),
        "activation_zero_points": "0, or -128 where its codes are unsigned" if target.activation.unsigned_after_relu else "0",
        "tied_ops": f", and so do those of {tied}" if tied else "",
        "weight_dtype": weight_dtype(target),
        "weight_low": low,
        "weight_high": high,
        "weight_scales": f"one scale, or one an output channel in {per_channel}" if per_channel else "one scale",
        "bias_dtype": bias_dtype(target),
    }
