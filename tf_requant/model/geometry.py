"""Windows that slide over images: strides, dilations, paddings, for convolutions and pools."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.model.graph import Op
from tf_requant.model.ops import Padding


@dataclass(frozen=True)
class Geometry:
    """Where the taps of a window fall; every pair is (rows, columns).

    Attributes:
        kernel: taps.
        stride: step of the window.
        dilation: step between taps.
        before: rows and columns outside the image ahead of it.
        after: and behind it.
        output: places of the window.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    output: tuple[int, int]

    @classmethod
    def of(
        cls,
        image: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: Padding | tuple[int, int] = Padding.VALID,
        output: tuple[int, int] | None = None,
    ) -> "Geometry":
        """TFLite's rule for SAME and VALID; a pair gives the rows and columns ahead of the image outright.

        >>> Geometry.of((5, 5), (3, 3), (2, 2), padding=Padding.SAME)
        Geometry(kernel=(3, 3), stride=(2, 2), dilation=(1, 1), before=(1, 1), after=(1, 1), output=(3, 3))
        """
        before, after, size = [], [], []
        for axis in (0, 1):
            extent = (kernel[axis] - 1) * dilation[axis] + 1
            if padding == Padding.SAME and not isinstance(padding, tuple):
                places = -(-image[axis] // stride[axis])
            else:
                places = (image[axis] + stride[axis] - extent) // stride[axis]
            if output is not None:
                places = output[axis]
            reach = (places - 1) * stride[axis] + extent
            total = max(reach - image[axis], 0)
            ahead = padding[axis] if isinstance(padding, tuple) else total // 2 if padding == Padding.SAME else 0
            before.append(ahead)
            after.append(max(reach - image[axis] - ahead, 0))
            size.append(places)
        return cls(kernel, stride, dilation, _pair(before), _pair(after), _pair(size))

    def pad(self, codes: NDArray[Any], fill: Any, dtype: Any) -> NDArray[Any]:
        """The image with its border filled.

        Args:
            codes: [H, W, C].
            fill: what the border holds.
            dtype: of the result.

        Returns:
            [before + H + after, before + W + after, C], C-contiguous.
        """
        height, width, channels = codes.shape
        (top, left), (bottom, right) = self.before, self.after
        if not (top or left or bottom or right):
            return np.ascontiguousarray(codes, dtype)
        padded = np.empty((top + height + bottom, left + width + right, channels), dtype)
        padded[:top], padded[top + height :] = fill, fill
        padded[top : top + height, :left], padded[top : top + height, left + width :] = fill, fill
        padded[top : top + height, left : left + width] = codes
        return padded

    def slab(self, padded: NDArray[Any], start: int, count: int) -> NDArray[Any]:
        """The rows of a padded image that `count` rows of windows from `start` on look at."""
        reach = (count - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1
        return padded[start * self.stride[0] : start * self.stride[0] + reach]

    def windows(self, padded: NDArray[Any], rows: int | None = None) -> NDArray[Any]:
        """Every window of a padded image, as a view [rows, columns, kernel rows, kernel columns, C].

        Args:
            padded: the image, or a slab of it.
            rows: rows of windows in a slab.
        """
        row, column, channel = padded.strides
        (down, right), (dilate_rows, dilate_columns) = self.stride, self.dilation
        return np.lib.stride_tricks.as_strided(
            padded,
            (self.output[0] if rows is None else rows, self.output[1], *self.kernel, padded.shape[2]),
            (row * down, column * right, row * dilate_rows, column * dilate_columns, channel),
            writeable=False,
        )

    def taps_inside(self, image: tuple[int, int]) -> NDArray[np.int64]:
        """How many taps of each window lie inside the image, int64[rows, columns]."""
        counts = []
        for axis in (0, 1):
            start = np.arange(self.output[axis])[:, None] * self.stride[axis] - self.before[axis]
            at = start + np.arange(self.kernel[axis])[None] * self.dilation[axis]
            counts.append(((at >= 0) & (at < image[axis])).sum(axis=1))
        return np.asarray(counts[0][:, None] * counts[1][None], np.int64)


def pool_geometry(op: Op) -> Callable[[NDArray[Any]], Geometry]:
    """Codes [N, H, W, C] -> the geometry of a pool over them."""
    kernel = (int(op.attrs["filter_height"]), int(op.attrs["filter_width"]))
    padding = Padding(op.attrs["padding"])
    return lambda codes: Geometry.of((codes.shape[1], codes.shape[2]), kernel, strides(op), padding=padding)


def strides(op: Op) -> tuple[int, int]:
    """The op's stride, (rows, columns)."""
    return int(op.attrs["stride_h"]), int(op.attrs["stride_w"])


def dilations(op: Op) -> tuple[int, int]:
    """The op's dilation, (rows, columns)."""
    return int(op.attrs.get("dilation_h_factor", 1)), int(op.attrs.get("dilation_w_factor", 1))


def _pair(values: list[int]) -> tuple[int, int]:
    return values[0], values[1]
