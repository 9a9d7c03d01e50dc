"""The curves of a run as an SVG picture: loss on the left, score on the right, over the epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from bnfold.training.history import Epoch

_WIDTH, _HEIGHT, _GAP = 330, 220, 70
_LEFT, _TOP = 60, 60
_TRAIN, _TEST = "#7f8fa6", "#d35400"  # told apart without colour by the dashes of the first
_LEAST_SPAN = 1e-6  # of the larger value: nearer ticks would have the same names
_ZERO = 1e-100
_STYLE: Final = "text{font:12px sans-serif;fill:#222}.t{font-size:15px;font-weight:bold}"


@dataclass(frozen=True)
class Panel:
    """A frame of `_WIDTH` x `_HEIGHT` at `left`, with values from `low` to `high` over `epochs` epochs."""

    left: float
    low: float
    high: float
    epochs: int

    def x(self, epoch: int) -> float:
        """Give the position of an epoch; a single one stands in the middle."""
        share = (epoch - 1) / (self.epochs - 1) if self.epochs > 1 else 0.5
        return self.left + _WIDTH * share

    def y(self, value: float) -> float:
        """Give the position of a value; those outside stay at the border."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return _TOP + _HEIGHT * (1 - share)


def svg(history: Sequence[Epoch], title: str, score: str) -> str:
    """Draw the loss and the score (by its name) of one epoch or more, training and held out."""
    losses = [(epoch.train_loss, epoch.test_loss) for epoch in history]
    scores = [(epoch.train_score, epoch.test_score) for epoch in history]
    width, height = 2 * _WIDTH + _LEFT + _GAP + 20, _TOP + _HEIGHT + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text class="t" x="{_LEFT}" y="22">{escape(title)}</text>',
        *_panel(_LEFT, "loss", losses),
        *_panel(_LEFT + _WIDTH + _GAP, score, scores),
        *_legend(width),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(left: float, name: str, pairs: Sequence[tuple[float, float]]) -> list[str]:
    values = [value for pair in pairs for value in pair]
    ticks = nice_ticks(min(values), max(values))
    panel = Panel(left, ticks[0], ticks[-1], len(pairs))
    parts = [f'<text x="{left}" y="{_TOP - 10}">{escape(name)}</text>']
    for tick in ticks:
        y = panel.y(tick)
        parts.append(f'<path d="M{left} {y:.1f}h{_WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for epoch in sorted({1, (len(pairs) + 1) // 2, len(pairs)}):
        x, y = panel.x(epoch), _TOP + _HEIGHT + 18
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{epoch}</text>')
    parts.append(f'<text x="{left + _WIDTH / 2}" y="{_TOP + _HEIGHT + 38}" text-anchor="middle">epoch</text>')
    parts.append(_curve(panel, [pair[0] for pair in pairs], f'stroke="{_TRAIN}" stroke-dasharray="5 3"'))
    parts.append(_curve(panel, [pair[1] for pair in pairs], f'stroke="{_TEST}"'))
    return parts


def _curve(panel: Panel, values: Sequence[float], style: str) -> str:
    points = " ".join(f"{panel.x(epoch):.1f},{panel.y(value):.1f}" for epoch, value in enumerate(values, start=1))
    if len(values) == 1:
        x, y = points.split(",")
        return f'<circle cx="{x}" cy="{y}" r="3" fill="none" {style}/>'
    return f'<polyline points="{points}" fill="none" stroke-width="2" {style}/>'


def _legend(width: float) -> list[str]:
    parts = []
    for x, name, style in (
        (width - 230, "training", f'stroke="{_TRAIN}" stroke-dasharray="5 3"'),
        (width - 120, "held out", f'stroke="{_TEST}"'),
    ):
        parts.append(f'<path d="M{x} 18h26" stroke-width="2" {style}/>')
        parts.append(f'<text x="{x + 32}" y="22">{name}</text>')
    return parts


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Give round numbers, evenly spaced, the first at most `low` and the last at least `high`."""
    size = max(abs(low), abs(high))
    span = max(high - low, _LEAST_SPAN * size) if high > low else size
    raw = (span if size > _ZERO else 1.0) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]
