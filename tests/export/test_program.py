"""The program as data: its schema, the bindings, the bytes, and numbers that can be checked by hand."""

import re
import shutil
import subprocess
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

import tf_requant
from tests.builders import Builder
from tf_requant.errors import ModelFormatError
from tf_requant.export import kinds, program
from tf_requant.export.flatbuffer import ALIGNMENT, IDENTIFIER, from_bytes, to_bytes
from tf_requant.export.generated import nna_program_generated as generated
from tf_requant.export.kinds import Convolution, Copy, Host, Operand, Part, Rescale, RescaleKind, Stage
from tf_requant.export.lowering import lower, tensor_keys
from tf_requant.export.moves import _copy
from tf_requant.export.program import ElementType, Program
from tf_requant.numerics.arithmetic import Arithmetic
from tf_requant.numerics.rounding import Rounding
from tf_requant.pipeline.export import export
from tf_requant.pipeline.simulate import checked_model
from tf_requant.sample import evaluation_path, model_path
from tf_requant.simulator.profiles import NNA, TFLITE_REF
from tf_requant.simulator.simulator import Simulator
from tf_requant.targets import load_target

FLATC_VERSION = "2.0.8"
"""What the committed bindings were made with; other versions write other text for the same schema."""
SCHEMA = resources.files("tf_requant") / "schemas" / "nna_program.fbs"


@cache
def schema() -> dict[str, dict[str, str]]:
    """Table, struct, enum or union -> its fields and their types, read off the schema's text."""
    text = re.sub(r"//[^\n]*", "", SCHEMA.read_text())
    found = {}
    for kind, name, body in re.findall(r"(table|struct|enum|union) (\w+)[^{]*\{([^}]*)\}", text):
        if kind in ("enum", "union"):
            found[name] = {m.split("=")[0].strip(): kind for m in body.split(",") if m.strip()}
        else:
            found[name] = dict(re.findall(r"^  (\w+): (\[?\w+\]?)", body, re.MULTILINE))
    return found


def noun_of(name: str) -> Any:
    return getattr(program, name, None) or getattr(kinds, name)


def lowered(content: bytes, arithmetic: Arithmetic, bias_bits: int = 32) -> Program:
    graph = checked_model(content).main
    simulator = Simulator(graph, arithmetic, execute_host=lambda *_: [])
    return lower(graph, arithmetic, simulator.placed, {}, bias_bits)


@cache
def sample_program(target: str = "nna_sym8_pow2") -> Program:
    model = tf_requant.requantize(model_path(), target, corrections="none").model
    aim = load_target(target)
    return lower(model.main, aim.arithmetic, Simulator(model.main, aim.arithmetic).placed, {}, aim.bias.bits)


