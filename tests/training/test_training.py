"""Training moves what it may towards the source's scores, keeps to grids and budgets, and is kept only where it helps."""

from functools import cache
from typing import Any

import numpy as np
import pytest

import tf_requant
from tests import builders
from tf_requant.errors import UnsupportedModelError, UsageError
from tf_requant.model.ops import info
from tf_requant.numerics.codebook import nearest
from tf_requant.pipeline.simulate import checked_model
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.targets import load_target
from tf_requant.training.blocks import Block, Codebooks, learned_widths
from tf_requant.training.distillation import Moved, Trained, distilled
from tf_requant.training.network import Network, constant
from tf_requant.validation.legality import check_legality

pytest.importorskip("tensorflow")

CODED = load_target("nna_sym8_per_channel").derive(name="coded", weight={"codebook": 3})
MIXED = load_target("nna_sym8_per_channel").derive(name="mixed", weight={"bits": [8, 6, 4]})
LIST = "thresholds,rounding,scale_search,gptq,error_folding,bias"


@cache
def calibration() -> tf_requant.Calibration:
    return tf_requant.calibrate(model_path(), np.load(calibration_path())["images"][:40], noise=False)


def layer() -> tuple[Any, Network, list[dict[int, Any]]]:
    """One dense layer with inputs at random."""
    graph = checked_model(builders.fully_connected("int8")).main
    random, x = np.random.default_rng(0), graph.tensors[graph.inputs[0]]
    scale = float(x.quant.scale[0])
    return graph, Network(graph, graph.outputs), [
        {graph.inputs[0]: (random.integers(-60, 60, x.shape) * scale).astype(np.float32)} for _ in range(64)
    ]  # fmt: skip


def scores(network: Network, inputs: list[dict[int, Any]], reals: Any, bias: Any = None) -> list[list[Any]]:
    import tensorflow as tf

    biases = {} if bias is None else {0: tf.constant(bias, tf.float32)}
    filters = {0: tf.constant(reals, tf.float32)}
    return [[y.numpy() for y in network({t: tf.constant(v) for t, v in x.items()}, filters, biases)] for x in inputs]


def loss(found: list[list[Any]], wanted: list[list[Any]]) -> float:
    return float(sum(((a - b) ** 2).sum() for one, other in zip(found, wanted) for a, b in zip(one, other)))


def test_a_wrong_bias_is_trained_back() -> None:
    graph, network, inputs = layer()
    weights = graph.tensors[graph.ops[0].inputs[1]]
    reals, step = constant(weights), float(graph.tensors[graph.outputs[0]].quant.scale[0])
    bias = constant(graph.tensors[graph.ops[0].inputs[2]])
    wanted = scores(network, inputs * 8, reals, bias)
    wrong = Trained(np.float32(weights.data), np.float32(weights.quant.along(2)[0]), (-127, 127), None, bias + 0.1 * step, step)
    found = distilled(network, {0: wrong}, inputs * 8, wanted)[0]
    assert np.abs(found.bias - bias).mean() < 0.75 * 0.1 * step
    assert np.array_equal(found.codes, weights.data) and (found.multiple == 1).all()


def test_levels_are_trained_and_stay_so_few() -> None:
    graph, network, inputs = layer()
    weights = graph.tensors[graph.ops[0].inputs[1]]
    scale, step = np.float32(weights.quant.along(2)[0]), float(graph.tensors[graph.outputs[0]].quant.scale[0])
    wanted = scores(network, inputs * 4, constant(weights))
    levels = np.array([-120, -60, 0, 60, 120])
    coarse = levels[np.abs(weights.data[..., None] - levels).argmin(-1)].astype(np.float32)
    before = loss(scores(network, inputs, coarse * scale), wanted)
    found = distilled(network, {0: Trained(coarse, scale, (-127, 127), levels, None, step)}, inputs * 4, wanted)[0]
    codes = found.codes
    assert np.unique(codes).size <= 5 and codes.min() >= -127 and codes.max() <= 127 and found.bias is None
    assert not np.array_equal(codes, coarse) and (found.multiple == 1).all()
    assert loss(scores(network, inputs, codes * scale), wanted) < before


