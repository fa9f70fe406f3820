"""UNIDIRECTIONAL_SEQUENCE_LSTM, TFLite's 8x8_16 kernel: int8 input, weights and output, int16 cell.

Gates are Q3.12 sums of two rescaled products, their activations gemmlowp's int16 fixed point; the cell is int16 with
a power-of-two scale. Source: TensorFlow `lite/kernels/lstm_eval.cc`, LstmStepInteger8x8_16.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Tensor
from tf_requant.model.quant import code_limits
from tf_requant.numerics.arithmetic import Requantizer
from tf_requant.numerics.fixed_point import Rescale
from tf_requant.numerics.gemmlowp import INT16
from tf_requant.numerics.integers import saturate, wrap
from tf_requant.numerics.rounding import Rounding, shift_right
from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site, point, quant_of, rescale_of, scale
from tf_requant.simulator.tables import all_codes

GATES = ("input", "forget", "cell", "output")
_INPUT_WEIGHTS, _RECURRENT_WEIGHTS, _BIASES, _STATE, _CELL = 1, 5, 12, 18, 19
_REFUSED = {9: "peepholes", 10: "peepholes", 11: "peepholes", 16: "a projection", 17: "a projection"} | {
    i: "layer normalization" for i in range(20, 24)
}
_GATE_SCALE = 2.0**-12
_INTEGER_BITS = 3
_HIDDEN = 4
_TANH = 4
"""`ActivationFunctionType.TANH`, the only cell activation of the integer kernel."""


@dataclass(frozen=True, eq=False)
class Gate:
    """One gate's constants.

    Attributes:
        weights: int64[inputs, cells].
        recurrent: int64[outputs, cells].
        bias: int64[cells], the input's zero point folded in.
        recurrent_bias: int64[cells], that of the recurrent input.
        rescale: of the input's sum, to Q3.12.
        recurrent_rescale: of the recurrent sum.
    """

    weights: NDArray[np.int64]
    recurrent: NDArray[np.int64]
    bias: NDArray[np.int64]
    recurrent_bias: NDArray[np.int64]
    rescale: Rescale
    recurrent_rescale: Rescale

    def sums(self, x: NDArray[np.int64], hidden: NDArray[np.int64]) -> NDArray[np.int64]:
        """Raw codes int64[N, inputs], int64[N, outputs] -> Q3.12 int64[N, cells]."""
        first = saturate(self.rescale.apply(wrap(x @ self.weights + self.bias, 32)), 16)
        second = self.recurrent_rescale.apply(wrap(hidden @ self.recurrent + self.recurrent_bias, 32))
        return saturate(first + second, 16)


@dataclass(frozen=True, eq=False)
class Cell:
    """What the four gates share.

    Attributes:
        gates: by name; without `input`, the forget gate's complement stands for it (CIFG).
        log2_scale: of the int16 cell.
        hidden: the rescale of output gate * tanh(cell), Q0.30, to the output.
        zero_point: of the output.
        clip: the cell's limit, 0 for none.
    """

    gates: Mapping[str, Gate]
    log2_scale: int
    hidden: Rescale
    zero_point: int
    clip: int = 0


def prepare(site: Site) -> Kernel:
    """The kernel of one UNIDIRECTIONAL_SEQUENCE_LSTM; its two state inputs are updated in place."""
    data, target = site.input(0), site.output()
    site.codes(data, target, dtypes=("int8",))
    for position, what in _REFUSED.items():
        if site.optional(position) is not None:
            raise CannotRun(f"it has {what}")
    if int(site.attrs.get("fused_activation_function", _TANH)) != _TANH:
        raise CannotRun("its cell activation is not TANH")
    if len(site.op.intermediates) <= _HIDDEN or site.input(_CELL).dtype != "int16":
        raise CannotRun("it is not quantized as 8x8_16: expected 5 intermediates and an int16 cell")
    cell, time_major = _cell(site), bool(site.attrs.get("time_major", False))

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, state, memory = arrays[0], arrays[_STATE], arrays[_CELL]
        steps = codes if time_major else codes.swapaxes(0, 1)
        result = []
        for x in steps:
            state[...], memory[...] = step(x.astype(np.int64), state.astype(np.int64), memory.astype(np.int64), cell)
            result.append(state.copy())
        return [np.stack(result, axis=0 if time_major else 1)]

    return run


def step(
    x: NDArray[np.int64], state: NDArray[np.int64], memory: NDArray[np.int64], cell: Cell
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The integer core, one time step.

    Args:
        x: int64[N, inputs] codes.
        state: int64[N, outputs], the last output's codes.
        memory: int64[N, cells], int16 codes.
        cell: the constants.

    Returns:
        (state, memory) after the step.
    """
    sums = {name: gate.sums(x, state) for name, gate in cell.gates.items()}
    forget, output = (_look_up("logistic", _INTEGER_BITS, sums[name]) for name in ("forget", "output"))
    new = _look_up("tanh", _INTEGER_BITS, sums["cell"])
    enter = _look_up("logistic", _INTEGER_BITS, sums["input"]) if "input" in sums else INT16.one - forget
    kept = saturate(shift_right(forget * memory, 15, Rounding.HALF_AWAY), 16)
    added = saturate(shift_right(enter * new, 30 + cell.log2_scale, Rounding.HALF_AWAY), 16)
    memory = saturate(kept + added, 16)
    if cell.clip > 0:
        memory = memory.clip(-cell.clip, cell.clip)
    shown = _look_up("tanh", 15 + cell.log2_scale, memory)
    state = cell.hidden.apply(output * shown) + cell.zero_point
    return state.clip(*code_limits("int8")), memory


