"""What an accelerator can hold and how it computes: a frozen value, read from a target file or derived from another."""

import difflib
import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tf_requant.errors import TargetError
from tf_requant.numerics.arithmetic import (
    Accumulator,
    AddStyle,
    Arithmetic,
    AveragePoolStyle,
    Intermediate,
    Lookup,
    Requantizer,
    Stage,
    Winograd,
)
from tf_requant.numerics.rounding import Rounding
from tf_requant.targets.constraints import check
from tf_requant.targets.document import complete, plain, vary
from tf_requant.targets.schema_check import SCHEMA_VERSION, check_document

Scale = Literal["any", "power_of_two"]

_FILE_ORDER = (
    "schema_version", "name", "description", "sources", "activation", "weight", "bias", "accumulator", "requantizer",
    "requantizer_by_op", "winograd", "add", "average_pool", "lookup", "pad", "ops", "unlisted_ops",
)  # fmt: skip


@dataclass(frozen=True)
class ActivationScheme:
    """How activations are stored.

    Attributes:
        bits: widths that an activation may have; the first is planned with. Fewer than 8 travel in int8.
        signed: whether codes are signed.
        symmetric: whether every zero point is 0 (for an unsigned code kept as int8: -128).
        unsigned_after_relu: whether a tensor that a ReLU leaves non-negative is stored unsigned; it travels as
            int8 q - 128 with zero point -128.
        scale: which scales are allowed.
        granularity: one scale a tensor.
    """

    bits: tuple[int, ...] = (8,)
    signed: bool = True
    symmetric: bool = True
    unsigned_after_relu: bool = False
    scale: Scale = "any"
    granularity: Literal["tensor"] = "tensor"


@dataclass(frozen=True)
class WeightScheme:
    """How weights are stored.

    Attributes:
        bits: widths that a weight may have.
        signed: whether codes are signed.
        symmetric: whether every zero point is 0.
        narrow: whether the lowest code is unused: -127..127 for int8, 1..255 for uint8.
        scale: which scales are allowed.
        granularity: one scale a tensor, or one an output channel for the ops in per_channel_ops.
        per_channel_ops: the ops whose weights may be per channel; every other op's are per tensor.
        codebook: where a tensor's codes are looked up in a table of its own: the widths that an index may have, b bits for 2^b
            levels; None without one.
        costs: what one product takes at each of `widths`, by the name of the cost (cycles, energy, ...) and the width in digits.
    """

    bits: tuple[int, ...] = (8,)
    signed: bool = True
    symmetric: bool = True
    narrow: bool = True
    scale: Scale = "any"
    granularity: Literal["tensor", "channel"] = "tensor"
    per_channel_ops: tuple[str, ...] = ()
    codebook: tuple[int, ...] | None = None
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)

    @property
    def widths(self) -> tuple[int, ...]:
        """What a layer may store for each weight: a code of so many bits, or with a codebook an index."""
        return self.codebook or self.bits


@dataclass(frozen=True)
class BiasScheme:
    """How a bias is stored.

    Attributes:
        bits: its width; below 32, a layer's biases are mantissas of that width, all shifted left by one amount.
        scale: s_in * s_w, or a power of two of its own that the device aligns by a shift.
    """

    bits: int = 32
    scale: Literal["input_times_weight", "power_of_two"] = "input_times_weight"


@dataclass(frozen=True)
class OpRule:
    """What a target restricts about one op that it runs.

    Attributes:
        scale: `same`: inputs and output share scale and zero point; `free`: they need not; None: as the TFLite
            kernel has it.
        kernel_max: the largest filter or window side, or None.
        stride_max: the largest stride, or None.
        dilation: whether dilation beyond 1 is allowed.
    """

    scale: Literal["same", "free"] | None = None
    kernel_max: int | None = None
    stride_max: int | None = None
    dilation: bool = True


