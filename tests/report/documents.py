"""Sample documents of `schemas/report.schema.json`: a small one, one of MobileNetV2's size, and one per edge case."""

import copy
import math
import random
from typing import Any

NASTY = "<script>alert('x')</script> & \"quoted\" ünï—日本 {{ 7 * 7 }} 🙂"
LONG = "network/" + "a_very_long_scope_name/" * 12 + "BiasAdd;fused/with/another"


def model(name: str, ops: int) -> dict[str, Any]:
    return {"name": name, "bytes": 3577760, "sha256": "0123456789abcdef" * 4, "ops": ops}


def quality(agreement: float = 0.9725, **changes: Any) -> dict[str, Any]:
    found = {
        "samples": 400,
        "agreement": agreement,
        "agreement_interval": [agreement - 0.0207, min(1.0, agreement + 0.0121)],
        "sqnr": 21.437,
        "largest": 1.2345678,
        "top1": 0.7025,
        "reference_top1": 0.705,
        "top1_drop": 0.0025,
        "top1_drop_interval": [-0.0096, 0.0146],
        "top5": 0.8975,
        "reference_top5": 0.9,
        "metric": None,
    }
    return found | changes


def layer(index: int, op: str, name: str, **changes: Any) -> dict[str, Any]:
    found = {
        "index": index,
        "op": op,
        "name": name,
        "place": "accelerator",
        "source": "uint8 scale 0.023528 zero point 0",
        "result": "int8 scale 2^-5 zero point 0",
        "gain": 1.0,
        "decision": "scale to a power of two",
        "reason": "clipping 0.3 % of the codes costs less than the next coarser step",
        "sqnr": 30.0 - index / 4,
        "isolated_sqnr": 38.0 - index / 9,
        "compared": True,
        "isolated": True,
        "largest": 7.0,
        "saturated": 0.00012,
        "shift": {"channel": 5, "steps": -0.37, "isolated": -0.11},
        "accumulator_bits": 22,
    }
    return found | changes


def culprit(index: int, op: str, name: str, **changes: Any) -> dict[str, Any]:
    found = {
        "index": index,
        "op": op,
        "name": name,
        "gain": 3.21,
        "restored_sqnr": 24.647,
        "samples": 32,
        "suspicion": 1.4,
        "fault": False,
        "why": f"{name}: its scale of 2^-4 is 1.9 times coarser than the source's, and 62 % of the scores' error passes it.",
    }
    return found | changes


def histogram(seed: int, low: float, high: float, bins: int = 128, peak: float = 0.0) -> dict[str, Any]:
    draw = random.Random(seed)
    width = (high - low) / bins
    edges = [low + i * width for i in range(bins + 1)]
    counts = [
        int(20000 * math.exp(-8 * abs((low + (i + 0.5) * width - peak) / (high - low))) * draw.uniform(0.6, 1)) for i in range(bins)
    ]
    return {"edges": edges, "counts": counts}


def picture(index: int, name: str, weights: bool = True) -> dict[str, Any]:
    seen = {"source": histogram(index, 0.0, 6.0), "result": histogram(index + 1, 0.0, 4.0)}
    filters = {"source": histogram(index + 2, -1.1, 1.3), "result": histogram(index + 3, -1.0, 1.0, bins=96)}
    return {"index": index, "name": name, "activation": seen, "weights": filters if weights else None}


def scatter(points: int) -> dict[str, Any]:
    draw = random.Random(7)
    reference = [draw.gauss(0, 3) for _ in range(points)]
    return {"reference": reference, "result": [x + draw.gauss(0, 0.4) for x in reference], "of": 40 * points}


