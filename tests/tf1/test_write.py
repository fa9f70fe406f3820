"""TF1 graphs written back with ranges on a target's grid compute what the target does, and read back as the same model."""

from functools import cache

import numpy as np
import pytest

tensorflow = pytest.importorskip("tensorflow")

from tensorflow.compat import v1  # noqa: E402

from tests.tf1.nets import INPUT_STATS, build, run_graph  # noqa: E402
from tf_requant import RequantError, Result, requantize, simulate, validate  # noqa: E402
from tf_requant.io.tf1.fake_quant import Range, range_from  # noqa: E402
from tf_requant.model.ops import info  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_process")]

TARGETS = ("tflite_int8", "nna_sym8", "nna_sym8_pow2", "nna_sym8_pow2_per_channel", "nna_usym8_pow2")
NETS = (
    "conv_same", "conv_linear", "conv_no_bias", "conv_batch_norm", "conv_space_to_batch", "conv_per_channel", "depthwise",
    "depthwise_multiplier", "dense", "dense_transposed", "dense_no_bias", "conv_transpose", "residual", "residual_relu", "residual_relu6", "implied_relu",
    "concat", "max_pool", "avg_pool", "mean", "pad", "resize", "softmax", "input_ranged", "input_args",
    "input_unit_range", "symmetric_range", "shared_filter", "two_inputs",
    "early_output", "lone_relu", "wide", "range_behind_pool",
)  # fmt: skip
# What FakeQuant nodes cannot say: a range per channel runs along the last dimension only.
UNSAID = {
    ("conv_transpose", "tflite_int8"),
    ("conv_transpose", "nna_sym8_pow2_per_channel"),
    ("dense_transposed", "nna_sym8_pow2_per_channel"),
}
CASES = [(n, t) for n in NETS for t in TARGETS if (n, t) not in UNSAID]
# A dense layer's range per channel can be written, and the converter cannot read it.
UNREAD = {(n, "nna_sym8_pow2_per_channel") for n in ("dense", "dense_no_bias", "avg_pool", "mean", "softmax")}
SAMPLES = 16
# The least share of equal codes. Multipliers of a power of two leave FakeQuant's rounding alone, which is HALF_UP: all are
# equal. Others are rounded twice, by at most a code. An average that lies half way between two codes goes up in a graph and
# away from zero in TFLite's kernels, which is down where the codes of positive values are negative (zero point -128).
LEAST = {
    ("avg_pool", "tflite_int8"): 0.9,
    ("mean", "tflite_int8"): 0.95,
    ("concat", "tflite_int8"): 0.97,
    ("range_behind_pool", "tflite_int8"): 0.98,
    ("resize", "tflite_int8"): 0.75,
    ("wide", "tflite_int8"): 0.98,
    ("residual_relu6", "tflite_int8"): 0.98,
    ("resize", "nna_usym8_pow2"): 0.85,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory, in_process):
    folder = tmp_path_factory.mktemp("nets")

    @cache
    def made(net: str, target: str) -> Result:
        path = folder / f"{net}.pb"
        path.write_bytes(build(net).content)
        return requantize(path, target, corrections="none", input_stats=INPUT_STATS)

    return made


def parsed(content: bytes) -> v1.GraphDef:
    graph = v1.GraphDef()
    graph.ParseFromString(content)
    return graph


def ranges(content: bytes) -> dict[str, tuple[Range, bool]]:
    """Every FakeQuant node's range, and whether it is a filter's."""
    graph = parsed(content)
    nodes = {n.name: n for n in graph.node}
    quantizers = [n for n in graph.node if n.op.startswith("FakeQuant")]
    found = {}
    for node in quantizers:
        if node.op == "FakeQuantWithMinMaxArgs":
            ends = np.float32(node.attr["min"].f), np.float32(node.attr["max"].f)
        else:
            ends = evaluated(graph, list(node.input[1:3]))
        source = node.input[0]
        while nodes[source].op in ("Identity", "Reshape", "Mul"):
            source = nodes[source].input[0]
        found[node.name] = range_from(node, *ends), nodes[source].op == "Const"
    return found


def evaluated(graph, names: list[str]) -> list[np.ndarray]:
    made = v1.Graph()
    with made.as_default():
        v1.import_graph_def(graph, name="")
        with v1.Session(graph=made) as session:
            return session.run([n if ":" in n else f"{n}:0" for n in names])


def fixed_codes(result: Result) -> list[np.ndarray]:
    """The filters' and biases' codes, in the order of the ops."""
    graph, found = result.model.main, []
    for op in graph.ops:
        row = info(op)
        for position in (row.filter, row.bias) if row is not None and row.filter is not None else ():
            if position is not None and len(op.inputs) > position and op.inputs[position] >= 0:
                found.append(graph.tensors[op.inputs[position]].data)
    return found