@dataclass(frozen=True)
class Target:
    """An accelerator. Attributes are the keys of a target file (`schemas/target.schema.json` describes each)."""

    name: str
    activation: ActivationScheme
    weight: WeightScheme
    ops: Mapping[str, OpRule] = field(hash=False)
    schema_version: int = SCHEMA_VERSION
    description: str = ""
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)
    bias: BiasScheme = BiasScheme()
    accumulator: Accumulator = Accumulator()
    requantizer: Requantizer = Requantizer()
    requantizer_by_op: Mapping[str, Requantizer] = field(default_factory=dict, hash=False)
    add: AddStyle = AddStyle()
    average_pool: AveragePoolStyle = AveragePoolStyle()
    lookup: Lookup = Lookup()
    pad: Literal["zero_point", "zero"] = "zero_point"
    winograd: Winograd | None = None
    unlisted_ops: Literal["host", "refuse"] = "host"

    @property
    def arithmetic(self) -> Arithmetic:
        """What decides the bits of a run on this target."""
        return Arithmetic(
            name=self.name,
            accumulator=self.accumulator,
            requantizer=self.requantizer,
            requantizer_by_op=self.requantizer_by_op,
            add=self.add,
            average_pool=self.average_pool,
            lookup=self.lookup,
            pad=self.pad,
            activation_bits=self.activation.bits[0] if self.activation.bits[0] < 8 else None,
            activation_widths=self.activation.bits if len(self.activation.bits) > 1 else (),
            winograd=self.winograd,
        )

    def rule(self, op: str) -> OpRule | None:
        """The restrictions of an op that the accelerator runs (listed, or a lookup); None if it doesn't run it."""
        return self.ops.get(op, OpRule() if op in self.lookup.ops else None)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], where: str | None = None) -> "Target":
        """The target that a JSON document describes, checked against the schema and for contradictions.

        Args:
            document: a target file's content.
            where: how errors call it; its name by default.

        Raises:
            TargetError: one sentence a problem.
        """
        document = plain(document)
        if where is None:
            where = f"target {document.get('name', '(unnamed)')}" if isinstance(document, Mapping) else "target"
        _refuse(where, check_document(document))
        target = _build(document)
        _refuse(where, check(target))
        return target

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of this target, with every default written out; `from_dict` reads it back equal."""
        document: dict[str, Any] = plain(self)
        for rule in document["ops"].values():
            if rule["dilation"]:
                del rule["dilation"]
        return {key: document[key] for key in _FILE_ORDER if key in document}

    def derive(self, **changes: Any) -> "Target":
        """A variant: nested changes merge key by key, None deletes a key, anything else replaces.

        A changed `weight.granularity`, `requantizer.kind`, `add.style` or `average_pool.style` resets the key that
        only made sense before (`per_channel_ops`, `multiplier_bits`, `rounding`), unless the same call gives it.

        >>> load_target("nna_sym8").derive(name="x", weight={"granularity": "channel"}).weight.per_channel_ops
        ('CONV_2D', 'DEPTHWISE_CONV_2D', 'TRANSPOSE_CONV', 'FULLY_CONNECTED')

        Raises:
            TargetError: the variant has an unknown key or op, or contradicts itself.
        """
        changes = plain(changes)
        return Target.from_dict(vary(self.to_dict(), changes), f"target {changes.get('name', self.name)}")


def load_target(source: str | os.PathLike[str] | Target | Mapping[str, Any]) -> Target:
    """The target that a built-in name, the path of a `.json` file, a document or a Target itself stands for.

    Raises:
        TargetError: no such name, an unreadable file, or a document that is no target; one sentence a problem.
    """
    if isinstance(source, Target):
        return source
    if isinstance(source, Mapping):
        return Target.from_dict(source)
    if isinstance(source, str) and not source.lower().endswith(".json"):
        return _builtin(source)
    if not isinstance(source, (str, os.PathLike)):
        raise TargetError(f"a target is a name, a .json path, a dict or a Target, got {type(source).__name__}")
    return Target.from_dict(_read(Path(source)), str(source))


@functools.cache
def builtin_targets() -> tuple[str, ...]:
    """The names of the built-in targets: TFLite's, then the nna family, then published hardware."""
    files = (resources.files("tf_requant") / "targets" / "builtin").iterdir()
    names = [file.name[: -len(".json")] for file in files if file.name.endswith(".json")]
    families = ("tflite_", "nna_", "")

    def order(name: str) -> tuple[int, list[str]]:
        family = next(i for i, prefix in enumerate(families) if name.startswith(prefix))
        # Numbers by value, so that int8 comes before int16.
        return family, [part.rjust(3, "0") if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    return tuple(sorted(names, key=order))


@functools.cache
def _builtin(name: str) -> Target:
    """A built-in target; trusted here, since the tests check every one against the schema and the constraints."""
    names = builtin_targets()
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise TargetError(
            f'unknown target "{name}": {hint}expected one of {", ".join(names)}, or the path of a .json target file'
        )
    file = resources.files("tf_requant") / "targets" / "builtin" / f"{name}.json"
    return _build(json.loads(file.read_text(encoding="utf-8")))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise TargetError(f"{path}: cannot read the target file: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TargetError(f"{path}: byte {error.start} is not UTF-8; a target file is UTF-8 JSON") from error
    except json.JSONDecodeError as error:
        raise TargetError(f"{path}: line {error.lineno}, column {error.colno} is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise TargetError(f"{path}: nested too deeply; a target file is one flat JSON object") from error
    except ValueError as error:
        raise TargetError(f"{path}: cannot read the target file: {error}".replace("\0", "\\0")) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    section = dict(pairs)
    if len(section) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f'the key "{twice}" stands twice in one object; keep one')
    return section


def _refuse(where: str, sentences: list[str]) -> None:
    if sentences:
        raise TargetError("\n".join(f"{where}: {sentence}" for sentence in sentences))


def _build(document: Mapping[str, Any]) -> Target:
    """The Target of a document that fits the schema."""
    full = complete(document)
    built: dict[str, Any] = {
        "activation": ActivationScheme(**_tuples(full["activation"])),
        "weight": WeightScheme(**_tuples(full["weight"])),
        "bias": BiasScheme(**full.get("bias", {})),
        "accumulator": _accumulator(full.get("accumulator", {})),
        "requantizer": _requantizer(full["requantizer"]),
        "requantizer_by_op": {op: _requantizer(section) for op, section in full["requantizer_by_op"].items()},
        "add": AddStyle(**_rounded(full["add"])),
        "average_pool": AveragePoolStyle(**_tuples(_rounded(full["average_pool"]))),
        "lookup": Lookup(**_tuples(_rounded(full.get("lookup", {})))),
        "ops": {op: OpRule(**rule) for op, rule in full["ops"].items()},
    }
    return Target(**{**full, **built})


def _accumulator(section: Mapping[str, Any]) -> Accumulator:
    inner = section.get("intermediate")
    return Accumulator(**{**section, "intermediate": None if inner is None else Intermediate(**inner)})


def _requantizer(section: Mapping[str, Any]) -> Requantizer:
    stages = tuple(Stage(stage["drop"], Rounding(stage["rounding"])) for stage in section["stages"])
    return Requantizer(**{**_tuples(section), "stages": stages})


def _tuples(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _frozen(value) for key, value in section.items()}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _rounded(section: Mapping[str, Any]) -> dict[str, Any]:
    return {**section, "rounding": Rounding(section["rounding"])} if "rounding" in section else dict(section)
