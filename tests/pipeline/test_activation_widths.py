"""Widths of activations: chosen within a budget on the bundled model, told by the file, saturated at by the device."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tf_requant
from tests import builders
from tf_requant.errors import UsageError
from tf_requant.io import tflite
from tf_requant.io.data import feed
from tf_requant.model.graph import Graph, Model
from tf_requant.numerics.affine import reexpress
from tf_requant.numerics.integers import limits
from tf_requant.pipeline.activation_errors import ActivationErrors, activations_of
from tf_requant.pipeline.correct import Corrector
from tf_requant.pipeline.inputs import input_specs
from tf_requant.pipeline.record import METADATA, read_record
from tf_requant.pipeline.simulate import checked_model
from tf_requant.pipeline.widths import Search
from tf_requant.plan import ACTIVATIONS
from tf_requant.planning.planner import plan_model
from tf_requant.planning.wishes import Wishes
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.targets import Target, load_target
from tf_requant.validation.legality import check_legality

MIXED = load_target("nna_sym8_per_channel").derive(name="mixed", activation={"bits": [8, 6]})
FREE = load_target("nna_sym8_per_channel").derive(name="free", activation={"bits": [8, 7, 6, 5, 4]})


@cache
def calibration() -> tf_requant.Calibration:
    return tf_requant.calibrate(model_path(), np.load(calibration_path())["images"][:48], noise=False)


@cache
def source() -> Model:
    return tflite.read(model_path().read_bytes())


@cache
def found(base: str, budget: float) -> tf_requant.Result:
    target = load_target(base).derive(name="mixed", activation={"bits": [8, 6]})
    asked = {"activation_bits": (6, 8), "budget": f"activations:{budget}"}
    return tf_requant.requantize(model_path(), target, calibration=calibration(), **asked)


def fed(images: Any, model: Model) -> Any:
    """Pixels as the codes of a model's input."""
    return feed(images, input_specs(source())[0], input_specs(model)[0])


def search(target: Target = FREE, widths: tuple[int, ...] = (4, 6, 8), state: Path | None = None) -> Search:
    corrector = Corrector(source(), target, ("thresholds",), False)
    return Search(ActivationErrors(corrector, widths, calibration(), state), None, ACTIVATIONS)


@pytest.mark.parametrize("base", ["nna_sym8_per_channel", "nna_sym8_pow2"])
def test_the_plan_keeps_to_its_budget_and_the_device_to_the_plan(base: str) -> None:
    result = found(base, 0.85)
    (choice,) = result.report.widths
    assert choice.kind == ACTIVATIONS and 0.75 <= choice.share <= 0.85 and set(choice.bits.values()) == {6, 8}
    graph, held = result.model.main, read_record(result.model).widths
    assert {t.name: t.bits for t in graph.tensors if t.bits is not None} == held and set(held.values()) == {6}
    assert check_legality(result.model, result.target).legal
    with np.load(evaluation_path()) as file:
        sample = fed(file["images"][:2], result.model)
    # As every tool reads it: from the file alone.
    read = checked_model(result.model_bytes)
    assert [t.bits for t in read.main.tensors] == [t.bits for t in graph.tensors]
    codes = tf_requant.simulate(read, sample, arithmetic=result.target, tensors="all")
    low, high = limits(6)
    narrow = [codes[n] for n in held if n in codes]
    assert narrow and all(low <= c.min() and c.max() <= high for c in narrow)
    assert any(c.max() > high for n, c in codes.items() if n not in held)
    told = {t["name"]: t["bits"] for t in tf_requant.inspect(result.model_bytes).to_dict()["graphs"][0]["tensors"]}
    assert {n: b for n, b in told.items() if b is not None} == held
    assert "6 bits on its accelerator" in str(tf_requant.inspect(result.model_bytes))
    # The interface is not the plan's to narrow.
    assert not {graph.tensors[t].name for t in (*graph.inputs, *graph.outputs)} & held.keys()
    assert [row.bits for row in result.report.activations] == [6, 8]
    assert sum(row.elements for row in result.report.activations) == sum(
        source().main.tensors[t].size for t in result.plan.graphs[0].activations
    )


