"""The table of static rules: for each op, how many tensors it takes, its newest version, and what must fit.

The rules themselves are in `legality`, one file a family. A rule looks at types, parameters, shapes and
constant parameters of one op, never at weights, and says in a sentence what an interpreter would refuse,
crash on, or silently read as something else. Versions are the newest that LiteRT 2.3.0 registers.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tf_requant.model.graph import Graph
from tf_requant.model.legality import arithmetic, gathers, moves, multiply, windows
from tf_requant.model.legality.site import DAMAGED, Site
from tf_requant.model.ops import OPS
from tf_requant.model.quant import QUANTIZED_DTYPES

_ANY = 1 << 16
_SOFTMAX_TOLERANCE = 1e-3  # the other kernels compare exactly


@dataclass(frozen=True)
class OpRules:
    """One row.

    Attributes:
        rule: notes what does not fit in an op.
        newest: the highest op version that an interpreter registers.
        inputs: the fewest and most inputs.
        outputs: the fewest and most outputs.
        optional: positions that may hold -1.
        options: whether an interpreter's defaults for absent options are useless (stride 0, beta 0).
    """

    rule: Callable[[Site], None]
    newest: int
    inputs: tuple[int, int] = (1, 1)
    outputs: tuple[int, int] = (1, 1)
    optional: tuple[int, ...] = ()
    options: bool = False


RULES: dict[str, OpRules] = {
    "CONV_2D": OpRules(multiply.conv_2d, 8, (3, 3), options=True),
    "DEPTHWISE_CONV_2D": OpRules(multiply.depthwise_conv_2d, 7, (3, 3), options=True),
    "FULLY_CONNECTED": OpRules(multiply.fully_connected, 14, (2, 3), optional=(2,)),
    "TRANSPOSE_CONV": OpRules(multiply.transpose_conv, 5, (3, 4), optional=(3,), options=True),
    "ADD": OpRules(arithmetic.add, 6, (2, 2)),
    "SUB": OpRules(arithmetic.add, 5, (2, 2)),
    "MUL": OpRules(arithmetic.mul, 8, (2, 2)),
    "MAXIMUM": OpRules(arithmetic.maximum, 4, (2, 2)),
    "MINIMUM": OpRules(arithmetic.maximum, 4, (2, 2)),
    "MEAN": OpRules(arithmetic.reduce, 3, (2, 2)),
    "REDUCE_MAX": OpRules(arithmetic.reduce, 3, (2, 2)),
    "REDUCE_MIN": OpRules(arithmetic.reduce, 3, (2, 2)),
    "RELU": OpRules(arithmetic.activation, 3),
    "RELU6": OpRules(arithmetic.activation, 3),
    "RELU_N1_TO_1": OpRules(arithmetic.activation, 1),
    "LEAKY_RELU": OpRules(arithmetic.activation, 2),
    "HARD_SWISH": OpRules(arithmetic.activation, 1),
    "LOGISTIC": OpRules(arithmetic.activation, 3),
    "TANH": OpRules(arithmetic.activation, 3),
    "PRELU": OpRules(arithmetic.prelu, 1, (2, 2)),
    "SOFTMAX": OpRules(arithmetic.normalization, 4, options=True),
    "LOG_SOFTMAX": OpRules(arithmetic.normalization, 2),
    "L2_NORMALIZATION": OpRules(arithmetic.normalization, 2),
    "QUANTIZE": OpRules(arithmetic.quantize, 6),
    "DEQUANTIZE": OpRules(arithmetic.dequantize, 9),
    "ARG_MAX": OpRules(arithmetic.arg_max, 3, (2, 2), options=True),
    "ARG_MIN": OpRules(arithmetic.arg_max, 3, (2, 2), options=True),
    "AVERAGE_POOL_2D": OpRules(windows.pool_2d, 3, options=True),
    "MAX_POOL_2D": OpRules(windows.pool_2d, 3, options=True),
    "RESIZE_BILINEAR": OpRules(windows.resize, 4, (2, 2)),
    "RESIZE_NEAREST_NEIGHBOR": OpRules(windows.resize, 4, (2, 2)),
    "DEPTH_TO_SPACE": OpRules(windows.depth_to_space, 2, options=True),
    "SPACE_TO_DEPTH": OpRules(windows.space_to_depth, 2, options=True),
    "SPACE_TO_BATCH_ND": OpRules(windows.space_to_batch, 4, (3, 3)),
    "BATCH_TO_SPACE_ND": OpRules(windows.batch_to_space, 4, (3, 3)),
    "CONCATENATION": OpRules(moves.concatenation, 7, (1, _ANY)),
    "SPLIT": OpRules(moves.split, 5, (2, 2), (1, _ANY), options=True),
    "SPLIT_V": OpRules(moves.split, 3, (3, 3), (1, _ANY), options=True),
    "PACK": OpRules(moves.pack, 5, (1, _ANY), options=True),
    "UNPACK": OpRules(moves.unpack, 6, (1, 1), (1, _ANY), options=True),
    "PAD": OpRules(moves.pad, 6, (2, 2)),
    "PADV2": OpRules(moves.pad, 6, (3, 3)),
    "MIRROR_PAD": OpRules(moves.pad, 3, (2, 2), options=True),
    "RESHAPE": OpRules(moves.reshape, 1, (1, 2), optional=(1,)),
    "SQUEEZE": OpRules(moves.squeeze, 2),
    "EXPAND_DIMS": OpRules(moves.expand_dims, 1, (2, 2)),
    "TRANSPOSE": OpRules(moves.transpose, 9, (2, 2)),
    "SLICE": OpRules(moves.slice_, 8, (3, 3)),
    "STRIDED_SLICE": OpRules(moves.strided_slice, 8, (4, 4)),
    "TILE": OpRules(moves.tile, 3, (2, 2)),
    "REVERSE_V2": OpRules(moves.reverse, 4, (2, 2)),
    "GATHER": OpRules(gathers.gather, 8, (2, 2)),
    "GATHER_ND": OpRules(gathers.gather_nd, 6, (2, 2)),
}  # fmt: skip
"""The same keys as `ops.OPS`."""


def check_op(graph: Graph, index: int, problems: list[str], unknown: set[int]) -> None:
    """Appends a sentence for everything about one op that an interpreter would refuse.

    Args:
        graph: a graph whose tensor indices are in range.
        index: the op's index.
        problems: the sentences so far.
        unknown: tensors whose stored shape means nothing; those that this op writes are added.
    """
    op, row = graph.ops[index], RULES.get(graph.ops[index].code)
    site = Site(graph, index, problems, unknown)
    if row is None:
        site.need(op.code != "CUSTOM" or bool(op.custom_code), "a custom op without a name", "its custom_code")
        unknown.update(t for t in op.outputs if not graph.tensors[t].shape)
        return
    if not _arity(site, row) or not _loads(site, row):
        return
    if not site.known:
        unknown.update(t for t in op.outputs if not graph.tensors[t].shape)
        return
    _no_empty_codes(site)
    row.rule(site)
    if OPS[op.code].rule == "fixed":
        _fixed_params(site)


def _arity(site: Site, row: OpRules) -> bool:
    for side, count, (low, high) in (
        ("inputs", len(site.inputs), row.inputs),
        ("outputs", len(site.outputs), row.outputs),
    ):
        if not low <= count <= high:
            expected = str(low) if low == high else f"{low} to {high}" if high < _ANY else f"at least {low}"
            return site.need(False, f"it has {count} {side}", expected)
    if None not in site.inputs:
        return True
    absent = [i for i, t in enumerate(site.inputs) if t is None and i not in row.optional]
    return not absent or site.need(False, f"inputs {absent} are left out (-1)", "a tensor")


def _loads(site: Site, row: OpRules) -> bool:
    version, attrs = site.op.version, site.op.attrs
    if not 1 <= version <= row.newest:
        newer = "use a newer interpreter and a newer tf_requant, or convert for an older runtime"
        return site.need(False, f"op version {version} is unknown", f"1 to {row.newest}", newer)
    return bool(attrs) or not row.options or site.need(False, "it carries no options", "the op's options")


def _no_empty_codes(site: Site) -> None:
    for tensor in (*site.inputs, *site.outputs):
        if tensor is not None and 0 in tensor.shape and tensor.dtype in (*QUANTIZED_DTYPES, "float32"):
            site.need(False, f"{tensor.name!r} has shape {list(tensor.shape)}", "no dimension of 0", DAMAGED)


def _fixed_params(site: Site) -> None:
    output = site.outputs[0]
    fixed = OPS[site.op.code].fixed_params(output.dtype)
    honoured = site.op.code == "TANH" and output.dtype != "int16"  # the 8-bit table is built for any scale
    if fixed is None or honoured or output.quant is None or output.quant.per_channel:
        return
    scale, zero_point = fixed
    tolerance = _SOFTMAX_TOLERANCE * scale if site.op.code == "SOFTMAX" else 0.0
    holds = abs(float(output.quant.scale[0]) - scale) <= tolerance
    if not holds or int(output.quant.zero_point[0]) != zero_point:
        dictated = f"scale {scale:.8g} zero point {zero_point}, which the kernel dictates"
        site.need(False, f"the output has {output.quant}", dictated, "put a QUANTIZE op behind it")
