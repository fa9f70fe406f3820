"""STRIDED_SLICE: numpy's basic indexing, its options packed in bit masks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.simulator.site import Arrays, CannotRun, Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one STRIDED_SLICE: inputs (codes, begin, end, strides)."""
    site.codes(site.input(0), site.output())
    attrs = site.attrs
    if attrs.get("offset"):
        raise CannotRun("its end counts from its begin (option offset)")

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        codes, begin, end, strides = arrays[0], arrays[1], arrays[2], arrays[3]
        first, last, step = ([int(v) for v in a.reshape(-1)] for a in (begin, end, strides))
        return [np.ascontiguousarray(codes[index(first, last, step, attrs)])]

    return run


def index(begin: list[int], end: list[int], strides: list[int], attrs: Any) -> tuple[Any, ...]:
    """The numpy index of a strided slice.

    >>> index([1, 0], [2, 0], [1, 1], {"end_mask": 2, "shrink_axis_mask": 1})
    (1, slice(0, None, 1))
    """

    def bit(mask: str, position: int) -> bool:
        return bool(int(attrs.get(mask, 0) or 0) >> position & 1)

    items: list[Any] = []
    for i, (first, last, step) in enumerate(zip(begin, end, strides)):
        if bit("ellipsis_mask", i):
            items.append(Ellipsis)
        elif bit("new_axis_mask", i):
            items.append(None)
        elif bit("shrink_axis_mask", i):
            items.append(0 if bit("begin_mask", i) else first)
        else:
            items.append(slice(None if bit("begin_mask", i) else first, None if bit("end_mask", i) else last, step))
    return tuple(items)
