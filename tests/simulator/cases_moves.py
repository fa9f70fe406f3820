"""Random models of the ops that move, pick, resize, join or compare raw codes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.builders import version_of
from tests.simulator.draw import Build, Draw, shapes_of
from tf_requant.model.quant import code_limits


def indexed(code: str) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        shape, axis = [d.any(1, 3), d.any(1, 6), d.any(1, 5)], d.any(-2, 2)
        data = d.tensor(shape)
        result = [n for i, n in enumerate(shape) if i != axis % 3]
        output = d.builder.tensor(result, "int64")
        options = "ArgMaxOptions" if code == "ARG_MAX" else "ArgMinOptions"
        number = schema.TensorType.INT64
        d.builder.op(
            code, [data, d.builder.integers([axis])], [output], options, version_of(code, d.dtype), outputType=number
        )
        return d.finish([data], [output])

    return build


def packed(d: Draw) -> bytes:
    shape, count, axis = [d.any(1, 3), d.any(1, 4)], d.any(1, 3), d.any(-3, 2)
    first = d.tensor(shape)
    tensors = [first, *(d.like(shape, first) for _ in range(count - 1))]
    place = axis % 3
    output = d.like([*shape[:place], count, *shape[place:]], first)
    d.builder.op("PACK", tensors, [output], "PackOptions", version_of("PACK", d.dtype), axis=axis, valuesCount=count)
    return d.finish(tensors, [output])


def padded(d: Draw) -> bytes:
    shape, result, (pads,), _ = _padding(d)
    data = d.tensor(shape)
    quant = d.builder.graph.tensors[data].quantization
    low, high = code_limits(d.dtype)
    value = d.builder.tensor([1], d.dtype, float(quant.scale[0]), int(quant.zeroPoint[0]), [d.any(low, high)])
    output = d.like(result, data)
    d.builder.op(
        "PADV2", [data, d.builder.integers(pads), value], [output], "PadV2Options", version_of("PADV2", d.dtype)
    )
    return d.finish([data], [output])


def concatenated(d: Draw) -> bytes:
    parts, rest = [d.any(1, 4) for _ in range(d.any(1, 3))], [1, d.any(1, 4), d.any(1, 4)]
    output = d.tensor([*rest, sum(parts)])
    mixed = d.dtype == "uint8" and not d.power_of_two
    tensors = [d.tensor([*rest, n]) if mixed and d.chance(0.7) else d.like([*rest, n], output) for n in parts]
    d.builder.op(
        "CONCATENATION", tensors, [output], "ConcatenationOptions", version_of("CONCATENATION", d.dtype), axis=3
    )
    return d.finish(tensors, [output])


def compared(code: str) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        shapes = shapes_of(d)
        first = d.tensor(shapes[0])
        second, output = d.like(shapes[1], first), d.like(np.broadcast_shapes(*map(tuple, shapes)), first)
        d.builder.op(code, [first, second], [output], "MaximumMinimumOptions", version_of(code, d.dtype))
        return d.finish([first, second], [output])

    return build


def resized(code: str) -> Callable[[Draw], bytes]:
    def build(d: Draw) -> bytes:
        image, size = [d.any(1, 7), d.any(1, 7)], [d.any(1, 12), d.any(1, 12)]
        batch, depth = d.any(1, 2), d.any(1, 3)
        data = d.tensor([batch, *image, depth])
        output = d.like([batch, *size, depth], data)
        align = d.chance(0.3)
        fields = {"alignCorners": align, "halfPixelCenters": not align and d.chance(0.5)}
        options = {
            "RESIZE_BILINEAR": "ResizeBilinearOptions",
            "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
        }[code]
        version = max(version_of(code, d.dtype), 3)
        d.builder.op(code, [data, d.builder.integers(size)], [output], options, version, **fields)
        return d.finish([data], [output])

    return build


def moved(
    code: str,
    options: str,
    draw: Callable[[Draw], tuple[list[int], list[int], list[Any], dict[str, Any]]],
    first: bool = False,
    outputs: int = 1,
) -> Callable[[Draw], bytes]:
    """An op on raw codes: `draw` gives (shape, output shape, constant parameters, options)."""

    def build(d: Draw) -> bytes:
        shape, result, parameters, fields = draw(d)
        data = d.tensor(shape)
        constants = [d.builder.integers(p) for p in parameters]
        results = [d.like(result, data) for _ in range(outputs)]
        inputs = [*constants, data] if first else [data, *constants]
        d.builder.op(code, inputs, results, options, version_of(code, d.dtype), **fields)
        return d.finish([data], results)

    return build


def _padding(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape = [1, d.any(1, 4), d.any(1, 4), d.any(1, 3)]
    pads = [[0, 0], [d.any(0, 3), d.any(0, 3)], [d.any(0, 3), d.any(0, 3)], [d.any(0, 2), d.any(0, 2)]]
    return shape, [n + a + b for n, (a, b) in zip(shape, pads)], [pads], {}


def _mirrored(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape = [1, d.any(2, 5), d.any(2, 5), 2]
    pads = [[0, 0], [d.any(0, 1), d.any(0, 1)], [d.any(0, 1), d.any(0, 1)], [0, 0]]
    return shape, [n + a + b for n, (a, b) in zip(shape, pads)], [pads], {"mode": d.any(0, 1)}


def _transposed(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape, order = [d.any(1, 4) for _ in range(4)], d.random.permutation(4).tolist()
    return shape, [shape[i] for i in order], [order], {}


def _sliced(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape = [d.any(1, 5) for _ in range(4)]
    begin = [d.any(0, n - 1) for n in shape]
    size = [d.any(1, n - b) for n, b in zip(shape, begin)]
    return shape, size, [begin, [-1 if b + s == n and d.chance(0.3) else s for b, s, n in zip(begin, size, shape)]], {}


def _strided(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape = [d.any(2, 6) for _ in range(4)]
    begin, steps = [d.any(0, n - 1) for n in shape], [d.any(1, 2) for _ in shape]
    end = [d.any(b + 1, n) for b, n in zip(begin, shape)]
    fields = {"beginMask": d.any(0, 15), "endMask": d.any(0, 15), "shrinkAxisMask": 0}
    if d.chance(0.4):
        return _signed_stride(d, shape)
    lower = [0 if fields["beginMask"] >> i & 1 else b for i, b in enumerate(begin)]
    upper = [shape[i] if fields["endMask"] >> i & 1 else e for i, e in enumerate(end)]
    return shape, [-(-(u - b) // s) for u, b, s in zip(upper, lower, steps)], [begin, end, steps], fields


def _signed_stride(d: Draw, shape: list[int]) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    """Slices that run backwards, indices from the end, and dimensions of one element that vanish."""
    begin, end, steps, shrunk, result = [], [], [], 0, []
    for axis, edge in enumerate(shape):
        if d.chance(0.3) and shrunk.bit_count() < 2:
            first = d.any(-edge, edge - 1)
            begin, end, steps, shrunk = [*begin, first], [*end, first + 1], [*steps, 1], shrunk | 1 << axis
            continue
        step = d.one([-2, -1, 1])
        first, last = (edge - 1, 0) if step < 0 else (-edge, edge)
        begin, end, steps = [*begin, first], [*end, last], [*steps, step]
        result.append(len(range(edge)[slice(first, last, step)]))
    return shape, result, [begin, end, steps], {"beginMask": 0, "endMask": 0, "shrinkAxisMask": shrunk}


def _tiled(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape, times = [d.any(1, 3) for _ in range(3)], [d.any(1, 3) for _ in range(3)]
    return shape, [n * t for n, t in zip(shape, times)], [times], {}


def _gathered(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    shape, axis = [d.any(1, 5) for _ in range(3)], d.any(0, 2)
    if d.chance(0.4):
        batch = d.one([1, -1])
        picked = d.random.integers(0, shape[1], (shape[0], d.any(1, 4)))
        return shape, [shape[0], picked.shape[1], shape[2]], [picked], {"axis": 1, "batchDims": batch}
    index = d.random.integers(0, shape[axis], d.any(1, 6))
    return shape, [*shape[:axis], len(index), *shape[axis + 1 :]], [index], {"axis": axis}


def _reshaped(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    a, b, c = d.any(1, 4), d.any(1, 4), d.any(1, 4)
    return [a, b, c], [c, a * b], [[c, -1]], {"newShape": [c, -1]}


def _squeezed(d: Draw) -> tuple[list[int], list[int], list[Any], dict[str, Any]]:
    n = d.any(2, 4)
    return [1, n, 1, 3], [1, n, 3], [], {"squeezeDims": [2]}


MOVES: dict[str, Build] = {
    **{code: compared(code) for code in ("MAXIMUM", "MINIMUM")},
    "CONCATENATION": concatenated,
    **{code: resized(code) for code in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")},
    "PADV2": padded,
    "PACK": packed,
    **{code: indexed(code) for code in ("ARG_MAX", "ARG_MIN")},
    "PAD": moved("PAD", "PadOptions", _padding),
    "MIRROR_PAD": moved("MIRROR_PAD", "MirrorPadOptions", _mirrored),
    "TRANSPOSE": moved("TRANSPOSE", "TransposeOptions", _transposed),
    "SLICE": moved("SLICE", "SliceOptions", _sliced),
    "STRIDED_SLICE": moved("STRIDED_SLICE", "StridedSliceOptions", _strided),
    "TILE": moved("TILE", "TileOptions", _tiled),
    "GATHER": moved("GATHER", "GatherOptions", _gathered),
    "RESHAPE": moved("RESHAPE", "ReshapeOptions", _reshaped),
    "SQUEEZE": moved("SQUEEZE", "SqueezeOptions", _squeezed),
    "EXPAND_DIMS": moved("EXPAND_DIMS", "ExpandDimsOptions", lambda d: ([2, 3], [2, 1, 3], [[1]], {})),
    "SPLIT": moved("SPLIT", "SplitOptions", lambda d: ([2, 6, 3], [2, 2, 3], [[1]], {"numSplits": 3}), True, 3),
    "SPLIT_V": moved(
        "SPLIT_V", "SplitVOptions", lambda d: ([2, 6, 3], [2, 2, 3], [[2, -1, 2], [1]], {"numSplits": 3}), False, 3
    ),
    "UNPACK": moved("UNPACK", "UnpackOptions", lambda d: ([2, 3, 4], [2, 4], [], {"num": 3, "axis": 1}), False, 3),
    "DEPTH_TO_SPACE": moved(
        "DEPTH_TO_SPACE", "DepthToSpaceOptions", lambda d: ([1, 2, 3, 8], [1, 4, 6, 2], [], {"blockSize": 2})
    ),
    "SPACE_TO_DEPTH": moved(
        "SPACE_TO_DEPTH", "SpaceToDepthOptions", lambda d: ([1, 4, 6, 2], [1, 2, 3, 8], [], {"blockSize": 2})
    ),
    "SPACE_TO_BATCH_ND": moved(
        "SPACE_TO_BATCH_ND",
        "SpaceToBatchNDOptions",
        lambda d: ([1, 3, 6, 2], [6, 2, 2, 2], [[2, 3], [[0, 1], [0, 0]]], {}),
    ),
    "BATCH_TO_SPACE_ND": moved(
        "BATCH_TO_SPACE_ND",
        "BatchToSpaceNDOptions",
        lambda d: ([6, 2, 2, 2], [1, 3, 6, 2], [[2, 3], [[0, 1], [0, 0]]], {}),
    ),
    "REVERSE_V2": moved("REVERSE_V2", "ReverseV2Options", lambda d: ([2, 3, 4], [2, 3, 4], [[1]], {})),
    "REDUCE_MAX": moved("REDUCE_MAX", "ReducerOptions", lambda d: ([2, 3, 4], [2, 4], [[1]], {"keepDims": False})),
    "REDUCE_MIN": moved("REDUCE_MIN", "ReducerOptions", lambda d: ([2, 3, 4], [2, 1, 4], [[1]], {"keepDims": True})),
}
