"""A check as one HTML page with pictures."""

from collections.abc import Iterator

from bnfold.checking.result import CheckResult, Verdict
from bnfold.report.check_cases import audited_layers, first_divergence, worst_row
from bnfold.report.check_html_runs import run_details
from bnfold.report.check_matrix import matrix
from bnfold.report.html_page import bullets, details, page, section, table, text
from bnfold.report.svg import Ratio, bars, layers
from bnfold.report.text import figure, plural, share

_SIGN = {Verdict.VERIFIED: "✓", Verdict.DIFFERENT: "✗", Verdict.UNVERIFIED: "?", Verdict.SKIPPED: "-"}
_MOST_BARS = 16


def render(result: CheckResult) -> str:
    """Give the page: the verdict and why, the matrix, where the two part, each run, the audit, the evidence."""
    parts = (
        _head(result),
        section("Candidates by providers", _matrix(result)),
        section("Where they part", *_places(result)),
        section("Outputs", *(run_details(run, badge(run.verdict)) for run in result.runs)),
        section("Audit of the folded constants", _audit(result)),
        section("Evidence", _notes(result), _coverage(result), _inputs(result), _budget(result), _machine(result)),
    )
    return page(f"bnfold check: {result.verdict}: {result.reference}", "\n".join(filter(None, parts)))


def badge(verdict: Verdict) -> str:
    """Give the verdict as a word in its colour, with a sign for who sees no colours."""
    return f'<span class="verdict {verdict}">{_SIGN[verdict]} {verdict}</span>'


def _head(result: CheckResult) -> str:
    others = ", ".join(f"<code>{text(name)}</code>" for name in result.candidates) or "nothing"
    outputs = [record for run in result.runs for record in run.outputs]
    ratios = [x.error_ratio for x in outputs if x.error_ratio is not None]
    failed = sum(not row.passed for row in result.audit)
    tiles = [
        (plural(len(result.runs), "run"), f"{plural(len(outputs), 'output')} compared"),
        (f"{sum(record.elements for record in outputs):,}", "numbers compared"),
        (figure(max(ratios, default=None)), "largest error over the reference's own"),
        (f"{failed:,}" if result.audit_source else "-", "weights and biases of a channel wrong"),
        (share(result.coverage.branches) if result.coverage else "-", "of the branches reached"),
    ]
    cards = "".join(
        f'<div class="tile"><b>{value}</b><span class="soft small">{what}</span></div>' for value, what in tiles
    )
    return (
        f"<header>\n<h1>bnfold check {badge(result.verdict)}</h1>\n"
        f"<p><code>{text(result.reference)}</code> against {others}. "
        f'<span class="soft">Truth: {text(result.truth)}.</span></p>\n'
        f"{bullets(map(text, result.reasons))}\n"
        f'<div class="tiles">{cards}</div>\n</header>'
    )


def _matrix(result: CheckResult) -> str:
    laid = matrix(result)
    if not laid.columns:
        return ""
    rows = [
        (
            f"<code>{text(name)}</code>",
            *(
                f'{badge(cell.verdict)}<br><span class="soft small number">{cell.text}</span>'
                if cell.verdict
                else '<span class="soft">not run</span>'
                for cell in cells
            ),
        )
        for name, cells in laid.rows.items()
    ]
    note = '<p class="soft small">Below each verdict: the error over the reference\'s own, of what is allowed.</p>'
    return f'<div class="card">{table(("candidate", *map(text, laid.columns)), rows)}{note}</div>'


def _places(result: CheckResult) -> Iterator[str]:
    for found in result.divergences:
        chart = layers(found.layers)
        legend = (
            "<figcaption>Relative rms error by layer"
            '<span class="key reference"></span>reference<span class="key candidate"></span>candidate'
            '<span class="key allowed"></span>allowed</figcaption>'
        )
        yield (
            f'<div class="card"><h3>{text(found.candidate)}</h3>\n<p>{text(first_divergence(found))}</p>\n'
            f'<p class="soft small">Values were mapped by {text(found.mapped_by)}.</p>\n'
            + (f"<figure>{legend}{chart}</figure>" if chart else "")
            + "</div>"
        )


