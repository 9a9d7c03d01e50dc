"""The rules: for each operator its relation of frames, and how its constants follow. One family a module."""

from bnfold.rules.base import relation, rewritten

__all__ = ["relation", "rewritten"]
