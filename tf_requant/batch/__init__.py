"""The verbs `requantize` and `validate` over many models and targets, as an Apache Beam pipeline."""