def test_mixed_widths_lose_less_than_one_width_everywhere() -> None:
    uniform = tf_requant.requantize(model_path(), MIXED, calibration=calibration(), activation_bits=6)
    assert set(read_record(uniform.model).widths.values()) == {6} and uniform.report.widths[0].share == 0.75
    with np.load(evaluation_path()) as file:
        data = file["images"]
    figures = [
        tf_requant.validate(r.model_bytes, reference=model_path(), data=data, target=MIXED, layers=0, against=("litert", "sim")).quality
        for r in (uniform, found("nna_sym8_per_channel", 0.85))
    ]
    for backend in ("litert", "sim"):
        assert figures[1][backend].sqnr > figures[0][backend].sqnr + 2
        assert figures[1][backend].agreement > figures[0][backend].agreement


def test_predicted_and_measured_errors_rank_plans_alike() -> None:
    one, random = search(widths=(4, 6, 8)), np.random.default_rng(0)
    plans = []
    for _ in range(24):
        near = one.within(float(random.uniform(0.6, 0.98)))
        plans.append({t: int(random.choice((4, 6, 8))) if random.random() < 0.2 else b for t, b in near.items()})
    measured = [float(one.candidates.measured(p).sum()) for p in plans]
    ranks = [np.argsort(np.argsort(errors)) for errors in ([one.predicted(p) for p in plans], measured)]
    assert np.corrcoef(*ranks)[0, 1] >= 0.8


def test_what_an_activation_loses_is_what_the_model_loses_with_that_one_on_a_coarser_grid() -> None:
    """One tensor's codes put on its 4-bit grid and back, in a run of the whole model op by op."""
    one = search().candidates
    assert isinstance(one, ActivationErrors)
    one.measure()
    trials, root = one.trials, sorted(one.classes)[2]
    narrow = one._plan({**dict.fromkeys(one.classes, 8), root: 4}).graphs[0].activations[root]
    wide = trials.plan.graphs[0].activations[root]
    step = float(wide.params.scale[0]) / float(narrow.params.scale[0]) * narrow.gain / wide.gain
    graph = trials.result.main
    members = {str(t) for t in one.classes[root]}
    inputs = one.corrector.samples(calibration(), 0)(trials.result).result
    error = power = change = 0.0
    with tf_requant.Simulation(trials.result, trials.arithmetic) as simulation:
        simulator = simulation._simulator
        for n in trials.parts()[0]:
            scores = []
            for narrowed in (False, True):
                run = simulator.begin(inputs[n])
                for position in range(trials.stop):
                    made = simulator.step(position, run)
                    for t in made:
                        if narrowed and graph.tensors[t].name in members:
                            coarse = reexpress(reexpress(made[t], step, *limits(4)), 1 / step, -128, 127)
                            change += float(((coarse - made[t]) ** 2).sum())
                            run.values[t] = coarse.astype(made[t].dtype)
                    if trials.judged[0] in made:
                        scores.append(made[trials.judged[0]].astype(np.float64) - graph.tensors[trials.judged[0]].quant.zero_point[0])
            error, power = error + float(((scores[1] - scores[0]) ** 2).sum()), power + float((scores[0] ** 2).sum())
    assert one.errors[root][8] == 0 and 0 < one.errors[root][6] < one.errors[root][4]
    state = json.loads(json.dumps(one._changes[root]))
    assert state["4"] == pytest.approx(change * (float(wide.params.scale[0]) / wide.gain) ** 2, rel=1e-9)
    assert one._found[root][4] == pytest.approx(error / power, rel=1e-9)


