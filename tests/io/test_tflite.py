"""Reading loses nothing, writing adds nothing, and what the bindings do not know is refused."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tf_requant import requantize
from tf_requant.errors import ModelFormatError
from tf_requant.io.tflite import read
from tf_requant.io.tflite_writer import write
from tf_requant.model.graph import Model
from tf_requant.runtime import run_model
from tf_requant.sample import model_path

SAMPLE = model_path().read_bytes()
ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / os.environ.get("TF_REQUANT_SHARED", "../shared")
MODELS = sorted((SHARED / "models").rglob("*.tflite"))
SEANET = sorted((SHARED / "data/golden/tflm_seanet").glob("*.npz"))


def unpack(data: bytes) -> Any:
    """The schema's own object tree of a file."""
    return schema.ModelT.InitFromPackedBuf(data, 0)


def edited(change: Callable[[Any], None], data: bytes = SAMPLE) -> bytes:
    """The file after a change to the schema's object tree."""
    tree = unpack(data)
    change(tree)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def assert_same_fields(got: Any, expected: Any, path: str = "model") -> None:
    """Compares two object trees field for field; NaN equals NaN."""
    assert type(got) is type(expected), path
    if isinstance(got, np.ndarray):
        assert got.dtype == expected.dtype and np.array_equal(got, expected), path
    elif isinstance(got, list):
        assert len(got) == len(expected), path
        for i, (a, b) in enumerate(zip(got, expected)):
            assert_same_fields(a, b, f"{path}[{i}]")
    elif hasattr(got, "__dict__"):
        for name, value in vars(got).items():
            assert_same_fields(value, getattr(expected, name), f"{path}.{name}")
    else:
        assert got == expected or got != got, (path, got, expected)


def with_data(model: Model, changes: dict[int, Any]) -> Model:
    """The model with other elements in some constants."""
    tensors = [t.with_(data=changes[i]) if i in changes else t for i, t in enumerate(model.main.tensors)]
    return model.with_(graphs=(model.main.with_(tensors=tuple(tensors)), *model.graphs[1:]))


def buffer_of(model: Model, tensor: int) -> int:
    """The buffer index that the file stores for a tensor of the main graph."""
    return int(model.main.tensors[tensor].opaque.get("buffer"))


def test_the_bundled_model_is_written_back_field_for_field() -> None:
    assert_same_fields(unpack(write(read(SAMPLE))), unpack(SAMPLE))


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_every_shared_model_is_written_back_field_for_field(path: Path) -> None:
    data = path.read_bytes()
    assert_same_fields(unpack(write(read(data))), unpack(data))


@pytest.mark.parametrize("path", SEANET, ids=lambda p: p.stem)
def test_every_seanet_model_is_written_back_field_for_field(path: Path) -> None:
    data = np.load(path)["model"].tobytes()
    assert_same_fields(unpack(write(read(data))), unpack(data))


def test_equal_models_give_equal_bytes() -> None:
    one, other = requantize(SAMPLE, "nna_sym8_pow2"), requantize(bytes(bytearray(SAMPLE)), "nna_sym8_pow2")
    assert one.model_bytes == other.model_bytes
    assert write(read(one.model_bytes)) == one.model_bytes


@pytest.mark.parametrize("target", ["tflite_uint8", "tflite_int16x8"])
def test_every_buffer_begins_at_a_multiple_of_16_bytes(target: str) -> None:
    model = schema.Model.GetRootAs(requantize(SAMPLE, target).model_bytes, 0)
    begins = []
    for i in range(model.BuffersLength()):
        table = model.Buffers(i)._tab
        if table.Offset(4):
            begins.append(table.Vector(table.Offset(4)))
    assert len(begins) > 20
    assert {b % 16 for b in begins} == {0}


def test_external_buffers_lie_aligned_behind_the_flatbuffer() -> None:
    tree = unpack(write(read(SAMPLE), inline_limit=0))
    external = [b for b in tree.buffers if b.offset > 1]
    assert len(external) > 20
    assert all(b.data is None and b.offset % 16 == 0 and b.size > 0 for b in external)


def test_external_buffers_are_read_back_as_they_were_inline() -> None:
    external = write(read(SAMPLE), inline_limit=0)
    for there, here in zip(read(external).main.tensors, read(SAMPLE).main.tensors):
        assert np.array_equal(there.data, here.data) if here.data is not None else there.data is None
    for table in unpack(write(read(external))).buffers:  # inline again
        assert table.offset == 0 and table.size == 0


