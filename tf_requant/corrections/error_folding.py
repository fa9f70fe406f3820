"""Folds the errors of the layers before a layer into its filter.

Behind re-quantized layers a filter w no longer sees the source's inputs y but x. The filter that gives the source's
output from x is not w but w + w (E[y x^T] - E[x x^T]) (E[x x^T] + ridge)^-1, a regression of the source's output on
what there is. The error of rounding activations, multipliers and earlier filters that x still predicts is taken off
where the next filter is rounded anyway. The ridge keeps the filter where it is in directions that the data don't span.
"""

import numpy as np
from numpy.typing import NDArray

from tf_requant.calibration.moments import Moments
from tf_requant.corrections.gptq import damped

RIDGES = (1.0, 0.3, 0.1)
"""Shares of the inputs' mean variance that are tried, each judged on samples held back."""


def folded(wanted: NDArray[np.float64], moments: Moments, ridge: float) -> NDArray[np.float64]:
    """The filter that gives the source's output on the result's inputs, float64[groups, outputs, K].

    Args:
        wanted: the source's filter in the result's steps.
        moments: covariances of the result's inputs, and with the source's.
        ridge: regularization as a share of the mean variance of an input.
    """
    missing = (moments.xy - moments.xx) @ wanted.transpose(0, 2, 1)
    return np.asarray(wanted + np.linalg.solve(damped(moments.xx, ridge), missing).transpose(0, 2, 1))