def test_the_bindings_are_what_flatc_makes_of_the_schema(tmp_path: Path) -> None:
    if shutil.which("flatc") is None:
        pytest.skip("flatc is not installed: the bindings cannot be made again to compare")
    version = subprocess.run(["flatc", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    if version != FLATC_VERSION:
        pytest.skip(f"flatc {version} writes other text than {FLATC_VERSION}, with which the bindings were made")
    (tmp_path / "nna_program.fbs").write_text(SCHEMA.read_text())
    command = ["flatc", "--python", "--gen-object-api", "--gen-onefile", "-o", tmp_path, tmp_path / "nna_program.fbs"]
    subprocess.run(command, check=True)
    made = (tmp_path / "nna_program_generated.py").read_text()
    assert made == Path(generated.__file__).read_text()


def test_every_field_of_the_schema_has_an_accessor_and_a_field_of_a_noun() -> None:
    tables = {name: held for name, held in schema().items() if not set(held.values()) & {"enum", "union"}}
    assert len(tables) > 20
    for name, held in tables.items():
        camel = {"".join(part.capitalize() for part in field.split("_")) for field in held}
        assert all(hasattr(getattr(generated, name), accessor) for accessor in camel), name
        assert [f.name for f in fields(noun_of(name))] == list(held), name


def test_every_enumeration_of_the_schema_is_the_bindings_and_a_noun() -> None:
    for name, members in schema().items():
        if set(members.values()) == {"enum"}:
            noun: Any = Rounding if name == "Rounding" else noun_of(name)
            assert [m.name for m in noun] == list(members) if name != "ElementType" else set(members) == {m.name for m in noun}
            assert all(hasattr(getattr(generated, name), member) for member in members)
    assert set(schema()["Kind"]) == {k.__name__ for k in kinds.Kind.__args__}


def test_every_field_and_every_member_of_the_schema_is_documented() -> None:
    lines = SCHEMA.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\s*(table|struct|enum|union) ", line) or re.match(r"  \w+: ", line) or re.match(r"  [A-Z0-9_]+ = ", line):
            assert lines[number - 1].strip().startswith("///"), f"line {number + 1}: {line.strip()}"


def test_a_program_survives_its_bytes_and_equal_programs_give_equal_bytes() -> None:
    for target in ("nna_sym8_pow2", "tflite_int8", "gemmini_f32"):
        program = sample_program(target)
        content = to_bytes(program)
        assert content[4:8] == IDENTIFIER
        assert from_bytes(content) == program
        assert to_bytes(from_bytes(content)) == content


def test_every_constant_starts_at_a_multiple_of_16_bytes() -> None:
    content = to_bytes(sample_program())
    root = generated.Program.GetRootAs(content, 0)
    starts = []
    for index in range(root.BuffersLength()):
        table = root.Buffers(index)._tab
        offset = table.Offset(4)
        if offset:
            starts.append(table.Vector(offset))
    assert len(starts) == sum(bool(b.data) for b in sample_program().buffers) > 30
    assert len({b.data for b in sample_program().buffers}) == len(sample_program().buffers), "equal constants are held once"
    assert not any(start % ALIGNMENT for start in starts)


def test_constants_are_the_model_s_own_codes_in_tflite_s_layout() -> None:
    graph = tf_requant.requantize(model_path(), "nna_sym8_pow2", corrections="none").model.main
    program = sample_program()
    for tensor, held in zip(graph.tensors, program.tensors):
        assert (held.name, held.shape) == (tensor.name, tensor.shape)
        if tensor.data is not None:
            assert program.buffers[held.buffer].data == tensor.data.tobytes()
        else:
            assert held.buffer == 0


def test_bytes_that_hold_no_program_are_refused() -> None:
    content = to_bytes(sample_program())
    with pytest.raises(ModelFormatError, match="no fixed-point program"):
        from_bytes(b"TFL3" * 4)
    with pytest.raises(ModelFormatError, match="version 2, expected 1"):
        from_bytes(to_bytes(replace(sample_program(), version=2)))
    with pytest.raises(ModelFormatError, match="damaged"):
        from_bytes(content[: len(content) // 2])


def test_every_op_is_an_op_of_the_program_and_what_is_the_host_s_says_why() -> None:
    program = sample_program()
    codes = [op.code for op in program.ops]
    assert len(codes) == 22 and codes[-1] == "SOFTMAX"
    assert [i for i, op in enumerate(program.ops) if op.host_reason] == [21]
    assert program.ops[21].kind == Host("this program has no kind for SOFTMAX")
    assert all(not isinstance(op.kind, Host) for op in program.ops[:21])


def _conv(scale: tuple[float, float, float], dtype: str = "int8", bias: Any = (100, -200)) -> bytes:
    """A 1x1 CONV_2D with 1 input and 2 output channels."""
    b = Builder()
    data = b.tensor([1, 2, 2, 1], dtype, scale[0], 0)
    weights = b.tensor([2, 1, 1, 1], "int8", scale[1], 0, [3, -5])
    addend = b.tensor([2], "int32", scale[0] * scale[1], 0, list(bias))
    output = b.tensor([1, 2, 2, 2], dtype, scale[2], 0)
    b.op("CONV_2D", [data, weights, addend], [output], "Conv2DOptions", 3, strideH=1, strideW=1, padding=1, fusedActivationFunction=1)
    return b.finish([data], [output])


def _kind(program: Program) -> Any:
    return program.ops[0].kind


def test_a_ratio_of_three_quarters_is_the_multiplier_three_times_two_to_the_29() -> None:
    kind = _kind(lowered(_conv((0.5, 0.75, 0.5)), TFLITE_REF))
    assert isinstance(kind, Convolution)
    stages = (Stage(31, Rounding.HALF_UP), Stage(-1, Rounding.HALF_AWAY))
    assert kind.layer.output.rescale == Rescale(RescaleKind.MULTIPLIER_SHIFT, 31, stages, (3 << 29,), (0,))
    assert (kind.layer.output.low, kind.layer.output.high) == (0, 127), "the fused RELU cuts at the zero point"


def test_a_ratio_of_a_thirty_second_is_a_shift_by_five_on_a_device_that_only_shifts() -> None:
    kind = _kind(lowered(_conv((0.25, 0.125, 1.0)), load_target("nna_sym8_pow2").arithmetic))
    rescale = kind.layer.output.rescale
    assert (rescale.kind, rescale.multiplier, rescale.shift, rescale.multiplier_bits) == (RescaleKind.SHIFT, (1,), (5,), 0)
    assert rescale.stages == (Stage(-1, Rounding.HALF_UP),)


def test_the_width_that_no_input_exceeds_is_counted_from_the_weights() -> None:
    # Channel 0 reaches 128 * 3 + 100 = 484, channel 1 128 * 5 + 200 = 840: eleven bits with the sign.
    assert _kind(lowered(_conv((0.5, 0.75, 0.5)), NNA)).layer.accumulator.needed_bits == 11


def test_an_8_bit_bias_is_a_mantissa_behind_the_smallest_shift() -> None:
    layer = _kind(lowered(_conv((0.25, 0.125, 1.0), bias=(1000, -968)), load_target("q7_legacy").arithmetic, 8)).layer
    assert (layer.bias_shift, layer.bias_bits) == (3, 8)
    layer = _kind(lowered(_conv((0.25, 0.125, 1.0), bias=(1000, -968)), NNA, 32)).layer
    assert (layer.bias_shift, layer.bias_bits) == (0, 32)


def _add(scale: tuple[float, float, float]) -> bytes:
    b = Builder()
    left, right, output = (b.tensor([1, 4], "int8", s, 0) for s in scale)
    b.op("ADD", [left, right], [output], "AddOptions", 2, potScaleInt16=False)
    return b.finish([left, right], [output])


def test_an_add_on_powers_of_two_shifts_the_coarser_side_to_the_finer() -> None:
    kind = _kind(lowered(_add((0.5, 0.125, 0.25)), load_target("nna_sym8_pow2").arithmetic))
    assert (kind.left, kind.right) == (Operand(0, 2, None, 32), Operand(0, 0, None, 32))
    assert (kind.sum_bits, kind.output.rescale.shift) == (32, (1,))


def test_an_add_of_tflite_has_twenty_bits_of_headroom_and_three_rescales() -> None:
    kind = _kind(lowered(_add((0.5, 0.3, 0.25)), TFLITE_REF))
    assert (kind.left.left_shift, kind.right.left_shift, kind.left.bits) == (20, 20, 0)
    assert kind.left.rescale.multiplier == (1 << 30,) and kind.left.rescale.shift == (0,), "0.5 over twice the larger scale"


def test_a_concatenation_of_other_parameters_carries_a_table() -> None:
    b = Builder()
    one, other = b.tensor([1, 2], "uint8", 0.5, 3), b.tensor([1, 2], "uint8", 1.0, 0)
    output = b.tensor([1, 4], "uint8", 1.0, 0)
    b.op("CONCATENATION", [one, other], [output], "ConcatenationOptions", 1, axis=1)
    kind = _kind(lowered(b.finish([one, other], [output]), TFLITE_REF))
    assert (kind.outer, kind.parts[1]) == (1, Part(b""))
    # (code - 3) / 2, halves away from zero, held at 0.
    assert list(kind.parts[0].table[:8]) == [0, 0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (np.arange(6).reshape(2, 3).T, Copy(0, (3, 2), (1, 3))),
        (np.arange(12)[::-1], Copy(11, (12,), (-1,))),
        (np.arange(20).reshape(4, 5)[1:3, 1:4], Copy(6, (2, 3), (5, 1))),
        (np.tile(np.arange(3), 4), Copy(0, (4, 3), (0, 1))),
        (np.asarray(7), Copy(7, (), ())),
        (np.arange(16).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3), Copy(0, (2, 2, 2, 2), (8, 2, 4, 1))),
    ],
)
def test_a_move_is_read_off_as_the_fewest_strides(numbers: np.ndarray, expected: Copy) -> None:
    assert _copy(numbers) == expected


@pytest.mark.parametrize("numbers", [[0, 1, 3, 2], [0, 1, 2, 5, 6], [0, 1, 4, 6], [0, 0, 1]])
def test_a_move_without_a_pattern_is_a_list_of_elements(numbers: list[int]) -> None:
    assert _copy(np.asarray(numbers), 9) == Copy(0, (), (), tuple(numbers), 9)


def test_what_a_move_puts_around_its_codes_is_the_fill() -> None:
    assert _copy(np.asarray([-(2**20) + 5, 0, 1]), 5) == Copy(0, (), (), (-1, 0, 1), 5)


def test_formats_tell_exponents_of_powers_of_two_and_only_of_those() -> None:
    program = lowered(_add((0.5, 0.3, 0.25)), TFLITE_REF)
    assert [t.exponent for t in program.tensors] == [(-1,), (), (-2,)]
    assert [t.scale[0] for t in program.tensors] == [0.5, float(np.float32(0.3)), 0.25]
    assert all((t.type, t.bits, t.signed) == (ElementType.INT8, 8, True) for t in program.tensors)


def test_the_names_of_golden_vectors_are_unlike_and_fit_for_c() -> None:
    keys = tensor_keys(sample_program())
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"t\d{4}_\w*", key, re.ASCII) for key in keys)


