"""Legality: whether a written model obeys its target. Shares no code with planning, rewrite or corrections.

The judge decides for itself which ops are on the accelerator: those that the target lists, within the
limits that it sets them, that work on quantized tensors in the target's own type, and whose output TFLite
doesn't fix at something that the target cannot hold. Every tensor that such an op touches has to obey the target's row,
which is a table of rules (`activation_rules`, `layer_rules`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tf_requant.model.graph import Model
from tf_requant.model.ops import info
from tf_requant.targets import OpRule, Target
from tf_requant.validation.activation_rules import ACTIVATION_RULES, OP_RULES, is_at_home
from tf_requant.validation.layer_rules import LAYER_RULES
from tf_requant.validation.rules import Activation, Ledger, Rule, RuleVerdict, Site, activation_dtype, judged

RULES: tuple[Rule[Any], ...] = (*ACTIVATION_RULES, *OP_RULES, *LAYER_RULES)
"""Every rule, in the order in which a report lists them."""


@dataclass(frozen=True)
class HostOp:
    """An op that the accelerator doesn't run, and why."""

    index: int
    where: str
    reason: str


@dataclass(frozen=True)
class Legality:
    """The verdict on one model.

    Attributes:
        target: the target's name.
        accelerated: how many ops run on the accelerator.
        host_ops: the others.
        violations: one sentence each; empty for a legal model.
        rules: every rule that the target makes, and what became of it; their broken places are the violations.
    """

    target: str
    accelerated: int
    host_ops: tuple[HostOp, ...]
    violations: tuple[str, ...]
    rules: tuple[RuleVerdict, ...] = ()

    @property
    def legal(self) -> bool:
        """Whether nothing breaks the target's rules."""
        return not self.violations

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-ready values."""
        host = [{"index": h.index, "op": h.where, "reason": h.reason} for h in self.host_ops]
        return {
            "target": self.target, "legal": self.legal, "accelerated": self.accelerated, "host_ops": host,
            "violations": list(self.violations), "rules": [rule.to_dict() for rule in self.rules],
        }  # fmt: skip


def check_legality(model: Model, target: Target) -> Legality:
    """Judges every op and tensor of a model.

    Args:
        model: a model as read from its file.
        target: what it claims to be for.
    """
    host: list[HostOp] = []
    ledger, accelerated = Ledger(), 0
    for graph in model.graphs:
        for index, op in enumerate(graph.ops):
            site = Site(graph, target, op)
            reason = _host_reason(site)
            if reason:
                host.append(HostOp(index, graph.where(index), reason))
                continue
            accelerated += 1
            for rule, verdict in _verdicts(site):
                ledger.note(graph.where(index), rule, verdict)
    rules = tuple(ledger.verdict(rule, target) for rule in RULES if rule.applies(target))
    return Legality(target.name, accelerated, tuple(host), tuple(ledger.broken), rules)


def _verdicts(site: Site) -> Iterator[tuple[str, str]]:
    """Every rule at every place of an op on the accelerator."""
    for place in site.activations:
        yield from judged(ACTIVATION_RULES, place)
    yield from judged(OP_RULES, site)
    if site.row.filter is not None:
        yield from judged(LAYER_RULES, site)


def _host_reason(site: Site) -> str:
    """Why an op is on the host, or an empty string for one on the accelerator."""
    op, graph, dtype = site.op, site.graph, activation_dtype(site.target)
    if not site.activations:
        return "works on float or index tensors"
    row = info(op)
    if op.code == "CUSTOM" or row is None:
        return "custom op" if op.code == "CUSTOM" else "not an op that accelerators run"
    if op.code in ("QUANTIZE", "DEQUANTIZE"):
        converts = op.code == "DEQUANTIZE" or not all(is_at_home(a) for a in site.activations)
        if converts or not graph.tensors[op.inputs[0]].is_quantized:
            return "converts between host and accelerator"
    rule = site.target.rule(op.code)
    if rule is None:
        return "the target does not list it"
    beyond = _beyond_limits(site, rule)
    if beyond:
        return beyond
    if row.rule == "fixed" and not is_at_home(Activation(graph, site.target, op.outputs[0])):
        return "TFLite fixes its output at parameters that the target cannot hold"
    if all(a.tensor.dtype != dtype for a in site.activations):
        return f"kept in {site.activations[0].tensor.dtype}, which is not the target's {dtype}"
    if any(graph.tensors[t].dtype.startswith("float") for t in (*op.inputs, *op.outputs) if t >= 0):
        return "computes in float"
    # The same integer type, between QUANTIZE ops on every side: kept at another precision on purpose.
    return "kept between QUANTIZE ops" if _is_island(site) else ""


def _beyond_limits(site: Site, rule: OpRule) -> str:
    """Which limit of the target an op exceeds, or an empty string."""
    attrs = site.op.attrs
    strides = [int(attrs[k]) for k in ("stride_h", "stride_w") if k in attrs]
    dilations = [int(attrs[k]) for k in ("dilation_h_factor", "dilation_w_factor") if k in attrs]
    if rule.stride_max is not None and max(strides, default=1) > rule.stride_max:
        return f"its stride is {max(strides)}, the target allows {rule.stride_max}"
    if not rule.dilation and max(dilations, default=1) > 1:
        return f"its dilation is {max(dilations)}, the target allows none"
    sides = [int(attrs[k]) for k in ("filter_height", "filter_width") if k in attrs]
    weights = site.input(site.row.filter)
    if weights is not None and len(weights.shape) == 4:
        sides = list(weights.shape[1:3])
    if rule.kernel_max is not None and max(sides, default=1) > rule.kernel_max:
        return f"its kernel is {max(sides)} wide, the target allows {rule.kernel_max}"
    return ""


def _is_island(site: Site) -> bool:
    """Whether every activation of an op comes from and goes to a QUANTIZE op or another op off the target."""
    if all(is_at_home(a) for a in site.activations):
        return False
    graph, op = site.graph, site.op
    tensors = [t for t in (*op.inputs, *op.outputs) if t >= 0 and graph.tensors[t].is_activation]
    for t in tensors:
        neighbours = [*graph.consumers.get(t, ())] + ([graph.producers[t]] if t in graph.producers else [])
        others = [graph.ops[i] for i in neighbours if graph.ops[i] is not op]
        if t in graph.inputs or t in graph.outputs or not others:
            continue
        if any(o.code not in ("QUANTIZE", "DEQUANTIZE") for o in others):
            return False
    return any(
        graph.ops[i].code == "QUANTIZE"
        for t in tensors
        for i in (*graph.consumers.get(t, ()), graph.producers.get(t, -1))
        if i >= 0
    )