def test_a_search_goes_on_and_leaves_the_other_kinds_measurements_alone(tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    other = {"key": "k", "errors": {"0": {"4": 1.0}}}
    state.write_text(json.dumps({"weights": other}))
    whole = search(state=state).within(0.7)
    held = json.loads(state.read_text())
    assert held["weights"] == other and held[ACTIVATIONS]["errors"]
    kept = dict(list(held[ACTIVATIONS]["errors"].items())[:5])
    state.write_text(json.dumps({**held, ACTIVATIONS: {**held[ACTIVATIONS], "errors": kept}}))
    again = search(state=state)
    asked: list[int] = []
    trials = again.candidates.trials
    measure = trials.relative
    trials.relative = lambda *a: asked.append(1) or measure(*a)  # type: ignore[method-assign]
    assert again.within(0.7) == whole
    assert len(asked) == sum(2 for root in again.candidates.elements if str(root) not in kept)


def test_weights_and_activations_have_a_budget_each() -> None:
    target = MIXED.derive(name="both", weight={"bits": [8, 6, 4]})
    asked: dict[str, Any] = {"bits": (4, 6, 8), "activation_bits": (6, 8), "budget": "weights:0.75,activations:0.9"}
    result = tf_requant.requantize(model_path(), target, calibration=calibration(), corrections="bias", **asked)
    weights, activations = result.report.widths
    assert weights.share <= 0.75 and activations.share <= 0.9 and check_legality(result.model, target).legal
    document = result.report.to_dict()
    assert document["widths"]["share"] == weights.share and document["activation_widths"]["share"] == activations.share
    assert all("tensor" in row for row in document["activation_widths"]["layers"])
    assert "activations: " in str(result.report) and len(result.report.notes) == 3


def test_another_conversion_forgets_the_widths() -> None:
    narrow = found("nna_sym8_per_channel", 0.85)
    again = tf_requant.requantize(narrow.model_bytes, "nna_sym8", corrections="none")
    assert read_record(again.model).widths == {} and not any(t.bits for t in again.model.main.tensors)


def test_only_a_device_with_such_widths_saturates_at_them() -> None:
    result = found("nna_sym8_per_channel", 0.85)
    with np.load(evaluation_path()) as file:
        sample = fed(file["images"][:1], result.model)
    wide = tf_requant.simulate(result, sample, arithmetic="nna_sym8_per_channel", tensors="all")
    plain = result.model.with_(metadata={}, graphs=tuple(
        g.with_(tensors=tuple(t.with_(bits=None) for t in g.tensors)) for g in result.model.graphs
    ))  # fmt: skip
    for arithmetic in ("nna_sym8_per_channel", MIXED):
        codes = tf_requant.simulate(plain, sample, arithmetic=arithmetic, tensors="all")
        assert all(np.array_equal(codes[n], wide[n]) for n in codes)


def test_what_may_be_narrowed() -> None:
    """Not what the interface, a kernel or an ambiguous name holds; what shares parameters is one."""
    b = builders.Builder()
    x, y, z, table, out = (b.activation([1, 8], "int8", scale=1 / 128) for _ in range(5))
    b.op("RELU", [x], [y], version=2)
    b.op("RELU", [y], [z], version=2)
    b.op("TANH", [z], [table])
    b.op("RELU", [table], [out], version=2)
    model = checked_model(b.finish([x], [out]))
    plan = plan_model(model, MIXED)

    def named(*names: str) -> Graph:
        return model.main.with_(tensors=tuple(t.with_(name=n) for t, n in zip(model.main.tensors, names, strict=True)))

    assert activations_of(named("x", "twice", "twice", "table", "out"), plan.graphs[0], MIXED) == {}
    assert activations_of(named("x", "", "z", "table", "out"), plan.graphs[0], MIXED) == {z: [z]}
    assert activations_of(named("x", "y", "z", "table", "out"), plan.graphs[0], MIXED) == {y: [y], z: [z]}
    with pytest.raises(UsageError, match="--activation_bits has nothing to choose for: no int8 activation between layers, with zero point 0"):
        tf_requant.requantize(builders.unary("RELU"), MIXED, activation_bits=6)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"activation_bits": 5}, "stores activations of 6, 8 bits, not of 5: give --activation_bits among those"),
        ({"activation_bits": "6,8"}, "--activation_bits=6,8 leaves a choice: .*--budget=activations:SHARE"),
        ({"activation_bits": "six"}, "--activation_bits='six' are no widths"),
        ({"budget": "activations:0.9"}, "give --activation_bits"),
        ({"activation_bits": "6,8", "budget": "weights:0.9"}, "give --bits"),
        ({"activation_bits": "6,8", "budget": "activations:0.9,activations:0.8"}, "once each"),
        ({"activation_bits": "6,8", "budget": "activations:0.9"}, "give calibration data"),
        ({"activation_bits": "6,8", "budget": "activations:0.7", "calibration": "ours"}, "give at least activations:0.75"),
    ],
)
def test_what_cannot_be_had_is_told_in_a_sentence(asked: dict[str, Any], sentence: str) -> None:
    if "calibration" in asked:
        asked = {**asked, "calibration": calibration()}
    with pytest.raises(UsageError, match=sentence):
        tf_requant.requantize(model_path(), MIXED, **asked)


