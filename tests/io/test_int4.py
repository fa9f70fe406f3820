"""INT4 filters: packed in the file, int8 in memory, and in every interpreter the same codes as int8 filters give."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import tf_requant
from tests import builders
from tf_requant.io import tflite, tflite_writer
from tf_requant.io.int4 import pack, packed, unpack
from tf_requant.model.graph import Model
from tf_requant.pipeline.simulate import checked_model
from tf_requant.runtime import run_model
from tf_requant.sample import calibration_path, evaluation_path, model_path
from tf_requant.targets import load_target
from tf_requant.validation.legality import check_legality

BUILDS = {"CONV_2D": builders.conv2d, "DEPTHWISE_CONV_2D": builders.depthwise, "FULLY_CONNECTED": builders.fully_connected}


def narrow(content: bytes, low: int = -8, high: int = 7) -> Model:
    """The model with a filter of random codes of few bits."""
    model = tflite.read(content)
    index = model.main.ops[0].inputs[1]
    tensors = list(model.main.tensors)
    codes = np.random.default_rng(1).integers(low, high + 1, tensors[index].shape)
    tensors[index] = tensors[index].with_(data=codes.astype(tensors[index].dtype))
    return model.with_(graphs=(model.main.with_(tensors=tuple(tensors)),))


def with_packed(model: Model) -> Model:
    return model.with_(graphs=tuple(map(packed, model.graphs)))


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 3, 4), (0, 4)])
def test_packing_turns_back(shape: tuple[int, ...]) -> None:
    codes = np.random.default_rng(0).integers(-8, 8, shape).astype(np.int8)
    raw = pack(codes)
    assert raw.size == (codes.size + 1) // 2 and np.array_equal(unpack(raw, shape), codes)


@pytest.mark.parametrize(("code", "per_channel"), list(product(BUILDS, (False, True))))
def test_every_interpreter_computes_what_it_does_with_int8(code: str, per_channel: bool) -> None:
    wide = narrow(BUILDS[code]("int8", per_channel=per_channel, **({"channels": 3} if code != "FULLY_CONNECTED" else {"depth": 7})))
    contents = [tflite_writer.write(m) for m in (wide, with_packed(wide))]
    kinds = [schema.Model.GetRootAs(c).Subgraphs(0).Tensors(wide.main.ops[0].inputs[1]).Type() for c in contents]
    assert kinds == [schema.TensorType.INT8, schema.TensorType.INT4]
    shape = wide.main.tensors[wide.main.inputs[0]].shape
    x = np.random.default_rng(2).integers(-128, 128, shape).astype(np.int8)
    for backend in ("litert_ref", "litert_opt", "litert"):
        found = [run_model(c, {0: x}, backend) for c in contents]
        difference = [np.abs(found[0][t].astype(int) - found[1][t]).max() for t in found[0]]
        # With INT4 the faster resolvers leave the kernels of their own, whose rescales may round otherwise.
        assert max(difference) <= (0 if backend == "litert_ref" else 1)
    read = checked_model(contents[1])
    assert read.main.tensors[wide.main.ops[0].inputs[1]].packed and tflite_writer.write(read) == contents[1]
    simulated = tf_requant.simulate(read, x)
    (expected,) = run_model(contents[1], {0: x}, "litert_ref").values()
    assert [np.array_equal(codes, expected[0]) for codes in simulated.values()] == [True]


@pytest.mark.parametrize(
    "content",
    [builders.conv2d("int16"), builders.depthwise("int16"), builders.conv2d("uint8"), builders.transpose_conv("int8")],
    ids=["int16", "depthwise int16", "uint8", "TRANSPOSE_CONV"],
)
def test_what_no_kernel_reads_packed_stays(content: bytes) -> None:
    model = narrow(content) if "uint8" not in str(tflite.read(content).main.tensors[0].dtype) else tflite.read(content)
    assert not any(t.packed for t in with_packed(model).main.tensors)


def test_codes_that_do_not_fit_stay() -> None:
    assert not any(t.packed for t in with_packed(narrow(builders.conv2d("int8"), -8, 8)).main.tensors)
    assert not any(t.packed for t in with_packed(narrow(builders.conv2d("int8"), -9, 7)).main.tensors)


def test_a_filter_that_something_else_reads_too_stays() -> None:
    b = builders.Builder()
    data, weights = b.activation([2, 6], "int8"), b.filter([6, 6], "int8")
    y, z = b.activation([2, 6], "int8", 0.5), b.activation([6, 6], "int8", 0.02)
    b.op("FULLY_CONNECTED", [data, weights, -1], [y], "FullyConnectedOptions", 4)
    b.op("RESHAPE", [weights, b.integers([6, 6])], [z])
    model = narrow(b.finish([data], [y, z]))
    assert not any(t.packed for t in with_packed(model).main.tensors)


def test_what_changes_nothing_is_told() -> None:
    result = tf_requant.requantize(builders.conv2d("int8"), "tflite_int8", int4=True, corrections="none")
    assert any("--int4 changed nothing" in w for w in result.report.warnings)


def test_a_conversion_writes_them_and_reads_them_again() -> None:
    target = load_target("tflite_int8").derive(name="mixed", weight={"bits": [8, 4]})
    samples = np.load(calibration_path())["images"][:20]
    asked: dict[str, Any] = {"calibration": tf_requant.calibrate(model_path(), samples, noise=False), "bits": 4}
    plain, small = (tf_requant.requantize(model_path(), target, int4=int4, **asked) for int4 in (False, True))
    assert sum(t.packed for t in small.model.main.tensors) == 17
    halves = sum(t.data.size // 2 for t in small.model.main.tensors if t.packed and t.data is not None)
    assert len(plain.model_bytes) - len(small.model_bytes) == pytest.approx(halves, abs=64)
    assert check_legality(checked_model(small.model_bytes), target).legal
    images = np.load(evaluation_path())["images"][:4]
    same = tf_requant.validate(small.model_bytes, reference=plain.model_bytes, data=images, layers=0, against=("litert_ref", "sim"))
    assert all(q.sqnr == np.inf for q in same.quality.values())
    # As a source it is like any other; what is re-expressed to more bits is written in int8.
    again = tf_requant.requantize(small.model_bytes, "nna_sym8_pow2", corrections="none")
    assert not any(t.packed for t in again.model.main.tensors if t.data is not None and np.abs(t.data.astype(int)).max(initial=0) > 8)
    assert "stored as INT4" in str(tf_requant.inspect(small.model_bytes))
