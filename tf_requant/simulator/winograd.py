"""CONV_2D by Winograd's F(2x2, 3x3) in integers: 16 products for four outputs of 3 x 3 taps, instead of 36.

Y = A^T [(G g G^T) * (B^T d B)] A (Winograd 1980; Lavin and Gray, arXiv 1509.09308) over tiles d of 4 x 4 inputs. G holds
halves; 2G holds integers, so that products, sums and outputs carry a factor of 2 * 2, which divides out exactly: what
comes out is the direct convolution, element by element. With |x - z| <= R (the zero point goes first), |w| <= W and C
input channels, the largest magnitudes are

    transformed input   V = B^T d B         4 R         2 R after one side: each row of B^T adds two
    transformed filter  U = (2G) g (2G)^T   9 W         3 W after one side: rows of 2G add up to three
    product             U * V               36 R W
    sum over channels   M                   36 R W C
    outputs             A^T M A = 4 y       324 R W C   partial sums, in any order; 108 R W C after one side

so 7-bit codes (R = 64, W = 63) need 10 bits for V and 11 for U. The accumulator has to hold M and the outputs on their
way; that is checked with the filter's own U in the place of 9 W, and what might not fit is refused.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.geometry import Geometry
from tf_requant.numerics.integers import limits
from tf_requant.numerics.output_stage import BLOCK, FLOAT32_EXACT, FLOAT64_EXACT
from tf_requant.simulator.mac import Layer
from tf_requant.simulator.site import CannotRun

INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
"""B^T."""
FILTER = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
"""2G."""
OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
"""A^T."""
_FACTOR = 4
"""What (2G)(2G) puts on every output."""
_TILE = 16
"""Elements of a transformed tile."""


@dataclass(frozen=True)
class Ranges:
    """The largest magnitudes that a transformed layer can reach, whatever its inputs.

    Attributes:
        inputs: of B^T d B.
        filters: of (2G) g (2G)^T, as this filter has them.
        products: of one product.
        sums: of the products summed over the input channels.
        outputs: of any partial sum of A^T M A.
    """

    inputs: int
    filters: int
    products: int
    sums: int
    outputs: int


class Winograd:
    """One group of a 3 x 3 convolution with stride 1 and dilation 1, transformed.

    Args:
        layer: filter [9, inputs, outputs].

    Raises:
        CannotRun: the accumulator might not hold the transformed sums, or overflows at each product.
    """

    def __init__(self, layer: Layer) -> None:
        taps, inputs, outputs = layer.weights.filter.shape
        self.layer = layer
        spatial = layer.weights.filter.reshape(3, taps // 3, inputs, outputs).astype(np.int64)
        self.filter = np.einsum("ik,klco,jl->ijco", FILTER, spatial, FILTER)
        """int64[4, 4, inputs, outputs]."""
        register = layer.accumulator
        if layer.stepwise:
            raise CannotRun("its accumulator overflows at each product, and Winograd's transform has other products")
        if self.ranges.outputs > limits(register.bits)[1]:
            raise CannotRun(
                f"its sums reach {self.ranges.outputs} in Winograd's transform, and the accumulator of {register.bits} bits "
                f"holds {limits(register.bits)[1]}"
            )

    @cached_property
    def ranges(self) -> Ranges:
        """The range of every intermediate, from the filter's own transform."""
        inputs = self.layer.weights.reach * int(np.abs(INPUT).sum(axis=1).max()) ** 2
        size = np.abs(self.filter)
        filters = int(size.max(initial=0))
        sums = inputs * size.sum(axis=2)
        outputs = np.einsum("ai,ijo,bj->abo", np.abs(OUTPUT), sums, np.abs(OUTPUT))
        return Ranges(inputs, filters, inputs * filters, int(sums.max(initial=0)), int(outputs.max(initial=0)))

    @cached_property
    def precision(self) -> Any:
        """The narrowest type that holds all of them exactly."""
        reach = max(self.ranges.inputs, self.ranges.filters, self.ranges.outputs)
        return np.float32 if reach < FLOAT32_EXACT else np.float64 if reach < FLOAT64_EXACT else np.int64

    @cached_property
    def matrices(self) -> NDArray[Any]:
        """The filter as one matrix for each of the 16 places: [16, inputs, outputs]."""
        return np.ascontiguousarray(self.filter.reshape(_TILE, *self.filter.shape[2:]).astype(self.precision))

    def sums(self, codes: NDArray[Any]) -> NDArray[Any]:
        """The sums of (x - z) * w of every window.

        Args:
            codes: [2 n + 2, 2 m + 2, inputs], the zero point taken off, in `precision`.

        Returns:
            [2 n, 2 m, outputs], integral, in `precision`.
        """
        down, across, channel = codes.strides
        rows, columns, inputs = codes.shape[0] // 2 - 1, codes.shape[1] // 2 - 1, codes.shape[2]
        tiles = np.lib.stride_tricks.as_strided(
            codes, (rows, columns, 4, 4, inputs), (2 * down, 2 * across, down, across, channel), writeable=False
        )
        before, after = INPUT.astype(self.precision), OUTPUT.astype(self.precision)
        image = np.einsum("ik,hwklc,jl->ijhwc", before, tiles, before, optimize=True)
        products = np.matmul(image.reshape(_TILE, rows * columns, inputs), self.matrices)
        square = products.reshape(4, 4, rows, columns, -1)
        total = np.einsum("ai,ijhwo,bj->hawbo", after, square, after, optimize=True)
        whole = total.reshape(2 * rows, 2 * columns, -1)
        # Every entry is a multiple of four, so that neither of the two rounds.
        return np.asarray(whole // _FACTOR if self.precision is np.int64 else whole * self.precision(1 / _FACTOR))

    def image(self, codes: NDArray[Any], geometry: Geometry, out: NDArray[Any]) -> None:
        """Writes the codes of one image, by blocks of tiles.

        Args:
            codes: [H, W, inputs].
            geometry: 3 x 3 taps, stride 1, dilation 1.
            out: codes [rows, columns, outputs].
        """
        (rows, columns), outputs, layer = geometry.output, out.shape[2], self.layer
        if not out.size:
            return
        padded = geometry.pad(codes, layer.weights.pad, codes.dtype)
        # A last tile that is half outside looks at one row or column more, whatever it holds.
        padded = np.pad(padded, ((0, rows % 2), (0, columns % 2), (0, 0)))
        zero_point = self.precision(layer.weights.zero_point)
        raw = (layer.weights.zero_point * layer.weights.filter.sum(axis=(0, 1), dtype=np.int64)).astype(self.precision)
        tiles = _TILE * (columns + 1) // 2 * max(codes.shape[2], outputs)
        step = 2 * max(1, _FACTOR * BLOCK // tiles)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            block = padded[start : start + count + count % 2 + 2].astype(self.precision) - zero_point
            # The layer's own sums are those of the raw codes.
            sums = self.sums(block)[:count, :columns] + raw
            whole = np.ascontiguousarray(sums.reshape(-1, outputs), layer.precision)
            layer.finish(whole, out[start : start + count].reshape(-1, outputs))
        layer.settle()
