"""Mutated files of every op: `read` and `check` refuse with a sentence, or the interpreter runs what they let pass."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import builders
from tf_requant.errors import InterpreterError, RequantError
from tf_requant.io.flatbuffer import Table, Writer
from tf_requant.io.schema import Field, table_fields
from tf_requant.io.tflite import IDENTIFIER, read
from tf_requant.io.tflite_writer import write
from tf_requant.model.graph import Model
from tf_requant.model.shapes import RULES
from tf_requant.model.verify import check, refuse_unsupported
from tf_requant.runtime import InterpreterProcess
from tf_requant.sample import model_path

SMALL = {
    "conv": builders.conv2d(per_channel=True, stride=2, activation=builders.Activation.RELU6),
    "conv uint8": builders.conv2d("uint8", dilation=2, padding=builders.Padding.VALID),
    "depthwise int16": builders.depthwise("int16", multiplier=2),
    "fully connected": builders.fully_connected("uint8"),
    "transpose conv": builders.transpose_conv(),
    "add": builders.binary("ADD", shapes=((1, 4, 4, 3), (3,))),
    "mul": builders.binary("MUL", "int16"),
    "pool": builders.pool("MAX_POOL_2D", "uint8"),
    "concatenation": builders.concatenation("int16"),
    "softmax": builders.unary("SOFTMAX", options="SoftmaxOptions", beta=1.0),
    "logistic": builders.unary("LOGISTIC", "uint8"),
    "pad": builders.move("PAD", [1, 6, 6, 3], [[0, 0], [1, 1], [0, 0], [0, 0]]),
    "transpose": builders.move("TRANSPOSE", [1, 3, 4, 6], [0, 3, 1, 2]),
    "strided slice": builders.move(
        "STRIDED_SLICE", [1, 2, 6], [0, 0, 0, 1], [1, 4, 6, 3], [1, 2, 1, 1], options="StridedSliceOptions", shrinkAxisMask=8
    ),
    "split": builders.move("SPLIT", [1, 2, 6, 3], 1, first=True, outputs=2, options="SplitOptions", numSplits=2),
    "mean": builders.move("MEAN", [1, 3], [1, 2], options="ReducerOptions"),
    "net": builders.small_net(),
    "sample": model_path().read_bytes(),
}  # fmt: skip
NUMBERS = (0, 1, 2, 3, 5, 8, -1, -2, 127, 128, 255, 256, 65535, 2**20, 2**30, 2**31 - 1, -(2**31))
REALS = (0.0, -1.0, 1.0, float("nan"), float("inf"), 1e-40, 1e-30, 1e-10, 1e10, 1e30, 3e38, 1 / 256)
OLDEST_REFERENCE = {"STRIDED_SLICE": 4, "ARG_MAX": 2, "TILE": 2, "DEPTH_TO_SPACE": 1, "ADD": 5, "MUL": 7, "SOFTMAX": 3,
                    "DEPTHWISE_CONV_2D": 6, "TRANSPOSE": 8, "SQUEEZE": 1, "ARG_MIN": 2}  # fmt: skip
"""BUILTIN_REF registers no newer version of these."""

WITHIN = {"deadline": 5000, "derandomize": True, "suppress_health_check": list(HealthCheck), "database": None}
DRAWS = st.tuples(st.sampled_from(sorted(SMALL)), st.integers(0, 2**32))


def accepted(content: bytes) -> Model | None:
    """The model if it passes; None if it is refused, with a sentence."""
    try:
        model = check(read(content))
        refuse_unsupported(model)
    except RequantError as error:
        assert str(error)
        return None
    return model


class Runner:
    """One interpreter process, started again when a kernel takes it down."""

    def __init__(self) -> None:
        self.process: InterpreterProcess | None = None

    def run(self, content: bytes, resolver: str) -> None:
        if self.process is None or not self.process.alive:
            self.process = InterpreterProcess("litert", timeout=60)
        details = self.process.load(content, resolver)
        self.process.run({i.index: np.zeros(i.shape, i.dtype) for i in details.inputs})


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    if runner.process is not None:
        runner.process.close()


def assert_runs(model: Model, runner: Runner, what: str) -> None:
    if any(op.code not in RULES for graph in model.graphs for op in graph.ops):
        return  # an op outside the table is carried along unchecked
    content = write(model)
    newer = any(op.version > OLDEST_REFERENCE.get(op.code, op.version) for graph in model.graphs for op in graph.ops)
    for resolver in ("AUTO",) if newer else ("AUTO", "BUILTIN_REF"):
        try:
            runner.run(content, resolver)
        except InterpreterError as error:
            if "Didn't find op" not in str(error):  # an operator code outside the table that no op uses
                raise AssertionError(f"{what} passed the check but does not run: {error}") from error


def fields_of(table: Table) -> Iterator[tuple[Table, Field]]:
    """Every number, vector and list of tables, stored or absent."""
    for field in table_fields(table.kind):
        value = table.fields.get(field.name)
        if field.kind == "scalar" or (field.kind == "scalars" and value is not None and 0 < value.size <= 64):
            yield table, field
        elif field.kind == "tables" and value:
            yield table, field
            for child in value:
                yield from fields_of(child)
        elif field.kind in ("table", "union") and value is not None:
            yield from fields_of(value)


def other_number(code: str, old: Any, draw: random.Random) -> Any:
    if code in "fd":
        return draw.choice(REALS) if draw.random() < 0.6 else float(old) * draw.choice((0.5, 2, 1e-6, 1e6))
    limits = np.iinfo(np.dtype({"?": "uint8"}.get(code, code)))
    number = draw.choice(NUMBERS) if draw.random() < 0.6 else int(old) + draw.choice((-2, -1, 1, 2))
    return min(max(number, 0 if code == "?" else int(limits.min)), 1 if code == "?" else int(limits.max))


def with_other_field(content: bytes, seed: int) -> bytes:
    """The file with one to three fields changed, each kind of field as likely as any other."""
    draw, root = random.Random(seed), read(content).opaque.root
    for _ in range(draw.choice((1, 1, 2, 3))):
        kinds: dict[tuple[str, str], list[tuple[Table, Field]]] = {}
        for table, field in fields_of(root):
            kinds.setdefault((table.kind, field.name), []).append((table, field))
        table, field = draw.choice(kinds[draw.choice(sorted(kinds))])
        table.fields[field.name] = _changed(table, field, draw)
    return bytes(Writer(IDENTIFIER).finish(root))


def _changed(table: Table, field: Field, draw: random.Random) -> Any:
    if field.kind == "scalar":
        return other_number(field.code, table.get(field.name), draw)
    items, i = list(table.fields[field.name]), draw.randrange(len(table.fields[field.name]))
    action = draw.random()
    if field.kind == "scalars" and action < 0.8:
        items[i] = other_number(field.code, items[i], draw)
    elif action < 0.9:
        del items[i]
    else:
        items.append(items[i])
    return np.array(items, table.fields[field.name].dtype) if field.kind == "scalars" else items


@settings(max_examples=1200, **WITHIN)
@given(DRAWS)
def test_a_model_with_other_fields_is_refused_or_runs(runner: Runner, drawn: tuple[str, int]) -> None:
    name, seed = drawn
    model = accepted(with_other_field(SMALL[name], seed))
    if model is not None:
        assert_runs(model, runner, f"{name!r} with fields changed by seed {seed}")


@settings(max_examples=1200, **WITHIN)
@given(DRAWS)
def test_a_model_with_other_bytes_is_refused_or_runs(runner: Runner, drawn: tuple[str, int]) -> None:
    name, seed = drawn
    draw, content = random.Random(seed), bytearray(SMALL[name])
    for _ in range(draw.choice((1, 1, 2, 4))):
        content[draw.randrange(len(content))] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
    model = accepted(bytes(content))
    if model is not None:
        assert_runs(model, runner, f"{name!r} with bytes changed by seed {seed}")


def test_a_file_cut_anywhere_is_refused_or_whole() -> None:
    content = SMALL["conv"]
    whole = write(read(content))
    for length in range(len(content)):
        model = accepted(content[:length])
        assert model is None or write(model) == whole, f"cut to {length} of {len(content)} bytes"
