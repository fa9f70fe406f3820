"""A graph under an arithmetic -> Program. Every number is asked of what the simulator computes with; none is derived anew."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from tf_requant.export import elementwise, layers, moves, pools
from tf_requant.export.kinds import Host, Kind
from tf_requant.export.program import VERSION, Buffer, ElementType, Op, Program, Tensor
from tf_requant.model import graph as source
from tf_requant.model.ops import info
from tf_requant.model.quant import INT_BITS, QuantParams
from tf_requant.numerics.arithmetic import Arithmetic
from tf_requant.numerics.codebook import index_width
from tf_requant.numerics.integers import signed_width
from tf_requant.simulator.profiles import TFLITE_REF
from tf_requant.simulator.simulator import Placed
from tf_requant.simulator.site import CannotRun, Site, narrow_width
from tf_requant.version import __version__

LOWERINGS: Mapping[str, Callable[[Site], Kind]] = {
    "CONV_2D": layers.convolution,
    "DEPTHWISE_CONV_2D": layers.depthwise,
    "TRANSPOSE_CONV": layers.transposed,
    "FULLY_CONNECTED": layers.fully_connected,
    **dict.fromkeys(("ADD", "SUB"), elementwise.addition),
    "MUL": elementwise.multiplication,
    "QUANTIZE": elementwise.rescaling,
    **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1"), elementwise.rectifier),
    **dict.fromkeys(("LOGISTIC", "TANH", "HARD_SWISH"), elementwise.lookup),
    "LEAKY_RELU": elementwise.leaky,
    "PRELU": elementwise.sloped,
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), elementwise.comparison),
    "RESIZE_BILINEAR": moves.resized,
    "AVERAGE_POOL_2D": pools.average_pool,
    "MAX_POOL_2D": pools.max_pool,
    "MEAN": pools.mean_over,
    "CONCATENATION": moves.concatenated,
    "PACK": moves.packed,
    **dict.fromkeys(("PAD", "PADV2"), moves.padded),
    **dict.fromkeys(
        (
            "BATCH_TO_SPACE_ND", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER", "MIRROR_PAD", "RESHAPE", "RESIZE_NEAREST_NEIGHBOR",
            "REVERSE_V2", "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE",
            "TILE", "TRANSPOSE", "UNPACK",
        ),
        moves.moved,
    ),
}  # fmt: skip
"""TFLite's op name -> its kind in a program. Any other op is the host's."""


def lower(
    graph: source.Graph,
    arithmetic: Arithmetic,
    placed: Sequence[Placed],
    host: Mapping[int, str],
    bias_bits: int = 32,
    codebook: tuple[int, ...] | None = None,
) -> Program:
    """The program of a graph: one op for each op, one tensor for each tensor, under the same indices.

    Args:
        graph: a verified graph with static shapes.
        arithmetic: the target's.
        placed: how the simulator runs each op.
        host: ops that the target's rules leave to the host all the same, by index, with the reason.
        bias_bits: width in which the target stores a bias.
        codebook: the widths of an index, where the target stores filters as indices into a table of their codes.
    """
    tensors, buffers = _tensors(graph)
    filters = {
        op.inputs[row.filter]
        for op, place in zip(graph.ops, placed)
        if place.where == "device" and (row := info(op)) is not None and row.filter is not None and row.filter < len(op.inputs)
    }
    tensors, buffers = _stored(graph, tensors, buffers, filters, codebook)
    tensors = _narrow(graph, arithmetic, placed, tensors)
    ops = []
    for index, (op, place) in enumerate(zip(graph.ops, placed)):
        reason = place.reason or host.get(index, "")
        kind = _kind(graph, index, arithmetic, place, bias_bits)
        reason = reason or (kind.reason if isinstance(kind, Host) else "")
        ops.append(Op(op.name, op.inputs, op.outputs, kind, reason))
    return Program(
        VERSION, f"tf_requant {__version__}", arithmetic.name, tensors, tuple(ops), graph.inputs, graph.outputs, buffers
    )


def _kind(graph: source.Graph, index: int, arithmetic: Arithmetic, place: Placed, bias_bits: int) -> Kind:
    """What an op computes, in the arithmetic that the simulator ran it with."""
    if place.where == "host":
        return Host(place.reason)
    site = Site(graph, index, arithmetic if place.where == "device" else TFLITE_REF)
    lowering = LOWERINGS.get(site.op.code)
    if lowering is None:
        return Host(place.reason or f"this program has no kind for {site.op.name}")
    try:
        kind = lowering(site)
    except CannotRun as why:
        return Host(str(why))
    return layers.with_mantissas(kind, site, bias_bits) if place.where == "device" else kind


def _tensors(graph: source.Graph) -> tuple[tuple[Tensor, ...], tuple[Buffer, ...]]:
    """Every tensor's format, and the constants, equal ones once."""
    tensors: list[Tensor] = []
    buffers: dict[bytes | None, int] = {None: 0}
    for tensor in graph.tensors:
        content = None if tensor.data is None else _little_endian(tensor.data)
        tensors.append(_tensor(tensor, buffers.setdefault(content, len(buffers))))
    return tuple(tensors), tuple(Buffer(content or b"") for content in buffers)


