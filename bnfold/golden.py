"""Golden files: a model's float64 truth on recorded inputs, to hold later candidates to without the model.

Beside the truth it holds the reference's own outputs and what nudging its weights changes (the units of every budget),
the budget and the environment of its making. `bnfold.golden_file` has the file's form, docs/ci.md its use in a test.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bnfold.checking.inputs import Sample, draw, explore, random_feed
from bnfold.checking.providers import Target, parse_targets
from bnfold.checking.result import BudgetRow, CheckResult, Environment
from bnfold.checking.run import Check, Options
from bnfold.checking.samples import first_arrays, read_samples
from bnfold.checking.subject import Array, Feed, InputSpec, Outputs, Runner, Subject, load_subject
from bnfold.checking.tolerance import budget_for
from bnfold.checking.truth import Facts, truth_of
from bnfold.errors import BnfoldError, UnverifiedError

_MOST_BYTES = 2 << 20  # a golden file is committed: samples beyond this are left out, the first one never
_DRIFT = 1e-2  # of the reference's own error: far below what any budget sees, far above float64's rounding


@dataclass(frozen=True)
class Record:
    """One sample with what is known of it."""

    sample: Sample
    facts: Facts

    @property
    def nbytes(self) -> int:
        """The size of all its arrays."""
        sides = (self.facts.truth, self.facts.own, self.facts.nudged)
        return sum(array.nbytes for array in (*self.sample.feed, *(x for side in sides for x in side.values())))


@dataclass(frozen=True)
class Golden:
    """What a golden file holds. named: whether the outputs' names mean anything (a module's don't)."""

    reference: str
    dtype: str
    named: bool
    inputs: tuple[InputSpec, ...]
    records: tuple[Record, ...]
    budget: BudgetRow
    environment: Environment
    seed: int


def record(
    reference: Any, inputs: Any = None, *, seed: int = 0, most_bytes: int = _MOST_BYTES, **loading: Any
) -> Golden:
    """Run `reference` in float64 and as it is, on drawn inputs and on your own.

    reference, inputs: as `bnfold.check` takes them; loading: arch, arch_kwargs, trust. Raises UnverifiedError where
    there is no float64 truth.
    """
    from bnfold.checking.environment import environment

    examples = first_arrays(inputs) if inputs is not None else ()
    subject = load_subject(reference, examples=examples, **loading)
    if not subject.inputs:
        raise BnfoldError(f"{subject.label}: a module does not tell its inputs; give some")
    truth = truth_of(subject)
    if truth.mode:
        raise UnverifiedError(f"{subject.label}: no golden file without a float64 truth; {truth.description}")
    every = (Record(x, _copied(truth.facts(x.feed))) for x in _samples(subject, inputs, seed))
    return Golden(
        reference=subject.label,
        dtype=subject.dtype,
        named=subject.named,
        inputs=subject.inputs,
        records=tuple(_fitting(every, most_bytes)),
        budget=budget_for(subject.dtype),
        environment=environment(),
        seed=seed,
    )


def _samples(subject: Subject, inputs: Any, seed: int) -> Iterator[Sample]:
    if inputs is not None:
        yield from read_samples(inputs, subject.inputs)

    def accepts(feed: Feed) -> bool:
        try:
            subject.truth(feed)
        except UnverifiedError:
            return False
        return True

    dimensions, _ = explore(subject.inputs, accepts, seed)
    small = tuple(batch for batch in dimensions.batches if batch <= 3)
    dimensions = replace(dimensions, batches=small or dimensions.batches[:1])
    sizes = dimensions.with_batch(dimensions.typical, dimensions.batches[0])
    scale = subject.input_scale(random_feed(subject.inputs, sizes, seed, 1.0))
    yield from draw(subject.inputs, dimensions, seed, scale)


def _copied(facts: Facts) -> Facts:
    """Copy, since a runtime may reuse its buffers. What only the model can tell is told now: how far rounding goes."""
    nudged = {name: _moved_by(facts.truth[name], value, facts.spread_of(name)) for name, value in facts.nudged.items()}
    truth, own = ({name: np.array(value) for name, value in side.items()} for side in (facts.truth, facts.own))
    return Facts(truth, own, nudged)


def _moved_by(truth: Array, nudged: Array, spread: Array | None) -> Array:
    """Give the truth as far away as rounding takes it: by the nudge, or further by its spread."""
    if spread is None or not np.issubdtype(truth.dtype, np.floating):
        return np.array(nudged)
    moved: Array = np.where(np.abs(nudged - truth) < spread, truth + spread, nudged)
    return moved


def _fitting(records: Iterable[Record], most_bytes: int) -> Iterator[Record]:
    total = 0
    for i, item in enumerate(records):
        total += item.nbytes
        if i and total > most_bytes:
            return
        yield item