def test_a_target_of_wider_activations_is_refused() -> None:
    target = load_target("tflite_int16x8").derive(name="wide", activation={"bits": [16, 8]})
    with pytest.raises(UsageError, match="widths up to 8, and target wide has 16"):
        tf_requant.requantize(model_path(), target, activation_bits=8)


@pytest.mark.parametrize("bits", [4, 7])
def test_a_device_of_one_narrow_width_is_told_too(bits: int) -> None:
    """In the record, and so in the bound of what its registers have to hold."""
    wide, narrow = (
        tf_requant.requantize(model_path(), t, corrections="none")
        for t in (MIXED, MIXED.derive(name="narrow", activation={"bits": [bits]}))
    )
    assert set(read_record(narrow.model).widths.values()) == {bits} and read_record(wide.model).widths == {}
    assert check_legality(narrow.model, narrow.target).legal
    rows = {row.name: row for row in narrow.report.accumulators}
    assert rows and all(rows[row.name].bound < row.bound for row in wide.report.accumulators)
    with np.load(evaluation_path()) as file:
        samples = fed(file["images"][:2], narrow.model)
    with tf_requant.Simulation(narrow.model_bytes, narrow.target, observe=True) as simulation:
        simulation.run(samples)
        seen = {o.output: o for o in simulation.report.observations if o.register_bits is not None}
    assert seen and all(o.observed_bits <= rows[name].bits for name, o in seen.items() if name in rows)


def test_what_was_narrowed_keeps_its_grid_when_it_is_converted_again() -> None:
    narrow = tf_requant.requantize(model_path(), MIXED, activation_bits=6, calibration=calibration())
    again = tf_requant.requantize(narrow.model_bytes, MIXED, activation_bits=6, corrections="none")
    scales = [
        {t.name: float(t.quant.scale[0]) for t in r.model.main.tensors if t.is_activation and t.quant is not None and t.bits == 6}
        for r in (narrow, again)
    ]
    assert scales[0] and scales[0] == scales[1]


def tied(constant: list[int]) -> bytes:
    """ADD -> CONCATENATION with a constant -> ADD: the middle is no end of the interface."""
    b = builders.Builder()
    x, middle, joined, out = (b.activation([1, n], "int8", 0.05, 0) for n in (4, 4, 8, 8))
    c = b.tensor([1, 4], "int8", 0.05, 0, np.array([constant], np.int8))
    b.op("ADD", [x, x], [middle], "AddOptions", 2)
    b.op("CONCATENATION", [middle, c], [joined], "ConcatenationOptions", 2, axis=1)
    b.op("ADD", [joined, joined], [out], "AddOptions", 2)
    return b.finish([x], [out])


@pytest.mark.parametrize(("order", "bits"), [([6, 8], 8), ([8, 6], 6), ([6, 8], 6)])
def test_a_constant_among_narrow_codes_has_their_width(order: list[int], bits: int) -> None:
    target = MIXED.derive(name="tied", activation={"bits": order})
    pins = {"tensor_1": (-6.4, 6.35)} if bits == 8 else {"tensor_1": (-1.0, 1.0)}
    result = tf_requant.requantize(tied([-100, -20, 90, 120]), target, activation_bits=bits, corrections="none", pin_range=pins)
    read = checked_model(result.model_bytes)
    join = next(op for op in read.main.ops if op.code == "CONCATENATION")
    held, low, high = [read.main.tensors[t] for t in (*join.inputs, *join.outputs)], *limits(bits)
    assert {t.bits for t in held} == {None if order[0] == bits == 8 else bits} and len({float(t.quant.scale[0]) for t in held if t.quant is not None}) == 1
    data = held[1].data
    assert data is not None and low <= data.min() and data.max() <= high
    codes = tf_requant.simulate(read, np.zeros((1, 4), np.int8), arithmetic=target, tensors="all")[held[2].name]
    assert codes[0, 4:].tolist() == data[0].tolist()


