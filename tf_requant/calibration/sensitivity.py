"""What noise on one tensor's codes does to the model's scores, measured by putting some there.

Re-quantization adds a rounding error of a fraction of a step to every tensor. How much of it arrives at the scores
depends on what the layers behind do with it: in MobileNetV2 a step of noise on the first block's tensors costs a
hundred times what it costs further in. Plans that add up predicted errors weigh them by this.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.quant import code_limits

AMPLITUDE = 4
"""Steps of noise: well above the rounding of the layers behind, well below their clamps."""
LEFT_OVER = 0.2
"""The share of a filter's predicted rounding error that rounding by the inputs' covariance leaves: measured, 3 to 10 dB."""


def disturbed(codes: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[Any], float]:
    """Codes with noise of +-`AMPLITUDE`, and the noise's power, in steps squared, averaged over all codes.

    Codes at the ends of the type stay: there a clamp or a RELU decides, and re-rounding leaves them where they are.

    Args:
        codes: of an 8-bit type.
        rng: random numbers.
    """
    low, high = code_limits(codes.dtype.name)
    inside = (codes > low) & (codes < high)
    noise = (rng.integers(0, 2, codes.shape) * 2 - 1) * AMPLITUDE
    moved = np.where(inside, np.clip(codes.astype(np.int16) + noise, low, high), codes).astype(codes.dtype)
    return moved, float(AMPLITUDE**2 * inside.mean())
