"""Small legal models, faults to plant in them, and which rules the judge finds broken."""

from collections.abc import Callable
from typing import Any

import numpy as np

import tf_requant
from tests import builders
from tf_requant.io import tflite
from tf_requant.model.graph import Model, Tensor
from tf_requant.model.quant import QuantParams
from tf_requant.targets import Target
from tf_requant.validation.legality import Legality

FILTER, BIAS = 1, 2
POW2 = "nna_sym8_pow2"

Edit = Callable[[Tensor], Tensor]


def one_layer(target: str | Target, build: Callable[..., bytes] = builders.conv2d, **options: Any) -> Model:
    return tflite.read(tf_requant.requantize(build(**options), target, corrections="none").model_bytes)


def with_tensors(model: Model, edits: dict[int, Edit]) -> Model:
    tensors = tuple(edits[i](t) if i in edits else t for i, t in enumerate(model.main.tensors))
    return model.with_(graphs=(model.main.with_(tensors=tensors),))


def operand(model: Model, position: int) -> int:
    return model.main.ops[0].inputs[position]


def output(model: Model) -> int:
    return model.main.ops[0].outputs[0]


def quant(**changes: Any) -> Edit:
    return lambda t: t.with_(quant=t.quant and t.quant.with_(**changes))


def scaled(factor: float) -> Edit:
    return lambda t: t.with_(quant=t.quant and t.quant.with_(scale=t.quant.scale * np.float32(factor)))


def per_channel(channels: int) -> Edit:
    return lambda t: t.with_(quant=t.quant and QuantParams(t.quant.dtype, np.repeat(t.quant.scale, channels), 0, 0))


def retyped(dtype: str) -> Edit:
    return lambda t: t.with_(dtype=dtype, quant=t.quant and t.quant.with_(dtype=dtype))


def first_code(value: int) -> Edit:
    def edit(t: Tensor) -> Tensor:
        assert t.data is not None
        codes = t.data.copy()
        codes.flat[0] = value
        return t.with_(data=codes)

    return edit


def broken(verdict: Legality) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {r.name: (r.checked, r.broken) for r in verdict.rules if r.broken}
