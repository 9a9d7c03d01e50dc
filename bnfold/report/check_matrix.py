"""Candidates by providers: a cell for each triple that was run."""

from dataclasses import dataclass

from bnfold.checking.result import CheckResult, OutputRecord, Run, Verdict, worst
from bnfold.report.text import figure

MARK = {Verdict.VERIFIED: "✅", Verdict.DIFFERENT: "❌", Verdict.UNVERIFIED: "⚠️", Verdict.SKIPPED: "⏭️"}


@dataclass(frozen=True)
class Cell:
    """All runs of one candidate on one provider with one set of options; none where it was not asked for."""

    runs: tuple[Run, ...]

    @property
    def verdict(self) -> Verdict | None:
        """The worst of the runs."""
        return worst(run.verdict for run in self.runs) if self.runs else None

    @property
    def text(self) -> str:
        """The error of the output that is nearest to its budget, over the reference's own: `1.2 of 3`; or nothing."""
        records = [record for run in self.runs for record in run.outputs if record.error_ratio is not None]
        if not records:
            return ""
        peak = max(records, key=_excess)
        return f"{figure(peak.error_ratio)} of {figure(peak.allowed_ratio)}"


@dataclass(frozen=True)
class Matrix:
    """columns: providers with options, as the user would write them. rows: a cell for each column, by candidate."""

    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]


def matrix(result: CheckResult) -> Matrix:
    """Lay the runs out, in the order in which they were run."""
    columns = tuple(dict.fromkeys(column(run) for run in result.runs))
    names = dict.fromkeys((*result.candidates, *(run.candidate for run in result.runs)))
    rows = {name: tuple(_cell(result, name, label) for label in columns) for name in names}
    return Matrix(columns, rows)


def column(run: Run) -> str:
    """Name the provider with its options."""
    options = ",".join(f"{key}={value}" for key, value in run.options)
    return run.provider + (f":{options}" if options else "")


def _cell(result: CheckResult, candidate: str, label: str) -> Cell:
    return Cell(tuple(run for run in result.runs if run.candidate == candidate and column(run) == label))


def _excess(record: OutputRecord) -> float:
    ratio, allowed = record.error_ratio, record.allowed_ratio
    if ratio is None or not allowed or ratio != ratio:
        return float("inf")
    return ratio / allowed
