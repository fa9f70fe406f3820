"""What a target demands of activations, and of the ops that tie or fix their parameters."""

from tf_requant.model.graph import Graph
from tf_requant.model.ops import Activation as Fused
from tf_requant.model.ops import fused_activation, info
from tf_requant.model.quant import QuantParams, code_limits
from tf_requant.validation.rules import (
    Activation,
    Rule,
    Site,
    Verdicts,
    activation_dtype,
    copies_codes,
    judged,
    powers_of_two,
)


def activation_type(place: Activation) -> Verdicts:
    """Every activation on the accelerator is {activation_dtype}."""
    tensor, dtype = place.tensor, activation_dtype(place.target)
    yield "" if tensor.dtype == dtype else f"tensor {tensor.name!r} is {tensor.dtype}, the target's activations are {dtype}"


def activation_scales(place: Activation) -> Verdicts:
    """Every activation has one scale."""
    quant = _quant(place)
    yield f"tensor {place.tensor.name!r} has {quant.scale.size} scales, an activation has one" if quant.per_channel else ""


def activation_zero_point(place: Activation) -> Verdicts:
    """Every activation has zero point {activation_zero_points}."""
    quant = _quant(place)
    kept = not quant.zero_point.any() or _is_unsigned(place)
    yield "" if kept else f"tensor {place.tensor.name!r} has zero point {int(quant.zero_point[0])}, expected 0"


def unsigned_after_relu(place: Activation) -> Verdicts:
    """An activation is unsigned only where a ReLU wrote it, directly or through ops that move or average its codes."""
    if _is_unsigned(place):
        rectified = _rectified(place.graph, place.index, frozenset())
        yield "" if rectified else f"tensor {place.tensor.name!r} is unsigned, but no ReLU wrote it"


def power_of_two_activations(place: Activation) -> Verdicts:
    """Every activation's scale is a power of two."""
    scale = _quant(place).scale
    yield "" if powers_of_two(scale) else f"tensor {place.tensor.name!r} has scale {float(scale[0])!r}, expected a power of two"


def narrow_activations_are_planned(place: Activation) -> Verdicts:
    """No activation is one that a TFLite kernel spreads over all of int8: codes have {activation_bits} bits; files say no more."""
    producer = place.graph.producers.get(place.index)
    row = None if producer is None else info(place.graph.ops[producer])
    fixed = row is not None and row.fixed_params(activation_dtype(place.target)) is not None
    yield f"tensor {place.tensor.name!r} has parameters that TFLite fixes, for codes of 8 bits" if fixed else ""


def recorded_widths(place: Activation) -> Verdicts:
    """An activation whose width the model's record names was planned with one of {activation_widths} bits."""
    widths, bits = place.target.activation.bits, place.tensor.bits
    held = ", ".join(str(b) for b in sorted(widths))
    sentence = f"tensor {place.tensor.name!r} was planned with {bits} bits, the target's activations have {held}"
    yield "" if bits is None or bits in widths else sentence


def equal_parameters(site: Site) -> Verdicts:
    """Tensors between which an op copies raw codes share scale and zero point{tied_ops}."""
    rule = site.target.rule(site.op.code)
    if not copies_codes(site.row, site.target) and (rule is None or rule.scale != "same"):
        return
    first, *others = (a.tensor for a in site.activations)
    for other in others:
        same = other.quant is not None and other.quant.identical(first.quant)
        pair = f"tensors {first.name!r} ({first.quant}) and {other.name!r} ({other.quant})"
        yield "" if same else f"{pair} differ, but the op copies raw codes"


def fixed_outputs(site: Site) -> Verdicts:
    """An output whose parameters TFLite's kernel fixes has these parameters."""
    fixed, out = site.row.fixed_params(activation_dtype(site.target)), site.output
    if fixed is None or out.quant is None:
        return
    # A file stores float32; the kernels themselves compare with a tolerance.
    kept = abs(float(out.quant.scale[0]) - fixed[0]) <= 1e-9 and out.quant.zero_point[0] == fixed[1]
    yield "" if kept else f"output {out.name!r} is {out.quant}, TFLite fixes it at scale {fixed[0]}, zero point {fixed[1]}"


ACTIVATION_RULES: tuple[Rule[Activation], ...] = (
    Rule(activation_type, decisive=True),
    Rule(activation_scales),
    Rule(activation_zero_point, lambda target: target.activation.symmetric),
    Rule(unsigned_after_relu, lambda target: target.activation.symmetric and target.activation.unsigned_after_relu),
    Rule(narrow_activations_are_planned, lambda target: target.activation.bits[0] < 8),
    Rule(recorded_widths),
    Rule(power_of_two_activations, lambda target: target.activation.scale == "power_of_two"),
)
"""Checked in this order at every activation that an op on the accelerator touches."""

OP_RULES: tuple[Rule[Site], ...] = (Rule(equal_parameters), Rule(fixed_outputs))
"""Checked in this order at every op on the accelerator."""


def is_at_home(place: Activation) -> bool:
    """Whether an activation is as the target demands."""
    return not any(verdict for _, verdict in judged(ACTIVATION_RULES, place))


def _quant(place: Activation) -> QuantParams:
    assert place.tensor.quant is not None
    return place.tensor.quant


def _is_unsigned(place: Activation) -> bool:
    """Whether a target that knows unsigned codes would read them here: int8 q - 128 with zero point -128."""
    lowest = code_limits(activation_dtype(place.target))[0]
    return place.target.activation.unsigned_after_relu and bool((_quant(place).zero_point == lowest).all())


def _rectified(graph: Graph, tensor: int, seen: frozenset[int]) -> bool:
    """Whether a ReLU wrote a tensor, directly or through ops that move or average its codes."""
    producer = graph.producers.get(tensor)
    if producer is None or tensor in seen:
        return False
    op = graph.ops[producer]
    row = info(op)
    if op.code in ("RELU", "RELU6") or fused_activation(op) in (Fused.RELU, Fused.RELU6):
        return True
    if row is None or (row.rule != "same" and op.code != "MEAN"):
        return False
    moved = [t for t in op.inputs if t >= 0 and graph.tensors[t].is_activation]
    return bool(moved) and all(_rectified(graph, t, seen | {tensor}) for t in moved)
