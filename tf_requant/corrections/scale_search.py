"""Scales of filters by the error of the layer's output (EasyQuant, arXiv 2006.16669, section 3, with squared error).

EasyQuant maximizes the cosine of the outputs, which is blind to a gain; in a chain of fixed-point layers a gain is an
error, so the squared error decides. A squared error of a filter's rounding needs only the covariance of its inputs, so
a candidate costs one product. On a power-of-two grid the candidates are the few exponents near the filter's range.
"""

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.moments import Moments
from tf_requant.numerics.rounding import Rounding, round_real

_CLIPPINGS = (1.0, 0.93, 0.86, 0.79, 0.72, 0.64, 0.55)
_OCTAVES = (0, 1, 2)
_SAME = 1e-6
"""Scales this near to the one at hand are float32's rounding of it."""


def candidates(wanted: NDArray[np.float64], high: int, power_of_two: bool, per_channel: bool) -> NDArray[np.float64]:
    """Scales worth trying, as multiples of the scale at hand, float64[candidates, channels or 1]; the first is one.

    Args:
        wanted: the filter in steps of the scale at hand, float64[channels, K].
        high: the highest code.
        power_of_two: whether scales may only move by octaves.
        per_channel: whether each channel may have its own.
    """
    peak = np.abs(wanted).max(axis=1)
    fit = np.maximum(peak if per_channel else peak.max(keepdims=True), 1e-12) / high
    if power_of_two:
        top = 2.0 ** np.ceil(np.log2(fit) - 1e-6)
        found = [top / 2.0**octave for octave in _OCTAVES]
    else:
        found = [fit * clipping for clipping in _CLIPPINGS]
    tried = np.stack([np.ones_like(fit), *(np.where(fit > 1e-9, f, 1.0) for f in found)])
    return np.asarray(np.where(np.abs(tried - 1) < _SAME, 1.0, tried))


def best_scale(
    wanted: NDArray[np.float64],
    moments: Moments,
    multiples: NDArray[np.float64],
    low: int,
    high: int,
) -> NDArray[np.float64]:
    """The multiple of the scale at hand at which nearest rounding moves the output least, float64[channels or 1].

    Args:
        wanted: the filter in steps of the scale at hand, float64[groups, outputs, K].
        moments: of the layer's inputs.
        multiples: what is tried, float64[candidates, channels or 1]; of equals the first wins.
        low: the lowest code.
        high: the highest.
    """
    groups, outputs, _ = wanted.shape
    errors = []
    for multiple in multiples:
        step = np.broadcast_to(multiple, (groups * outputs,)).reshape(groups, outputs, 1)
        codes = np.clip(round_real(wanted / step, Rounding.HALF_EVEN), low, high)
        error = moments.rounding_error(codes * step - wanted).reshape(-1)
        errors.append(error if multiple.size > 1 else error.sum(keepdims=True))
    best = np.argmin(errors, axis=0)
    return np.asarray(multiples[best, np.arange(multiples.shape[1])])


def scale_multiples(ratios: NDArray[np.float64], shifts: tuple[int, int]) -> tuple[float, float]:
    """Between which multiples of a filter's scale its rescale's shift stays in a target's range.

    Args:
        ratios: s_in * s_w / s_out of each output.
        shifts: the lowest and the highest shift, right if > 0.
    """
    lowest, highest = shifts
    with np.errstate(over="ignore"):  # a device of floats has no end
        ends = np.exp2(np.array([-highest, -lowest], np.float64))
    return float(ends[0]) / float(ratios.min()), float(ends[1]) / float(ratios.max())
