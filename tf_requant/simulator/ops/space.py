"""DEPTH_TO_SPACE, SPACE_TO_DEPTH, SPACE_TO_BATCH_ND, BATCH_TO_SPACE_ND: blocks of pixels against channels or batches."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, Kernel, Site, point


def prepare_depth_to_space(site: Site) -> Kernel:
    """The kernel of one DEPTH_TO_SPACE."""
    site.codes(site.input(0), site.output())
    b = int(site.attrs["block_size"])

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes = arrays[0]
        n, h, w, c = codes.shape
        blocks = codes.reshape(n, h, w, b, b, c // (b * b)).transpose(0, 1, 3, 2, 4, 5)
        return [blocks.reshape(n, h * b, w * b, c // (b * b))]

    return run


def prepare_space_to_depth(site: Site) -> Kernel:
    """The kernel of one SPACE_TO_DEPTH."""
    site.codes(site.input(0), site.output())
    b = int(site.attrs["block_size"])

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes = arrays[0]
        n, h, w, c = codes.shape
        blocks = codes.reshape(n, h // b, b, w // b, b, c).transpose(0, 1, 3, 2, 4, 5)
        return [blocks.reshape(n, h // b, w // b, c * b * b)]

    return run


def prepare_space_to_batch(site: Site) -> Kernel:
    """The kernel of one SPACE_TO_BATCH_ND: inputs (codes, block [D], paddings [D, 2]); the border holds the zero point."""
    site.codes(site.input(0), site.output())
    fill = point(site.output())

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, block, paddings = arrays[0], arrays[1], arrays[2]
        blocks = [int(v) for v in block.reshape(-1)]
        d = len(blocks)
        border = [(0, 0), *((int(a), int(b)) for a, b in paddings.reshape(-1, 2)), *[(0, 0)] * (codes.ndim - 1 - d)]
        padded = np.pad(codes, border, constant_values=fill)
        size = [padded.shape[1 + i] // blocks[i] for i in range(d)]
        rest = padded.shape[1 + d :]
        split = padded.reshape(padded.shape[0], *(v for i in range(d) for v in (size[i], blocks[i])), *rest)
        order = [*(2 + 2 * i for i in range(d)), 0, *(1 + 2 * i for i in range(d)), *range(1 + 2 * d, split.ndim)]
        return [split.transpose(order).reshape(-1, *size, *rest)]

    return run


def prepare_batch_to_space(site: Site) -> Kernel:
    """The kernel of one BATCH_TO_SPACE_ND: inputs (codes, block [D], crops [D, 2])."""
    site.codes(site.input(0), site.output())

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, block, crops = arrays[0], arrays[1], arrays[2]
        blocks = [int(v) for v in block.reshape(-1)]
        d = len(blocks)
        batch = codes.shape[0] // int(np.prod(blocks))
        split = codes.reshape(*blocks, batch, *codes.shape[1:])
        order = [d, *(v for i in range(d) for v in (d + 1 + i, i)), *range(1 + 2 * d, split.ndim)]
        whole = split.transpose(order).reshape(
            batch, *(codes.shape[1 + i] * blocks[i] for i in range(d)), *codes.shape[1 + d :]
        )
        box = [
            slice(None),
            *(slice(int(a), whole.shape[1 + i] - int(b)) for i, (a, b) in enumerate(crops.reshape(-1, 2))),
        ]
        return [np.ascontiguousarray(whole[tuple(box)])]

    return run