def exactness(rows: list[dict[str, Any]], mismatches: int = 0) -> dict[str, Any]:
    place = {"op_index": 3, "op": "CONV_2D", "tensor": "expanded/project", "element": [0, 4, 5, 6]}
    first = place | {"sample": 2, "simulated": 17.0, "expected": 18.0}
    tensors = [{"op_index": r["index"], "name": r["name"], "elements": 100352, "mismatches": 0, "largest": 0.0} for r in rows]
    if mismatches:
        tensors[min(3, len(tensors) - 1)] |= {"mismatches": mismatches, "largest": 1.0}
    return {
        "arithmetic": "nna_sym8_pow2",
        "resolver": "litert_ref",
        "samples": 8,
        "elements": 100352 * len(rows),
        "mismatches": mismatches,
        "unseen": ["hidden/state"],
        "simulated_ops": len(rows),
        "first": first if mismatches else None,
        "tensors": tensors,
    }


def legality(broken: int = 0) -> dict[str, Any]:
    places = [f"op {i} (CONV_2D), tensor block_{i}/project: scale 0.0235 is no power of two" for i in range(broken)]
    rule = {"name": "scale", "sentence": "Scales of activations and weights are powers of two.", "checked": 131, "broken": places}
    others = [
        {"name": "zero_point", "sentence": "Every zero point is 0.", "checked": 131, "broken": []},
        {"name": "granularity", "sentence": "Weights have one scale per tensor.", "checked": 53, "broken": []},
        {"name": "bias", "sentence": "A bias is int32 at input scale times filter scale.", "checked": 53, "broken": []},
    ]
    return {
        "target": "nna_sym8_pow2",
        "legal": not broken,
        "accelerated": 64,
        "host_ops": [{"index": 65, "op": "op 65 (SOFTMAX)", "reason": "the target does not list SOFTMAX"}],
        "violations": list(places),
        "rules": [rule, *others],
    }


def document(layers: list[dict[str, Any]], worst: list[int], points: int = 300) -> dict[str, Any]:
    """A valid document over the given layers; `worst` are the positions of the culprits."""
    culprits = [culprit(*(layers[i][key] for key in ("index", "op", "name")), gain=4 / (n + 1)) for n, i in enumerate(worst)]
    return {
        "schema_version": 1,
        "generator": "tf_requant 0.9.0",
        "passed": True,
        "verdict": "PASS: agreement 97.25% on 400 samples (litert), target nna_sym8_pow2 obeyed",
        "failures": [],
        "notes": ["The layer table was measured on 16 of 400 samples.", "Sampling error of the agreement is about one point."],
        "model": model("mobilenet_v2_nna.tflite", len(layers)),
        "reference": model("mobilenet_v2_1.0_224_quant.tflite", len(layers)),
        "thresholds": {"min_agreement": 0.95, "max_top1_drop": 0.5, "max_layer_error": None},
        "quality": {"litert": quality()},
        "exactness": exactness(layers),
        "legality": legality(),
        "layer_samples": 16,
        "layer_arithmetic": "nna_sym8_pow2",
        "scores": {"names": [layers[-1]["name"]], "sqnr": 21.4},
        "layers": layers,
        "culprits": culprits,
        "tensors": [{"name": r["name"], "sqnr": r["sqnr"], "largest": r["largest"] or 0.0} for r in layers if r["compared"]],
        "pictures": {
            "layers": [picture(layers[i]["index"], layers[i]["name"], layers[i]["op"] != "ADD") for i in worst],
            "scatter": scatter(points),
        },
    }


def small() -> dict[str, Any]:
    """Six layers; one exact, one not compared."""
    rows = [
        layer(0, "CONV_2D", "first/Relu6"),
        layer(1, "DEPTHWISE_CONV_2D", "expanded/depthwise", gain=2.6667),
        layer(2, "ADD", "expanded/add"),
        layer(3, "CONV_2D", "expanded/project"),
        layer(4, "RESHAPE", "flat", sqnr=None, isolated_sqnr=None, largest=0.0, saturated=0.0, shift=None, accumulator_bits=None),
        layer(5, "QUANTIZE", "output_int8", source="", compared=False, isolated=False, sqnr=None, isolated_sqnr=None, largest=None, saturated=None),
    ]
    return document(rows, [1, 3])


