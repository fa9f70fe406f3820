"""The shared MobileNetV2, quantization-aware-trained with TF 1.15, through every road in and out."""

import numpy as np
import pytest

tensorflow = pytest.importorskip("tensorflow")

from tests.tf1.nets import run_graph  # noqa: E402
from tf_requant import requantize  # noqa: E402
from tf_requant.io import tflite  # noqa: E402
from tf_requant.io.tf1 import GraphOptions  # noqa: E402
from tf_requant.model.ops import Activation, info  # noqa: E402
from tf_requant.pipeline.source import load_source  # noqa: E402
from tf_requant.runtime import InterpreterProcess  # noqa: E402

pytestmark = pytest.mark.slow

IMAGES = 1000
SOURCES = ("mnv2_cifar_qat_frozen.pb", "mnv2_cifar_qat_saved_model", "mnv2_cifar_qat_ckpt/model.meta")


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "models/tf1"


@pytest.mark.parametrize("target", ["tflite_uint8", "nna_sym8_pow2"])
def test_every_way_to_store_a_graph_gives_the_same_file(folder, target):
    files = [requantize(folder / source, target).model_bytes for source in SOURCES]
    assert files[0] == files[1] == files[2]


def test_the_conversion_is_that_of_tf_1_15(folder):
    ours = tflite.read(load_source(folder / SOURCES[0], GraphOptions(input_stats=(127.5, 127.5))).content).main
    theirs = tflite.read(folder / "mnv2_cifar_qat_uint8.tflite").main
    assert [op.code for op in ours.ops] == [op.code for op in theirs.ops]
    fused = []
    for one, other in zip(ours.ops, theirs.ops):
        row = info(one)
        for position, (a, b) in enumerate(zip(one.inputs, other.inputs)):
            mine, other_s = ours.tensors[a], theirs.tensors[b]
            if mine.quant is None:
                continue
            assert np.array_equal(mine.quant.scale, other_s.quant.scale), mine.name
            assert np.array_equal(mine.quant.zero_point, other_s.quant.zero_point), mine.name
            if row is not None and row.filter is not None and position in (row.filter, row.bias):
                assert np.array_equal(mine.data, other_s.data), mine.name
        mine, other_s = ours.tensors[one.outputs[0]], theirs.tensors[other.outputs[0]]
        assert np.array_equal(mine.quant.scale, other_s.quant.scale)
        assert np.array_equal(mine.quant.zero_point, other_s.quant.zero_point)
        kinds = [o.attrs.get("fused_activation_function", 0) for o in (one, other)]
        if kinds[0] != kinds[1]:
            assert {Activation(k) for k in kinds} == {Activation.NONE, Activation.RELU6}
            top = (255 - int(mine.quant.zero_point[0])) * float(mine.quant.scale[0])
            assert top <= 6 and int(mine.quant.zero_point[0]) == 0  # saturation clamps as much
            fused.append(one)
    assert len(fused) <= 2


def decisions(content: bytes, images: np.ndarray) -> np.ndarray:
    """Top-1 of a TFLite file."""
    with InterpreterProcess() as process:
        held = process.load(content)
        first = held.inputs[0]
        codes = np.round((images.astype(np.float64) - 128) / 127.5 / first.scale) + first.zero_point
        low, high = np.iinfo(first.dtype).min, np.iinfo(first.dtype).max
        scores = process.run({first.index: np.clip(codes, low, high).astype(first.dtype)})[held.outputs[0].index]
    return scores.reshape(len(images), -1).argmax(1)


@pytest.mark.parametrize("target", ["nna_sym8", "nna_sym8_pow2"])
def test_the_new_graph_decides_as_the_new_file(folder, shared, target):
    images = np.load(shared / "data/cifar10/eval.npz")["images"][:IMAGES]
    result = requantize(folder / SOURCES[0], target)
    name = result.source.model.main.tensors[result.source.model.main.inputs[0]].name
    scores = run_graph(result.graph_bytes, list(result.source.graph.keep[:1]), {name: np.float32((images - 127.5) / 127.5)})[0]
    agreement = np.mean(scores.reshape(IMAGES, -1).argmax(1) == decisions(result.model_bytes, images))
    assert agreement >= 0.98  # measured: 0.999 and 0.990
