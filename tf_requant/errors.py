"""The errors a caller can cause; everything else that escapes is a bug.

Every message is one sentence per problem: what, where (op index and tensor name), got, expected, and
what to do about it.
"""


class RequantError(Exception):
    """Base of every error that the caller of tf_requant can cause and mend."""


class UsageError(RequantError):
    """A flag or an argument that cannot be used as given."""


class ModelFormatError(RequantError):
    """The model file is not a TFLite flatbuffer that an interpreter could load."""


class UnsupportedModelError(RequantError):
    """The file is a sound model, but not one that can be re-expressed (a float model, for example)."""


class UnsupportedOpError(RequantError):
    """An op cannot be executed or re-expressed under the given arithmetic or target."""


class TargetError(RequantError):
    """A target is unknown, malformed or contradicts itself."""


class CalibrationError(RequantError):
    """Images or arrays do not fit the model, or cannot be read."""


class InterpreterError(RequantError):
    """A real interpreter refused the model, failed while running it, or died."""


class ValidationFailed(RequantError):
    """A validation threshold was missed."""
