"""A check as Markdown that fits a CI step's summary."""

from collections.abc import Iterable, Iterator

from bnfold.checking.result import CheckResult, Verdict
from bnfold.report.check_cases import audited_layers, first_divergence, worst_row
from bnfold.report.check_matrix import MARK, matrix
from bnfold.report.markdown_text import escaped, folded, table
from bnfold.report.text import figure, plural, share

_MOST_REASONS = 10


def render(result: CheckResult) -> str:
    """Give the text: the verdict, why, the matrix, what differs and where; the rest is folded away."""
    parts = (_head(result), _matrix(result), _outputs(result), _places(result), _audit(result), _evidence(result))
    return "\n".join(line for part in (*parts, _budget(result), _environment(result)) for line in part)


def _head(result: CheckResult) -> Iterator[str]:
    yield f"## {MARK[result.verdict]} bnfold check: {result.verdict}"
    yield ""
    others = ", ".join(map(escaped, result.candidates)) or "nothing"
    yield f"**{escaped(result.reference)}** against **{others}**; truth: {escaped(result.truth)}"
    yield ""
    yield from (f"- {escaped(reason)}" for reason in result.reasons[:_MOST_REASONS])
    if len(result.reasons) > _MOST_REASONS:
        yield f"- and {len(result.reasons) - _MOST_REASONS:,} more"
    yield ""


def _matrix(result: CheckResult) -> Iterable[str]:
    laid = matrix(result)
    rows = [
        (escaped(name), *(f"{MARK[cell.verdict]} {cell.text}" if cell.verdict else "" for cell in cells))
        for name, cells in laid.rows.items()
    ]
    if laid.columns:
        yield from table(("candidate", *map(escaped, laid.columns)), rows)
        yield "Each cell: the candidate's error over the reference's own, of what is allowed."
        yield ""


def _outputs(result: CheckResult) -> Iterable[str]:
    rows = [
        (
            escaped(run.label),
            escaped(output.name),
            f"{MARK[output.verdict]} {output.verdict}",
            figure(output.error_ratio),
            figure(output.allowed_ratio),
            escaped(output.why),
        )
        for run in result.runs
        for output in run.outputs
        if output.verdict is not Verdict.VERIFIED
    ]
    yield from table(("run", "output", "verdict", "error ratio", "allowed", "why"), rows)


def _places(result: CheckResult) -> Iterable[str]:
    for found in result.divergences:
        yield f"**{escaped(found.candidate)}**: {escaped(first_divergence(found))}"
        yield ""


def _audit(result: CheckResult) -> Iterable[str]:
    layers = audited_layers(result.audit)
    if not layers:
        return
    wrong = {key: rows for key, rows in layers.items() if not all(row.passed for row in rows)}
    peaks = {key: worst_row([row for row in rows if not row.passed]) for key, rows in wrong.items()}
    rows = [
        (escaped(layer), escaped(what), str(peak.channel), figure(peak.ulp), figure(peak.allowed))
        for (layer, what), peak in peaks.items()
    ]
    source = f" ({escaped(result.audit_source)})" if result.audit_source else ""
    bad = f", **{plural(len(wrong), 'group')} wrong**" if wrong else ", all right"
    lost = f", {plural(len(result.audit_gaps), 'layer')} not compared" if result.audit_gaps else ""
    yield f"Audit{source}: weights and biases of {plural(len({layer for layer, _ in layers}), 'layer')}{bad}{lost}"
    yield ""
    yield from table(("layer", "constant", "worst channel", "ULP", "allowed"), rows)


def _evidence(result: CheckResult) -> Iterable[str]:
    yield from (f"- ⚠️ {escaped(warning)}" for warning in result.warnings)
    yield from (f"- ⏭️ skipped {escaped(skip.what)}: {escaped(skip.why)}" for skip in result.skips)
    yield from (f"- assumed: {escaped(assumption)}" for assumption in result.assumptions)
    yield f"- {plural(len(result.inputs), 'set')} of inputs, seed {result.seed}"
    if result.coverage is not None:
        yield (
            f"- coverage: {share(result.coverage.channels)} of the channels and {share(result.coverage.branches)} "
            "of the activations' branches"
        )
    yield ""


def _budget(result: CheckResult) -> Iterable[str]:
    rows = [
        (row.mode, *map(figure, (row.unit, row.rms, row.channel, row.peak, row.floor, row.ceiling)), escaped(row.why))
        for row in result.budget
    ]
    header = ("mode", "unit roundoff", "rms", "channel", "peak", "floor", "ceiling", "why")
    yield from folded("Budget", table(header, rows))


def _environment(result: CheckResult) -> Iterable[str]:
    facts = (*result.environment.versions, *result.environment.machine)
    rows = [(escaped(name), escaped(value)) for name, value in facts]
    rows.append(("providers", escaped(", ".join(result.environment.providers))))
    yield from folded("Environment", table(("what", "which"), rows))
