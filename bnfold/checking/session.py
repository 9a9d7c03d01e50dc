"""One check under way: inputs, truth, trials, and the result that they make."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnfold.checking import samples
from bnfold.checking.audit import Audit
from bnfold.checking.environment import environment
from bnfold.checking.frames import Correspondence
from bnfold.checking.inputs import Sample, draw, explore, random_feed
from bnfold.checking.pairing import common_specs
from bnfold.checking.probing import telling
from bnfold.checking.providers import Target
from bnfold.checking.replay import save_replays
from bnfold.checking.result import (
    AuditRow,
    CheckResult,
    Coverage,
    Divergence,
    InputRecord,
    Run,
    Skip,
    Verdict,
    worst,
)
from bnfold.checking.subject import Feed, InputSpec, Subject
from bnfold.checking.tolerance import budget_for
from bnfold.checking.trial import Trial, same_bits
from bnfold.checking.truth import Truth, truth_of
from bnfold.errors import BnfoldError, UnverifiedError

_LOW_COVERAGE = 0.75


@dataclass(frozen=True)
class Options:
    """How a check is made; `bnfold.check` documents each."""

    seed: int = 0
    search: int = 0
    allow_missing: bool = False
    allow_fallback: bool = False
    by_position: bool = False
    allow_folded_reference: bool = False
    budget: Mapping[str, float] | None = None
    correspondence: Correspondence | None = None
    audit: Sequence[AuditRow] | None = None
    localise: bool = True
    only_given: bool = False
    save: Path | None = None

    def __post_init__(self) -> None:
        """Raise `BnfoldError` for a seed that draws nothing."""
        if self.seed < 0:
            raise BnfoldError(f"seed {self.seed}: wanted 0 or more")


class Check:
    """One check under way."""

    def __init__(
        self, reference: Subject, candidates: Sequence[Subject], targets: Sequence[Target], options: Options
    ) -> None:
        self.reference, self.candidates, self.options = reference, _with_own_labels(candidates), options
        self.specs, notes = self._agree_on_inputs()
        self.trials = [self._trial(candidate, target) for candidate in self.candidates for target in targets]
        self.assumptions = [*reference.assumptions, *notes]
        for candidate in candidates:
            self.assumptions += candidate.assumptions
        self.records: list[InputRecord] = []
        self.why: list[str] = []
        self.warnings: list[str] = []
        self.refusal = ""  # why the reference did not take the last size that was tried
        self.truth: Truth | None = None
        self.coverage: Coverage | None = None
        self.audit = Audit()

    def _agree_on_inputs(self) -> tuple[tuple[InputSpec, ...], tuple[str, ...]]:
        known = next((side.inputs for side in (self.reference, *self.candidates) if side.inputs), ())
        if not known:
            if self.reference.named:
                raise UnverifiedError(
                    f"{self.reference.label} takes no input, so there is nothing to tell models apart by"
                )
            raise BnfoldError(f"{self.reference.label}: a module does not tell its inputs; give some with --inputs")
        for side in (self.reference, *self.candidates):
            adopt = getattr(side, "adopt_inputs", None)
            if adopt is not None:
                adopt(known)
        return common_specs(self.reference, self.candidates)

    def _trial(self, candidate: Subject, target: Target) -> Trial:
        # The candidate earns no wider budget by being narrower than the reference.
        mode = target.mode if target.mode and self.reference.dtype == "float32" else self.reference.dtype
        return Trial(
            reference=self.reference,
            candidate=candidate,
            target=target,
            row=budget_for(mode, self.options.budget),
            by_position=self.options.by_position,
            allow_missing=self.options.allow_missing,
            allow_fallback=self.options.allow_fallback,
        )

    def run(self, inputs: Any) -> CheckResult:
        """Run every sample through every trial and judge."""
        for trial in self.trials:
            trial.open()
        try:
            self._examine_reference()
            if any(trial.runner for trial in self.trials):
                self.truth = truth_of(self.reference)
                if self.truth.mode:
                    self.warnings.append(f"the truth is {self.truth.description}")
                    for trial in self.trials:
                        trial.row = budget_for(self.truth.mode, self.options.budget)
                self._run_samples(inputs)
        except UnverifiedError as error:
            self.why.append(str(error))
        self._audit()
        return self._result()

    def _examine_reference(self) -> None:
        from bnfold.checking.provenance import folded_by_its_exporter, lost_since

        found = folded_by_its_exporter(self.reference)
        if found and not self.options.allow_folded_reference:
            raise UnverifiedError(found)
        self.warnings += filter(None, (found, lost_since(self.reference)))

    def _run_samples(self, inputs: Any) -> None:
        recorder = self.reference.recorder
        for sample in self._samples(inputs):
            with recorder:
                self._take(sample)
        if self.options.search:
            self._search()
        self.coverage = recorder.coverage()
        self._warn_of_low_coverage()

    def _samples(self, inputs: Any) -> Iterator[Sample]:
        assert self.truth is not None
        if inputs is not None:  # first: a module's own truth is asked before sizes are explored
            yield from samples.read_samples(inputs, self.specs)
        if self.options.only_given:
            return
        try:
            dimensions, assumed = explore(self.specs, self._accepts, self.options.seed)
        except UnverifiedError as error:
            if inputs is None:
                raise UnverifiedError(f"{error} ({self.refusal})" if self.refusal else str(error)) from error
            self.assumptions.append(f"only the samples that were given were run: {error}")
            return
        self.assumptions += assumed
        scale = self._scale(dimensions.with_batch(dimensions.typical, dimensions.batches[0]))
        yield from draw(self.specs, dimensions, self.options.seed, scale)

    def _accepts(self, feed: Feed) -> bool:
        assert self.truth is not None
        try:
            self.truth.facts(feed)
        except UnverifiedError as error:
            self.refusal = str(error)
            return False
        return True

    def _scale(self, sizes: Mapping[str, int]) -> float:
        assert self.truth is not None
        if self.truth.mode:
            return 1.0
        return self.reference.input_scale(random_feed(self.specs, sizes, self.options.seed, 1.0))

    def _take(self, sample: Sample) -> None:
        assert self.truth is not None
        facts = self.truth.facts(sample.feed)
        if not self.records and not same_bits(self.reference.own(sample.feed), self.reference.own(sample.feed)):
            raise UnverifiedError(f"{self.reference.label} gives two results for one input, so it is no function of it")
        self.records.append(sample.record(self.specs))
        for trial in self.trials:
            trial.take(sample, facts)

    def _search(self) -> None:
        from bnfold.checking.torch_search import search

        done: set[int] = set()
        for trial in self.trials:
            if trial.runner is None or trial.telling is None or id(trial.candidate) in done:
                continue
            done.add(id(trial.candidate))
            found = search(trial, self.options.search)
            if isinstance(found, str):
                self.warnings.append(found)
            else:
                self._take(found)

    def _warn_of_low_coverage(self) -> None:
        if self.coverage is not None and self.coverage.branches < _LOW_COVERAGE:
            least = min(self.coverage.layers, key=lambda layer: layer.branches_reached / max(layer.branches, 1))
            self.warnings.append(
                f"the inputs reached {self.coverage.branches:.0%} of the activations' branches (least at {least.layer}:"
                f" {least.branches_reached} of {least.branches}); give samples of your own with --inputs"
            )

    def _result(self) -> CheckResult:
        if self.options.save is not None:
            self.warnings += save_replays(self.trials, self.options.save)
        runs = tuple(trial.run() for trial in self.trials)
        derived = self.options.audit is None
        audit = tuple(self.audit.rows if derived else self.options.audit or ())
        verdicts = [run.verdict for run in runs]
        if self.why:
            verdicts.append(Verdict.UNVERIFIED)
        if any(not row.passed for row in audit):
            verdicts.append(Verdict.DIFFERENT)
        return CheckResult(
            reference=self.reference.label,
            candidates=tuple(candidate.label for candidate in self.candidates),
            verdict=worst(verdicts),
            why=tuple(self.why),
            truth=self.truth.description if self.truth else "none",
            runs=runs,
            inputs=tuple(self.records),
            budget=tuple({trial.row.mode: trial.row for trial in self.trials}.values()),
            environment=environment(),
            seed=self.options.seed,
            assumptions=tuple(dict.fromkeys([*self.assumptions, *(x for t in self.trials for x in t.assumptions)])),
            warnings=tuple(dict.fromkeys([*self.warnings, *(x for t in self.trials for x in t.doubts())])),
            skips=_skips(runs),
            coverage=self.coverage,
            divergences=self._divergences(runs),
            audit=audit,
            audit_source="plan" if not derived else "derived" if self.audit.label else "",
            audit_gaps=tuple(self.audit.gaps),
        )

    def _audit(self) -> None:
        """Audit the weights; where some are others and no output shows it, look for an input on which one does."""
        if self.options.audit is not None or self.truth is None:
            return
        if self.truth.mode:
            self.warnings.append("no weight was audited, since there is no float64 truth")
            return
        from bnfold.checking.torch_audit import derived_audit

        for trial in {id(trial.candidate): trial for trial in self.trials if trial.samples}.values():
            found = derived_audit(trial)
            if (found.unseen or trial.exact) and self._looks_further(trial):
                found = derived_audit(trial)
            self.audit = self.audit.plus(found)
        self.warnings += self.audit.warnings()

    def _looks_further(self, trial: Trial) -> bool:
        """Take in an input that shows what the others don't; was there one?"""
        sample = None if self.options.only_given else telling(trial, self.options.seed)
        if sample is None:
            return False
        try:
            self._take(sample)
        except UnverifiedError as error:
            self.why.append(str(error))
        trial.typical = sample
        return True

    def _divergences(self, runs: Sequence[Run]) -> tuple[Divergence, ...]:
        if not self.options.localise or self.truth is None or self.truth.mode:
            return ()
        from bnfold.checking.torch_localise import localise

        found: dict[str, Divergence] = {}
        for trial, run in zip(self.trials, runs, strict=True):
            if run.verdict is Verdict.DIFFERENT and trial.telling is not None and run.candidate not in found:
                divergence = localise(trial, self.options.correspondence)
                if divergence is not None:
                    found[run.candidate] = divergence
        return tuple(found.values())


def _skips(runs: Sequence[Run]) -> tuple[Skip, ...]:
    return tuple(Skip(run.label, why) for run in runs if run.verdict is Verdict.SKIPPED for why in run.why)


def _with_own_labels(candidates: Sequence[Subject]) -> Sequence[Subject]:
    """Number candidates of one name, so that a report tells them apart."""
    labels = [candidate.label for candidate in candidates]
    for i, candidate in enumerate(candidates):
        if labels.count(candidate.label) > 1:
            candidate.label = f"{candidate.label}#{i + 1}"
    return candidates
