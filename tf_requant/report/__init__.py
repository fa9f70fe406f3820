"""What was done, for a person and for a machine."""

from tf_requant.report.requantization import Report, TensorRow, build

__all__ = ["Report", "TensorRow", "build"]