def _look_up(function: str, integer_bits: int, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """A gate's activation of int16 codes."""
    return _table(function, integer_bits)[codes - code_limits("int16")[0]]


@cache
def _table(function: str, integer_bits: int) -> NDArray[np.int64]:
    """A gate's activation of every int16 code, by gemmlowp's definition: a step has few elements and many steps."""
    return np.asarray(getattr(INT16, function)(all_codes("int16").astype(np.int64), integer_bits), np.int64)


def _cell(site: Site) -> Cell:
    rule = Requantizer(ratio="float32", scale_product="float32")
    data, hidden = site.input(0), site.graph.tensors[site.op.intermediates[_HIDDEN]]
    state, memory = site.input(_STATE), site.input(_CELL)
    gates = {}
    for number, name in enumerate(GATES):
        weights, recurrent = site.optional(_INPUT_WEIGHTS + number), site.optional(_RECURRENT_WEIGHTS + number)
        if weights is None and name == "input":
            continue
        if weights is None or recurrent is None:
            raise CannotRun(f"the {name} gate has no weights")
        gates[name] = _gate(site, data, state, weights, recurrent, number, rule)
    mantissa, exponent = np.frexp(float(scale(memory)))
    if mantissa != 0.5:
        raise CannotRun(f"the cell's scale {scale(memory)} is no power of two")
    clip = float(site.attrs.get("cell_clip", 0.0) or 0.0)
    ratio = np.float32(2.0**-15 / float(scale(hidden)) * 2.0**-15)
    return Cell(
        gates,
        int(exponent) - 1,
        rescale_of(ratio, rule),
        point(hidden),
        int(min(max(np.float32(clip) / scale(memory), -32767), 32767)),
    )


def _gate(
    site: Site, data: Tensor, state: Tensor, weights: Tensor, recurrent: Tensor, number: int, rule: Requantizer
) -> Gate:
    from_input = site.constant(_INPUT_WEIGHTS + number).astype(np.int64).T
    from_state = site.constant(_RECURRENT_WEIGHTS + number).astype(np.int64).T
    bias = site.optional(_BIASES + number)
    held = np.zeros(from_input.shape[1], np.int64) if bias is None else site.constant(_BIASES + number).astype(np.int64)
    return Gate(
        from_input,
        from_state,
        held - point(data) * from_input.sum(axis=0),
        -point(state) * from_state.sum(axis=0),
        site.rescale((scale(data), quant_of(weights).scale), np.float32(_GATE_SCALE), rule),
        site.rescale((scale(state), quant_of(recurrent).scale), np.float32(_GATE_SCALE), rule),
    )
