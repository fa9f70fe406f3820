"""Re-expresses already quantized TFLite models for another fixed-point target, and proves the result.

Public names load on first use, so that importing the package stays light.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tf_requant.version import __version__

if TYPE_CHECKING:
    from tf_requant.calibration.statistics import Calibration
    from tf_requant.errors import RequantError
    from tf_requant.model.graph import Model
    from tf_requant.pipeline.calibrate import calibrate
    from tf_requant.pipeline.check import Check
    from tf_requant.pipeline.exported import Exported
    from tf_requant.pipeline.inspect import inspect
    from tf_requant.pipeline.post_export import post_export
    from tf_requant.pipeline.requantize import Result, requantize
    from tf_requant.pipeline.source import load_model, save_model
    from tf_requant.pipeline.tfx_rewriter import Rewriter
    from tf_requant.pipeline.validate import validate
    from tf_requant.targets import Target, builtin_targets, load_target

_HOMES = {
    # verbs
    "requantize": "tf_requant.pipeline.requantize",
    "validate": "tf_requant.pipeline.validate",
    "inspect": "tf_requant.pipeline.inspect",
    "simulate": "tf_requant.pipeline.simulate",
    "calibrate": "tf_requant.pipeline.calibrate",
    "post_export": "tf_requant.pipeline.post_export",
    # models as nouns
    "load_model": "tf_requant.pipeline.source",
    "save_model": "tf_requant.pipeline.source",
    # nouns
    "Calibration": "tf_requant.calibration.statistics",
    "Result": "tf_requant.pipeline.requantize",
    "Exported": "tf_requant.pipeline.exported",
    "Rewriter": "tf_requant.pipeline.tfx_rewriter",
    "Check": "tf_requant.pipeline.check",
    "Simulation": "tf_requant.pipeline.simulate",
    "Model": "tf_requant.model.graph",
    "Target": "tf_requant.targets",
    # targets
    "load_target": "tf_requant.targets",
    "builtin_targets": "tf_requant.targets",
    # errors
    "RequantError": "tf_requant.errors",
}

__all__ = [
    "Calibration",
    "Check",
    "Exported",
    "Model",
    "RequantError",
    "Result",
    "Rewriter",
    "Simulation",
    "Target",
    "__version__",
    "builtin_targets",
    "calibrate",
    "inspect",
    "load_model",
    "load_target",
    "post_export",
    "requantize",
    "save_model",
    "simulate",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Imports a public name's home when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tf_requant' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return __all__
