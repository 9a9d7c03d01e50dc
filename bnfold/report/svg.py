"""Pictures as inline SVG. Colours are the page's; every mark has a title that a pointer or a reader shows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bnfold.checking.result import Bin, LayerError
from bnfold.report.html_page import text
from bnfold.report.text import figure

_WIDTH = 520  # of one column of the page; twice that for a picture of its own
_HEIGHT = 190
_LEFT, _BOTTOM, _TOP = 44, 34, 8
_DECADES = 20.0  # below the largest number shown; an error of exactly 0 stands at the bottom


@dataclass(frozen=True)
class Ratio:
    """One bar: a value beside what is allowed."""

    label: str
    value: float
    allowed: float
    note: str = ""


_NAMES = 9  # of bins, below a histogram


def histogram(reference: Sequence[Bin], candidate: Sequence[Bin], edge: Callable[[float], str], what: str) -> str:
    """Draw two histograms on the same bins, each as shares of its elements. edge: names a bin's lower edge."""
    bins = _union(reference, candidate)
    if not bins:
        return ""
    shares = [_shares(side, bins) for side in (reference, candidate)]
    peak = max(max(side) for side in shares) or 1.0
    step = (_WIDTH - _LEFT - 8) / len(bins)
    marks = [_level(part, f"{peak * part:.0%}", _WIDTH) for part in (0.0, 0.5, 1.0)]
    for i, (low, high) in enumerate(bins):
        for j, (name, side) in enumerate(zip(("reference", "candidate"), shares, strict=True)):
            tip = f"{name}: {side[i]:.2%} of the elements from {figure(low)} to {figure(high)}"
            marks.append(_column(_LEFT + step * (i + 0.1 + 0.4 * j), step * 0.38, side[i] / peak, name, tip))
    named = [(i, edge(low)) for i, (low, _) in enumerate(bins) if edge(low)]
    marks += [
        _text(_LEFT + step * i, _HEIGHT - 18, name, "middle")
        for i, name in named[:: max(math.ceil(len(named) / _NAMES), 1)]
    ]
    marks.append(_text(_WIDTH - 8, _HEIGHT - 3, what, "end"))
    return _svg(_WIDTH, _HEIGHT, f"Histogram of {what}", marks)


def bars(rows: Sequence[Ratio], what: str, total: int = _WIDTH) -> str:
    """Draw values beside what each is allowed (the dashed line, at the same place for all); worst first."""
    if not rows:
        return ""
    ratios = [row.value / row.allowed if row.allowed else math.inf for row in rows]
    finite = [ratio for ratio in ratios if math.isfinite(ratio)]
    top = max(1.25, min(max(finite, default=1.25), 1e6))
    left, width, height = total * 0.28, total * 0.72 - 74, 20
    line = left + width / top
    marks = [f'<path class="allowed" d="M{line:.1f} 0V{height * len(rows)}"/>']
    for i, (row, ratio) in enumerate(zip(rows, ratios, strict=True)):
        y = height * i
        length = width * (min(ratio, top) / top if not math.isnan(ratio) else 1.0)
        side = "candidate" if ratio <= 1 else "over"
        tip = f"{row.label}: {figure(row.value)}, allowed {figure(row.allowed)}" + (f"; {row.note}" if row.note else "")
        marks.append(f'<rect class="track" x="{left:g}" y="{y + 4}" width="{width:g}" height="12" rx="2"/>')
        marks.append(_rect(left, y + 4, max(length, 1), 12, side, tip))
        marks.append(_text(left - 8, y + 14, _short(row.label), "end"))
        marks.append(_text(left + width + 8, y + 14, f"{figure(row.value)}", "start"))
    return _svg(total, height * len(rows) + 4, what, [*marks[1:], marks[0]])


