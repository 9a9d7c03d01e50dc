"""One (candidate, provider, options) triple, taken through the samples."""

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bnfold.checking.compare import Comparison
from bnfold.checking.inputs import Sample, is_float
from bnfold.checking.ort import ProviderMissingError
from bnfold.checking.pairing import Pairing, pair, sizes_apart
from bnfold.checking.providers import Target
from bnfold.checking.result import BudgetRow, Run, Verdict, worst
from bnfold.checking.subject import Array, Feed, Outputs, Runner, Subject
from bnfold.checking.truth import Facts
from bnfold.errors import UnverifiedError


@dataclass
class Trial:
    """Runs one candidate on one provider and compares it, sample by sample."""

    reference: Subject
    candidate: Subject
    target: Target
    row: BudgetRow
    by_position: bool
    allow_missing: bool
    allow_fallback: bool
    runner: Runner | None = None
    faults: list[tuple[Verdict, str]] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    order: tuple[int, ...] = ()
    paired: tuple[str, frozenset[str], frozenset[str]] | None = None  # on which sample, with which outputs
    repeats_equal: bool | None = None
    seconds: float = 0.0
    telling: Sample | None = None  # the sample with the largest error for its size
    typical: Sample | None = None  # the first random sample, or the first one of all
    wide: Sample | None = None  # the one of large numbers
    replay: str = ""
    samples: int = 0
    first: dict[tuple[str, tuple[int, ...]], tuple[Feed, Array]] = field(default_factory=dict)  # of each output's shape
    repeated: Counter[str] = field(default_factory=Counter)  # outputs for another input of a shape that was seen,
    unchanged: Counter[str] = field(default_factory=Counter)  # and how many of them were the same again
    _telling_by: float = -1.0

    def open(self) -> None:
        """Open the runner and pair the inputs; what stands in the way becomes the verdict."""
        self._pair_inputs()
        if no_size := sizes_apart(self.reference, self.candidate, self.order):
            self._stop(Verdict.UNVERIFIED, no_size)
            return
        try:
            self.runner = self.candidate.open(self.target, allow_fallback=self.allow_fallback)
            self.assumptions += (f"{self.candidate.label}: {note}" for note in self.runner.notes)
        except ProviderMissingError as error:
            self._stop(Verdict.SKIPPED if self.allow_missing else Verdict.UNVERIFIED, str(error))
        except UnverifiedError as error:
            self._stop(Verdict.UNVERIFIED, str(error))

    def _stop(self, verdict: Verdict, why: str) -> None:
        if (verdict, why) not in self.faults:
            self.faults.append((verdict, why))
        self.runner = None

    def _pair_inputs(self) -> None:
        ours, theirs = ([spec.name for spec in side.inputs] for side in (self.reference, self.candidate))
        found = self._pair("input", ours, theirs)
        places = {name: i for i, name in enumerate(ours)}
        sources = {b: a for a, b in found.pairs}
        kinds = {spec.name: spec.dtype for spec in self.reference.inputs}
        self.assumptions += (
            f"{self.candidate.label} was given {spec.name} as {spec.dtype}, which the reference takes as {kind}"
            for spec in self.candidate.inputs
            if (kind := kinds.get(sources.get(spec.name, ""), spec.dtype)) != spec.dtype
        )
        if set(sources) == set(theirs):
            self.order = tuple(places[sources[name]] for name in theirs)
        else:
            self.order = ()

    def _pair(self, what: str, ours: list[str], theirs: list[str]) -> Pairing:
        named = self.reference.named and self.candidate.named
        found = pair(what, ours, theirs, named=named, by_position=self.by_position)
        self.assumptions += found.assumptions
        self.faults += found.faults
        return found

    def feed(self, sample: Feed) -> Feed:
        """Put a feed of the reference into the candidate's order."""
        return tuple(sample[i] for i in self.order)

    def take(self, sample: Sample, facts: Facts) -> None:
        """Run one sample and compare every output."""
        if self.runner is None or len(self.order) != len(self.candidate.inputs):
            return
        started = time.perf_counter()
        try:
            outputs = self.runner.run(self.feed(sample.feed))
            if self.repeats_equal is None:
                self.repeats_equal = same_bits(outputs, self.runner.run(self.feed(sample.feed)))
        except UnverifiedError as error:
            ran = any(comparison.seen for comparison in self.comparisons.values())
            why = f"fails on {sample.name}, which the reference takes: {error}" if ran else str(error)
            self._stop(Verdict.DIFFERENT if ran else Verdict.UNVERIFIED, why)
            return
        finally:
            self.seconds += time.perf_counter() - started
        self._compare(sample, facts, outputs)

    def _are_paired(self, sample: Sample, facts: Facts, outputs: Outputs) -> bool:
        """Pair the outputs of the first sample, and see that every other one gives the same."""
        if self.paired is None:
            self.paired = sample.name, frozenset(facts.truth), frozenset(outputs)
            for name, theirs in self._pair("output", list(facts.truth), list(outputs)).pairs:
                self.comparisons[name] = Comparison(name, theirs, str(facts.own[name].dtype), self.row)
        first, mine, others = self.paired
        if mine != facts.truth.keys():
            why = f"{self.reference.label} gives other outputs for {sample.name} than for {first}"
            self._stop(Verdict.UNVERIFIED, why)
        elif others != outputs.keys():
            why = f"gives other outputs for {sample.name} than for {first}, which the reference doesn't"
            self._stop(Verdict.DIFFERENT, why)
        return self.runner is not None

    def _compare(self, sample: Sample, facts: Facts, outputs: Outputs) -> None:
        if not self._are_paired(sample, facts, outputs):
            return
        if self.typical is None or (self.typical.kind != "random" and sample.kind == "random"):
            self.typical = sample
        if sample.name == "wide":
            self.wide = sample
        self.samples += 1
        for name, comparison in self.comparisons.items():
            true = facts.truth[name]
            self._look_for_change(name, sample.feed, true)
            sides = true, facts.own[name], outputs[comparison.candidate_name]
            comparison.add(sample.name, *sides, facts.nudged[name], partial(facts.spread_of, name))
            excess = comparison.latest_excess()
            if excess > self._telling_by:
                self._telling_by, self.telling = excess, sample

    def _look_for_change(self, name: str, feed: Feed, truth: Array) -> None:
        if not truth.size:
            return
        before, value = self.first.setdefault((name, truth.shape), (feed, truth))
        if any(not np.array_equal(a, b) for a, b in zip(feed, before, strict=True)):
            self.repeated[name] += 1
            self.unchanged[name] += np.array_equal(truth, value, equal_nan=True)

    def smallest_telling(self) -> Sample:
        """Cut the sample that tells most down to the one item that shows the largest difference."""
        assert self.telling is not None
        sample = self.telling
        if not all(array.ndim for array in sample.feed) or sample.feed[0].shape[0] < 2:
            return sample
        items = [
            Sample(f"{sample.name}[{i}]", sample.kind, tuple(array[i : i + 1] for array in sample.feed))
            for i in range(sample.feed[0].shape[0])
        ]
        try:
            return max(items, key=lambda item: self._gap(item.feed))
        except (UnverifiedError, ValueError):  # the batch size is fixed, or the candidate has no float64 form
            return sample

    def _gap(self, feed: Feed) -> float:
        truth, theirs = self.reference.truth(feed), self.candidate.truth(self.feed(feed))
        gap = 0.0
        for name, comparison in self.comparisons.items():
            if name not in truth or comparison.candidate_name not in theirs:
                return math.inf
            a, b = (x.astype(np.float64) for x in (truth[name], theirs[comparison.candidate_name]))
            if a.shape == b.shape and a.size:
                gap = max(gap, float(np.nan_to_num(np.abs(a - b), nan=np.inf).max()))
        return gap

    @property
    def constant(self) -> bool:
        """Whether every true output was the same, whatever the input."""
        return 0 < self.repeated.total() == self.unchanged.total()

    @property
    def exact(self) -> bool:
        """Whether an output is of whole numbers or booleans: few inputs come near to where it changes."""
        return any(not is_float(comparison.dtype) for comparison in self.comparisons.values())

    def doubts(self) -> tuple[str, ...]:
        """Say of each output which samples told nothing about it."""
        still = [] if self.constant else [x for x, count in self.repeated.items() if count == self.unchanged[x]]
        return (
            *(why for comparison in self.comparisons.values() for why in comparison.doubts()),
            *(f"{name} is the same for every input, which tells nothing of what computes it" for name in still),
        )

    def run(self) -> Run:
        """Judge."""
        outputs = tuple(comparison.record() for comparison in self.comparisons.values())
        verdicts = [verdict for verdict, _ in self.faults] + [output.verdict for output in outputs]
        why = [reason for _, reason in self.faults]
        if self.repeats_equal is False and self.target.name == "cpu":
            verdicts.append(Verdict.UNVERIFIED)
            why.append("the same input gave two different results, so the candidate is not a function of its input")
        if self.constant:
            verdicts.append(Verdict.UNVERIFIED)
            why.append("no output changes with the input: that tells no models apart")
        if not verdicts:
            why.append("nothing was compared")
        return Run(
            candidate=self.candidate.label,
            provider=self.target.provider,
            options=self.target.options,
            mode=self.row.mode,
            verdict=worst(verdicts),
            why=tuple(why),
            outputs=outputs,
            nodes=self.runner.nodes if self.runner else (),
            nodes_proven=self.runner.proven if self.runner else False,
            repeats_equal=self.repeats_equal,
            seconds=round(self.seconds, 4),
            replay=self.replay,
        )


def same_bits(first: Outputs, second: Outputs) -> bool:
    """Whether two runs gave the same bits, NaN included."""

    def bits(array: Array) -> tuple[object, ...]:
        return array.shape, array.dtype, array.tobytes()

    return first.keys() == second.keys() and all(bits(first[name]) == bits(second[name]) for name in first)
