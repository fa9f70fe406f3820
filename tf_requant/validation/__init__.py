"""Judges a written model: legality against its target, quality against its source."""
