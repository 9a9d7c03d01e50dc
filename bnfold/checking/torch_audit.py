"""The audit of a candidate's weights against the reference's, whatever tool made the candidate.

The candidate is run in step with the reference, in float64, on one sample. Values that stand for one another are found
by their numbers, so names and exporters don't matter; the linear layers between two such pairs are compared by their
forms, weight by weight. After each, the candidate goes on with what its value ought to be: one wrong layer does not
hide the ones behind it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from bnfold.checking.audit import Fit, fit
from bnfold.checking.linear_forms import Form, dense
from bnfold.checking.result import AuditGap, AuditRow
from bnfold.checking.subject import Array, Feed, Subject
from bnfold.checking.torch_follow import dtypes_of, follow
from bnfold.checking.torch_module import to_array
from bnfold.checking.torch_stands import FRAMED, NEAR, SAME, Reference, Stands
from bnfold.checking.torch_trace import Traced, Tracer
from bnfold.checking.trial import Trial
from bnfold.errors import UnverifiedError
from bnfold.report.text import plural

_LARGE = 300_000  # numbers in a sample from which one item is enough
_RESTARTS = 8
_MENDED = 16  # layers that are mended one by one
_WORSE = 2.0
_WIDTH = ("float16", "bfloat16", "float32", "float64")


@dataclass
class Audit:
    """What one walk found. label: the candidate's."""

    label: str = ""
    rows: list[AuditRow] = field(default_factory=list)
    gaps: list[AuditGap] = field(default_factory=list)

    @property
    def cost(self) -> tuple[int, int]:
        """The best explanation of a candidate leaves the fewest layers without a counterpart, then wrong constants."""
        return len(self.gaps), sum(not row.passed for row in self.rows)

    def doubted(self, why: str = "its weights are others, and what reads it makes up for that") -> "Audit":
        """Take layers that seem wrong for ones that could not be compared."""
        wrong = dict.fromkeys(row.layer for row in self.rows if not row.passed)
        gaps = [AuditGap(self.label, "reference", layer, why) for layer in wrong]
        return Audit(self.label, [row for row in self.rows if row.layer not in wrong], [*self.gaps, *gaps])


def derived_audit(trial: Trial) -> Audit:
    """Audit the candidate's weights against the reference's: the worst row of each layer, and every wrong one."""
    if trial.typical is None:
        return Audit()
    found = _audited(trial, _small(trial))
    return found.doubted("its weights are others, and no output shows them") if trial.constant else found


