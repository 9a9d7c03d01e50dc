"""A check's result as text for a terminal."""

from collections.abc import Iterable, Sequence

from bnfold.checking.result import BudgetRow, CheckResult, Divergence, OutputRecord, Run, Verdict
from bnfold.printable import visible
from bnfold.report.text import figure, plural, share

_MARKS = {
    Verdict.VERIFIED: "ok",
    Verdict.DIFFERENT: "DIFFERENT",
    Verdict.UNVERIFIED: "NOT VERIFIED",
    Verdict.SKIPPED: "skipped",
}
_SENTENCES = {
    Verdict.VERIFIED: "verified: the same function, within the budget",
    Verdict.DIFFERENT: "different: not the same function",
    Verdict.UNVERIFIED: "could not verify",
    Verdict.SKIPPED: "skipped: nothing was compared, as --allow-missing allows",
}


def render(result: CheckResult) -> str:
    """Give the whole text, without a line break at its end."""
    parts = [
        _head(result),
        _table(("candidate", "provider", "output", "verdict", "error/own", "allowed", "max abs", "dB"), _rows(result)),
        *(_section("why", result.reasons)),
        *(_divergence(divergence) for divergence in result.divergences),
        *_replays(result),
        *_section("warning", result.warnings),
        *_section("assumed", result.assumptions),
        *_section("skipped", [f"{skip.what}: {skip.why}" for skip in result.skips]),
        _tail(result),
    ]
    return "\n".join(part for part in parts if part)


def _head(result: CheckResult) -> str:
    inputs = plural(len(result.inputs), "input")
    return f"reference {visible(result.reference)}; truth: {visible(result.truth)}; {inputs}, seed {result.seed}"


def _rows(result: CheckResult) -> Iterable[tuple[str, ...]]:
    for run in result.runs:
        if not run.outputs:
            yield (visible(run.candidate), _provider(run), "-", _MARKS[run.verdict], "-", "-", "-", "-")
        for output in run.outputs:
            yield (visible(run.candidate), _provider(run), visible(output.name), *_figures(output))


def _provider(run: Run) -> str:
    options = ",".join(f"{key}={value}" for key, value in run.options)
    name = run.provider + (f":{options}" if options else "")
    return f"{name} [{run.mode}]"


def _figures(output: OutputRecord) -> tuple[str, ...]:
    measured = output.candidate
    return (
        _MARKS[output.verdict],
        figure(output.error_ratio),
        figure(output.allowed_ratio),
        figure(measured.max_abs if measured else None),
        figure(measured.snr_db if measured else None),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}: {visible(line)}" for line in lines]


def _divergence(found: Divergence) -> str:
    channel = "" if found.channel is None else f", channel {found.channel}"
    return (
        f"first divergence ({visible(found.candidate)}): {visible(found.layer)} ({visible(found.operator)}){channel},"
        f" value {visible(found.reference_value)} against {visible(found.candidate_value)} at {found.index} of"
        f" {visible(found.input)}: off by {figure(found.difference)}, {figure(found.allowed)} allowed"
        f" (mapped by {found.mapped_by})"
    )


def _replays(result: CheckResult) -> list[str]:
    files = dict.fromkeys(run.replay for run in result.runs if run.replay)
    return [f"replay: bnfold check --replay {visible(file)}" for file in files]


def _tail(result: CheckResult) -> str:
    parts = [_SENTENCES[result.verdict]]
    if result.coverage is not None and result.coverage.layers:
        parts.append(
            f"coverage: {share(result.coverage.channels)} of channels, {share(result.coverage.branches)} of branches"
        )
    if result.audit_source:
        parts.append(_audit(result))
    return "; ".join(parts)


def _audit(result: CheckResult) -> str:
    failed = sum(not row.passed for row in result.audit)
    layers = plural(len({row.layer for row in result.audit}), "layer")
    lost = f", {len(result.audit_gaps)} not compared" if result.audit_gaps else ""
    return f"audit ({result.audit_source}): {layers}, {plural(failed, 'constant')} wrong{lost}"


def render_budget(rows: Iterable[BudgetRow]) -> str:
    """Give the table of budgets, each row with its reason."""
    head = ("mode", "unit", "rms", "channel", "peak", "floor", "ceiling", "why")
    cells = [
        (
            row.mode,
            *(f"{value:.6g}" for value in (row.unit, row.rms, row.channel, row.peak, row.floor, row.ceiling)),
            row.why,
        )
        for row in rows
    ]
    return _table(head, cells)
