"""The least validation document that the schema allows, and what a test lays over it."""

import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "schemas" / "report.schema.json").read_text())


def document(**changes: Any) -> dict[str, Any]:
    """A validation that asked for nothing and passed, with these keys replaced; it fits the schema."""
    model = {"name": "model.tflite", "bytes": 1024, "sha256": "0" * 64, "ops": 3}
    found: dict[str, Any] = {
        "schema_version": 1, "generator": "tf_requant 0.1.0", "passed": True, "verdict": "Nothing was asked for.", "failures": [],
        "notes": [], "model": model, "reference": model, "quality": {"litert": quality()}, "exactness": None, "legality": None,
        "thresholds": {"min_agreement": None, "max_top1_drop": None, "max_layer_error": None},
        "layer_samples": 8, "layer_arithmetic": "tflite_ref", "scores": {"names": ["scores"], "sqnr": 20.0}, "layers": [],
        "culprits": [], "tensors": [], "pictures": None,
    }  # fmt: skip
    found |= changes
    jsonschema.validate(found, SCHEMA)
    return found


def quality(agreement: float = 0.97, top1_drop: float | None = None) -> dict[str, Any]:
    """One interpreter's figures."""
    return {
        "samples": 400, "agreement": agreement, "agreement_interval": [agreement - 0.02, agreement + 0.01], "sqnr": 21.5,
        "largest": 1.25, "top1": None, "reference_top1": None, "top1_drop": top1_drop, "top1_drop_interval": None, "top5": None,
        "reference_top5": None, "metric": None,
    }  # fmt: skip


def layer(index: int, name: str, **changes: Any) -> dict[str, Any]:
    """One op of the candidate."""
    found: dict[str, Any] = {
        "index": index, "op": "CONV_2D", "name": name, "place": "accelerator", "source": "", "result": "", "gain": 1.0,
        "decision": "", "reason": "", "sqnr": 25.0, "isolated_sqnr": 35.0, "compared": True, "isolated": True, "largest": 2.0,
        "saturated": 0.0, "shift": None, "accumulator_bits": 20,
    }  # fmt: skip
    return found | changes
