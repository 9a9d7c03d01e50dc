"""Fold BatchNorm into the layers around it, export to ONNX, and prove that nothing changed."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bnfold.checking import CheckResult, check
    from bnfold.entry import export, fold, load
    from bnfold.errors import BnfoldError, DifferentError, UnsafeError, UnverifiedError
    from bnfold.plan import Folded, Kept, Plan
    from bnfold.result import ExportResult, FoldResult
    from bnfold.training import train
    from bnfold.why import Why

__all__ = [
    "BnfoldError",
    "CheckResult",
    "DifferentError",
    "ExportResult",
    "FoldResult",
    "Folded",
    "Kept",
    "Plan",
    "UnsafeError",
    "UnverifiedError",
    "Why",
    "__version__",
    "check",
    "export",
    "fold",
    "load",
    "train",
]

_HOMES = {
    "bnfold.checking": ("CheckResult", "check"),
    "bnfold.entry": ("export", "fold", "load"),
    "bnfold.errors": ("BnfoldError", "DifferentError", "UnsafeError", "UnverifiedError"),
    "bnfold.plan": ("Folded", "Kept", "Plan"),
    "bnfold.result": ("ExportResult", "FoldResult"),
    "bnfold.training": ("train",),
    "bnfold.why": ("Why",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that `import bnfold` costs nothing (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
