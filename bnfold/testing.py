"""Assertions for tests of any framework; pytest has more in `bnfold.pytest_plugin`."""

import unittest
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnfold.checking.result import CheckResult


def assert_equivalent(
    reference: Any, candidate: Any, inputs: Any = None, providers: str | Sequence[str] = ("cpu",), **options: Any
) -> "CheckResult":
    """Assert that two models are the same function; arguments as `bnfold.check` takes them.

    Raises AssertionError, with the check's report, where they differ and where that could not be verified;
    unittest.SkipTest (pytest knows it) where all that was asked for is missing and `allow_missing` is set.
    """
    __tracebackhide__ = True
    from bnfold.checking import check

    return judged(check(reference, candidate, inputs, providers, **options))


def judged(result: "CheckResult") -> "CheckResult":
    """Give the result back where it passed; raise as `assert_equivalent` does where it did not."""
    __tracebackhide__ = True
    from bnfold.checking.result import Verdict
    from bnfold.checking.text import render

    if result.verdict is Verdict.SKIPPED:
        raise unittest.SkipTest(
            "; ".join(f"{skip.what}: {skip.why}" for skip in result.skips) or "nothing was compared"
        )
    if not result.passed:
        raise AssertionError(f"bnfold check: {result.verdict}\n{render(result)}")
    return result
