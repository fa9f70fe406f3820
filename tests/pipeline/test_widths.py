"""The search for widths on the bundled model: within its budget, better than one width everywhere, resumable."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import tf_requant
from tests import builders
from tf_requant.errors import UsageError
from tf_requant.io import tflite
from tf_requant.model.graph import Model
from tf_requant.pipeline.calibrate import products
from tf_requant.pipeline.correct import Corrector
from tf_requant.pipeline.lanes import is_clear
from tf_requant.pipeline.simulate import checked_model
from tf_requant.pipeline.width_errors import WidthErrors
from tf_requant.pipeline.widths import Search
from tf_requant.planning.wishes import Wishes
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.targets import load_target
from tf_requant.validation.legality import check_legality

WIDTHS = (4, 5, 6, 8)
MIXED = load_target("nna_sym8_per_channel").derive(name="mixed", weight={"bits": list(WIDTHS)})


@cache
def calibration() -> tf_requant.Calibration:
    return tf_requant.calibrate(model_path(), np.load(calibration_path())["images"][:48], noise=False)


def search(state: Path | None = None, widths: tuple[int, ...] = WIDTHS) -> Search:
    source = tflite.read(model_path().read_bytes())
    corrector = Corrector(source, MIXED, (), False)
    return Search(WidthErrors(corrector, widths, calibration(), state))


@cache
def found(budget: float) -> tf_requant.Result:
    return tf_requant.requantize(model_path(), MIXED, calibration=calibration(), bits=WIDTHS, budget=f"weights:{budget}")


@pytest.mark.parametrize("budget", [pytest.param(0.55, marks=pytest.mark.slow), 0.75])
def test_the_codes_in_the_file_are_within_the_budget_and_the_target(budget: float) -> None:
    result = found(budget)
    weights = result.report.weights
    assert sum(row.bytes for row in weights) <= budget * sum(row.elements for row in weights)
    assert {row.bits for row in weights} <= set(range(2, 9)) and check_legality(result.model, MIXED).legal
    (choice,) = result.report.widths
    assert choice.share <= budget
    by_name = {row.name: row.bits for row in weights}
    graph = tflite.read(model_path().read_bytes()).main
    assert all(by_name[graph.tensors[graph.ops[i].outputs[0]].name] <= bits for i, bits in choice.bits.items())


def test_mixed_widths_beat_uniform_ones_of_the_same_size() -> None:
    """Beside five and six bits everywhere, on images that nothing saw; together, since half a decibel of each is chance."""
    data, decibels, answers = np.load(evaluation_path())["images"], [], []
    for bits in (5, 6):
        uniform = tf_requant.requantize(model_path(), MIXED, calibration=calibration(), bits=bits)
        one, other = (
            tf_requant.validate(r.model_bytes, reference=model_path(), data=data, target=MIXED, layers=0).quality["litert"]
            for r in (found(bits / 8), uniform)
        )
        decibels.append(one.sqnr - other.sqnr)
        answers.append(one.agreement - other.agreement)
    assert sum(decibels) > 0.5 and sum(answers) > -0.02


def test_the_frontier_is_monotone_and_the_prediction_adds_up() -> None:
    (choice,) = found(0.75).report.widths
    shares, errors = [p.share for p in choice.frontier], [p.error for p in choice.frontier]
    assert len(shares) > 10 and shares == sorted(shares, reverse=True) and errors == sorted(errors)
    assert errors[0] == 0 and shares[-1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("gain", "error", "clear"),
    [
        ([0.1, 0.1, 0.1, 0.1], [1.0] * 4, True),
        ([0.01, 0.01, 0.01, 0.01], [1.0] * 4, False),  # 1 % of the error
        ([0.5, -0.1, 0.4, -0.1], [1.0] * 4, False),  # 17 %, and a standard error of 16 %
        ([-0.1, -0.1, -0.1, -0.1], [1.0] * 4, False),
        ([0.1], [1.0], True),  # one sample has no spread
        ([0.0, 0.0], [0.0, 0.0], False),
    ],
)
def test_an_exchange_is_kept_where_samples_agree_on_it(gain: list[float], error: list[float], clear: bool) -> None:
    assert is_clear(np.array(gain), np.array(error)) is clear


def test_predicted_and_measured_errors_rank_plans_alike() -> None:
    one, rng = search(), np.random.default_rng(0)
    plans = [one.within(share) for share in np.linspace(0.52, 0.95, 8)]
    plans += [{i: int(rng.choice(WIDTHS)) if rng.random() < 0.3 else b for i, b in plan.items()} for plan in plans]
    measured = [float(one.candidates.measured(p).sum()) for p in plans]
    ranks = [np.argsort(np.argsort(errors)) for errors in ([one.predicted(p) for p in plans], measured)]
    assert np.corrcoef(*ranks)[0, 1] >= 0.8


def test_what_a_layer_loses_is_what_the_model_with_that_layer_loses() -> None:
    """One layer at four bits, put together anew and run whole: the same error as was measured on the branch."""
    whole = search()
    plan, one = whole.within(1.0), whole.candidates
    origin = sorted(one.elements)[3]
    trials = one.trials
    graph = trials.result.main
    (index,) = [i for i, o in one._pass.pairs().items() if o == origin]
    narrow = graph
    for position, params, codes in one._candidates[origin, 4]:
        tensors = list(narrow.tensors)
        tensors[narrow.ops[index].inputs[position]] = tensors[narrow.ops[index].inputs[position]].with_(quant=params, data=codes)
        narrow = narrow.with_(tensors=tuple(tensors))
    every = one.corrector.samples(calibration(), 0)(trials.result).result
    inputs = [every[n] for n in trials.parts()[0]]
    error = power = 0.0
    for codes in inputs:
        values = []
        for g in (graph, narrow):
            simulator = tf_requant.Simulation(trials.result.with_(graphs=(g,)), TFLITE_REF)
            with simulator:
                name = g.tensors[trials.judged[0]].name
                out = simulator.run({g.tensors[t].name: c for t, c in codes.items()}, "all")[name]
            values.append(out.astype(np.float64) - g.tensors[trials.judged[0]].quant.zero_point[0])
        error, power = error + np.square(values[1] - values[0]).sum(), power + np.square(values[0]).sum()
    assert plan[origin] == 8
    assert one._found[origin][4] == pytest.approx(error / power, rel=1e-12)


def heads(outputs: tuple[int, ...]) -> Model:
    """A convolution that two others read."""
    b = builders.Builder()
    x = b.activation([1, 6, 6, 4], "int8")
    made = []
    for read in (x, None, None):
        data = read if read is not None else made[0]
        w = b.filter([4, 3, 3, 4], "int8")
        y = b.activation([1, 6, 6, 4], "int8")
        b.op("CONV_2D", [data, w, b.bias(data, w, 4, "int8")], [y], "Conv2DOptions", strideW=1, strideH=1)
        made.append(y)
    return checked_model(b.finish([x], [made[i] for i in outputs]))


@pytest.mark.parametrize("outputs", [(1, 2), (1,)])
def test_every_output_counts_and_what_none_needs_stays_wide(outputs: tuple[int, ...]) -> None:
    source = heads(outputs)
    data = np.random.default_rng(1).integers(-128, 128, (12, 6, 6, 4)).astype(np.int8)
    (choice,) = tf_requant.requantize(source, MIXED, calibration=data, bits=(4, 8), budget="weights:0.9").report.widths
    assert set(choice.bits) == {0, 1, 2} and choice.share <= 0.9
    assert len(outputs) == 2 or choice.bits[2] == 8


def test_a_state_serves_fewer_widths_too_and_no_other_plan(tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    search(state).within(0.8)
    assert search(state, (6, 8)).within(0.8) == search(None, (6, 8)).within(0.8)
    key = json.loads(state.read_text())["weights"]["key"]
    source = tflite.read(model_path().read_bytes())
    name = next(t.name for t in source.main.tensors if t.is_activation and "add" in t.name)
    pinned = Wishes(pinned=((name, -20.0, 20.0),))
    assert WidthErrors(Corrector(source, MIXED, (), False, pinned), WIDTHS, calibration()).trials.key() != key


def test_a_search_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    whole = search(state).run(0.7)
    held = json.loads(state.read_text())
    kept = dict(list(held["weights"]["errors"].items())[:4])
    state.write_text(json.dumps({"weights": {**held["weights"], "errors": kept}}))
    again = search(state).candidates
    asked: list[int] = []
    measure = again.trials.relative
    again.trials.relative = lambda *a: asked.append(1) or measure(*a)  # type: ignore[method-assign]
    again.measure()
    missing = sum(len([b for b in WIDTHS if b != 8]) for i in again.elements if str(i) not in kept)
    assert len(asked) == missing < 3 * len(again.elements)
    assert Search(again).run(0.7).bits == whole.bits


def test_another_models_state_is_measured_anew(tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    state.write_text(json.dumps({"weights": {"key": "other", "errors": {"0": {"4": 99.0}}}}))
    one = search(state).candidates
    one.measure()
    assert one.errors[0][4] < 1


@pytest.mark.parametrize("content", ["", "[]", '{"weights": {"errors": {}}}', '{"weights": {"key": 1, "errors": 3}}', '{"key": 1}'])
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, content: str) -> None:
    state = tmp_path / "search.json"
    state.write_text(content)
    with pytest.raises(UsageError, match="no file of a search"):
        search(state).within(0.7)


def test_a_budget_of_cycles_limits_products_at_their_cost() -> None:
    """Half the cycles at four bits: what counts are products, which early layers have most of, not weights."""
    target = MIXED.derive(name="costed", weight={"costs": {"cycles": {"4": 1.0, "5": 2.0, "6": 2.0, "8": 2.0}}})
    asked = {"calibration": calibration(), "bits": WIDTHS, "budget": "cycles:0.7"}
    (choice,) = tf_requant.requantize(model_path(), target, corrections="bias", **asked).report.widths
    graph = tflite.read(model_path().read_bytes()).main
    count = {i: products(graph, i) for i in choice.bits}
    spent = sum(count[i] * (1.0 if b == 4 else 2.0) for i, b in choice.bits.items())
    assert spent <= 0.7 * 2 * sum(count.values()) and spent > 0.65 * 2 * sum(count.values())
    with pytest.raises(UsageError, match=r"cycles:0.4 cannot be met.*at least cycles:0.5"):
        tf_requant.requantize(model_path(), target, **{**asked, "budget": "cycles:0.4"})


def test_an_impossible_budget_names_the_nearest_that_is_not() -> None:
    with pytest.raises(UsageError, match=r"weights:0.4 cannot be met.*at least weights:0.5"):
        found(0.4)
    with pytest.raises(UsageError, match=r"weights:0.6 cannot be met.*at least weights:0.625"):
        search(widths=(5, 8)).within(0.6)


def test_samples_too_few_to_measure_and_judge_on_are_refused() -> None:
    few = np.load(calibration_path())["images"][:4]
    with pytest.raises(UsageError, match="4 are too few, give at least 5"):
        tf_requant.requantize(model_path(), MIXED, calibration=few, bits=(4, 8), budget="weights:0.7")


def test_widths_without_anything_to_measure_on_are_refused() -> None:
    with pytest.raises(UsageError, match="give calibration data"):
        tf_requant.requantize(model_path(), MIXED, bits=(4, 8), budget="weights:0.6")
