"""`weights="trained"` rounds new filter codes from the floats behind a FakeQuant, `codes` from what it made of them."""

import numpy as np
import pytest

tensorflow = pytest.importorskip("tensorflow")

from tests.tf1.nets import INPUT_STATS, build  # noqa: E402
from tests.tf1.test_write import evaluated, parsed  # noqa: E402
from tf_requant import RequantError, requantize  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_process")]

NETS = {  # the FakeQuant of each filter, and how its dimensions go over to TFLite's
    "conv_same": ("conv", (3, 0, 1, 2)),
    "conv_batch_norm": ("conv", (3, 0, 1, 2)),
    "depthwise_multiplier": ("depthwise", None),
    "dense": ("dense", (1, 0)),
    "dense_transposed": ("dense", (0, 1)),
    "conv_transpose": ("up", (2, 0, 1, 3)),
}
TARGETS = ("tflite_int8_per_tensor", "nna_sym8_pow2_per_channel", "nna_sym8_pow2")


def converted(folder, net: str, target: str, weights: str):
    path = folder / "net.pb"
    path.write_bytes(build(net).content)
    return requantize(path, target, corrections="none", input_stats=INPUT_STATS, weights=weights)


def filters(result):
    """The one filter of a net's only layer."""
    graph = result.model.main
    op = next(op for op in graph.ops if op.code in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"))
    return graph.tensors[op.inputs[1]]


def step_of(codes: np.ndarray, scale: np.ndarray, floats: np.ndarray) -> float:
    """How far codes are from real values, in steps, at most."""
    return float(np.abs(codes - np.clip(floats / scale, -127, 127)).max())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("net", "how"), NETS.items())
@pytest.mark.parametrize("weights", ["trained", "codes"])
def test_new_filter_codes_are_the_nearest_to_what_they_are_rounded_from(tmp_path, net, how, target, weights):
    name, order = how
    held = filters(converted(tmp_path, net, target, weights))
    graph = parsed(build(net).content)
    quantizer = f"{name}/weights_quant/FakeQuantWithMinMaxVars"
    node = next(n for n in graph.node if n.name == quantizer)
    floats, low, high, rounded = evaluated(graph, [*node.input, quantizer])
    source = np.clip(floats, rounded.min(), rounded.max()) if weights == "trained" else rounded
    source = source.reshape(held.shape) if order is None else source.transpose(order)
    scale, zero_point = held.quant.along(4 if source.ndim == 4 else 2)
    assert not np.any(zero_point)
    assert step_of(held.data.astype(float), scale, source) <= 0.5 + 1e-3  # float32 of both ends


@pytest.mark.parametrize("net", ["conv_same", "depthwise", "dense"])
def test_trained_floats_give_other_codes_than_codes_do(tmp_path, net):
    one, other = (filters(converted(tmp_path, net, "nna_sym8_pow2", w)).data for w in ("trained", "codes"))
    assert not np.array_equal(one, other)
    assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize(
    ("net", "target"), [("conv_same", "tflite_uint8"), ("wide", "tflite_uint8"), ("conv_per_channel", "tflite_int8")]
)
def test_a_grid_that_stays_keeps_the_codes_either_way(tmp_path, net, target):
    one, other = (converted(tmp_path, net, target, w).model_bytes for w in ("trained", "codes"))
    assert one == other


@pytest.mark.parametrize("net", ["wide", "shared_filter", "conv_per_channel"])
def test_trained_filters_are_found_for_every_layer(tmp_path, net):
    assert converted(tmp_path, net, "nna_sym8_pow2", "trained").graph_bytes


def test_trained_filters_are_for_graphs_only(tmp_path):
    content = converted(tmp_path, "dense", "tflite_int8", "codes").model_bytes
    with pytest.raises(RequantError, match="trained weights are for TF1 graphs"):
        requantize(content, "nna_sym8", weights="trained")
    with pytest.raises(RequantError, match="weights is 'floats'"):
        requantize(tmp_path / "net.pb", "nna_sym8", weights="floats")
