"""Layers alone and layers restored, against a second implementation that shares nothing with the pipeline but the simulator."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tf_requant
from tests import builders
from tests.simulator.cases import CASES
from tests.simulator.draw import Draw, random_inputs
from tf_requant.errors import RequantError
from tf_requant.io import tflite
from tf_requant.io.data import load_samples
from tf_requant.model.graph import Model, Tensor
from tf_requant.pipeline.check import Isolation
from tf_requant.pipeline.diagnosis import diagnose
from tf_requant.pipeline.inputs import input_specs
from tf_requant.sample import evaluation_path, model_path
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Simulator
from tf_requant.targets import load_target
from tf_requant.validation.legality import check_legality

MOVES = ("RESHAPE", "QUANTIZE")
"""Ops of the networks here that compute nothing."""
Codes = dict[int, NDArray[Any]]


class Second:
    """A source and its candidate: tensors meet by name, real values pass from grid to grid, everything behind is run again.

    Args:
        source: the source.
        candidate: made from it; its record tells the gains.
    """

    def __init__(self, source: Model, candidate: Model) -> None:
        self.source, self.candidate = source.main, candidate.main
        self.gains = json.loads(candidate.metadata.get("tf_requant", b"{}")).get("gains", {})
        self.simulators = Simulator(source.main, TFLITE_REF), Simulator(candidate.main, TFLITE_REF)
        places = {t.name: i for i, t in enumerate(self.source.tensors)}
        self.partner = {i: places[t.name] for i, t in enumerate(self.candidate.tensors) if t.name in places}
        self.partner |= dict(zip(self.candidate.inputs, self.source.inputs))
        writers = {t: i for i, op in enumerate(self.source.ops) for t in op.outputs}
        self.layers = {}
        for index, op in enumerate(self.candidate.ops):
            own = writers.get(self.partner.get(op.outputs[0], -1))
            if own is not None and self.source.ops[own].code == op.code and op.code not in MOVES:
                self.layers[index] = own

    def gain(self, tensor: int) -> Any:
        """What the candidate's real values were multiplied by."""
        return np.asarray(self.gains.get(self.candidate.tensors[tensor].name, 1.0))

    def run(self, codes: NDArray[Any]) -> tuple[Codes, Codes]:
        """Every tensor of both on one sample of the source's input codes."""
        ours, theirs = self.source.inputs[0], self.candidate.inputs[0]
        fed = {ours: codes}, {theirs: onto(real(codes, self.source.tensors[ours]), self.candidate.tensors[theirs])}
        return tuple(s.run(x, "all") for s, x in zip(self.simulators, fed))  # type: ignore[return-value]

    def alone(self, index: int, source: Codes) -> NDArray[Any]:
        """What the candidate's op makes of the source's own values."""
        arrays: list[Any] = []
        for t in self.candidate.ops[index].inputs:
            tensor = self.candidate.tensors[t]
            if tensor.data is not None:
                arrays.append(tensor.data)
            else:
                values = real(source[self.partner[t]], self.source.tensors[self.partner[t]])
                arrays.append(onto(values * self.gain(t), tensor))
        return self.simulators[1].execute(index, arrays)[0]

    def restored(self, index: int, values: Codes) -> Codes:
        """The candidate's tensors where the source's op stands at this place, between conversions."""
        graph, own = self.candidate, self.source.ops[self.layers[index]]
        arrays: list[Any] = []
        for t, s in zip(graph.ops[index].inputs, own.inputs):
            if self.source.tensors[s].data is not None:
                arrays.append(self.source.tensors[s].data)
            else:
                arrays.append(onto(real(values[t], graph.tensors[t]) / self.gain(t), self.source.tensors[s]))
        output, s = graph.ops[index].outputs[0], own.outputs[0]
        written = self.simulators[0].execute(self.layers[index], arrays)[0]
        changed = dict(values) | {output: onto(real(written, self.source.tensors[s]) * self.gain(output), graph.tensors[output])}
        for later in range(index + 1, len(graph.ops)):
            op = graph.ops[later]
            inputs = [graph.tensors[t].data if graph.tensors[t].data is not None else changed[t] for t in op.inputs]
            changed |= dict(zip(op.outputs, self.simulators[1].execute(later, inputs)))
        return changed

    def noise(self, source: Codes, values: Codes, names: list[str]) -> tuple[float, float]:
        """Squared error and squared value of some tensors."""
        error = power = 0.0
        for t, tensor in enumerate(self.candidate.tensors):
            if tensor.name in names:
                wanted = real(source[self.partner[t]], self.source.tensors[self.partner[t]])
                got = real(values[t], tensor) / self.gain(t)
                error, power = error + float(((got - wanted) ** 2).sum()), power + float((wanted**2).sum())
        return error, power

    def restorations(self, samples: list[NDArray[Any]], names: list[str]) -> tuple[float, dict[int, float]]:
        """SQNR of some tensors, and what restoring each layer adds to it, dB."""
        before = power = 0.0
        after = dict.fromkeys(self.layers, 0.0)
        for codes in samples:
            source, values = self.run(codes)
            error, signal = self.noise(source, values, names)
            before, power = before + error, power + signal
            for index in self.layers:
                after[index] += self.noise(source, self.restored(index, values), names)[0]
        return decibels(power, before), {i: decibels(before, e) if e != before else 0.0 for i, e in after.items()}


