"""Which corrections are nearer to the source: the error of the scores on held-out images, image by image.

Agreement on 400 images tells two conversions apart by two points at best. The squared error of the scores ahead of a
softmax, compared on each image and averaged in dB, tells tenths: below zero, a row is nearer to the source than plain
bias correction is. Runs in TFLite's reference arithmetic.

Usage: python benchmarks/paired.py [--case=NAME] [--corrections=LIST[;LIST ...]] [TARGET ...]
"""

import sys
from dataclasses import replace

import numpy as np
from agreement import CASES, CORE, SHARED, _data, _evaluation

import tf_requant
from tf_requant.corrections import SPLITTING, chosen, judged
from tf_requant.io.tflite import read
from tf_requant.pipeline.correct import Corrector

AGAINST = "bias"
_TINY = 1e-30


def main() -> None:
    options = dict(a[2:].split("=", 1) for a in sys.argv[1:] if a.startswith("--") and "=" in a)
    if set(options) - {"case", "corrections"} or any(a.startswith("--") and "=" not in a for a in sys.argv[1:]):
        sys.exit(__doc__)
    if SPLITTING in ",".join(options.values()):
        sys.exit("splitting edits the source, whose tensors are compared here: benchmarks/agreement.py tells what it does")
    name = options.get("case", "mobilenet_v2")
    case, targets = CASES[name], [a for a in sys.argv[1:] if not a.startswith("--")] or list(CORE)
    source = SHARED / "models" / case.model
    calibration = tf_requant.calibrate(source, _data(case.calibration))
    unseen = tf_requant.calibrate(source, _evaluation(case.evaluation)[0], noise=False)
    if set(calibration.digests) & set(unseen.digests):
        sys.exit("calibration and evaluation images overlap")
    print(f"{name}: {len(calibration)} calibration samples, {len(unseen)} others; dB against {AGAINST}, and its standard error")
    for target in targets:
        errors = {}
        for names in (AGAINST, *options.get("corrections", "auto").split(";")):
            corrector = Corrector(read(source), tf_requant.load_target(target), chosen(names, True), not judged(names))
            plan = corrector.correct(calibration).plan
            every = corrector.samples(replace(unseen, histograms={}, peaks={}), len(unseen))
            errors[names] = 10 * np.log10(len(unseen) * corrector.judged_errors(plan, every) + _TINY)
            gain = errors[names] - errors[AGAINST]
            spread = gain.std(ddof=1) / gain.size**0.5
            print(f"{target:<26} {names:<24.60} {errors[names].mean():>7.2f} {gain.mean():>+6.2f} +- {spread:.2f}", flush=True)


if __name__ == "__main__":
    main()
