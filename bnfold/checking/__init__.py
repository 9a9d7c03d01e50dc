"""Are two models the same function? `check` answers, `CheckResult` is the answer."""

from typing import TYPE_CHECKING, Any

from bnfold.checking.result import AuditRow, CheckResult, Verdict

if TYPE_CHECKING:
    from bnfold.checking.frames import Frame as Frame
    from bnfold.checking.run import check as check

__all__ = ["AuditRow", "CheckResult", "Frame", "Verdict", "check"]

_LAZY = {"check": "bnfold.checking.run", "Frame": "bnfold.checking.frames"}


def __getattr__(name: str) -> Any:
    """Import what needs more than this module when it is asked for: a report is made without torch."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
