"""One run of a check as HTML: each output with its figures and histograms, its worst channels, and the nodes."""

from collections import Counter

from bnfold.checking.result import OutputRecord, Run, Verdict
from bnfold.report.check_cases import figures
from bnfold.report.html_page import bullets, details, table, text
from bnfold.report.svg import Ratio, bars, histogram
from bnfold.report.text import figure, plural

_SIDES = '<span class="key reference"></span>reference<span class="key candidate"></span>candidate'
_MOST_DRAWN = 8  # outputs of one run with pictures; the others have their figures


def run_details(run: Run, badge: str) -> str:
    """Give the run; it stands open where something is wrong. badge: the verdict as ready HTML."""
    ranked = sorted(run.outputs, key=lambda output: output.verdict is Verdict.VERIFIED)
    parts = [bullets(map(text, run.why))]
    parts += [_output(output, drawn=i < _MOST_DRAWN) for i, output in enumerate(ranked)]
    parts += [_facts(run)]
    wrong = run.verdict in (Verdict.DIFFERENT, Verdict.UNVERIFIED)
    return details(f"{badge} {text(run.label)}", "\n".join(filter(None, parts)), is_open=wrong)


def _output(output: OutputRecord, *, drawn: bool) -> str:
    renamed = f" → {text(output.candidate_name)}" if output.candidate_name not in ("", output.name) else ""
    head = f"<h3>{text(output.name)}{renamed}: {output.verdict}</h3>"
    shape = " x ".join(map(str, output.shape)) or "scalar"
    size = f"{shape} {text(output.dtype)}, {plural(output.elements, 'number')} compared"
    ratio = (
        f", error ratio {figure(output.error_ratio)} of {figure(output.allowed_ratio)}" if output.error_ratio else ""
    )
    why = f"<p>{text(output.why)}</p>" if output.why else ""
    rows = [(what, ours, theirs) for what, ours, theirs in figures(output)]
    numbers = table(("", "reference", "candidate"), rows, numbers=(1, 2)) if output.candidate else ""
    pictures = f'<div class="grid">{_histograms(output)}{_channels(output)}</div>' if drawn else ""
    return f'{head}<p class="soft small">{size}{ratio}</p>{why}{pictures}{details("Figures", numbers)}'


def _histograms(output: OutputRecord) -> str:
    if output.reference is None or output.candidate is None:
        return ""
    ulp = histogram(output.reference.ulp, output.candidate.ulp, _ulp_edge, "distance to the truth, ULP")
    logs = histogram(output.reference.error_log10, output.candidate.error_log10, _log_edge, "log10 |error| / rms")
    return "".join(
        f"<figure><figcaption>{caption}{_SIDES}</figcaption>{picture}</figure>"
        for caption, picture in (("Error in ULP", ulp), ("Error relative to the truth's rms", logs))
        if picture
    )


def _ulp_edge(low: float) -> str:
    """Name an edge, which is 0 or a power of two, in a few letters."""
    if low < 1024:
        return f"{low:g}" if low == int(low) else ""
    exponent = int(low).bit_length() - 1
    return f"{low / 1024:g}k" if exponent < 20 else f"{low / 1024**2:g}M"


def _log_edge(low: float) -> str:
    return "0" if low == float("-inf") else f"1e{low:g}" if low == int(low) else ""


def _channels(output: OutputRecord) -> str:
    rows = [
        Ratio(f"channel {x.channel}", x.candidate, x.allowed, f"reference {figure(x.reference)}")
        for x in output.channels
    ]
    if not rows:
        return ""
    caption = 'Worst channels, rms error<span class="key allowed"></span>allowed'
    return f"<figure><figcaption>{caption}</figcaption>{bars(rows, 'Worst channels')}</figure>"


def _facts(run: Run) -> str:
    places = Counter(node.provider for node in run.nodes)
    where = ", ".join(f"{plural(count, 'node')} on {text(place)}" for place, count in places.items())
    proof = "" if not run.nodes else " (proven)" if run.nodes_proven else " (not proven)"
    repeats = {True: "repeats are bit-identical", False: "repeats differ", None: ""}[run.repeats_equal]
    facts = [where + proof, repeats, f"budget {text(run.mode)}", f"{run.seconds:.2f} s"]
    return f'<p class="soft small">{"; ".join(filter(None, facts))}</p>'