def _stored(
    graph: source.Graph,
    tensors: tuple[Tensor, ...],
    buffers: tuple[Buffer, ...],
    filters: set[int],
    codebook: tuple[int, ...] | None,
) -> tuple[tuple[Tensor, ...], tuple[Buffer, ...]]:
    """Filters at the width that the accelerator has to hold: of their largest code, or of an index into their codes."""
    found, more = list(tensors), list(buffers)
    for t in sorted(filters):
        data, quant = graph.tensors[t].data, graph.tensors[t].quant
        if data is None or quant is None or data.dtype != np.int8 or quant.zero_point.any():
            continue
        if codebook is None:
            found[t] = replace(found[t], bits=signed_width(int(data.min(initial=0)), int(data.max(initial=0))))
            continue
        levels, indices = np.unique(data, return_inverse=True)
        bits = index_width(levels.size, codebook)
        planes = (indices.reshape(-1, 1) >> np.arange(bits)) & 1
        packed = np.packbits(planes.astype(np.uint8), bitorder="little").tobytes()
        found[t] = replace(found[t], bits=bits, codebook=tuple(levels.tolist()), indices=len(more))
        more.append(Buffer(packed))
    return tuple(found), tuple(more)


def _narrow(
    graph: source.Graph, arithmetic: Arithmetic, placed: Sequence[Placed], tensors: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Activations that the accelerator reads or writes, at the width it holds them in."""
    found = list(tensors)
    for op, place in zip(graph.ops, placed):
        for t in (*op.inputs, *op.outputs) if place.where == "device" else ():
            if t >= 0 and (graph.tensors[t].is_activation or graph.tensors[t].bits is not None):
                found[t] = replace(found[t], bits=narrow_width(graph.tensors[t], arithmetic) or found[t].bits)
    return tuple(found)


def _little_endian(data: NDArray[np.generic]) -> bytes:
    return data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes()


def _tensor(tensor: source.Tensor, buffer: int) -> Tensor:
    kind = ElementType(tensor.dtype) if tensor.dtype in [t.value for t in ElementType] else ElementType.OTHER
    quant = tensor.quant
    bits = INT_BITS.get(tensor.dtype, 32 if kind is ElementType.FLOAT32 else 0)
    scale = () if quant is None else tuple(quant.scale.tolist())
    return Tensor(
        tensor.name,
        tensor.shape,
        kind,
        bits,
        not tensor.dtype.startswith(("u", "bool")),
        scale,
        () if quant is None else _exponents(quant),
        () if quant is None else tuple(quant.zero_point.tolist()),
        0 if quant is None else quant.axis,
        buffer,
    )


def _exponents(quant: QuantParams) -> tuple[int, ...]:
    """The scales' exponents, where all of them are powers of two."""
    mantissa, exponent = np.frexp(quant.scale)
    return tuple((exponent - 1).tolist()) if (mantissa == 0.5).all() else ()


def tensor_keys(program: Program) -> tuple[str, ...]:
    """A name for each tensor that is fit for a file, an archive and C: `t0012_` and its own, other characters turned to _."""
    names = ("".join(c if c.isascii() and c.isalnum() else "_" for c in t.name) for t in program.tensors)
    return tuple(f"t{index:04d}_{name[-48:]}" for index, name in zip(count(), names))
