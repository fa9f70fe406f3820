"""Golden vectors: what the simulator gave for some samples, every tensor, as an archive of arrays."""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.errors import UnsupportedModelError
from tf_requant.export.kinds import Host
from tf_requant.export.program import Program

Sample = Mapping[int, NDArray[Any]]
"""By tensor index, what one run of the simulator gave: inputs, every op's outputs."""


def checked(program: Program, sample: Sample) -> Sample:
    """A sample in which what the program computes has the shapes that the program says.

    Raises:
        UnsupportedModelError: a tensor has not: its shape is only known at run time.
    """
    computed = {t for op in program.ops if not isinstance(op.kind, Host) for t in (*op.inputs, *op.outputs)}
    for index, array in sample.items():
        tensor = program.tensors[index]
        if index in computed and array.shape != tensor.shape:
            raise UnsupportedModelError(
                f"tensor {tensor.name!r} is {list(tensor.shape)} in the file and {list(array.shape)} when it runs; "
                "a fixed-point program takes fixed shapes: give the model static ones"
            )
    return sample


def archive(keys: Sequence[str], samples: Sequence[Sample]) -> bytes:
    """The .npz: `{key}.npy` of shape [samples, *shape of the tensor] for each tensor, the same bytes every time.

    Where a host's op gave other shapes for other samples, `{key}_0.npy`, `{key}_1.npy`, ... instead.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, array in _entries(keys, samples):
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def _entries(keys: Sequence[str], samples: Sequence[Sample]) -> Iterator[tuple[str, NDArray[Any]]]:
    for index in sorted(samples[0]):
        arrays = [sample[index] for sample in samples]
        if len({a.shape for a in arrays}) == 1:
            yield keys[index], np.stack(arrays)
        else:
            yield from ((f"{keys[index]}_{number}", array) for number, array in enumerate(arrays))
