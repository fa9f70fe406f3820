"""How long the simulator takes against LiteRT itself, in one run, one thread: ratios, since machines are noisy.

    OPENBLAS_NUM_THREADS=1 python benchmarks/simulator_speed.py MODEL.tflite [--repeat=5]

MODEL is run with every tensor kept, by LiteRT's reference and default resolvers and by the simulator as
`tflite_ref`, by each engine; its re-expression for nna_sym8_pow2 is run as `nna`. Prints each time over BUILTIN_REF's,
and the simulator's peak of traced memory beside the codes of the whole model.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import importlib.util
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import tf_requant
from tf_requant.runtime import InterpreterProcess


def _best(call: Callable[[], Any], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _codes(model: tf_requant.Model) -> dict[str, Any]:
    random = np.random.default_rng(0)
    tensors = [model.main.tensors[t] for t in model.main.inputs]
    return {
        t.name: random.integers(np.iinfo(t.dtype).min, np.iinfo(t.dtype).max, t.shape, dtype=t.dtype, endpoint=True)
        for t in tensors
    }


def _interpreter(data: bytes, inputs: dict[str, Any], model: tf_requant.Model, backend: str, repeat: int) -> float:
    """Seconds of the kernels: those of four samples less those of one, over three, so that transport cancels."""
    by_index = {t: inputs[model.main.tensors[t].name] for t in model.main.inputs}
    with InterpreterProcess(backend) as process:
        process.load(data, preserve_all=True)
        many = {t: np.concatenate([a] * 4) for t, a in by_index.items()}
        process.run(by_index)
        return (_best(lambda: process.run(many), repeat) - _best(lambda: process.run(by_index), repeat)) / 3


def _peak(simulation: tf_requant.Simulation, inputs: dict[str, Any]) -> tuple[float, float]:
    """(peak of traced memory of a run without all tensors, all codes of the model), MB."""
    tracemalloc.start()
    simulation.run(inputs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20, sum(a.nbytes for a in simulation.run(inputs, "all").values()) / 2**20


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    source = open(arguments.model, "rb").read()
    requantized = tf_requant.requantize(source, target="nna_sym8_pow2")
    engines = ["numpy", *(["numba"] if importlib.util.find_spec("numba") else [])]
    with tf_requant.Simulation(source, engine="numpy") as ours:
        inputs = _codes(ours.model)
        reference = _interpreter(source, inputs, ours.model, "litert_ref", arguments.repeat)
        _print("LiteRT BUILTIN_REF", reference, reference)
        default = _interpreter(source, inputs, ours.model, "litert", arguments.repeat)
        _print("LiteRT default (XNNPACK)", default, reference)
        peak, live = _peak(ours, inputs)
    for engine in engines:
        for model, arithmetic in ((source, "tflite_ref"), (requantized, "nna")):
            with tf_requant.Simulation(model, arithmetic, engine=engine) as simulation:  # type: ignore[arg-type]
                codes = _codes(simulation.model)
                simulation.run(codes)
                seconds = _best(partial(simulation.run, codes, "all"), arguments.repeat)
            _print(f"simulator {arithmetic}, {engine}", seconds, reference)
    print(f"peak traced memory {peak:.1f} MB; all codes of the model {live:.1f} MB")


def _print(name: str, seconds: float, reference: float) -> None:
    print(f"{name:32} {1e3 * seconds:8.1f} ms   {seconds / reference:5.2f} of BUILTIN_REF")


if __name__ == "__main__":
    main()
