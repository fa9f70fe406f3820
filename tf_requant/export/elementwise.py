"""Ops on single codes and pairs of codes: ADD, SUB, MUL, QUANTIZE, RELU and functions by table."""

from tf_requant.export import rescales
from tf_requant.export.kinds import Addition, Comparison, Kind, Lookup, Multiplication, Operand, Prelu, Rescaling
from tf_requant.simulator.ops import KERNELS, add, leaky_relu, mul, prelu, quantize, relu
from tf_requant.simulator.site import CannotRun, Site, point
from tf_requant.simulator.tables import all_codes

_BYTE_TYPES = ("uint8", "int8")


def addition(site: Site) -> Addition:
    """ADD and SUB."""
    (left, right), rescale = add.common_scale(site, site.input(0), site.input(1))
    bits, output = add.sum_bits(site, rescale) or 0, rescales.output(site.stage(rescale))
    return Addition(-1 if site.op.code == "SUB" else 1, _operand(left), _operand(right), bits, output)


def _operand(side: add.ToCommon) -> Operand:
    rescale = None if side.rescale is None else rescales.rescale(side.rescale)
    return Operand(point(side.tensor), side.left_shift, rescale, side.bits or 0)


def multiplication(site: Site) -> Multiplication:
    """MUL."""
    return Multiplication(rescales.output(mul.stage_of(site)))


def comparison(site: Site) -> Comparison:
    """MAXIMUM and MINIMUM."""
    return Comparison(site.op.code == "MAXIMUM")


def sloped(site: Site) -> Prelu:
    """PRELU."""
    above, below = prelu.stages_of(site)
    return Prelu(rescales.output(above), rescales.output(below))


def leaky(site: Site) -> Kind:
    """LEAKY_RELU: a table of 8-bit codes, both stages of wider ones."""
    if site.input().dtype in _BYTE_TYPES:
        return lookup(site)
    above, below = leaky_relu.stages_of(site)
    return Prelu(rescales.output(above), rescales.output(below))


def rescaling(site: Site) -> Rescaling:
    """QUANTIZE between codes."""
    return Rescaling(rescales.output(quantize.stage_of(site)))


def rectifier(site: Site) -> Rescaling:
    """RELU, RELU6, RELU_N1_TO_1 that stand alone."""
    return Rescaling(rescales.output(relu.stage_of(site)))


def lookup(site: Site) -> Lookup:
    """A function of one code, read off the simulator's kernel code by code."""
    data = site.input()
    if data.dtype not in _BYTE_TYPES:
        raise CannotRun(f"{data.name!r} is {data.dtype}, and this program holds tables of 8-bit codes only")
    return Lookup(KERNELS[site.op.code](site)([all_codes(data.dtype)])[0].tobytes())