def mobilenet() -> dict[str, Any]:
    """66 ops, eight worst layers, 2,000 scores, two interpreters."""
    names = [("CONV_2D", "MobilenetV2/Conv/Relu6")]
    for block in range(17):
        scope = f"MobilenetV2/expanded_conv_{block}"
        kinds = [("CONV_2D", "expand/Relu6"), ("DEPTHWISE_CONV_2D", "depthwise/Relu6"), ("CONV_2D", "project/BatchNorm")]
        names += [(op, f"{scope}/{name}") for op, name in kinds[block == 0 :]]
        names += [("ADD", f"{scope}/add")] if block in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15) else []
    names += [("CONV_2D", "MobilenetV2/Conv_1/Relu6"), ("AVERAGE_POOL_2D", "MobilenetV2/Logits/AvgPool")]
    names += [("CONV_2D", "MobilenetV2/Logits/Conv2d_1c_1x1/BiasAdd"), ("RESHAPE", "output"), ("SOFTMAX", "softmax")]
    draw = random.Random(3)
    rows, running = [], 34.0
    for index, (op, name) in enumerate(names):
        running = max(14.0, running - draw.uniform(-0.4, 0.9))
        alone = 41 - draw.uniform(0, 9)
        gain, largest = draw.choice([1.0, 1.0, 2.66667]), float(draw.randint(1, 60))
        rows.append(layer(index, op, name, sqnr=running, isolated_sqnr=alone, gain=gain, largest=largest))
    rows[64] |= {"sqnr": None, "isolated_sqnr": None, "largest": 0.0}
    rows[65] |= {"place": "host", "decision": "kept at the source's parameters"}
    result = document(rows, [14, 33, 15, 62, 3, 40, 34, 47], points=2000)
    result["quality"]["sim"] = quality(0.9750, sqnr=21.9)
    result["culprits"][1] |= {"fault": True, "suspicion": 7.3, "why": "Its bias was rounded to another scale than its sums have."}
    return result


def nulls() -> dict[str, Any]:
    """Null wherever the schema allows it."""
    result = small()
    result["thresholds"] = dict.fromkeys(result["thresholds"])
    keys = ("sqnr", "top1", "reference_top1", "top1_drop", "top1_drop_interval", "top5", "reference_top5", "metric")
    result["quality"] = {"litert": quality(1.0) | dict.fromkeys(keys)}
    result["exactness"]["simulated_ops"] = None
    result["exactness"]["tensors"][0]["largest"] = None
    first = exactness(result["layers"], 2)["first"] | {"simulated": None, "expected": None}
    result["exactness"]["first"] = first
    result["legality"] = None
    result["scores"]["sqnr"] = None
    for row in result["layers"]:
        row |= dict.fromkeys(("sqnr", "isolated_sqnr", "largest", "saturated", "shift", "accumulator_bits"))
    for row in result["culprits"]:
        row |= {"gain": None, "restored_sqnr": None, "samples": 0}
    for row in result["tensors"]:
        row["sqnr"] = None
    result["pictures"]["layers"][0]["activation"] = {"source": None, "result": None}
    result["pictures"]["layers"][0]["weights"] = {"source": None, "result": histogram(1, -1, 1)}
    result["pictures"]["layers"][1]["weights"] = None
    return result


def bare() -> dict[str, Any]:
    """Nothing asked for, nothing found: no target, no simulator, no labels, no layers, no pictures."""
    result = nulls()
    result |= {"exactness": None, "pictures": None, "layers": [], "culprits": [], "tensors": [], "notes": [], "quality": {}}
    result |= {"layer_samples": 0, "scores": {"names": [], "sqnr": None}}
    return result


