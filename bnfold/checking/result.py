"""What a check found, as plain frozen data. Reports are made from this alone; it needs neither torch nor a runtime.

`CheckResult` holds one `Run` for each (candidate, provider, options) triple, a `Run` one `OutputRecord` an output.
The JSON form (`to_json`, `from_json`) is versioned by `SCHEMA` and described in docs/checking.md.
"""

import json
import math
from dataclasses import dataclass

from bnfold.checking.plain import from_plain, to_plain
from bnfold.checking.records import (
    EXIT_STATUS,
    AuditGap,
    AuditRow,
    Bin,
    BudgetRow,
    ChannelRecord,
    Coverage,
    Divergence,
    Environment,
    Exceeded,
    InputRecord,
    LayerCoverage,
    LayerError,
    Measures,
    NodeRecord,
    OutputRecord,
    Run,
    Skip,
    Verdict,
    worst,
)
from bnfold.errors import BnfoldError, DifferentError, UnverifiedError
from bnfold.report.text import plural

SCHEMA = "bnfold.check/1"

__all__ = [
    "EXIT_STATUS",
    "SCHEMA",
    "AuditGap",
    "AuditRow",
    "Bin",
    "BudgetRow",
    "ChannelRecord",
    "CheckResult",
    "Coverage",
    "Divergence",
    "Environment",
    "Exceeded",
    "InputRecord",
    "LayerCoverage",
    "LayerError",
    "Measures",
    "NodeRecord",
    "OutputRecord",
    "Run",
    "Skip",
    "Verdict",
    "worst",
]


@dataclass(frozen=True)
class CheckResult:
    """The whole of what a check found; every report is made from it."""

    reference: str
    candidates: tuple[str, ...]
    verdict: Verdict
    why: tuple[str, ...]  # why nothing could be verified, where that belongs to no run
    truth: str  # how the truth was computed
    runs: tuple[Run, ...]
    inputs: tuple[InputRecord, ...]
    budget: tuple[BudgetRow, ...]
    environment: Environment
    seed: int = 0
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skips: tuple[Skip, ...] = ()
    coverage: Coverage | None = None
    divergences: tuple[Divergence, ...] = ()  # the first one of each candidate that differs
    audit: tuple[AuditRow, ...] = ()
    audit_source: str = ""  # "plan", "derived", or empty where there was no audit
    audit_gaps: tuple[AuditGap, ...] = ()  # the layers that no row is about
    schema: str = SCHEMA

    @property
    def passed(self) -> bool:
        """Whether something was compared and all of it is the same."""
        return self.verdict is Verdict.VERIFIED

    @property
    def exit_status(self) -> int:
        """0 verified (or all skipped, where that was allowed), 1 different, 3 could not verify."""
        return EXIT_STATUS[self.verdict]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every sentence that says why the check did not pass, without repetition and the worst first.

        A difference comes before a doubt; of two differences, the one that is further beyond what is allowed.
        """
        found = [(Verdict.UNVERIFIED, math.inf, why) for why in self.why]
        found += [
            (x.verdict, _beyond(x), f"{run.label}: {x.name}: {x.why}")
            for run in self.runs
            for x in run.outputs
            if x.why
        ]
        found += [(run.verdict, math.inf, f"{run.label}: {why}") for run in self.runs for why in run.why]
        found += self._wrong_weights()
        ranked = sorted(found, key=lambda reason: (reason[0] is not Verdict.DIFFERENT, -reason[1]))
        return tuple(dict.fromkeys(why for _, _, why in ranked))

    def _wrong_weights(self) -> list[tuple[Verdict, float, str]]:
        failed = [row for row in self.audit if not row.passed]
        if not failed:
            return []
        row = max(failed, key=lambda row: row.ulp / row.allowed)
        whose = f" of {row.candidate}" if row.candidate and len(self.candidates) > 1 else ""
        why = (
            f"audit{whose}: {plural(len(failed), 'constant')} other than recomputed, the worst {row.layer},"
            f" {row.what} of channel {row.channel}: {row.ulp:.3g} ULP, {row.allowed:g} allowed"
        )
        return [(Verdict.DIFFERENT, row.ulp / row.allowed, why)]

    def raise_for_failure(self) -> None:
        """Raise `DifferentError` or `UnverifiedError` with the first reason; nothing where it passed or was skipped."""
        kinds: dict[Verdict, type[BnfoldError]] = {
            Verdict.DIFFERENT: DifferentError,
            Verdict.UNVERIFIED: UnverifiedError,
        }
        if self.verdict in kinds:
            reason = self.reasons[0] if self.reasons else str(self.verdict)
            raise kinds[self.verdict](f"{self.reference}: {reason}")

    def to_dict(self) -> dict[str, object]:
        """Give the result as lists, dicts, strings and numbers; NaN and infinities are strings (nan, inf, -inf)."""
        plain = to_plain(self)
        assert isinstance(plain, dict)
        return {"schema": plain.pop("schema"), "passed": self.passed, "exit_status": self.exit_status, **plain}

    def to_json(self, indent: int | None = 2) -> str:
        """Give the result as strict JSON (docs/checking.md has the schema)."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "CheckResult":
        """Read what `to_json` wrote. A file of another schema raises `BnfoldError`."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise BnfoldError(f"not a check result: {error}") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            got = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise BnfoldError(f"not a check result that this version reads: schema {got!r}, wanted {SCHEMA!r}")
        del data["passed"], data["exit_status"]
        return from_plain(cls, data)


def _beyond(output: OutputRecord) -> float:
    """How many times what is allowed was measured; infinite where it is no matter of degree."""
    test = output.exceeded
    if output.verdict is not Verdict.DIFFERENT or test is None or test.measured <= test.allowed or not test.allowed:
        return math.inf
    return test.measured / test.allowed
