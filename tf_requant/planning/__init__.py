"""Decides, edits nothing: (model, target, wishes) to a Plan."""