def test_a_model_with_external_buffers_runs_to_the_same_outputs() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32, 3)).astype(np.uint8)
    name = read(SAMPLE).main.tensors[read(SAMPLE).main.inputs[0]].name
    inline, external = (
        run_model(m, {name: images}, "litert_ref") for m in (SAMPLE, write(read(SAMPLE), inline_limit=0))
    )
    assert {k: v.tolist() for k, v in external.items()} == {k: v.tolist() for k, v in inline.items()}


def test_an_external_buffer_beyond_the_file_is_refused_as_truncated() -> None:
    external = write(read(SAMPLE), inline_limit=0)
    with pytest.raises(ModelFormatError, match="truncated: buffer .* spans bytes"):
        read(external[:-100])


def sharing() -> tuple[bytes, int, int]:
    """The bundled model with one buffer behind two of its biases, and those tensors' indices."""
    model = read(SAMPLE)
    one, other = [i for i, t in enumerate(model.main.tensors) if t.is_constant and t.shape == (16,)][:2]

    def share(tree: Any) -> None:
        tensors = tree.subgraphs[0].tensors
        tensors[other].buffer = tensors[one].buffer

    return edited(share), one, other


def test_a_shared_buffer_is_split_when_one_tensor_changes() -> None:
    data, one, other = sharing()
    model = read(data)
    result = read(write(with_data(model, {one: np.arange(16, dtype=np.int32)})))
    assert result.main.tensors[one].data.tolist() == list(range(16))
    assert result.main.tensors[other].data.tolist() == model.main.tensors[other].data.tolist()


def test_a_shared_buffer_is_split_when_both_tensors_change_differently() -> None:
    data, one, other = sharing()
    changes = {one: np.arange(16, dtype=np.int32), other: np.arange(16, 32, dtype=np.int32)}
    result = read(write(with_data(read(data), changes)))
    assert {i: result.main.tensors[i].data.tolist() for i in changes} == {i: d.tolist() for i, d in changes.items()}


def test_a_shared_buffer_stays_shared_when_its_tensors_agree() -> None:
    data, one, other = sharing()
    changes = {i: np.arange(16, dtype=np.int32) for i in (one, other)}
    for model in (read(data), with_data(read(data), changes)):
        result = read(write(model))
        assert buffer_of(result, one) == buffer_of(result, other)


def test_the_elements_of_a_transposed_view_are_written_in_the_order_of_the_view() -> None:
    model = read(SAMPLE)
    index = next(i for i, t in enumerate(model.main.tensors) if t.is_constant and len(t.shape) == 4 and t.shape[0] == 1)
    view = model.main.tensors[index].data.transpose(0, 2, 1, 3)[:, ::-1]
    result = read(write(with_data(model, {index: view})))
    assert np.array_equal(result.main.tensors[index].data, view)


def with_archive(data: bytes) -> bytes:
    """The file with a zip of label maps appended, its offsets counted from the file's first byte."""
    file = io.BytesIO(data)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
        archive.writestr("notes/long.txt", "x" * 5000)
    return file.getvalue()


@pytest.mark.parametrize("name", ["a", "a" * 10_000], ids=["shrinks", "grows"])
def test_an_appended_archive_stays_readable_when_the_flatbuffer_before_it(name: str) -> None:
    model = read(with_archive(SAMPLE))
    tensors = tuple(t.with_(name=name) for t in model.main.tensors)
    out = write(model.with_(graphs=(model.main.with_(tensors=tensors),)))
    assert len(out) != len(with_archive(SAMPLE))
    with zipfile.ZipFile(io.BytesIO(out)) as archive:
        assert archive.testzip() is None
        files = {n: archive.read(n) for n in archive.namelist()}
    assert files == {"labels.txt": b"cat\ndog\n", "notes/long.txt": b"x" * 5000}


@pytest.mark.parametrize("path", [p for p in MODELS if read(p).opaque.archive is not None], ids=lambda p: p.stem)
def test_the_label_maps_of_a_shared_model_survive_requantization(path: Path) -> None:
    with zipfile.ZipFile(path) as before:
        expected = {n: before.read(n) for n in before.namelist()}
    with zipfile.ZipFile(io.BytesIO(requantize(path, "nna_sym8").model_bytes)) as after:
        assert {n: after.read(n) for n in after.namelist()} == expected


