"""The errors of one output's floats beside their budget (`bnfold.checking.tolerance` has the law), sample by sample."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnfold.checking.parts import Channels, Errors, Sample
from bnfold.checking.result import BudgetRow, ChannelRecord, Exceeded

Array = np.ndarray[Any, Any]

_QUIET = 1e-3  # a part quieter than this share of the whole is granted the floor of that share
_GAUSS = 4.0  # the largest of some thousand roundings is about 4 times their rms
_WORST_CHANNELS = 16
_FEW = 2.0  # n numbers tell an rms to 1 / sqrt(2 n) of itself; the factor leaves room for three times that
_DOUBT = 0.5  # from this share of a budget on, the reference's own error is measured better


@dataclass
class Judgement:
    """The samples that count, and the `blind` ones: there, the reference's own error would let anything pass.

    `sums`: of ones, and of the squares of the truth, of the reference's own error and of the candidate's.
    """

    row: BudgetRow
    samples: list[Sample] = field(default_factory=list)
    blind: list[Sample] = field(default_factory=list)
    sums: Array = field(default_factory=lambda: np.zeros(4))
    channels: Channels | None = None
    settled: bool = False  # beyond the budget, however well that is measured

    def take(self, errors: Errors, spread: Callable[[], Array | None]) -> bool:
        """Take in a sample, and say whether it counts.

        `spread`: how far rounding takes each element, known better than `errors` has it; asked where the candidate is
        not clear of its budget.
        """
        before = self.sums, self.channels and self.channels.copy()
        self._include(errors)
        # The level of a typical sample is known when all are in; until then, none relies on it.
        if not self.settled and self._excess_with(level=0.0) > _DOUBT and (better := spread()) is not None:
            self.samples.pop()
            self.sums, self.channels = before[0], before[1] and before[1].copy()
            self._include(errors.widened(better))
        if self._tells_nothing(self.samples[-1]):
            self.blind.append(self.samples.pop())
            self.sums, self.channels = before
            return False
        self.settled = self.settled or self._excess_with(self._level()) > 1
        return True

    def _include(self, errors: Errors) -> None:
        sample = errors.sample()
        self.samples.append(sample)
        self.sums = self.sums + sample.count * np.square([1, sample.scale, sample.own, sample.error])
        if errors.truth.ndim > 1:
            self.channels = self.channels or Channels.zeros(errors.truth.shape[1])
            if len(self.channels.truth) == errors.truth.shape[1]:
                self.channels.add(errors)

    def _tells_nothing(self, sample: Sample) -> bool:
        return self.row.rms * sample.own > self.row.ceiling * max(sample.scale, self.scale)

    @property
    def scale(self) -> float:
        """Root mean square of the truth."""
        return self._rms(1)

    @property
    def own(self) -> float:
        """Root mean square of the reference's own error, or its floor."""
        return max(self._rms(2), self.row.floor * self.row.unit * self.scale)

    @property
    def allowed(self) -> float:
        """What the root mean square of the candidate's error may be."""
        return self.row.rms * _by_count(self._worst().count) * self.own

    def _rms(self, which: int) -> float:
        return math.sqrt(self.sums[which] / self.sums[0]) if self.samples else 0.0

    def _worst(self) -> Sample:
        return max(self.samples, key=lambda sample: sample.peak)

    def exceeded(self) -> Exceeded | None:
        """Give the test that is nearest to its budget, or furthest beyond it."""
        if not self.samples:
            return None
        level = self._level()
        tests = [test for sample in self.samples for test in self._of_sample(sample, level)]
        channels = self._of_channels(level)
        if channels:
            tests.append(self._of_channel(channels[0]))
        return max((self._of_all(), *tests), key=lambda test: excess(test.measured, test.allowed))

    def latest_excess(self) -> float:
        """How far beyond (or within) the budget the latest sample is, by rms and by its peak."""
        return max(excess(test.measured, test.allowed) for test in self._of_sample(self.samples[-1], self._level()))

    def _excess_with(self, level: float) -> float:
        """How far beyond (or within) the budget the latest sample is, and all that it adds to."""
        tests = [self._of_all(), *self._of_sample(self.samples[-1], level)]
        _, error, allowed = self._by_channel(level)
        channels = float(_excesses(error, allowed).max(initial=0.0))
        return max(channels, *(excess(test.measured, test.allowed) for test in tests))

    def worst_channels(self) -> tuple[ChannelRecord, ...]:
        """The channels that are nearest to their budgets, or furthest beyond them, worst first."""
        return self._of_channels(self._level()) if self.samples else ()

    def rank_budget(self) -> float:
        """What one element of the latest sample may err, by that sample alone."""
        latest = self.samples[-1]
        floor = self.row.floor * self.row.unit * latest.scale
        return self.row.peak * max(latest.own_peak, _GAUSS * latest.own, floor)

    def _level(self) -> float:
        """The reference's relative error on a typical sample: the median, so that one odd sample widens nothing."""
        levels = [sample.own / sample.scale for sample in self.samples if sample.scale]
        return max(float(np.median(levels)) if levels else 0.0, self.row.floor * self.row.unit)

    def _own(self, own: Any, scale: Any, level: float) -> Any:
        """The own error of a part: no less than a typical sample's for its scale, nor than the floor."""
        floor = self.row.floor * self.row.unit * np.maximum(scale, _QUIET * self.scale)
        return np.maximum(np.maximum(own, level * scale), floor)

    def _of_all(self) -> Exceeded:
        top = self._worst()
        return Exceeded("rms", self._rms(3), self.allowed, None, top.name, top.index, *top.values)

    def _of_sample(self, sample: Sample, level: float) -> Iterator[Exceeded]:
        own = float(self._own(sample.own, sample.scale, level))
        allowed = self.row.channel * _by_count(sample.count) * own
        yield Exceeded("sample", sample.error, allowed, None, sample.name, sample.index, *sample.values)
        peak = self.row.peak * max(sample.own_peak, _GAUSS * own)
        yield Exceeded("peak", sample.peak, peak, None, sample.name, sample.index, *sample.values)

    def _by_channel(self, level: float) -> tuple[Array, Array, Array]:
        """Each channel's own error of the reference, its error, and what that may be; none where there is but one."""
        if self.channels is None or len(self.channels.truth) < 2:
            return np.zeros(0), np.zeros(0), np.zeros(0)
        scale, own, error = self.channels.rms()
        factor = self.row.channel * _by_count(self.channels.count)
        return own, error, factor * self._own(own, scale, level)

    def _of_channels(self, level: float) -> tuple[ChannelRecord, ...]:
        own, error, allowed = self._by_channel(level)
        worst = np.argsort(-_excesses(error, allowed), kind="stable")[:_WORST_CHANNELS]
        return tuple(ChannelRecord(int(i), float(own[i]), float(error[i]), float(allowed[i])) for i in worst)

    def _of_channel(self, record: ChannelRecord) -> Exceeded:
        assert self.channels is not None
        sample, index, values = self.channels.where[record.channel]
        return Exceeded("channel", record.candidate, record.allowed, record.channel, sample, index, *values)


def excess(measured: float, allowed: float) -> float:
    """How many times what is allowed was measured; NaN is infinitely much."""
    if math.isnan(measured):
        return math.inf
    return measured / allowed if allowed else (math.inf if measured else 0.0)


def _excesses(measured: Array, allowed: Array) -> Array:
    return np.array([excess(*pair) for pair in zip(measured.tolist(), allowed.tolist(), strict=True)])


def _by_count(count: int) -> float:
    """How much more is granted where few numbers decide: they tell the reference's own error badly."""
    return 1 + _FEW / math.sqrt(max(count, 1))
