"""Training: data, loop, checkpoints. Importing this package imports no torch; its functions do."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnfold.training.runs import TrainingInterrupted, TrainResult, resume, train

__all__ = ["TrainResult", "TrainingInterrupted", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("bnfold.training.runs"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