def annotated(tree: Any) -> None:
    """Adds a signature, a metadata entry and a custom op with options behind the bundled model's output."""
    graph = tree.subgraphs[0]
    tree.signatureDefs = [schema.SignatureDefT()]
    tree.signatureDefs[0].signatureKey, tree.signatureDefs[0].subgraphIndex = b"serve", 0
    for side, tensor in (("inputs", graph.inputs[0]), ("outputs", graph.outputs[0])):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = f"my_{side}".encode(), tensor
        setattr(tree.signatureDefs[0], side, [entry])
    code = schema.OperatorCodeT()
    code.deprecatedBuiltinCode = code.builtinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = b"MyOp", 7
    tree.operatorCodes.append(code)
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = len(tree.operatorCodes) - 1, [graph.outputs[0]], [len(graph.tensors)]
    op.customOptions = [1, 2, 250]
    graph.operators.append(op)
    graph.tensors.append(schema.TensorT())
    graph.tensors[-1].name, graph.tensors[-1].shape, graph.tensors[-1].type = b"out", [1, 4], schema.TensorType.FLOAT32
    graph.outputs = [graph.outputs[0], len(graph.tensors) - 1]
    buffer = schema.BufferT()
    buffer.data = list(b"hello")
    tree.buffers.append(buffer)
    tree.metadata.append(schema.MetadataT())
    tree.metadata[-1].name, tree.metadata[-1].buffer = b"note", len(tree.buffers) - 1


def test_names_signatures_metadata_and_custom_options_survive_requantization() -> None:
    source = edited(annotated)
    before, after = unpack(source), unpack(requantize(source, "nna_sym8", corrections="none").model_bytes)
    assert [t.name for t in after.subgraphs[0].tensors[: len(before.subgraphs[0].tensors)]] == [
        t.name for t in before.subgraphs[0].tensors
    ]
    assert_same_fields(after.signatureDefs, before.signatureDefs)
    custom = next(o for o in after.subgraphs[0].operators if after.operatorCodes[o.opcodeIndex].customCode == b"MyOp")
    assert bytes(custom.customOptions) == bytes([1, 2, 250])
    assert after.operatorCodes[custom.opcodeIndex].version == 7
    note = next(m for m in after.metadata if m.name == b"note")
    assert bytes(after.buffers[note.buffer].data) == b"hello"


@pytest.mark.parametrize(
    ("target", "versions"),
    [
        ("tflite_uint8", {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "ADD": 1}),
        ("tflite_int8", {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "ADD": 2}),
        ("tflite_int16x8", {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "ADD": 3}),
    ],
)
def test_op_versions_rise_to_what_the_new_type_needs(target: str, versions: dict[str, int]) -> None:
    result = read(requantize(SAMPLE, target).model_bytes)
    assert {op.code: op.version for op in result.main.ops if op.code in versions} == versions


@pytest.mark.parametrize(
    ("target", "version"), [("tflite_uint8", b"1.5.0"), ("tflite_int8", b"1.14.0"), ("tflite_int16x8", b"2.4.0")]
)
def test_the_minimum_runtime_rises_with_the_op_versions(target: str, version: bytes) -> None:
    result = read(requantize(SAMPLE, target, corrections="none").model_bytes)
    assert result.metadata["min_runtime_version"].rstrip(b"\0") == version


def newer_slot(data: bytes) -> bytes:
    """The file with a root table that has one field more than the schema knows: its vtable is a longer copy."""
    root = struct.unpack_from("<I", data, 0)[0]
    vtable = root - struct.unpack_from("<i", data, root)[0]
    size, inline = struct.unpack_from("<2H", data, vtable)
    slots = [*struct.unpack_from(f"<{size // 2 - 2}H", data, vtable + 4)] + [0] * 40
    slots[39] = slots[0]
    patched = bytearray(data) + bytes(-len(data) % 4)
    struct.pack_into("<i", patched, root, root - len(patched))
    return bytes(patched + struct.pack(f"<{len(slots) + 2}H", 2 * len(slots) + 4, inline, *slots))


def newer(what: Callable[[Any], Any], name: str, value: int) -> bytes:
    """The file with a number that no schema knows yet in one field."""
    return edited(lambda tree: setattr(what(tree), name, value))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (newer_slot(SAMPLE), "a Model at byte .* holds a field in slot 39, which a rewrite would lose"),
        (newer(lambda m: m.operatorCodes[0], "builtinCode", 9999), "builtin op 9999 is unknown"),
        (newer(lambda m: m.subgraphs[0].operators[0], "builtinOptionsType", 250), "Operator.* holds union member 250"),
        (newer(lambda m: m.subgraphs[0].tensors[0], "type", 100), "tensor 0 .* has the unknown type 100"),
    ],
    ids=["table slot", "builtin op", "union member", "tensor type"],
)
def test_a_file_of_a_newer_schema_is_refused_with_that_reason(data: bytes, what: str) -> None:
    with pytest.raises(ModelFormatError, match=f"schema is newer than the installed bindings: {what}"):
        read(data)