def differences(result: Result, seed: int = 5) -> np.ndarray:
    """By how many codes the new graph is off the target's own arithmetic, on random input codes."""
    graph, random = result.model.main, np.random.default_rng(seed)
    held = [graph.tensors[i] for i in graph.inputs]
    low = {"int8": -128, "uint8": 0}
    codes = {t.name: (random.integers(0, 256, (SAMPLES, *t.shape[1:])) + low[t.dtype]).astype(t.dtype) for t in held}
    feeds = {t.name: np.float32((codes[t.name].astype(int) - int(t.quant.zero_point[0])) * t.quant.scale[0]) for t in held}
    style = "tflite_ref" if result.target.name.startswith("tflite") else "nna"
    got = next(iter(simulate(result.model_bytes, codes, arithmetic=style).values()))
    real = run_graph(result.graph_bytes, list(result.source.graph.keep[:1]), feeds)[0]
    out = graph.tensors[graph.outputs[0]]
    expected = np.round(real.astype(np.float64) / float(out.quant.scale[0])) + int(out.quant.zero_point[0])
    expected = np.clip(expected, low[out.dtype], low[out.dtype] + 255)
    return np.abs(got.reshape(expected.shape).astype(int) - expected).astype(int)


@pytest.mark.parametrize(("net", "target"), CASES)
def test_the_new_graph_computes_what_the_target_does(results, net, target):
    off = differences(results(net, target))
    assert np.mean(off == 0) >= LEAST.get((net, target), 1.0 if "pow2" in target else 0.99)
    assert off.max() <= (1 if "nna" in target else 2)


@pytest.mark.parametrize(("net", "target"), CASES)
def test_every_range_of_the_new_graph_is_on_the_targets_grid(results, net, target):
    result = results(net, target)
    for name, (held, is_filter) in ranges(result.graph_bytes).items():
        scale, zero_point = held.grid()
        assert held.bits == 8
        if "nna" in target or is_filter:
            allowed = {0, 128} if "usym" in target and not is_filter else {128}
            assert set(zero_point.tolist()) <= allowed, f"{name}: {zero_point}"
        if "pow2" in target:
            mantissa, _ = np.frexp(scale)
            assert np.all(mantissa == 0.5), f"{name}: {scale}"
        if is_filter:
            assert held.narrow, name


@pytest.mark.parametrize(("net", "target"), [c for c in CASES if c not in UNREAD])
def test_the_new_graph_reads_back_as_the_same_filters_and_biases(results, tmp_path, net, target):
    first = results(net, target)
    first.save(tmp_path / "new.pb")
    again = requantize(tmp_path / "new.pb", target, corrections="none", input_stats=INPUT_STATS)
    ours, theirs = fixed_codes(first), fixed_codes(again)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        assert one.shape == other.shape
        assert np.array_equal(one, other), f"{np.count_nonzero(one != other)} of {one.size} differ"


@pytest.mark.parametrize(("net", "target"), sorted(UNREAD))
def test_a_dense_range_per_channel_is_refused_when_it_is_read(results, tmp_path, net, target):
    results(net, target).save(tmp_path / "new.pb")
    with pytest.raises(RequantError, match="MatMul.*range per channel"):
        requantize(tmp_path / "new.pb", target, corrections="none", input_stats=INPUT_STATS)


@pytest.mark.parametrize("target", ["tflite_int8", "nna_usym8_pow2", "nna_sym8_pow2"])
def test_a_name_with_a_number_is_not_taken_for_another(results, target):
    off = differences(results("numbered_pools", target))
    assert off.max() <= 4 and np.mean(off == 0) > 0.5  # averages round half way otherwise


def test_a_layer_that_keeps_its_precision_is_no_range_of_a_graph(tmp_path, in_process):
    (tmp_path / "net.pb").write_bytes(build("residual_relu6").content)
    result = requantize(tmp_path / "net.pb", "nna_sym8_pow2", corrections="none", keep="last", input_stats=INPUT_STATS)
    with pytest.raises(RequantError, match="at another precision"):
        _ = result.graph_bytes


def test_a_written_graph_remembers_the_samples_that_shaped_it(tmp_path, in_process):
    (tmp_path / "net.pb").write_bytes(build("conv_same").content)
    data = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    result = requantize(tmp_path / "net.pb", "nna_sym8_pow2", corrections="bias", calibration=data, input_stats=INPUT_STATS)
    result.save(tmp_path / "new.pb")
    with pytest.raises(RequantError, match="calibrated on"):
        validate(tmp_path / "new.pb", reference=result.source.content, data=data)


@pytest.mark.parametrize(("net", "target"), sorted(UNSAID))
def test_a_range_per_channel_where_no_node_has_one_is_refused(results, net, target):
    assert results(net, target).model_bytes
    with pytest.raises(RequantError, match="last dimension"):
        _ = results(net, target).graph_bytes
