"""One output of a candidate beside the reference's and the truth, over all inputs, and the judgement on it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnfold.checking.judgement import Judgement, excess
from bnfold.checking.measures import LARGEST, Side
from bnfold.checking.parts import Errors
from bnfold.checking.result import BudgetRow, Exceeded, OutputRecord, Verdict

Array = np.ndarray[Any, Any]
Spread = Callable[[], Array | None]

_NAMED = 3
_NO_ROUNDING = 0.1  # share of the scale from which an error may be a kernel's fault as well
_SQUARABLE = 1e-140, 1e150  # what is smaller has a rounding error whose square is zero


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
    judgement: Judgement = field(init=False)
    faults: list[tuple[Verdict, str]] = field(default_factory=list)
    blind: bool = False  # the latest sample told nothing
    empty: list[str] = field(default_factory=list)  # samples for which the output has no element

    def __post_init__(self) -> None:
        measured = self.dtype if self.dtype in ("float16", "bfloat16", "float32", "float64") else "float64"
        self.reference, self.candidate = Side(measured), Side(measured)
        self.judgement = Judgement(self.row)

    def add(
        self,
        sample: str,
        truth: Array,
        reference: Array,
        candidate: Array,
        nudged: Array | None = None,
        spread: Spread = lambda: None,
    ) -> None:
        """Take in one sample: the truth in float64 (or exact integers), both sides as they came.

        `nudged`: the truth with every weight rounded once more; what that changes adds to the reference's own error.
        `spread`: gives by element how far all rounding takes the truth, as rms; asked where the rest does not decide.
        """
        self.shape = self.shape or truth.shape
        if candidate.shape != truth.shape or reference.shape != truth.shape:
            self._fault(Verdict.DIFFERENT, f"shape {candidate.shape} where the reference has {truth.shape} ({sample})")
            return
        if candidate.dtype != reference.dtype:
            self._fault(Verdict.DIFFERENT, f"dtype {candidate.dtype} where the reference has {reference.dtype}")
            return
        if not truth.size:
            self.empty.append(sample)
        moved = truth if nudged is None else nudged
        if np.issubdtype(truth.dtype, np.floating):
            t, r, c, n = (np.asarray(side, np.float64) for side in (truth, reference, candidate, moved))
            self._add_floats(sample, t, r, c, n, spread)
        else:
            self._add_exact(sample, truth, reference, candidate, moved, spread)

    def _fault(self, verdict: Verdict, why: str) -> None:
        if all(known != why for _, known in self.faults):
            self.faults.append((verdict, why))

    def _add_exact(
        self, sample: str, truth: Array, reference: Array, candidate: Array, nudged: Array, spread: Spread
    ) -> None:
        everything = np.ones(truth.shape, bool)
        t, r, c = (side.astype(np.float64) for side in (truth, reference, candidate))  # for the figures alone
        self.reference.add(t, r, everything)
        self.candidate.add(t, c, everything)
        # Where rounding alone moves the reference, it may move the candidate.
        sure = (reference == truth) & (nudged == truth)
        if (sure & (candidate != truth)).any() and (moved := spread()) is not None:
            sure &= moved == 0
        wrong = sure & (candidate != truth)
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            self._fault(
                Verdict.DIFFERENT,
                f"{int(wrong.sum())} of {wrong.size} {self.dtype} values differ, the first at {index} of {sample}:"
                f" {int(candidate[index])} where the truth is {int(truth[index])}",
            )
        elif truth.size and not sure.any():
            self._fault(Verdict.UNVERIFIED, f"the reference's own rounding moves every value ({sample})")

    def _add_floats(
        self, sample: str, truth: Array, reference: Array, candidate: Array, nudged: Array, spread: Spread
    ) -> None:
        errors = Errors.of(sample, truth, reference, candidate, nudged)
        self._special_values(errors)
        if self._beyond_squares(errors):
            return
        seen = bool(errors.finite.any())
        self.blind = seen and not self.judgement.take(errors, spread)
        if self.blind:
            return
        self.reference.add(truth, reference, errors.finite)
        self.candidate.add(truth, candidate, errors.finite)
        if seen and errors.finite.all():
            budget = self.judgement.rank_budget()
            self.reference.add_ranks(truth, reference, budget)
            self.candidate.add_ranks(truth, candidate, budget)

    def _special_values(self, errors: Errors) -> None:
        """NaN is never equal to anything; an infinity only to the same one, on all three sides."""
        truth, (reference, candidate), sample = errors.truth, errors.sides, errors.name
        odd = [~np.isfinite(side) for side in (truth, reference, candidate)]
        if not any(mask.any() for mask in odd):
            return
        same = np.isinf(truth) & (reference == truth) & (candidate == truth)
        alone = odd[2] & ~odd[0] & ~odd[1]
        if (new := alone & ~self._may_overflow(errors)).any():
            worst = int(new.sum())
            self._fault(Verdict.DIFFERENT, f"NaN or Inf in {worst} values that are finite in the reference ({sample})")
        elif (odd[0] & odd[1] & ~odd[2]).any():
            self._fault(Verdict.DIFFERENT, f"finite where the reference is NaN or Inf ({sample})")
        elif ((odd[0] | odd[1]) & ~same).any():
            whole = bool((odd[0] | odd[1]).all())
            part = "all" if whole else "some"
            self._fault(Verdict.UNVERIFIED, f"{part} of the reference's own values are NaN or Inf ({sample})")
        elif alone.any():
            self._fault(
                Verdict.UNVERIFIED, f"{int(alone.sum())} values are a rounding away from {self.dtype}'s Inf ({sample})"
            )

    def _beyond_squares(self, errors: Errors) -> bool:
        """Whether the squares of float64 numbers would become infinite or zero, and every error with them."""
        if self.dtype != "float64":
            return False
        sizes = [float(np.abs(side[errors.finite]).max(initial=0.0)) for side in (errors.truth, *errors.sides)]
        beyond = [size for size in sizes if size and not _SQUARABLE[0] <= size <= _SQUARABLE[1]]
        if beyond:
            why = f"values of {beyond[0]:.3g} can't be judged, since their squares leave float64 ({errors.name})"
            self._fault(Verdict.UNVERIFIED, why)
        return bool(beyond)

    def _may_overflow(self, errors: Errors) -> Array:
        """Where the candidate is the infinity that the truth may be rounded to."""
        if self.dtype not in LARGEST:
            return np.zeros(errors.truth.shape, bool)
        room = self.row.peak * np.maximum(errors.own, 4 * self.row.unit * np.abs(errors.truth))
        beyond: Array = np.abs(errors.truth) + room > LARGEST[self.dtype]
        rounded: Array = np.isinf(errors.sides[1]) & (np.sign(errors.sides[1]) == np.sign(errors.truth))
        return beyond & rounded

    def latest_excess(self) -> float:
        """How far beyond (or within) the budget the latest sample is, by rms and by its peak; inf after a fault."""
        if self.faults:
            return math.inf
        return 0.0 if self.blind or not self.judgement.samples else self.judgement.latest_excess()

    @property
    def seen(self) -> bool:
        """Whether floats were compared."""
        return bool(self.judgement.samples or self.judgement.blind)

    def record(self) -> OutputRecord:
        """Judge what was taken in."""
        exceeded = self.judgement.exceeded()
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
            allowed_ratio=self.judgement.allowed / self.reference.rms if ratio is not None and exceeded else None,
            reference=self.reference.measures() if self.candidate.count else None,
            candidate=self.candidate.measures() if self.candidate.count else None,
            exceeded=exceeded,
            channels=self.judgement.worst_channels(),
        )

    def _verdict(self, exceeded: Exceeded | None) -> tuple[Verdict, str]:
        judged, blind = self.judgement, self.judgement.blind
        faults = dict(reversed(self.faults))  # the first of each
        ill = exceeded is not None and judged.allowed > self.row.ceiling * judged.scale > 0
        if Verdict.DIFFERENT in faults:
            return Verdict.DIFFERENT, faults[Verdict.DIFFERENT]
        if exceeded and not ill and not exceeded.measured <= exceeded.allowed:
            return Verdict.DIFFERENT, _sentence(exceeded)
        if Verdict.UNVERIFIED in faults:
            return Verdict.UNVERIFIED, faults[Verdict.UNVERIFIED]
        if not self.candidate.count and not blind:
            return Verdict.UNVERIFIED, "no element was compared"
        if ill:
            return Verdict.UNVERIFIED, self._ill_conditioned(judged.own / judged.scale, judged.allowed / judged.own)
        if len(blind) > len(judged.samples):
            worst = max(blind, key=lambda sample: sample.own)
            share = excess(worst.own, max(worst.scale, judged.scale))
            return Verdict.UNVERIFIED, f"{self._ill_conditioned(share, self.row.rms)}, on {len(blind)} of the inputs"
        return Verdict.VERIFIED, ""

    def _ill_conditioned(self, share: float, factor: float) -> str:
        what = "ill-conditioned, or computed wrongly by what runs it" if share > _NO_ROUNDING else "ill-conditioned"
        return (
            f"{what}: the reference's own error is {share:.1e} of its scale, so a budget of {factor:.3g}"
            f" times that would let anything pass (ceiling {self.row.ceiling:g})"
        )

    def doubts(self) -> Iterator[str]:
        """Say which samples told nothing, and why."""
        blind = [sample.name for sample in self.judgement.blind]
        every = len(blind) + len(self.judgement.samples)
        if blind:
            yield (
                f"{len(blind)} of {every} inputs ({_some(blind)}) tell nothing about {self.name}: what the reference"
                " itself rounds there is as large as a fault"
            )
        if self.empty:
            yield f"{self.name} has no element on {_some(self.empty)}, so nothing was compared there"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _sentence(test: Exceeded) -> str:
    """Say what failed: how much, where, how much was allowed."""
    times = excess(test.measured, test.allowed)
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
