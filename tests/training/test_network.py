"""The differentiable stand-in computes what the simulator computes, but for the rounding of rescales; its gradients are right."""

import sys
from typing import Any

import numpy as np
import pytest

from tests.simulator.cases import CASES
from tests.simulator.draw import Draw, random_inputs
from tf_requant.errors import RequantError, UnsupportedModelError, UsageError
from tf_requant.io import tflite
from tf_requant.model.graph import Graph
from tf_requant.numerics.integers import limits
from tf_requant.pipeline.lanes import in_reals
from tf_requant.pipeline.simulate import checked_model
from tf_requant.sample import evaluation_path, model_path
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Simulator
from tf_requant.training.network import _KERNELS, Network, straight_through


def test_without_tensorflow_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UsageError, match=r"pip install 'tf_requant\[tensorflow\]'"):
        Network(tflite.read(model_path().read_bytes()).main, ())


def reals(graph: Graph, codes: dict[int, Any]) -> dict[int, Any]:
    tf = pytest.importorskip("tensorflow")
    return {t: tf.constant(in_reals(array, graph, t), tf.float32) for t, array in codes.items()}


@pytest.mark.parametrize("code", sorted(_KERNELS))
def test_every_op_equals_the_simulators_to_a_step(code: str) -> None:
    pytest.importorskip("tensorflow")
    ran = 0
    for dtype in ("uint8", "int8"):
        for seed in range(6):
            try:
                graph = checked_model(CASES[code](Draw(seed, dtype))).main
                outputs = [t for t in graph.outputs if graph.tensors[t].dtype in (dtype, "float32")]
                network = Network(graph, outputs)
                inputs = dict(zip(graph.inputs, random_inputs(seed, [graph.tensors[t] for t in graph.inputs])))
                found = network(reals(graph, inputs), {}, {})
            except RequantError:
                continue  # no such kernel in TFLite, or a form that is refused
            expected = Simulator(graph, TFLITE_REF).run(inputs)
            for t, y in zip(outputs, found):
                quant = graph.tensors[t].quant
                step = float(quant.scale[0]) if quant is not None else 1e-6
                # Rescales round twice in TFLite, and tables once more.
                assert np.abs(y.numpy() - in_reals(expected[t], graph, t)).max(initial=0) <= 1.01 * step
                ran += 1
    assert ran


def test_a_network_equals_the_simulators() -> None:
    pytest.importorskip("tensorflow")
    graph = tflite.read(model_path().read_bytes()).main
    scores = graph.ops[-1].inputs[0]
    with np.load(evaluation_path()) as file:
        image = file["images"][:1]
    (found,) = Network(graph, [scores])(reals(graph, {graph.inputs[0]: image}), {}, {})
    expected = in_reals(Simulator(graph, TFLITE_REF).run({graph.inputs[0]: image}, "all")[scores], graph, scores)
    assert ((found.numpy() - expected) ** 2).sum() < 1e-3 * (expected**2).sum()


def test_an_op_without_a_gradient_is_refused() -> None:
    pytest.importorskip("tensorflow")
    graph = checked_model(CASES["TRANSPOSE_CONV"](Draw(0, "int8"))).main
    with pytest.raises(UnsupportedModelError, match="no gradient of TRANSPOSE_CONV"):
        Network(graph, graph.outputs)


def test_a_gradient_passes_rounding_and_stops_where_codes_saturate() -> None:
    tf = pytest.importorskip("tensorflow")
    values = tf.Variable([-9.0, -8.0, -1.3, 0.5, 6.6, 9.0])
    with tf.GradientTape() as tape:
        rounded = straight_through(tf, values, *limits(4))
    assert rounded.numpy().tolist() == [-8, -8, -1, 0, 7, 7]
    assert tape.gradient(rounded, values).numpy().tolist() == [0, 1, 1, 1, 1, 0]
