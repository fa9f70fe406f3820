"""A model's inputs as the data layer sees them."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_requant.io.data import InputSpec, load_samples
from tf_requant.model.graph import Model
from tf_requant.pipeline.record import read_record


def input_specs(model: Model) -> tuple[InputSpec, ...]:
    """What the loaders of data need to know of a model's inputs."""
    specs, meanings = [], read_record(model).pixels
    for t in model.main.inputs:
        tensor = model.main.tensors[t]
        scale, zero_point = (
            (0.0, 0) if tensor.quant is None else (float(tensor.quant.scale[0]), int(tensor.quant.zero_point[0]))
        )
        spec = InputSpec(tensor.name, tensor.shape, tensor.dtype, scale, zero_point)
        held = meanings.get(tensor.name)
        specs.append(spec if held is None else replace(spec, pixels=InputSpec(tensor.name, tensor.shape, *held)))
    return tuple(specs)


def input_codes(model: Model, source: Any) -> dict[str, NDArray[Any]]:
    """Data as the model's own input codes, by input name, all samples along the first axis.

    Args:
        model: the model that is fed; a pixel means what it means to a source model.
        source: what `load_samples` takes.

    Raises:
        CalibrationError: the data cannot be read or does not fit.
    """
    batches = list(load_samples(source, input_specs(model)).codes(1))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
