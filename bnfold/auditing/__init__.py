"""Every changed weight and bias against a float64 recomputation that shares no code with the fold's.

`bnfold.auditing.auditor` says how. It is imported when it is asked for: who writes a file needs parts of it alone.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnfold.auditing.auditor import ALLOWED, FLOAT64, AuditRow, Written, audit, ulp

__all__ = ["ALLOWED", "FLOAT64", "AuditRow", "Written", "audit", "ulp"]


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bnfold.auditing import auditor

    return getattr(auditor, name)