def stale(golden: Golden, reference: Any = None, **loading: Any) -> str:
    """Say why the file can't be relied on any longer, in one sentence; empty where it can.

    reference: the model as it is now, where it is at hand; its float64 outputs must be the recorded ones.
    """
    if golden.budget != budget_for(golden.dtype):
        return f"it was made for another budget of {golden.dtype}"
    if reference is None:
        return ""
    subject = load_subject(reference, examples=golden.records[0].sample.feed, **loading)
    try:
        moved = max(_moved(item, subject.truth(item.sample.feed)) for item in golden.records)
    except UnverifiedError as error:
        return f"the reference no longer takes the recorded inputs: {error}"
    if moved > _DRIFT:
        return f"the reference's float64 outputs moved by {moved:.3g} times its own rounding error"
    return ""


def _moved(item: Record, now: Outputs) -> float:
    """How far the outputs are from the recorded truth, in units of the own error, or of 1e-9 of the scale."""
    truth, own = item.facts.truth, item.facts.own
    if list(now) != list(truth):
        return math.inf
    return max(_distance(truth[name], own[name], now[name]) for name in truth)


def _distance(truth: Array, own: Array, now: Array) -> float:
    if truth.shape != now.shape or truth.dtype != now.dtype:
        return math.inf
    if not np.issubdtype(truth.dtype, np.floating):
        return 0.0 if np.array_equal(truth, now) else math.inf
    if not np.array_equal(np.isfinite(truth), np.isfinite(now)):
        return math.inf
    there = np.isfinite(truth)
    difference, unit = _rms(now[there] - truth[there]), _rms(own.astype(np.float64)[there] - truth[there])
    unit = max(unit, 1e-9 * _rms(truth[there]))
    return difference / unit if unit else (math.inf if difference else 0.0)


def _rms(values: Array) -> float:
    return math.sqrt(float(np.square(values).mean())) if values.size else 0.0


def check(
    golden: Golden,
    candidate: Any,
    providers: str | Sequence[str] = ("cpu",),
    *,
    allow_missing: bool = False,
    allow_fallback: bool = False,
    by_position: bool = False,
    budget: Mapping[str, float] | None = None,
    **loading: Any,
) -> CheckResult:
    """Hold `candidate` to the recorded truth, as `bnfold.check` would to the model's, on the inputs that it takes.

    Raises BnfoldError where it takes none of them.
    """
    side = load_subject(candidate, examples=golden.records[0].sample.feed, **loading)
    feeds = [item.sample.feed for item in golden.records if _fits(golden, side.inputs, item.sample.feed)]
    if not feeds:
        raise BnfoldError(f"{side.label} takes none of the {len(golden.records)} inputs that were recorded")
    options = Options(
        golden.seed, allow_missing=allow_missing, allow_fallback=allow_fallback, by_position=by_position, budget=budget,
        localise=False, only_given=True,
    )  # fmt: skip
    subject: Any = Recorded(golden)
    return Check(subject, [side], parse_targets(providers), options).run(feeds)


def _fits(golden: Golden, specs: Sequence[InputSpec], feed: Feed) -> bool:
    """Whether every dimension that is fixed is that of `feed`; another number of inputs is for the check to tell."""
    named = {spec.name: spec for spec in specs}
    return len(specs) != len(feed) or all(
        isinstance(dim, str) or dim == size
        for ours, theirs, array in zip(golden.inputs, specs, feed, strict=True)
        for dim, size in zip(named.get(ours.name, theirs).dims, array.shape, strict=False)
    )


class Recorded:
    """A golden file in the reference's place: it answers for the recorded inputs and for no others."""

    source_name = ""

    def __init__(self, golden: Golden) -> None:
        self.label, self.dtype, self.named = f"{golden.reference} (golden)", golden.dtype, golden.named
        self.inputs = golden.inputs
        self.assumptions: tuple[str, ...] = ()
        self.recorder = _NoCoverage()
        self._by_feed = {_key(item.sample.feed): item for item in golden.records}

    def truth(self, feed: Feed) -> Outputs:
        """Give the recorded float64 outputs."""
        return self._find(feed).facts.truth

    def own(self, feed: Feed) -> Outputs:
        """Give the recorded outputs of the reference's own dtype."""
        return self._find(feed).facts.own

    def nudged(self, feed: Feed, times: int = 1) -> Outputs:
        """Give the recorded outputs of the nudged reference."""
        return self._find(feed).facts.nudged

    def perturbed(self, feed: Feed, seed: int) -> Outputs:
        """Refuse: there is no model."""
        raise UnverifiedError(f"{self.label} is no model, and its rounding can't be measured again")

    def input_scale(self, feed: Feed) -> float:
        """Give 1: nothing is drawn."""
        return 1.0

    def open(self, target: Target, *, allow_fallback: bool) -> Runner:
        """Refuse: there is no model."""
        raise UnverifiedError(f"{self.label} is no model and can't be run on {target.provider}")

    def _find(self, feed: Feed) -> Record:
        try:
            return self._by_feed[_key(feed)]
        except KeyError:
            raise UnverifiedError(f"{self.label} has no truth for inputs that it did not record") from None


class _NoCoverage:
    """The model is not there, so nothing is known of what the inputs reach in it."""

    def __enter__(self) -> "_NoCoverage":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def coverage(self) -> None:
        return None


def _key(feed: Feed) -> bytes:
    digest = hashlib.sha256()
    for array in feed:
        digest.update(f"{array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