def _audit(result: CheckResult) -> str:
    groups = audited_layers(result.audit)
    peaks = [(layer, worst_row(rows)) for (layer, _), rows in groups.items()]
    ranked = sorted(peaks, key=lambda x: (x[1].passed, -x[1].ulp / x[1].allowed if x[1].allowed else 0.0))
    if not ranked:
        return ""
    chart = bars(
        [
            Ratio(f"{layer} {row.what}", row.ulp, row.allowed, f"channel {row.channel}")
            for layer, row in ranked[:_MOST_BARS]
        ],
        "Largest difference by layer, in ULP of the largest term",
        total=1040,
    )
    wrong = [(layer, row) for (layer, _), group in groups.items() for row in group if not row.passed]
    rows = [(text(layer), text(x.what), str(x.channel), figure(x.ulp), figure(x.allowed)) for layer, x in wrong]
    source = f" ({text(result.audit_source)})" if result.audit_source else ""
    layers = plural(len({row.layer for row in result.audit}), "layer")
    lost = f" {plural(len(result.audit_gaps), 'layer')} not compared." if result.audit_gaps else ""
    summary = f"Weights and biases of {layers}{source}: {plural(len(wrong), 'channel')} wrong.{lost}"
    caption = (
        "<figcaption>Largest difference to the float64 recomputation, in ULP of its largest term; the worst first"
        '<span class="key allowed"></span>allowed</figcaption>'
    )
    return (
        f'<div class="card"><p>{summary}</p>\n<figure>{caption}{chart}</figure>\n'
        f"{table(('layer', 'constant', 'channel', 'ULP', 'allowed'), rows, numbers=(2, 3, 4))}</div>"
    )


def _notes(result: CheckResult) -> str:
    found = [f"Warning: {text(warning)}" for warning in result.warnings]
    found += [f"Skipped {text(skip.what)}: {text(skip.why)}" for skip in result.skips]
    found += [f"Assumed: {text(assumption)}" for assumption in result.assumptions]
    return f'<div class="card">{bullets(found)}</div>' if found else ""


def _coverage(result: CheckResult) -> str:
    if result.coverage is None or not result.coverage.layers:
        return ""
    missed = [x for x in result.coverage.layers if x.branches_reached < x.branches or x.channels_reached < x.channels]
    rows = [
        (
            text(x.layer),
            text(x.operator),
            f"{x.channels_reached:,} of {x.channels:,}",
            f"{x.branches_reached:,} of {x.branches:,}",
        )
        for x in missed
    ]
    title = (
        f"Coverage: {share(result.coverage.channels)} of the channels varied, "
        f"{share(result.coverage.branches)} of the activations' branches were taken"
    )
    inner = table(("layer", "operator", "channels", "branches"), rows, numbers=(2, 3)) or "<p>Nothing was missed.</p>"
    return details(title, inner)


def _inputs(result: CheckResult) -> str:
    rows = [
        (text(x.name), text(x.kind), text(", ".join(f"{name} {shape}" for name, shape in x.shapes)))
        for x in result.inputs
    ]
    title = f"{plural(len(rows), 'set')} of inputs, seed {result.seed}"
    return details(title, table(("name", "kind", "shapes"), rows))


def _budget(result: CheckResult) -> str:
    rows = [
        (text(x.mode), *map(figure, (x.unit, x.rms, x.channel, x.peak, x.floor, x.ceiling)), text(x.why))
        for x in result.budget
    ]
    header = ("mode", "unit", "rms", "channel", "peak", "floor", "ceiling", "why")
    return details("Budget", table(header, rows, numbers=range(1, 7)))


def _machine(result: CheckResult) -> str:
    facts = (*result.environment.versions, *result.environment.machine)
    rows = [(text(name), text(value)) for name, value in facts]
    rows.append(("providers", text(", ".join(result.environment.providers))))
    return details("Environment", table(("what", "which"), rows))
