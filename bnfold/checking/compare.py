"""One output of a candidate beside the reference's and the truth, over all inputs, and the judgement on it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnfold.checking.measures import Side
from bnfold.checking.parts import Channels, Sample
from bnfold.checking.result import BudgetRow, ChannelRecord, Exceeded, OutputRecord, Verdict

Array = np.ndarray[Any, Any]

_QUIET = 1e-3  # a part quieter than this share of the whole is granted the floor of that share
_GAUSS = 4.0  # the largest of some thousand roundings is about 4 times their rms
_WORST_CHANNELS = 16
_FEW = 2.0  # n numbers tell an rms to 1 / sqrt(2 n) of itself; the factor leaves room for three times that


@dataclass
class Comparison:
    """One output, taken in sample by sample; `record` judges it. `row` is the budget."""

    name: str
    candidate_name: str
    dtype: str
    row: BudgetRow
    reference: Side = field(init=False)
    candidate: Side = field(init=False)
    shape: tuple[int, ...] = ()
    noise: float = 0.0  # sum of squares of the reference's own error, its weights' rounding included
    faults: list[tuple[Verdict, str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    channels: Channels | None = None

    def __post_init__(self) -> None:
        measured = self.dtype if self.dtype in ("float16", "bfloat16", "float32", "float64") else "float64"
        self.reference, self.candidate = Side(measured), Side(measured)

    def add(self, sample: str, truth: Array, reference: Array, candidate: Array, nudged: Array | None = None) -> None:
        """Take in one sample: the truth in float64 (or exact integers), both sides as they came.

        `nudged`: the truth with every weight rounded once more; what that changes adds to the reference's own error.
        """
        self.shape = self.shape or truth.shape
        if candidate.shape != truth.shape or reference.shape != truth.shape:
            self._fault(Verdict.DIFFERENT, f"shape {candidate.shape} where the reference has {truth.shape} ({sample})")
            return
        if candidate.dtype != reference.dtype:
            self._fault(Verdict.DIFFERENT, f"dtype {candidate.dtype} where the reference has {reference.dtype}")
            return
        t, r, c = (np.asarray(side).astype(np.float64) for side in (truth, reference, candidate))
        if np.issubdtype(np.asarray(truth).dtype, np.floating):
            self._add_floats(sample, t, r, c, t if nudged is None else np.asarray(nudged, np.float64))
        else:
            self._add_exact(sample, t, r, c, t if nudged is None else np.asarray(nudged, np.float64))

    def _fault(self, verdict: Verdict, why: str) -> None:
        if all(known != why for _, known in self.faults):
            self.faults.append((verdict, why))

    def _add_exact(self, sample: str, truth: Array, reference: Array, candidate: Array, nudged: Array) -> None:
        everything = np.ones(truth.shape, bool)
        self.reference.add(truth, reference, everything)
        self.candidate.add(truth, candidate, everything)
        # Where rounding alone moves the reference, it may move the candidate.
        sure = (reference == truth) & (nudged == truth)
        wrong = sure & (candidate != truth)
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            self._fault(
                Verdict.DIFFERENT,
                f"{int(wrong.sum())} of {wrong.size} {self.dtype} values differ, the first at {index} of {sample}:"
                f" {candidate[index]:g} where the truth is {truth[index]:g}",
            )
        elif truth.size and not sure.any():
            self._fault(Verdict.UNVERIFIED, f"the reference's own rounding moves every value ({sample})")

    def _add_floats(self, sample: str, truth: Array, reference: Array, candidate: Array, nudged: Array) -> None:
        finite = np.isfinite(truth) & np.isfinite(reference) & np.isfinite(candidate)
        self._special_values(sample, truth, reference, candidate)
        self.reference.add(truth, reference, finite)
        self.candidate.add(truth, candidate, finite)
        if not finite.any():
            return
        with np.errstate(invalid="ignore"):  # infinity minus infinity, which `finite` leaves out
            own = np.where(finite & np.isfinite(nudged), np.hypot(reference - truth, nudged - truth), 0.0)
            error = np.where(finite, np.abs(candidate - truth), 0.0)
        self.noise += float(np.square(own).sum())
        self.samples.append(Sample.of(sample, truth, own, error, finite, (reference, candidate)))
        if truth.ndim > 1:
            self.channels = self.channels or Channels.zeros(truth.shape[1])
            if len(self.channels.truth) == truth.shape[1]:
                self.channels.add(sample, np.where(finite, truth, 0.0), own, error, (reference, candidate))
        latest = self.samples[-1]
        budget = self.row.peak * max(
            latest.own_peak, _GAUSS * latest.own, self.row.floor * self.row.unit * latest.scale
        )
        if finite.all():
            self.reference.add_ranks(truth, reference, budget)
            self.candidate.add_ranks(truth, candidate, budget)

    def _special_values(self, sample: str, truth: Array, reference: Array, candidate: Array) -> None:
        """NaN is never equal to anything; an infinity only to the same one, on all three sides."""
        odd = [~np.isfinite(side) for side in (truth, reference, candidate)]
        if not any(mask.any() for mask in odd):
            return
        same = np.isinf(truth) & (reference == truth) & (candidate == truth)
        if (odd[2] & ~odd[0] & ~odd[1]).any():
            worst = int((odd[2] & ~odd[0] & ~odd[1]).sum())
            self._fault(Verdict.DIFFERENT, f"NaN or Inf in {worst} values that are finite in the reference ({sample})")
        elif (odd[0] & odd[1] & ~odd[2]).any():
            self._fault(Verdict.DIFFERENT, f"finite where the reference is NaN or Inf ({sample})")
        elif ((odd[0] | odd[1] | odd[2]) & ~same).any():
            whole = bool((odd[0] | odd[1] | odd[2]).all())
            part = "all" if whole else "some"
            self._fault(Verdict.UNVERIFIED, f"{part} of the reference's own values are NaN or Inf ({sample})")

    def latest_excess(self) -> float:
        """How far beyond (or within) the budget the latest sample is, by rms and by its peak; inf after a fault."""
        if self.faults:
            return math.inf
        if not self.samples:
            return 0.0
        latest = self.samples[-1]
        level = self._own(latest.own, latest.scale)
        peak = self.row.peak * max(latest.own_peak, _GAUSS * level)
        return max(_excess(latest.error, self._part(latest.count) * level), _excess(latest.peak, peak))

    def record(self) -> OutputRecord:
        """Judge what was taken in."""
        tests = tuple(self._tests())
        exceeded = max(tests, key=lambda test: _excess(test.measured, test.allowed), default=None)
        verdict, why = self._verdict(exceeded)
        ratio = self.candidate.rms / self.reference.rms if self.candidate.count and self.reference.rms else None
        return OutputRecord(
            name=self.name,
            candidate_name=self.candidate_name,
            verdict=verdict,
            why=why,
            shape=tuple(map(int, self.shape)),
            dtype=self.dtype,
            elements=self.candidate.count,
            scale=self.candidate.scale,
            error_ratio=ratio,
            allowed_ratio=self._allowed_rms() / self.reference.rms if ratio is not None and self.samples else None,
            reference=self.reference.measures() if self.candidate.count else None,
            candidate=self.candidate.measures() if self.candidate.count else None,
            exceeded=exceeded,
            channels=self._worst_channels(),
        )

    def _verdict(self, exceeded: Exceeded | None) -> tuple[Verdict, str]:
        for verdict in (Verdict.DIFFERENT, Verdict.UNVERIFIED):
            for fault, why in self.faults:
                if fault is verdict:
                    return verdict, why
        if not self.candidate.count:
            return Verdict.UNVERIFIED, "no element was compared"
        if not self.samples:  # integers, all equal
            return Verdict.VERIFIED, ""
        assert exceeded is not None
        own, allowed = self._own_rms(), self._allowed_rms()
        if allowed > self.row.ceiling * self.reference.scale > 0:
            return Verdict.UNVERIFIED, (
                f"ill-conditioned: the reference's own error is {own / self.reference.scale:.1e} of its scale, so a"
                f" budget of {allowed / own:.3g} times that would let anything pass (ceiling {self.row.ceiling:g})"
            )
        if not exceeded.measured <= exceeded.allowed:
            return Verdict.DIFFERENT, _sentence(exceeded)
        return Verdict.VERIFIED, ""

    def _level(self) -> float:
        """The reference's relative error on a typical sample: the median, so that one odd sample widens nothing."""
        levels = [sample.own / sample.scale for sample in self.samples if sample.scale]
        return max(float(np.median(levels)) if levels else 0.0, self.row.floor * self.row.unit)

    def _own_rms(self) -> float:
        own = math.sqrt(self.noise / self.candidate.count)
        return max(own, self.row.floor * self.row.unit * self.candidate.scale)

    def _allowed_rms(self) -> float:
        return self.row.rms * self._by_count(self._worst_sample().count) * self._own_rms()

    def _worst_sample(self) -> Sample:
        return max(self.samples, key=lambda sample: sample.peak)

    def _own(self, own: float, scale: float) -> float:
        return max(
            own, self._level() * scale, self.row.floor * self.row.unit * max(scale, _QUIET * self.candidate.scale)
        )

    def _part(self, count: int) -> float:
        """The factor for a part of `count` numbers."""
        return self.row.channel * self._by_count(count)

    def _by_count(self, count: int) -> float:
        """How much more is granted where few numbers decide: they tell the reference's own error badly."""
        return 1 + _FEW / math.sqrt(max(count, 1))

    def _tests(self) -> Iterable[Exceeded]:
        if not self.samples:
            return
        row, top = self.row, self._worst_sample()
        yield Exceeded("rms", self.candidate.rms, self._allowed_rms(), None, top.name, top.index, *top.values)
        for sample in self.samples:
            level = self._own(sample.own, sample.scale)
            allowed = self._part(sample.count) * level
            yield Exceeded("sample", sample.error, allowed, None, sample.name, sample.index, *sample.values)
            peak = row.peak * max(sample.own_peak, _GAUSS * level)
            yield Exceeded("peak", sample.peak, peak, None, sample.name, sample.index, *sample.values)
        for record in self._channel_records():
            assert self.channels is not None
            sample_name, index, values = self.channels.where[record.channel]
            yield Exceeded("channel", record.candidate, record.allowed, record.channel, sample_name, index, *values)

    def _channel_records(self) -> Iterable[ChannelRecord]:
        if self.channels is None or len(self.channels.truth) < 2:
            return
        scale, own, error = (
            np.sqrt(total / self.channels.count)
            for total in (self.channels.truth, self.channels.reference, self.channels.candidate)
        )
        for channel in range(len(scale)):
            allowed = self._part(self.channels.count) * self._own(float(own[channel]), float(scale[channel]))
            yield ChannelRecord(channel, float(own[channel]), float(error[channel]), allowed)

    def _worst_channels(self) -> tuple[ChannelRecord, ...]:
        ranked = sorted(self._channel_records(), key=lambda x: _excess(x.candidate, x.allowed), reverse=True)
        return tuple(ranked[:_WORST_CHANNELS])


def _excess(measured: float, allowed: float) -> float:
    if math.isnan(measured):
        return math.inf
    return measured / allowed if allowed else (math.inf if measured else 0.0)


def _sentence(test: Exceeded) -> str:
    """Say what failed: how much, where, how much was allowed."""
    times = _excess(test.measured, test.allowed)
    what = {
        "rms": "rms error",
        "sample": f"rms error on {test.input}",
        "peak": f"largest error on {test.input}",
        "channel": f"rms error of channel {test.channel}",
    }[test.test]
    return (
        f"{what} {test.measured:.3g} is {times:.3g} times the {test.allowed:.3g} allowed; worst at {test.index} of"
        f" {test.input}: {test.candidate_value:.9g}, truth {test.truth_value:.9g},"
        f" reference {test.reference_value:.9g}"
    )
