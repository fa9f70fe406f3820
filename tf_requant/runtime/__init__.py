"""The real TFLite interpreters behind one call, each in a process of its own.

A kernel may crash, hang or refuse a model; the caller survives and reads one `InterpreterError`.
"""

from tf_requant.runtime.interpreter import InterpreterProcess, prove_runs, run_model
from tf_requant.runtime.worker import BACKENDS, Backend, ModelDetails, TensorDetails, available_backends

__all__ = [
    "BACKENDS",
    "Backend",
    "InterpreterProcess",
    "ModelDetails",
    "TensorDetails",
    "available_backends",
    "prove_runs",
    "run_model",
]
