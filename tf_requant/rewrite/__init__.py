"""Edits, decides nothing: (model, plan) to a model."""