def _audited(trial: Trial, feed: Feed) -> Audit:
    """First every value is taken to be held as it is. Where that leaves wrong weights or layers without a counterpart,
    the candidate may be a fold that holds values in other frames: then what explains it best is taken.
    """
    try:
        reference = Reference.of(trial.reference, feed)
        plain = _Walk(trial, reference)
        found = plain.audit(feed)
        if found.cost == (0, 0) or plain.confirmed(feed):
            return found
        return min(found.doubted(), _in_frames(trial, feed, reference), key=lambda audit: audit.cost)
    except (UnverifiedError, RuntimeError, ValueError, TypeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        label = trial.candidate.label
        return Audit(label, gaps=[AuditGap(label, "candidate", "", f"it can't be followed ({why[:200]})")])


def _small(trial: Trial) -> Feed:
    """Two items say as much of a weight as eight: a typical one and a wide one, which shuts other ReLUs."""
    assert trial.typical is not None
    feed = trial.typical.feed
    sides = (*trial.reference.inputs, *trial.candidate.inputs)
    if not all(spec.dims and isinstance(spec.dims[0], str) for spec in sides):
        return feed
    if sum(array[:2].size for array in feed) > _LARGE:
        return tuple(array[:1] for array in feed)
    wide = trial.wide.feed if trial.wide is not None else ()
    if len(wide) != len(feed) or any(a.shape[1:] != b.shape[1:] for a, b in zip(feed, wide, strict=True)):
        return tuple(array[:2] for array in feed)
    return tuple(np.concatenate([a[:1], b[:1]]) for a, b in zip(feed, wide, strict=True))


def _in_frames(trial: Trial, feed: Feed, reference: Reference) -> Audit:
    """Let layers hold their values in frames of their own, but for those of which that explains nothing."""
    found, held = [], frozenset[int]()
    for _ in range(_RESTARTS):
        walk = _Walk(trial, reference, free=True, held=held)
        audit = walk.audit(feed)
        found.append(audit if walk.confirmed(feed) else audit.doubted())
        framed = [index for index in walk.framed if index not in held]
        if audit.cost == (0, 0) or not framed:
            break
        held |= {framed[0]}
    return min(found, key=lambda audit: audit.cost)


class _Healed(Tracer):
    """The candidate's run with some channels of one value as they ought to be."""

    def __init__(self, subject: Subject, index: int, channels: list[int], wanted: Array) -> None:
        super().__init__({}, subject.dtype)
        self.index, self.channels, self.wanted = index, channels, wanted

    def appeared(self, value: Traced) -> None:
        """Put the channels in."""
        if value.index == self.index and value.form is not None:
            place = (slice(None),) * value.form.axis + (self.channels,)
            value.tensor[place] = torch.from_numpy(self.wanted[place])


class _Walk(Tracer):
    """The candidate's run, in step with the reference's. held: layers whose values are in no frame of their own."""

    def __init__(
        self, trial: Trial, reference: Reference, *, free: bool = False, held: frozenset[int] = frozenset()
    ) -> None:
        super().__init__(dtypes_of(trial.candidate), trial.candidate.dtype)
        self.trial, self.subject, self.reference = trial, trial.candidate, reference
        self.free, self.held = free, held
        self.stands: dict[int, list[Stands]] = {}
        self.hints: dict[int, list[Stands]] = {}  # of what a value that stands for nothing was computed from
        self.fits: list[tuple[Traced, Fit, Traced]] = []
        self.lost: list[tuple[tuple[int, ...], str]] = []
        self.framed: list[int] = []

    def confirmed(self, feed: Feed) -> bool:
        """Whether no wrong layer, mended alone, takes the candidate further from the reference.

        A layer that others make up for, as a fold in frames does, is not wrong.
        """
        if all(found.right for _, found, _ in self.fits):
            return not self.lost
        before = self._error(Tracer({}, self.subject.dtype), feed)
        wrong = sorted(((x, found, ours) for x, found, ours in self.fits if not found.right), key=lambda x: -x[1].worst)
        for value, found, ours in wrong[:_MENDED]:
            assert value.form is not None
            stands = Stands(ours.index, found.scale, found.shift) if found.framed else Stands(ours.index)
            healed = _Healed(self.subject, value.index, found.wrong, self.reference.held(stands, value.shape))
            if not self._error(healed, feed) <= _WORSE * max(before, 2.0**-52):
                return False
        return True

    def _error(self, tracer: Tracer, feed: Feed) -> float:
        outputs = follow(tracer, self.subject, self.trial.feed(feed))
        worst = 0.0
        for name, comparison in self.trial.comparisons.items():
            ours, theirs = self.reference.outputs[name], to_array(outputs[comparison.candidate_name])
            if ours.shape == theirs.shape and np.issubdtype(ours.dtype, np.floating):
                gap, size = float(np.linalg.norm(ours - theirs)), float(np.linalg.norm(ours))
                relative = gap / size if size else gap
                worst = max(worst, np.inf if np.isnan(relative) else relative)
        return worst

    def audit(self, feed: Feed) -> Audit:
        """Run, and give what was found."""
        outputs = follow(self, self.subject, self.trial.feed(feed))
        self._close(outputs.values())
        label, name = self.subject.label, self.trace.name
        rows = [
            replace(row, candidate=label) for value, found, ours in self.fits for row in self._rows(value, found, ours)
        ]
        gaps = [AuditGap(label, "candidate", name(layers), why) for layers, why in self.lost]
        covered = {layer for _, _, ours in self.fits if ours.form for layer in ours.form.layers}
        missed = [layer for layer in self.reference.layers if layer not in covered]
        gaps += [AuditGap(label, "reference", self.reference.trace.name((i,)), "nothing stands for it") for i in missed]
        return Audit(label, rows, list(dict.fromkeys(gaps)))

    def _rows(self, value: Traced, found: Fit, ours: Traced) -> list[AuditRow]:
        assert ours.form is not None
        assert value.form is not None
        if all(term.fixed for term in value.form.terms):
            return []
        part = "constants" if value.form.is_affine else "weight"
        return found.rows(self.reference.trace.name(ours.form.layers), part)

    def _close(self, outputs: Iterable[Tensor]) -> None:
        """What is an output is held as it is."""
        for tensor in outputs:
            value = self.value_of(tensor)
            if value is None or not value.tensor.is_floating_point():
                continue
            if value.form is not None and not value.settled:
                self.held |= {value.index}
                self.read(value)
            if not any(x.scale is None for x in self.stands.get(value.index, ())):
                self.lost.append(((value.index,), "what it gives as an output stands for no value of the reference"))

    def made(self, value: Traced) -> None:
        """Find what a value stands for, and let it be exactly that."""
        if value.array.size:  # a float
            self._settle(value, self._found(value))

    def _found(self, value: Traced) -> list[Stands]:
        found = self.reference.matches(value.array, NEAR if self.lost else SAME)
        if found or not self.free:
            return found
        before = [stands for i in value.read for stands in self.stands.get(i) or self.hints.get(i, [])]
        self.hints[value.index] = before
        return (
            self.reference.inherited(value.array, before)
            or self.reference.framed(value.array)
            or self.reference.matches(value.array, FRAMED)  # frames that cancel, of which each was measured
        )

    def before_read(self, value: Traced) -> None:
        """Compare a layer, whose form is complete now."""
        assert value.form is not None
        best, why = self._best(value.form, value.index)
        if best is None:
            if not all(term.fixed for term in value.form.terms):
                self.lost.append((value.form.layers, why))
            value.array = np.array(value.tensor.detach().double().numpy())
            self.made(value)
            return
        found, ours = best
        self.fits.append((value, found, ours))
        if found.unknown:
            why = f"{plural(found.unknown, 'channel')} of what it reads had one value only, so its scale is not known"
            self.lost.append((value.form.layers, why))
        stands = Stands(ours.index)
        if found.framed:
            self.framed.append(value.index)
            stands = Stands(ours.index, found.scale, found.shift)
        self._settle(value, [stands, *self.reference.equals(ours.index, stands)])

    def splits(self, x: Traced, y: Traced, joint: Form) -> bool:
        """Whether the reference has both operands of a sum, and nothing that fits their sum as one form better."""
        index = len(self.trace.values)
        apart = [self._best(v.form, v.index)[0] for v in (x, y) if v.form is not None and not v.settled]
        if any(best is None for best in apart):
            return False
        together = self._best(joint, index)[0]
        ranks = [found.rank(ends=ours.ends) for best in apart if best is not None for found, ours in (best,)]
        return together is None or not ranks or together[0].rank(ends=together[1].ends) <= min(ranks)

    def _settle(self, value: Traced, stands: list[Stands]) -> None:
        every = [other for stand in stands for other in (stand, *self.reference.behind(stand))]
        if stands and stands[0].scale is not None:
            every = self.reference.unshifted(every)
        self.stands[value.index] = every
        if every:
            wanted = torch.from_numpy(self.reference.held(every[0], value.shape))
            value.tensor.copy_(torch.where(wanted.isnan(), value.tensor, wanted))
        value.array = np.zeros(1)  # it was looked at, and takes room

    def _best(self, form: Form, index: int) -> tuple[tuple[Fit, Traced] | None, str]:
        """Find the reference's value whose form fits that of value `index` best, else say why there is none."""
        roots = self.stands.get(form.root, [])
        if not roots:
            return None, "what it reads stands for no value of the reference"
        theirs = dense(form)
        if theirs is None:
            return None, "its branches make no one kernel"
        dtype, free = _narrowest(form, self.subject.dtype), self.free and index not in self.held
        fits = []
        for root in roots:
            for ours in self.reference.forms_on(root.index):
                wanted = self.reference.dense(ours, root)
                found = fit(theirs, wanted, dtype, free=free) if wanted is not None else None
                if found is not None:
                    fits.append((found, ours))
        best = max(fits, key=lambda x: x[0].rank(ends=x[1].ends), default=None)
        return best, "no layer of the reference that reads what it reads has its shape"


def _narrowest(form: Form, default: str) -> str:
    return min((term.dtype or default for term in form.terms), key=_WIDTH.index)