def decibels(signal: float, noise: float) -> float:
    return float("inf") if noise == 0 else float(10 * np.log10(signal / noise))


def real(codes: NDArray[Any], tensor: Tensor) -> NDArray[np.float64]:
    return (codes.astype(np.float64) - int(tensor.quant.zero_point[0])) * float(tensor.quant.scale[0])


def onto(values: NDArray[np.float64], tensor: Tensor) -> NDArray[Any]:
    """The nearest codes of a tensor's grid."""
    limits = np.iinfo(tensor.dtype)
    codes = np.rint(values / float(tensor.quant.scale[0])) + int(tensor.quant.zero_point[0])
    return np.clip(codes, limits.min, limits.max).astype(tensor.dtype)


@cache
def bundled(target: str, **options: Any) -> tuple[Model, Model]:
    return tflite.read(model_path().read_bytes()), tf_requant.requantize(model_path(), target, **options).model


def images(count: int) -> NDArray[np.uint8]:
    return np.load(evaluation_path())["images"][:count]


def isolated(source: Model, candidate: Model, data: Any, count: int, **options: Any) -> Isolation:
    return diagnose(source, candidate, load_samples(data, input_specs(source)), count, **options)


@pytest.mark.parametrize("target", ["nna_sym8", "tflite_int8", "nna_sym8_pow2"])
def test_the_first_three_hold_the_layer_whose_restoration_gains_the_most(target: str) -> None:
    source, candidate = bundled(target, corrections="none")
    data = images(4)
    found, second = isolated(source, candidate, data, 4), Second(source, candidate)
    assert found.scores == ("logits_squeeze",)
    sqnr, gains = second.restorations([d[None] for d in data], ["logits_squeeze"])
    # Sums of the same squares in another order.
    assert found.scores_sqnr == pytest.approx(sqnr, rel=1e-9)
    best = max(gains, key=lambda index: gains[index])
    assert gains[best] > 0 and best in [c.index for c in found.culprits[:3]]
    named = {c.index: c.gain for c in found.culprits if not c.fault or c.gain is not None}
    assert {i for i, g in gains.items() if g > 0} == {i for i, g in named.items() if g > 0}
    for index, gain in named.items():
        assert gain == pytest.approx(gains[index], rel=1e-9, abs=1e-9), index


def test_agreement_of_what_is_judged_starts_above_seventy_percent() -> None:
    """On the coarsest of the targets above."""
    model = tf_requant.requantize(model_path(), "nna_sym8_pow2", corrections="none").model_bytes
    assert tf_requant.validate(model, reference=model_path(), data=images(64), layers=0).agreement > 0.7


@pytest.mark.parametrize("target", ["nna_sym8_pow2", "nna_sym8_per_channel", "tflite_int8", "tflite_int16x8"])
def test_every_row_equals_what_the_second_implementation_finds(target: str) -> None:
    source, candidate = bundled(target)
    data = images(2)
    found, second = isolated(source, candidate, data, 2), Second(source, candidate)
    runs = [second.run(d[None]) for d in data]
    for row in found.layers:
        output = candidate.main.ops[row.index].outputs[0]
        tensor, partner = candidate.main.tensors[output], second.partner[output]
        step, own = float(tensor.quant.scale[0]), source.main.tensors[partner]
        wanted = [real(x[partner], own) * second.gain(output) for x, _ in runs]
        got = [real(y[output], tensor) for _, y in runs]
        alone = [real(second.alone(row.index, x), tensor) for x, _ in runs]
        signal = sum(float((w**2).sum()) for w in wanted)
        for figure, values in ((row.sqnr, got), (row.isolated_sqnr, alone)):
            noise = sum(float(((v - w) ** 2).sum()) for v, w in zip(values, wanted))
            assert figure == pytest.approx(decibels(signal, noise), rel=1e-9), (row.index, row.name)
        largest = max(float(np.abs(g - w).max()) for g, w in zip(got, wanted)) / step
        assert row.largest == pytest.approx(largest, rel=1e-9), (row.index, row.name)
        assert (row.name, row.op, row.compared, row.isolated) == (tensor.name, candidate.main.ops[row.index].code, True, True)


