"""What accelerators can hold and how they compute: built-in targets, target files, variants."""

from tf_requant.targets.constraints import CONSTRAINTS, check
from tf_requant.targets.target import (
    ActivationScheme,
    BiasScheme,
    OpRule,
    Target,
    WeightScheme,
    builtin_targets,
    load_target,
)

__all__ = [
    "CONSTRAINTS",
    "ActivationScheme",
    "BiasScheme",
    "OpRule",
    "Target",
    "WeightScheme",
    "builtin_targets",
    "check",
    "load_target",
]
