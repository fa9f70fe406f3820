"""Which code computes the layers: numpy always can; the extra `fast` compiles the same loops with numba."""

import importlib
import importlib.util
from functools import cache
from types import ModuleType
from typing import Literal

from tf_requant.errors import UsageError

Engine = Literal["auto", "numpy", "numba"]


@cache
def compiled(engine: Engine) -> ModuleType | None:
    """The compiled loops (`simulator.fast`), or None for numpy.

    Args:
        engine: "auto" takes numba where it is installed.

    Raises:
        UsageError: numba is asked for and not installed, or the name is unknown.
    """
    if engine not in ("auto", "numpy", "numba"):
        raise UsageError(f'engine is {engine!r}, expected "auto", "numpy" or "numba"')
    installed = importlib.util.find_spec("numba") is not None
    if engine == "numba" and not installed:
        raise UsageError("engine numba is not installed: pip install 'tf_requant[fast]'")
    return importlib.import_module("tf_requant.simulator.fast") if engine != "numpy" and installed else None
