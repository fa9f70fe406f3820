"""Flags to pipeline calls, one file a verb; the only layer that prints."""