def failed() -> dict[str, Any]:
    """Thresholds missed, rules broken in many places, a simulator that differs."""
    result = small()
    result |= {"passed": False, "verdict": "FAIL: 42 of what was asked for missed; agreement 97.25% on 400 samples (litert), target nna_sym8_pow2 broken"}
    result["failures"] = [
        "litert: agreement 83.00 %, expected at least 95 %",
        "litert: top-1 drops by 4.25 points, expected at most 0.5",
    ]
    result["quality"] = {"litert": quality(0.83, top1_drop=0.0425)}
    result["exactness"] = exactness(result["layers"], 12)
    result["legality"] = legality(40)
    result["legality"]["violations"].append("op 65 (SOFTMAX): runs on the accelerator, which has none")
    result["culprits"][0] |= {"fault": True, "suspicion": 9.1}
    return result


def several() -> dict[str, Any]:
    """Five interpreters, one with a dot in its name, and a metric."""
    result = small()
    names = ("litert", "litert_ref", "tflite_runtime", "tf-2.20", "sim")
    result["quality"] = {name: quality(0.97 + i / 200, metric=0.31 + i) for i, name in enumerate(names)}
    return result


def nasty() -> dict[str, Any]:
    """Markup, quotes, 300 characters and other scripts wherever a name or a sentence may stand."""
    result = small()
    result |= {"verdict": NASTY, "generator": NASTY, "notes": [NASTY], "failures": [NASTY], "layer_arithmetic": NASTY}
    result["model"]["name"], result["reference"]["name"] = NASTY, LONG
    result["quality"] = {NASTY: quality()}
    result["scores"]["names"] = [NASTY, LONG]
    for row in (result["layers"][0], result["culprits"][0], result["tensors"][0], result["pictures"]["layers"][0]):
        row["name"] = NASTY
    result["layers"][0] |= {"op": NASTY, "source": NASTY, "result": NASTY, "decision": NASTY, "reason": NASTY}
    result["layers"][1]["name"] = result["culprits"][1]["name"] = result["pictures"]["layers"][1]["name"] = LONG
    result["culprits"][0] |= {"op": NASTY, "why": NASTY}
    result["exactness"] |= {"arithmetic": NASTY, "resolver": NASTY, "unseen": [NASTY]}
    result["exactness"]["first"] = exactness(result["layers"], 1)["first"] | {"op": NASTY, "tensor": LONG}
    result["exactness"]["tensors"][0]["name"] = NASTY
    broken = {"name": NASTY, "sentence": NASTY, "checked": 1, "broken": [NASTY]}
    result["legality"] |= {"target": NASTY, "violations": [NASTY, LONG], "rules": [broken], "legal": False}
    result["legality"]["host_ops"] = [{"index": 999, "op": NASTY, "reason": NASTY}]
    return result


def odd() -> dict[str, Any]:
    """What is valid and seldom: no counts, one bin, no width, many bins, equal scores, two outputs of one op, a lone layer."""
    result = small()
    result["layers"] = [layer(7, "SPLIT", "left", sqnr=-3.2), layer(7, "SPLIT", "right", place="unknown", isolated=False, isolated_sqnr=None)]
    result["culprits"] = [culprit(7, "SPLIT", "left", restored_sqnr=None, suspicion=-0.5), culprit(99, "CONV_2D", "elsewhere")]
    strange = picture(7, "left")
    strange["activation"] = {"source": {"edges": [], "counts": []}, "result": {"edges": [0.0, 1.0], "counts": [5]}}
    strange["weights"] = {"source": {"edges": [1.0, 1.0], "counts": [5]}, "result": {"edges": [0.0, 1.0], "counts": [0]}}
    many = picture(99, "elsewhere")
    many["activation"]["source"] = histogram(5, -1, 1, bins=2048)
    result["pictures"] = {"layers": [strange, many], "scatter": {"reference": [1.0, 1.0], "result": [1.0, 1.0], "of": 2}}
    result["quality"] = {"litert": quality(0.99999, top1_drop=-0.00001)}
    result["legality"] |= {"rules": [], "host_ops": []}
    return result


CASES = {build.__name__: build() for build in (small, mobilenet, nulls, bare, failed, several, nasty, odd)}


def case(name: str) -> dict[str, Any]:
    """A copy that a test may change."""
    return copy.deepcopy(CASES[name])