@pytest.mark.parametrize("wrong", [0.96, 1.04])
def test_a_wrong_range_is_trained_back(wrong: float) -> None:
    """Each output channel's scale is off alike; only the range may say so, since levels at the ends cannot move out."""
    graph, network, inputs = layer()
    weights = graph.tensors[graph.ops[0].inputs[1]]
    scale, step = np.float32(weights.quant.along(2)[0]), float(graph.tensors[graph.outputs[0]].quant.scale[0])
    wanted = scores(network, inputs * 8, constant(weights))
    levels = np.unique(weights.data)
    codes, off = np.float32(weights.data), np.float32(scale * wrong)
    before = loss(scores(network, inputs * 8, codes * off), wanted)
    free = Trained(codes, off, (-127, 127), levels, None, step, (0.5, 2.0))
    (found,) = distilled(network, {0: free}, inputs * 8, wanted).values()
    assert found.multiple.shape == (scale.size,) and found.codes.shape == codes.shape
    moved = (found.multiple - 1) * (1 - wrong)  # above zero where a range moved the right way
    assert (moved > 0).all() and np.abs(found.multiple * wrong - 1).max() < abs(wrong - 1)
    after = found.codes * off * np.float32(found.multiple.reshape(scale.shape))
    assert loss(scores(network, inputs * 8, after), wanted) < 0.7 * before
    bound = Trained(codes, off, (-127, 127), levels, None, step, (1.0, 1.0))
    (held,) = distilled(network, {0: bound}, inputs, wanted).values()
    assert (held.multiple == 1).all()


def two_layers() -> tuple[Any, Network, list[dict[int, Any]], list[list[Any]]]:
    """Two layers of one size, of which the scores hardly hold the second's outputs; samples, and what they score."""
    b = builders.Builder()
    x = b.activation([1, 16], "int8", 0.05, 0)
    strong, weak = b.activation([1, 16], "int8", 0.05, 0), b.activation([1, 16], "int8", 0.05, 0)
    out = b.activation([1, 16], "int8", 0.1, 0)
    random = np.random.default_rng(0)
    for target, size in ((strong, 0.01), (weak, 0.00002)):
        filter_ = b.tensor([16, 16], "int8", size, data=random.integers(-127, 128, (16, 16)).astype(np.int8))
        b.op("FULLY_CONNECTED", [x, filter_, -1], [target], "FullyConnectedOptions")
    b.op("ADD", [strong, weak], [out], "AddOptions")
    graph = checked_model(b.finish([x], [out])).main
    network = Network(graph, graph.outputs)
    inputs = [{graph.inputs[0]: (random.integers(-127, 128, (1, 16)) * 0.05).astype(np.float32)} for _ in range(32)]
    import tensorflow as tf

    wanted = [[y.numpy() for y in network({t: tf.constant(v) for t, v in one.items()}, {}, {})] for one in inputs]
    return graph, network, inputs, wanted


def test_what_matters_keeps_its_bits() -> None:
    graph, network, inputs, wanted = two_layers()
    blocks = {}
    for i in (0, 1):
        weights = graph.tensors[graph.ops[i].inputs[1]]
        steps = [np.float32(weights.quant.along(2)[0]) * 127 / top for top in (1, 7, 127)]
        blocks[i] = Block(constant(weights), steps, (1, 7, 127), (2.0, 4.0, 8.0))
    chances = learned_widths(network, blocks, 10.0, inputs, wanted)
    mean = {i: float(p @ (2.0, 4.0, 8.0)) for i, p in chances.items()}
    assert mean[0] > mean[1] + 1 and sum(mean.values()) < 11
    assert all(p.sum() == pytest.approx(1, abs=1e-5) for p in chances.values())


@pytest.mark.parametrize("multiples", [(0.5, 2.0), None])
def test_what_matters_keeps_the_larger_table(multiples: tuple[float, float] | None) -> None:
    graph, network, inputs, wanted = two_layers()
    blocks = {}
    for i in (0, 1):
        weights = graph.tensors[graph.ops[i].inputs[1]]
        levels = [np.unique(np.linspace(-120, 120, n).round().astype(int)) for n in (2, 4, 64)]
        steps = [np.float32(weights.quant.along(2)[0])] * 3
        blocks[i] = Codebooks(constant(weights), steps, levels, (-127, 127), multiples, (1.0, 2.0, 6.0))
    chances = learned_widths(network, blocks, 7.5, inputs, wanted)
    mean = {i: float(p @ (1.0, 2.0, 6.0)) for i, p in chances.items()}
    assert mean[0] > mean[1] + 1 and sum(mean.values()) < 8.5


