"""What a target's input alone takes: the source against itself, fed what the target's input grid leaves of each image.

A signed symmetric input has 127 steps where an image has 255. Whatever is done behind it, that half of the levels is
gone; images are rounded to the target's input and back to the source's, and run through the source in LiteRT. The way
back rounds once more, at most half a step of the finer grid.

Usage: python benchmarks/input_bound.py [--case=NAME] [TARGET ...]
"""

import sys

import numpy as np
from agreement import CASES, CORE, SHARED, _evaluation

import tf_requant
from tf_requant.io.data import feed, load_samples
from tf_requant.io.tflite import read
from tf_requant.pipeline.inputs import input_specs
from tf_requant.runtime.interpreter import run_model


def main() -> None:
    names = [a.split("=", 1)[1] for a in sys.argv[1:] if a.startswith("--case=")]
    if any(a.startswith("--") and not a.startswith("--case=") for a in sys.argv[1:]) or set(names) - set(CASES):
        sys.exit(__doc__)
    name = names[-1] if names else "resnet8"
    source, targets = SHARED / "models" / CASES[name].model, [a for a in sys.argv[1:] if not a.startswith("--")] or list(CORE)
    ours = input_specs(read(source))
    batches = list(load_samples(_evaluation(CASES[name].evaluation)[0], ours).codes(64))
    codes: dict[str | int, np.ndarray] = {spec.name: np.concatenate([b[spec.name] for b in batches]) for spec in ours}
    right = _answers(source.read_bytes(), codes)
    print(f"{name}: {len(right)} images; agreement of the source with itself behind each target's input")
    for target in targets:
        theirs = input_specs(tf_requant.requantize(source, target, corrections="none").model)
        rounded: dict[str | int, np.ndarray] = {a.name: feed(feed(codes[a.name], a, b), b, a) for a, b in zip(ours, theirs)}
        print(f"{target:<26} {(_answers(source.read_bytes(), rounded) == right).mean():.4f}", flush=True)


def _answers(model: bytes, inputs: dict[str | int, np.ndarray]) -> np.ndarray:
    (scores, *_) = run_model(model, inputs).values()
    return np.asarray(scores.reshape(len(scores), -1).argmax(axis=1))


if __name__ == "__main__":
    main()
