"""A check as a list of cases, each with its verdict: what JUnit counts, SARIF lists and annotations show."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from bnfold.checking.result import AuditRow, CheckResult, Divergence, Measures, OutputRecord, Run, Verdict, worst
from bnfold.printable import visible
from bnfold.report.text import figure, plural, share


class Rule(Enum):
    """What a case can be about. `id` is stable: baselines and suppressions of CI systems name it."""

    OUTPUT = ("BNF001", "output-differs", "An output of the candidate is further from the float64 truth than allowed.")
    UNVERIFIED = ("BNF002", "not-verified", "Nothing was found wrong, and nothing was proven.")
    AUDIT = ("BNF003", "wrong-constant", "A folded weight or bias is not what its float64 recomputation gives.")
    SKIPPED = ("BNF004", "skipped", "Something that was asked for is missing, and was allowed to be missing.")
    WARNING = ("BNF005", "weak-evidence", "The check passed or failed on less evidence than it should have.")

    @property
    def id(self) -> str:
        """BNF and three digits."""
        return self.value[0]

    @property
    def slug(self) -> str:
        """The name."""
        return self.value[1]

    @property
    def sentence(self) -> str:
        """What it means."""
        return self.value[2]


@dataclass(frozen=True)
class Case:
    """One thing that was checked, or should have been.

    group: the run's label, `audit` or `check`. message: one sentence, empty where verified. detail: lines of figures.
    """

    group: str
    name: str
    verdict: Verdict
    rule: Rule
    message: str = ""
    detail: str = ""
    candidate: str = ""
    layer: str = ""
    seconds: float = 0.0


def cases(result: CheckResult) -> tuple[Case, ...]:
    """Give a case for each output of each run, each audited layer and each skip.

    The verdict over all cases is never better than the check's: what belongs to no output is a case of its own.
    """
    found = [*_runs(result), *_audit(result.audit), *_skips(result)]
    if result.why or not found or worst(case.verdict for case in found) is not result.verdict:
        message = "; ".join(map(visible, result.why or result.reasons)) or f"the verdict is {result.verdict}"
        rule = Rule.OUTPUT if result.verdict is Verdict.DIFFERENT else _rule(result.verdict)
        clean = result.verdict is Verdict.VERIFIED
        found.append(Case("check", "verdict", result.verdict, rule, "" if clean else message))
    return tuple(found)


def warnings(result: CheckResult) -> tuple[Case, ...]:
    """Give the warnings, which decide nothing."""
    return tuple(
        Case("check", "warning", result.verdict, Rule.WARNING, visible(warning)) for warning in result.warnings
    )


def figures(output: OutputRecord) -> Iterator[tuple[str, str, str]]:
    """Give rows of (what, reference, candidate)."""
    yield "error / truth's rms", *_pair(output, "rel_l2")
    for name, what in (("max_abs", "max |error|"), ("max_rel", "max |error| / max |truth|"), ("rms", "rms error")):
        yield what, *_pair(output, name)
    yield "cosine", *_pair(output, "cosine", digits=12)
    yield "SNR, dB", *_pair(output, "snr_db", digits=4)
    ours, theirs = output.reference, output.candidate
    for what, count in _COUNTS.items():
        yield what, count(ours) if ours else "-", count(theirs) if theirs else "-"


_COUNTS: Mapping[str, Callable[[Measures], str]] = {
    "same arg-max": lambda side: share(side.argmax),
    "same five largest": lambda side: share(side.top5),
    "NaN": lambda side: str(side.nan),
    "infinite": lambda side: str(side.inf),
}


def first_divergence(found: Divergence) -> str:
    """Say in one line where the two first part."""
    channel = "" if found.channel is None else f", channel {found.channel}"
    return visible(
        f"first beyond the budget at {found.layer} ({found.operator}){channel}, index {found.index} of {found.input}: "
        f"off by {figure(found.difference)}, allowed {figure(found.allowed)}; {found.reference_value} there is "
        f"{found.candidate_value} here" + (f"; replay: bnfold check --replay {found.replay}" if found.replay else "")
    )


def audited_layers(rows: Iterable[AuditRow]) -> dict[tuple[str, str], list[AuditRow]]:
    """Group audited constants by (layer, weight or bias or ...), in order; of several candidates, by those too."""
    rows = list(rows)
    several = len({row.candidate for row in rows}) > 1
    layers: dict[tuple[str, str], list[AuditRow]] = {}
    for row in rows:
        layers.setdefault((f"{row.candidate}: {row.layer}" if several else row.layer, row.what), []).append(row)
    return layers


def worst_row(rows: Iterable[AuditRow]) -> AuditRow:
    """Give the row that exceeds what is allowed most; NaN is worst of all."""
    return max(rows, key=lambda row: (row.ulp != row.ulp, row.ulp / row.allowed if row.allowed else row.ulp))


def _rule(verdict: Verdict) -> Rule:
    return Rule.SKIPPED if verdict is Verdict.SKIPPED else Rule.UNVERIFIED


def _runs(result: CheckResult) -> Iterator[Case]:
    places = {found.candidate: found for found in result.divergences}
    for run in result.runs:
        place = places.get(run.candidate)
        yield from (_output(run, output, place) for output in run.outputs)
        if not run.outputs or run.why or worst(x.verdict for x in run.outputs) is not run.verdict:
            yield _whole_run(run)


def _output(run: Run, output: OutputRecord, place: Divergence | None) -> Case:
    wrong = output.verdict is Verdict.DIFFERENT
    lines = [f"{what}: reference {ours}, candidate {theirs}" for what, ours, theirs in figures(output)]
    if wrong and place is not None:
        lines.insert(0, first_divergence(place))
    return Case(
        group=visible(run.label),
        name=visible(output.name),
        verdict=output.verdict,
        rule=Rule.OUTPUT if output.verdict in (Verdict.DIFFERENT, Verdict.VERIFIED) else _rule(output.verdict),
        message=visible(output.why),
        detail="\n".join(lines),
        candidate=visible(run.candidate),
        layer=visible(place.layer) if wrong and place is not None else "",
        seconds=run.seconds / len(run.outputs),
    )


def _whole_run(run: Run) -> Case:
    wrong = run.verdict is Verdict.DIFFERENT
    nothing = "nothing was compared" if not run.outputs else f"the run is {run.verdict}"
    return Case(
        group=visible(run.label),
        name="run",
        verdict=run.verdict,
        rule=Rule.OUTPUT if wrong or run.verdict is Verdict.VERIFIED else _rule(run.verdict),
        message="; ".join(map(visible, run.why)) or ("" if run.verdict is Verdict.VERIFIED else nothing),
        candidate=visible(run.candidate),
    )


def _audit(rows: Iterable[AuditRow]) -> Iterator[Case]:
    for (layer, what), group in audited_layers(rows).items():
        wrong = [row for row in group if not row.passed]
        name, candidate, of_layer = visible(f"{layer} {what}"), visible(group[0].candidate), visible(group[0].layer)
        if not wrong:
            yield Case("audit", name, Verdict.VERIFIED, Rule.AUDIT, candidate=candidate, layer=of_layer)
            continue
        peak = worst_row(wrong)
        message = (
            f"{plural(len(wrong), 'channel')} beyond the budget, the worst channel {peak.channel}: "
            f"{figure(peak.ulp)} ULP of its largest term, allowed {figure(peak.allowed)}"
        )
        detail = "\n".join(f"channel {row.channel}: {figure(row.ulp)} ULP" for row in wrong[:100])
        yield Case("audit", name, Verdict.DIFFERENT, Rule.AUDIT, message, detail, candidate=candidate, layer=of_layer)


def _skips(result: CheckResult) -> Iterator[Case]:
    for skip in result.skips:
        yield Case("check", visible(skip.what), Verdict.SKIPPED, Rule.SKIPPED, visible(skip.why))


def _pair(output: OutputRecord, name: str, digits: int = 3) -> tuple[str, str]:
    ours, theirs = (getattr(side, name) if side else None for side in (output.reference, output.candidate))
    return figure(ours, digits), figure(theirs, digits)