def test_levels_and_ranges_learn_beside_the_width() -> None:
    import tensorflow as tf

    graph = two_layers()[0]
    weights = graph.tensors[graph.ops[0].inputs[1]]
    scale = np.float32(weights.quant.along(2)[0])
    levels = [np.arange(-100, 101, 50), np.arange(-100, 101, 10)]
    block = Codebooks(constant(weights), [scale] * 2, levels, (-127, 127), (0.5, 2.0), (1.0, 2.0))
    mixture = block.start(tf)
    kinds = [tuple(variable.shape) for variable, _ in mixture.learned]
    assert kinds == [(5,), (21,), scale.shape, scale.shape]
    with tf.GradientTape() as tape:
        error = tf.reduce_sum((mixture([0.5, 0.5]) - block.reals) ** 2)
    gradients = tape.gradient(error, [variable for variable, _ in mixture.learned])
    assert all(np.abs(g.numpy()).max() > 0 for g in gradients)
    one = mixture([1.0, 0.0]).numpy()
    assert np.array_equal(one, nearest(block.reals / scale, block.levels[0]).astype(np.float32) * scale)


@pytest.mark.parametrize("multiple", [1.0, 1.25])
def test_a_range_that_moved_takes_the_biases_units_along(monkeypatch: pytest.MonkeyPatch, multiple: float) -> None:
    """Training that makes every filter's range larger and its levels smaller by as much leaves what the model computes."""

    def trained(network: Any, layers: Any, *rest: Any) -> dict[int, Moved]:
        assert all(one.multiples[0] <= multiple <= one.multiples[1] for one in layers.values())
        codes = {i: np.round(one.codes / multiple).astype(np.int64) for i, one in layers.items()}
        return {i: Moved(codes[i], np.full(one.scale.size, multiple), np.float64(one.bias)) for i, one in layers.items()}

    # What a judge thinks is not the question.
    monkeypatch.setattr("tf_requant.pipeline.correct.Corrector.judged_errors", lambda self, plan, samples: np.array([next(errors)]))
    monkeypatch.setattr("tf_requant.pipeline.distill.distilled", trained)
    errors = iter((2.0, 1.0))
    asked: dict[str, Any] = {"calibration": calibration(), "corrections": "rounding,bias,distillation"}
    moved = tf_requant.requantize(model_path(), CODED, **asked)
    kept = tf_requant.requantize(model_path(), CODED, calibration=calibration(), corrections="rounding,bias")
    assert "distillation: kept" in moved.report.notes[0] and check_legality(moved.model, CODED).legal
    for one, other in zip(moved.model.main.ops, kept.model.main.ops):
        row = info(one)
        if row is None or row.filter is None:
            continue
        (w, b), (v, c) = (
            [result.model.main.tensors[op.inputs[p]] for p in (1, 2)] for result, op in ((moved, one), (kept, other))
        )
        assert np.allclose(w.quant.scale, v.quant.scale * multiple, rtol=1e-6)
        unit = b.quant.scale.astype(np.float64)
        assert np.allclose(unit, c.quant.scale.astype(np.float64) * multiple, rtol=1e-6)
        assert np.abs(b.data * unit - c.data * c.quant.scale.astype(np.float64)).max() <= unit.max() * 0.501 + 1e-12


@pytest.mark.parametrize(("name", "free"), [("nna_sym8_pow2", False), ("nna_sym8_pow2_per_channel", False), ("nna_sym8", True)])
def test_ranges_of_powers_of_two_stay(monkeypatch: pytest.MonkeyPatch, name: str, free: bool) -> None:
    seen: list[Any] = []

    def trained(network: Any, layers: Any, *rest: Any) -> dict[int, Moved]:
        seen.extend(layers.values())
        return {}

    monkeypatch.setattr("tf_requant.pipeline.distill.distilled", trained)
    target = load_target(name).derive(name="coded", weight={"codebook": 3})
    tf_requant.requantize(model_path(), target, calibration=calibration(), corrections="rounding,bias,distillation")
    assert len(seen) > 10 and all((one.multiples is not None) == free and one.levels is not None for one in seen)


def test_learned_widths_of_indices_keep_to_the_budget() -> None:
    target = CODED.derive(name="tables", weight={"codebook": [2, 3, 4]})
    asked: dict[str, Any] = {"bits": (2, 3, 4), "budget": "weights:0.75", "train_widths": True, "corrections": "rounding,bias"}
    result = tf_requant.requantize(model_path(), target, calibration=calibration(), **asked)
    (choice,) = result.report.widths
    assert choice.share <= 0.75 and len(set(choice.bits.values())) > 1 and "learned by training" in choice.note
    assert check_legality(result.model, target).legal
    with np.load(evaluation_path()) as file:
        data = file["images"]
    narrow = tf_requant.requantize(model_path(), target, bits=2, corrections="rounding,bias", calibration=calibration())
    figures = [tf_requant.validate(r, reference=model_path(), data=data, layers=0).quality["litert"].sqnr for r in (narrow, result)]
    assert figures[1] > figures[0] + 2


