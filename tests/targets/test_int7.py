"""EasyQuant's device (arXiv 2006.16669): 7-bit codes, eight products at a time in 16 bits, convolutions by Winograd."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tf_requant
from tf_requant.model.graph import Graph
from tf_requant.numerics.affine import reexpress
from tf_requant.numerics.arithmetic import Intermediate
from tf_requant.numerics.integers import limits
from tf_requant.pipeline.simulate import checked_model
from tf_requant.sample import evaluation_path, model_path
from tf_requant.targets import Target, load_target
from tf_requant.validation.legality import check_legality

LEAST = 0.95
"""Of 256 images; 250 agreed when this was written (0.977), 254 with the bundled calibration samples."""


@pytest.fixture(scope="module")
def target() -> Target:
    return load_target(Path(__file__).parent / "int7.json")


@pytest.fixture(scope="module")
def result(target: Target) -> tf_requant.Result:
    return tf_requant.requantize(model_path(), target)


@pytest.fixture(scope="module")
def images() -> Any:
    with np.load(evaluation_path()) as file:
        return file["images"]


def encoded(source: Graph, graph: Graph, images: Any) -> Any:
    """The images' codes in a candidate: the same real values."""
    old, new = source.tensors[source.inputs[0]].quant, graph.tensors[graph.inputs[0]].quant
    assert old is not None and new is not None
    step = float(old.scale[0]) / float(new.scale[0])
    return reexpress(images.astype(np.int64) - int(old.zero_point[0]), step, -128, 127).astype(np.int8)


def test_it_says_all_that_it_is(target: Target) -> None:
    assert target.activation.bits == target.weight.bits == (7,)
    assert target.accumulator.intermediate == Intermediate(16, 8) and target.accumulator.bits == 32
    assert target.winograd == target.arithmetic.winograd == "F(2x2,3x3)" and target.arithmetic.activation_bits == 7
    assert load_target(target.to_dict()) == target


def test_what_requantize_writes_for_it_is_legal_and_narrow(target: Target, result: tf_requant.Result) -> None:
    verdict = check_legality(checked_model(result), target)
    assert verdict.legal and [h.where.split("(")[1].split(",")[0] for h in verdict.host_ops] == ["SOFTMAX"]
    filters = [t.data for t in checked_model(result).main.tensors if t.data is not None and t.dtype == "int8"]
    assert len(filters) == 17 and max(int(np.abs(f.astype(int)).max()) for f in filters) == 63


def test_it_runs_in_litert_and_is_checked_there_and_in_the_simulator(target: Target, result: tf_requant.Result) -> None:
    check = tf_requant.validate(
        result, reference=model_path(), data=evaluation_path(), target=target, against=["litert", "sim"]
    )
    assert check.agreement >= LEAST


def test_the_device_agrees_with_the_source(target: Target, result: tf_requant.Result, images: Any) -> None:
    source, graph = checked_model(model_path()).main, checked_model(result).main
    x = encoded(source, graph, images)
    low, high = limits(7)
    assert low <= x.min() and x.max() <= high
    with tf_requant.Simulation(model_path()) as reference, tf_requant.Simulation(result, target) as simulation:
        scores = [next(iter(s.run(codes).values())) for s, codes in ((reference, images), (simulation, x))]
        elsewhere = [where for where, p in simulation.report.placed if p.where != "device"]
    assert len(elsewhere) == 1 and "SOFTMAX" in elsewhere[0]
    one, other = (s.reshape(len(images), -1).argmax(axis=1) for s in scores)
    assert len(images) == 256 and (one == other).mean() >= LEAST


def test_neither_its_register_nor_winograd_changes_a_code_and_none_is_wider_than_7_bits(
    target: Target, result: tf_requant.Result, images: Any
) -> None:
    source, graph = checked_model(model_path()).main, checked_model(result).main
    x = encoded(source, graph, images[:3])
    plain = replace(target.arithmetic, winograd=None, accumulator=replace(target.accumulator, intermediate=None))
    narrow, direct = (tf_requant.simulate(result, x, arithmetic=a, tensors="all") for a in (target.arithmetic, plain))
    inside = [t.name for op in graph.ops if op.code != "SOFTMAX" for t in (graph.tensors[op.outputs[0]],)]
    assert all(np.array_equal(narrow[name], direct[name]) for name in narrow)
    assert all(-64 <= int(narrow[name].min()) and int(narrow[name].max()) <= 63 for name in inside)