def test_no_number_of_a_program_is_a_numpy_scalar() -> None:
    def walk(value: Any) -> None:
        if is_dataclass(value):
            for field in fields(value):
                walk(getattr(value, field.name))
        elif isinstance(value, tuple):
            for member in value:
                walk(member)
        else:
            assert type(value) in (int, float, str, bytes, bool, type(None)) or isinstance(value, Enum), type(value)

    walk(sample_program())


def test_the_bindings_need_no_newer_flatbuffers_than_the_package_asks_for() -> None:
    assert tuple(map(int, flatbuffers.__version__.split(".")[:2])) >= (24, 3)


@pytest.mark.parametrize("bits", [2, 3])
def test_a_codebook_is_written_with_packed_indices_that_decode_to_the_codes(bits: int) -> None:
    target = load_target("nna_sym8_per_channel").derive(name="coded", weight={"codebook": bits})
    result = tf_requant.requantize(model_path(), target, corrections="none")
    program = from_bytes(export(result, target, np.load(evaluation_path())["images"][:1], samples=1).program_bytes)
    graph, seen = result.model.main, 0
    for tensor, written in zip(graph.tensors, program.tensors):
        if not written.codebook:
            assert written.indices == 0
            continue
        # Decoded as the schema says, bit by bit.
        packed = program.buffers[written.indices].data
        stream = [packed[n >> 3] >> (n & 7) & 1 for n in range(tensor.data.size * written.bits)]
        places = [sum(stream[i * written.bits + b] << b for b in range(written.bits)) for i in range(tensor.data.size)]
        assert [written.codebook[p] for p in places] == tensor.data.reshape(-1).tolist()
        assert written.bits <= bits and len(written.codebook) <= 2**bits
        assert len(packed) == -(-tensor.data.size * written.bits // 8)
        seen += 1
    assert seen == 17


def test_an_index_takes_a_width_that_the_target_has() -> None:
    target = load_target("nna_sym8_per_channel").derive(name="coded", weight={"codebook": [1, 4]})
    result = tf_requant.requantize(model_path(), target.derive(weight={"codebook": 2}), corrections="none")
    program = from_bytes(export(result.model_bytes, target, np.load(evaluation_path())["images"][:1], samples=1).program_bytes)
    assert {(written.bits, len(written.codebook)) for written in program.tensors if written.codebook} == {(4, 4)}


def test_narrow_weights_are_written_with_their_width() -> None:
    target = load_target("nna_sym8_per_channel").derive(name="narrow", weight={"bits": [8, 5]})
    result = tf_requant.requantize(model_path(), target, bits=5)
    program = export(result, target, np.load(evaluation_path())["images"][:1], samples=1).program
    filters = {op.inputs[1] for op in result.model.main.ops if op.code in ("CONV_2D", "DEPTHWISE_CONV_2D")}
    assert {program.tensors[t].bits for t in filters} == {5}


def test_narrow_activations_are_written_with_their_width() -> None:
    target = load_target("nna_sym8_per_channel").derive(name="narrow", activation={"bits": [8, 5]})
    result = tf_requant.requantize(model_path(), target, activation_bits=5)
    graph, program = result.model.main, export(result, target, np.load(evaluation_path())["images"][:1], samples=1).program
    planned = {t: tensor.bits for t, tensor in enumerate(graph.tensors) if tensor.bits is not None}
    assert planned and {program.tensors[t].bits for t in planned} == {5}
    assert {program.tensors[t].bits for t in (*graph.inputs, *graph.outputs)} == {8}