def test_a_distilled_codebook_is_legal_and_never_worse_on_the_samples_that_judge() -> None:
    result = tf_requant.requantize(model_path(), CODED, calibration=calibration(), corrections=f"{LIST},distillation")
    assert check_legality(result.model, CODED).legal
    note = next(n for n in result.report.notes if "distillation" in n)
    kept = "distillation: kept" in note
    assert kept == ("distillation" in result.report.corrections)
    for op in result.model.main.ops:
        row = info(op)
        if row is not None and row.filter is not None:
            assert np.unique(result.model.main.tensors[op.inputs[row.filter]].data).size <= 8


def test_learned_widths_keep_to_the_budget() -> None:
    asked: dict[str, Any] = {"bits": (4, 6, 8), "budget": "weights:0.7", "train_widths": True, "corrections": "none"}
    result = tf_requant.requantize(model_path(), MIXED, calibration=calibration(), **asked)
    (choice,) = result.report.widths
    assert choice.share <= 0.7 and choice.predicted is None and choice.frontier == () and choice.measured is not None
    assert "learned by training" in choice.note and check_legality(result.model, MIXED).legal
    with np.load(evaluation_path()) as file:
        data = file["images"]
    narrow = tf_requant.requantize(model_path(), MIXED, bits=4, corrections="none")
    figures = [tf_requant.validate(r, reference=model_path(), data=data, layers=0).quality["litert"].sqnr for r in (narrow, result)]
    assert figures[1] > figures[0] + 3


def test_a_model_without_gradients_is_refused_before_anything_runs() -> None:
    model, seen = builders.transpose_conv("int8"), []
    asked: dict[str, Any] = {"corrections": "bias,distillation", "calibration": np.zeros((8, 4, 5, 3), np.int8)}
    with pytest.raises(UnsupportedModelError, match="no gradient of TRANSPOSE_CONV"):
        tf_requant.requantize(model, CODED, progress=lambda *a: seen.append(a), **asked)
    assert not seen


@pytest.mark.parametrize(
    ("model", "shape", "sentence"),
    [
        (builders.fully_connected("int8", batch=2), (12,), "one sample at a time, and input 'tensor_0' takes 2"),
        (builders.unary("SOFTMAX", options="SoftmaxOptions", beta=1.0), (12,), "where no score is computed in integers"),
    ],
)
def test_what_no_gradient_is_known_of_is_told_first(model: bytes, shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(UnsupportedModelError, match=sentence):
        tf_requant.requantize(model, MIXED, corrections="bias,distillation", calibration=np.zeros((20, *shape), np.int8))


def test_widths_are_learned_beside_a_filter_of_one_scale() -> None:
    """The widest keeps the source's single scale, narrower ones get one a channel."""
    model = builders.small_net("int8", per_channel=False)
    shape = tf_requant.load_model(model).main.tensors[tf_requant.load_model(model).main.inputs[0]].shape
    samples = np.random.default_rng(0).integers(-128, 128, (20, *shape[1:])).astype(np.int8)
    asked: dict[str, Any] = {"bits": (4, 6, 8), "budget": "weights:0.7", "train_widths": True, "corrections": "none"}
    result = tf_requant.requantize(model, MIXED, calibration=samples, **asked)
    assert result.report.widths[0].share <= 0.7


def test_a_budget_out_of_reach_is_told_before_training() -> None:
    seen: list[Any] = []
    asked: dict[str, Any] = {"bits": (6, 8), "budget": "weights:0.5", "train_widths": True, "calibration": calibration()}
    # With equalization, calibration would measure noise first.
    with pytest.raises(UsageError, match="give at least weights:0.75"):
        tf_requant.requantize(model_path(), MIXED, corrections=LIST, progress=lambda *a: seen.append(a), **asked)
    assert not seen


def test_widths_are_learned_within_a_budget_of_weights_only() -> None:
    for asked in ({"bits": 6}, {}):
        with pytest.raises(UsageError, match="--train_widths learns the widths of weights within a budget"):
            tf_requant.requantize(model_path(), MIXED, train_widths=True, calibration=calibration(), **asked)