def test_a_candidate_that_is_its_source_is_exact_everywhere_and_accused_of_nothing() -> None:
    source, _ = bundled("nna_sym8")
    found = isolated(source, source, images(2), 2)
    assert len(found.layers) == 22 and all(r.sqnr == float("inf") == r.isolated_sqnr for r in found.layers)
    assert all((r.largest, r.saturated, r.shift.steps, r.decision) == (0, 0, 0, "unchanged") for r in found.layers)
    assert found.culprits == () and found.scores_sqnr == float("inf")
    assert found.pictures["scatter"]["reference"] == found.pictures["scatter"]["result"]


def test_the_source_in_another_type_of_the_same_codes_is_exact_too() -> None:
    """conv2d in uint8 re-expressed for tflite_int8: recentred, no code changes."""
    source = tflite.read(builders.pool("MAX_POOL_2D", "uint8"))
    candidate = tf_requant.requantize(source, "tflite_int8", corrections="none").model
    codes = np.random.default_rng(0).integers(0, 256, (3, *source.main.tensors[source.main.inputs[0]].shape[1:])).astype(np.uint8)
    found = isolated(source, candidate, codes, 3)
    assert [r.sqnr for r in found.layers] == [float("inf")] and found.culprits == ()


@pytest.mark.parametrize("count", [1, 2])
def test_one_sample_is_enough_and_no_more_are_claimed_than_there_are(count: int) -> None:
    found = isolated(*bundled("nna_sym8"), images(count), 16)
    assert found.samples == count and all(c.samples == count for c in found.culprits)
    assert len(found.pictures["scatter"]["reference"]) == found.pictures["scatter"]["of"] == 10 * count


def test_the_arithmetic_of_the_target_is_what_runs_the_candidate() -> None:
    source, candidate = bundled("nna_sym8")
    plain, own = (
        isolated(source, candidate, images(2), 2, **({} if a is None else {"arithmetic": a}))
        for a in (None, load_target("nna_sym8").arithmetic)
    )
    assert plain.arithmetic == "tflite_ref" != own.arithmetic
    # nna averages with a 15-bit reciprocal and rounds once.
    assert [r.sqnr for r in plain.layers] != [r.sqnr for r in own.layers]


def test_a_kept_layer_is_at_the_source_s_precision_already() -> None:
    source = tflite.read(model_path().read_bytes())
    candidate = tf_requant.requantize(model_path(), "nna_sym8", keep="^conv0").model
    found = isolated(source, candidate, images(2), 2)
    first = next(r for r in found.layers if r.op == "CONV_2D")
    assert first.sqnr == float("inf") == first.isolated_sqnr
    assert first.index not in [c.index for c in found.culprits]
    assert [r.index for r in found.layers] == list(range(len(candidate.main.ops)))


def test_ops_that_the_source_lacks_have_a_row_without_figures() -> None:
    source = tflite.read(model_path().read_bytes())
    strange = {"block3/expand/Relu6": "renamed"}
    tensors = tuple(t.with_(name=strange.get(t.name, t.name)) for t in source.main.tensors)
    candidate = source.with_(graphs=(source.main.with_(tensors=tensors),))
    found = isolated(source, candidate, images(1), 1)
    row = next(r for r in found.layers if r.name == "renamed")
    assert not row.compared and not row.isolated and row.sqnr is None is row.shift and row.decision == "added"
    behind = found.layers[row.index + 1]
    # Its input has no counterpart, so that it cannot be run alone.
    assert behind.compared and not behind.isolated and behind.isolated_sqnr is None


@pytest.mark.parametrize("name", ["resnet8_cifar10_float", "resnet8_cifar10_int8"])
def test_models_that_cannot_be_compared_give_rows_and_no_culprits(shared, name: str) -> None:  # noqa: ANN001
    source, candidate = (tflite.read((shared / f"models/{n}.tflite").read_bytes()) for n in ("resnet8_cifar10_float", name))
    data = np.random.default_rng(0).normal(0, 1, (1, *source.main.tensors[source.main.inputs[0]].shape[1:])).astype(np.float32)
    found = isolated(source, candidate, data, 1)
    assert len(found.layers) == len(candidate.main.ops)
    assert found.culprits == () and found.scores_sqnr is None and found.scores == ()