@dataclass(frozen=True)
class _Decades:
    """Places on a logarithmic picture of `count` layers, from 10^low to 10^high."""

    low: float
    high: float
    count: int

    @classmethod
    def around(cls, rows: Sequence[LayerError]) -> "_Decades":
        values = [x for row in rows for x in (row.reference_error, row.candidate_error, row.allowed)]
        logs = [math.log10(x) for x in values if math.isfinite(x) and x > 0]
        high = math.ceil(max(logs, default=0.0) + 1e-9)
        low = max(math.floor(min(logs, default=-1.0)), high - _DECADES)
        return cls(min(low, high - 1), high, len(rows))

    def place(self, i: int, value: float) -> tuple[float, float]:
        """Give x and y; NaN and infinities stand at the top, 0 at the bottom."""
        x = _LEFT + (2 * _WIDTH - _LEFT - 16) * (i / max(self.count - 1, 1))
        if not math.isfinite(value):
            return x, _y(1.0)
        return x, _y(max(self.share(math.log10(value)), 0.0) if value > 0 else 0.0)

    def share(self, log: float) -> float:
        return (log - self.low) / (self.high - self.low)

    @property
    def levels(self) -> list[str]:
        ticks = range(int(self.low), int(self.high) + 1, max(1, math.ceil((self.high - self.low) / 5)))
        return [_level(self.share(tick), f"1e{tick}", 2 * _WIDTH) for tick in ticks]


def layers(rows: Sequence[LayerError]) -> str:
    """Draw the errors of both sides and what is allowed, by layer in the order of the data; logarithmic."""
    if not rows:
        return ""
    decades = _Decades.around(rows)
    marks = decades.levels
    for kind, field in (
        ("allowed", "allowed"), ("path reference", "reference_error"), ("path candidate", "candidate_error"),
    ):  # fmt: skip
        points = [decades.place(i, getattr(row, field)) for i, row in enumerate(rows)]
        marks.append(f'<path class="{kind}" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + '"/>')
    marks += [_dot(row, *decades.place(i, row.candidate_error)) for i, row in enumerate(rows)]
    marks.append(_text(_LEFT, _HEIGHT - 18, _short(rows[0].reference), "start"))
    marks.append(_text(2 * _WIDTH - 8, _HEIGHT - 18, _short(rows[-1].reference) if len(rows) > 1 else "", "end"))
    return _svg(2 * _WIDTH, _HEIGHT, "Error by layer", marks)


def _dot(row: LayerError, x: float, y: float) -> str:
    tip = (
        f"{row.reference}: candidate {figure(row.candidate_error)}, reference {figure(row.reference_error)}, "
        f"allowed {figure(row.allowed)}"
    )
    kind, radius = ("candidate", 3.0) if row.candidate_error <= row.allowed else ("over", 4.5)
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{_title(tip)}</circle>'


def _union(*sides: Sequence[Bin]) -> list[tuple[float, float]]:
    """Every bin of any side in order, and the gaps between them."""
    edges = sorted({(item.low, item.high) for side in sides for item in side})
    bins: list[tuple[float, float]] = []
    for low, high in edges:
        if bins and bins[-1][1] < low:
            bins.append((bins[-1][1], low))
        bins.append((low, high))
    return bins


def _shares(side: Sequence[Bin], bins: Sequence[tuple[float, float]]) -> list[float]:
    counts = {(item.low, item.high): item.count for item in side}
    total = sum(counts.values()) or 1
    return [counts.get(key, 0) / total for key in bins]


def _y(share: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)


def _column(x: float, width: float, share: float, kind: str, tip: str) -> str:
    height = max(_y(0) - _y(share), 1.5) if share else 0.0  # a bin that holds anything is seen
    return _rect(x, _y(0) - height, width, height, kind, tip)


def _rect(x: float, y: float, width: float, height: float, kind: str, tip: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {place} rx="1.5">{_title(tip)}</rect>'


def _level(share: float, label: str, width: int) -> str:
    y = _y(share)
    return f'<path class="axis" d="M{_LEFT} {y:.1f}H{width - 8}"/>' + _text(_LEFT - 6, y + 4, label, "end")


def _text(x: float, y: float, label: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(label)}</text>'


def _title(tip: str) -> str:
    return f"<title>{text(tip)}</title>"


def _short(label: str) -> str:
    return label if len(label) <= 22 else f"…{label[-21:]}"


def _svg(width: float, height: float, label: str, marks: Sequence[str]) -> str:
    inner = "\n".join(marks)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{text(label)}">\n{inner}\n</svg>'