def test_a_quantize_that_does_nothing_any_more_is_no_candidate() -> None:
    b = builders.Builder()
    x, wide = (b.activation([1, 8], "uint8", scale, 128) for scale in (0.05, 0.1))
    same, out = (b.activation([1, 8], "int8", scale, 0) for scale in (0.1, 0.2))
    b.op("ADD", [x, x], [wide], "AddOptions", 1)
    b.op("QUANTIZE", [wide], [same], "", 2)
    b.op("ADD", [same, same], [out], "AddOptions", 2)
    samples = np.random.default_rng(0).integers(0, 256, (20, 8)).astype(np.uint8)
    asked: dict[str, Any] = {"activation_bits": (6, 8), "budget": "activations:1", "calibration": samples}
    result = tf_requant.requantize(b.finish([x], [out]), MIXED, corrections="none", **asked)
    assert not any(op.code == "QUANTIZE" for op in result.model.main.ops)
    assert list(result.report.widths[0].elements.values()) == [8]
    assert sum(row.tensors for row in result.report.activations) == 3


def test_where_every_candidate_vanished_there_is_nothing_to_choose_for() -> None:
    b = builders.Builder()
    x, same, out = b.activation([1, 8], "uint8", 0.1, 128), b.activation([1, 8], "int8", 0.1, 0), b.activation([1, 8], "int8", 0.2, 0)
    b.op("QUANTIZE", [x], [same], "", 2)
    b.op("ADD", [same, same], [out], "AddOptions", 2)
    samples = np.random.default_rng(0).integers(0, 256, (20, 8)).astype(np.uint8)
    with pytest.raises(UsageError, match="--activation_bits has nothing to choose for"):
        tf_requant.requantize(
            b.finish([x], [out]), MIXED, activation_bits=(6, 8), budget="activations:0.8", calibration=samples, corrections="none"
        )


def test_what_a_host_op_writes_is_no_candidate() -> None:
    plan = plan_model(source(), MIXED, Wishes(keep=("^block2/expand/Relu6$",))).graphs[0]
    kept = next(i for i, t in enumerate(source().main.tensors) if t.name == "block2/expand/Relu6")
    assert kept in plan.activations
    assert all(kept not in members for members in activations_of(source().main, plan, MIXED).values())


def test_what_was_measured_with_other_thresholds_is_measured_again(tmp_path: Path) -> None:
    """Where the source is on the target's grid, the widest plan is the same; the narrow ones are not."""
    exact = tf_requant.requantize(model_path(), "nna_sym8_per_channel", corrections="none").model
    data = tf_requant.calibrate(exact, np.load(calibration_path())["images"][:40], noise=False)
    keys = []
    for asked in ((), ("thresholds",)):
        state = tmp_path / "search.json"
        one = ActivationErrors(Corrector(exact, MIXED, asked, False), (6, 8), data, state)
        one.measure()
        keys.append(json.loads(state.read_text())[ACTIVATIONS]["key"])
    assert keys[0] != keys[1]


@pytest.mark.parametrize("bits", [0, -3, 1, 9, 6.7, "6", True])
def test_a_record_of_no_width_is_none(bits: Any) -> None:
    model = source().with_(metadata={METADATA: json.dumps({"widths": {"conv0/Relu6": bits}}).encode()})
    assert read_record(model).widths == {}


def test_the_isolated_layers_saturate_where_the_device_does() -> None:
    narrow = tf_requant.requantize(model_path(), MIXED, activation_bits=6, pin_range={"conv0/Relu6": (0.0, 2.0)}, corrections="none")
    with np.load(evaluation_path()) as file:
        images = file["images"][:2]
    found = tf_requant.validate(narrow, reference=model_path(), data=images, target=MIXED, against=("sim",), isolate=True)
    rows = {row.name: row for row in found.layers}
    assert rows["conv0/Relu6"].saturated > 0.05