class Runs:
    """Random samples as `diagnose` reads them, each as large as the model's inputs, whatever their first axis means."""

    def __init__(self, model: Model, seed: int, count: int) -> None:
        tensors = [model.main.tensors[t] for t in model.main.inputs]
        runs = [random_inputs(seed + number, tensors) for number in range(count)]
        self._runs = [{t.name: codes for t, codes in zip(tensors, run)} for run in runs]

    def __len__(self) -> int:
        return len(self._runs)

    def codes(self, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        assert size == 1
        return iter(self._runs)


def drawn(code: str, dtype: str, seed: int) -> Model | None:
    """A random model of one op; None where the op has no such type."""
    try:
        return tflite.read(CASES[code](Draw(seed, dtype, power_of_two=seed % 2 == 0)))
    except (RequantError, AssertionError, KeyError, IndexError, TypeError):
        return None


ASKED = (("uint8", "nna_sym8"), ("int8", "nna_sym8_pow2"), ("int16", "tflite_int8"), ("uint8", "tflite_int16x8"), ("int8", "nna_usym8"))


@pytest.mark.parametrize("code", CASES)
def test_every_op_has_a_row_whatever_it_is_and_whatever_it_is_re_expressed_for(code: str) -> None:
    ran = 0
    for seed, (dtype, target) in enumerate(ASKED):
        source = drawn(code, dtype, seed)
        if source is None:
            continue
        try:
            candidate = tf_requant.requantize(source, target, corrections="none").model
        except RequantError:
            continue  # no model for this target
        aim = load_target(target)
        data: Any = Runs(source, seed, 2)
        for arithmetic in (TFLITE_REF, aim.arithmetic):
            found = diagnose(source, candidate, data, 2, arithmetic, None, check_legality(candidate, aim))
            assert [r.index for r in found.layers] == list(range(len(candidate.main.ops)))
            assert [r.op for r in found.layers] == [op.name for op in candidate.main.ops]
            assert all(r.place in ("accelerator", "host") for r in found.layers)
            ran += 1
    assert ran


def test_an_op_that_writes_nothing_is_no_reason_to_stop() -> None:
    """A slice of no elements: there are no scores to draw, and nothing to compare."""
    b = builders.Builder()
    x, y = b.activation([1, 4, 4, 3], "int8"), b.activation([1, 0, 4, 3], "int8")
    parameters = [b.integers(v) for v in ([0, 0, 0, 0], [1, 0, 4, 3])]
    b.op("SLICE", [x, *parameters], [y], "SliceOptions", 2)
    model = tflite.read(b.finish([x], [y]))
    found = isolated(model, model, np.zeros((2, 4, 4, 3), np.int8), 2)
    assert len(found.layers) == 1 and found.culprits == ()


@pytest.mark.parametrize(
    "source",
    [
        builders.depthwise("uint8", multiplier=2),
        builders.fully_connected("int8", batch=1, per_channel=True),
        builders.transpose_conv("uint8"),
        builders.concatenation("uint8", scales=(1, 0.5, 1.2)),
        builders.small_net("int16"),
    ],
    ids=["depthwise multiplier 2", "fully connected", "transpose conv", "concatenation", "int16 net"],
)
@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2_per_channel", "tflite_int16x8"])
def test_a_layer_that_is_restored_writes_what_the_source_s_would(source: bytes, target: str) -> None:
    model = tflite.read(source)
    candidate = tf_requant.requantize(model, target, corrections="none").model
    data: Any = Runs(model, 3, 3)
    found = diagnose(model, candidate, data, 3)
    assert len(found.layers) == len(candidate.main.ops) and [c for c in found.culprits if c.fault] == []
    if len(model.main.ops) == 1 and len(candidate.main.ops) == 1 and found.culprits:
        # The inputs pass exactly where steps are equal; what is left then is rounding onto the candidate's grid.
        assert found.culprits[0].gain > 0 and found.culprits[0].restored_sqnr > found.scores_sqnr


def test_a_grouped_convolution_is_judged_like_any_other() -> None:
    found_models = (drawn("CONV_2D", "uint8", seed) for seed in range(200))
    source = next(m for m in found_models if m is not None and groups(m) > 1)
    candidate = tf_requant.requantize(source, "nna_sym8", corrections="none").model
    data: Any = Runs(source, 1, 4)
    found = diagnose(source, candidate, data, 4)
    assert found.layers[0].compared and [c for c in found.culprits if c.fault] == []


def groups(model: Model) -> int:
    op = model.main.ops[0]
    return model.main.tensors[op.inputs[0]].shape[-1] // model.main.tensors[op.inputs[1]].shape[-1]
