"""CMSIS-NN's unit-test cases run on the integer cores: multipliers and shifts come as given, nothing from scales."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry
from tf_requant.numerics.arithmetic import Accumulator, Requantizer, Stage
from tf_requant.numerics.fixed_point import Rescale, narrowed
from tf_requant.numerics.output_stage import OutputStage
from tf_requant.numerics.rounding import Rounding
from tf_requant.simulator import filters
from tf_requant.simulator.mac import Layer, Weights
from tf_requant.simulator.ops import add, conv_2d, depthwise_conv_2d, fully_connected, mul, softmax, transpose_conv

UNSUPPORTED = {
    "svdf": "SVDF is none of the simulator's ops: LiteRT's own kernel corrupts the heap on it",
    "lstm": "the case mixes two generations of the test: its constants give the output the zero point -89, while its "
    "folded biases, its initial state and its answer have -24, so its multipliers belong to other data",
}
"""Kinds that are not run, with the reason."""


@dataclass(frozen=True)
class Case:
    """One `.npz`: the arrays of a case's headers, and its constants without the case's own prefix."""

    arrays: Mapping[str, NDArray[Any]]
    config: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Case":
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
        prefix = path.stem.upper() + "_"
        config = json.loads(str(arrays.pop("config")))
        return cls(arrays, {key.removeprefix(prefix): value for key, value in config.items()})

    def __getitem__(self, key: str) -> Any:
        return self.config[key]

    def get(self, key: str, default: Any) -> Any:
        return self.config.get(key, default)

    @property
    def dtype(self) -> str:
        return str(self.arrays["output_ref"].dtype)

    def pair(self, key: str) -> tuple[int, int]:
        return int(self[f"{key}_Y"]), int(self[f"{key}_X"])

    def image(self) -> NDArray[Any]:
        shape = (int(self["INPUT_BATCHES"]), int(self["INPUT_H"]), int(self["INPUT_W"]), int(self["IN_CH"]))
        return self.arrays["input"].reshape(shape)

    def geometry(self) -> Geometry:
        image = (int(self["INPUT_H"]), int(self["INPUT_W"]))
        size = (int(self["OUTPUT_H"]), int(self["OUTPUT_W"]))
        return Geometry.of(
            image, self.pair("FILTER"), self.pair("STRIDE"), self.pair("DILATION"), self.pair("PAD"), size
        )

    def stage(self, multiplier: Any, shift: Any) -> OutputStage:
        rescale = Rescale.of_integers(multiplier, shift, Requantizer())
        if self.arrays.get("biases", np.zeros(0)).dtype == np.int64 or (
            self.dtype == "int16" and "weights" in self.arrays
        ):
            rescale = Rescale.of_integers(
                narrowed(multiplier), shift, Requantizer(multiplier_bits=15, stages=(Stage("rest", Rounding.HALF_UP),))
            )
        low, high = int(self["OUT_ACTIVATION_MIN"]), int(self["OUT_ACTIVATION_MAX"])
        return OutputStage(rescale, int(self["OUTPUT_OFFSET"]), low, high, self.dtype)

    def layer(self, filter_: NDArray[Any], stage: OutputStage, channels: slice = slice(None)) -> Layer:
        bias = self.arrays.get("biases", np.zeros(int(self["OUT_CH"]))).astype(np.int64)[channels]
        point, register = -int(self["INPUT_OFFSET"]), Accumulator(64 if self.dtype == "int16" else 32)
        return Layer(Weights(filter_.astype(np.int64), bias, point, point, self.dtype), stage, register)


def conv(case: Case) -> NDArray[Any]:
    outputs, (rows, columns) = int(case["OUT_CH"]), case.pair("FILTER")
    weights = case.arrays["weights"].reshape(outputs, rows * columns, -1)
    stage = case.stage(case.arrays["output_mult"], case.arrays["output_shift"])
    each = outputs * weights.shape[2] // int(case["IN_CH"])
    groups = [
        case.layer(
            weights[i : i + each].transpose(1, 2, 0),
            filters.channels(stage, np.arange(i, i + each)),
            slice(i, i + each),
        )
        for i in range(0, outputs, each)
    ]
    return conv_2d.convolve(case.image(), groups, case.geometry())


def depthwise(case: Case) -> NDArray[Any]:
    weights = case.arrays["weights"].reshape(-1, 1, int(case["OUT_CH"]))
    layer = case.layer(weights, case.stage(case.arrays["output_mult"], case.arrays["output_shift"]))
    return depthwise_conv_2d.convolve(case.image(), layer, case.geometry())


def transposed(case: Case) -> NDArray[Any]:
    kernel = case.pair("FILTER")
    weights = case.arrays["weights"].reshape(int(case["OUT_CH"]), *kernel, -1)[:, ::-1, ::-1]
    filter_ = weights.transpose(1, 2, 3, 0).reshape(-1, weights.shape[3], weights.shape[0])
    layer = case.layer(filter_, case.stage(case.arrays["output_mult"], case.arrays["output_shift"]))
    size = (int(case["OUTPUT_H"]), int(case["OUTPUT_W"]))
    return transpose_conv.spread(case.image(), layer, kernel, case.pair("STRIDE"), case.pair("PAD"), size)


def connected(case: Case) -> NDArray[Any]:
    depth = int(case["ACCUMULATION_DEPTH"])
    weights = case.arrays["weights"].reshape(int(case["OUT_CH"]), depth).T[None].astype(np.int64) + int(
        case.get("FILTER_OFFSET", 0)
    )
    layer = case.layer(weights, case.stage(case["OUTPUT_MULTIPLIER"], case["OUTPUT_SHIFT"]))
    return fully_connected.connect(case.arrays["input"].reshape(-1, depth), layer)


def added(case: Case) -> NDArray[Any]:
    stage = case.stage(case["OUTPUT_MULT"], case["OUTPUT_SHIFT"])
    sides = []
    for n in (1, 2):
        rescale = Rescale.of_integers(case[f"INPUT{n}_MULT"], case[f"INPUT{n}_SHIFT"], Requantizer())
        value = case.arrays[f"input{n}"].astype(np.int64) + int(case[f"INPUT{n}_OFFSET"])
        sides.append(rescale.apply(value << int(case["LEFT_SHIFT"])))
    return add.add(sides[0], sides[1], 1, 32, stage.exact)


def multiplied(case: Case) -> NDArray[Any]:
    stage = case.stage(case["OUTPUT_MULT"], case["OUTPUT_SHIFT"])
    sides = [case.arrays[f"input{n}"].astype(np.int64) + int(case[f"INPUT{n}_OFFSET"]) for n in (1, 2)]
    return mul.multiply(sides[0], sides[1], stage.exact)


def softened(case: Case) -> NDArray[Any]:
    rows = case.arrays["input"].reshape(int(case["NUM_ROWS"]), -1).astype(np.int64)
    rescale = Rescale.of_integers(case["INPUT_MULT"], case.get("INPUT_LEFT_SHIFT", 0), Requantizer())
    if case.dtype == "int16":
        return softmax.int16(rows, rescale)
    return softmax.int8(rows, rescale, -int(case["DIFF_MIN"]), case.dtype)


def kind_of(case: Case) -> Callable[[Case], NDArray[Any]] | str:
    """What runs a case, or the name of its unsupported kind: decided by the constants it has."""
    config = case.config
    if "FEATURE_BATCHES" in config:
        return "svdf"
    if "HIDDEN_SIZE" in config:
        return "lstm"
    if "ROW_SIZE" in config:
        return softened
    if "ACCUMULATION_DEPTH" in config:
        return connected
    if "LEFT_SHIFT" in config:
        return added
    if "PAD_X_WITH_OFFSET" in config:
        return transposed
    if "CH_MULT" in config:
        return depthwise
    return conv if "FILTER_X" in config else multiplied
