"""The audit of a candidate's weights against the reference's, whatever tool made the candidate.

The candidate is run in step with the reference, in float64, on one sample. Values that stand for one another are found
by their numbers, so names and exporters don't matter; the linear layers between two such pairs are compared by their
forms, weight by weight. After each, the candidate goes on with what its value ought to be: one wrong layer does not
hide the ones behind it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bnfold.checking.audit import UNSEEN, Audit, Fit, fit
from bnfold.checking.audit_inputs import larger_sample, small_sample
from bnfold.checking.linear_forms import Form, dense
from bnfold.checking.result import AuditGap, AuditRow
from bnfold.checking.subject import Array, Feed, Subject
from bnfold.checking.torch_follow import dtypes_of, follow
from bnfold.checking.torch_module import to_array
from bnfold.checking.torch_stands import FRAMED, NEAR, SAME, Reference, Stands, frames
from bnfold.checking.torch_trace import Traced, Tracer
from bnfold.checking.trial import Trial
from bnfold.errors import UnverifiedError
from bnfold.report.text import plural

_RESTARTS = 8
_MENDED = 16  # layers that are mended one by one
_WORSE = 2.0
_COMPUTED = "the model computes its constants, and rounds them by more than they are off"
_WIDTH = ("float16", "bfloat16", "float32", "float64")


def derived_audit(trial: Trial) -> Audit:
    """Audit the candidate's weights against the reference's: the worst row of each layer, and every wrong one."""
    if trial.typical is None:
        return Audit()
    found = _audited(trial, small_sample(trial))
    return found.doubted(UNSEEN) if trial.constant else found


def _audited(trial: Trial, feed: Feed) -> Audit:
    """First every value is taken to be held as it is. Where that leaves wrong weights or layers without a counterpart,
    the candidate may be a fold that holds values in other frames: then what explains it best is taken.
    """
    try:
        reference = Reference.of(trial.reference, feed)
        plain = _Walk(trial, reference)
        found = plain.judged(feed)
        more = larger_sample(trial) if plain.unseen else None
        if more is not None:
            feed, reference = more, Reference.of(trial.reference, more)
            plain = _Walk(trial, reference)
            found = plain.judged(feed)
        if found.cost == (0, 0) or any(not row.passed for row in found.rows) or plain.certain:
            return found
        return min(found, _in_frames(trial, feed, reference), key=lambda audit: audit.cost)
    except (UnverifiedError, RuntimeError, ValueError, TypeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        label = trial.candidate.label
        return Audit(label, gaps=[AuditGap(label, "candidate", "", f"it can't be followed ({why[:200]})")])


def _in_frames(trial: Trial, feed: Feed, reference: Reference) -> Audit:
    """Let layers hold their values in frames of their own, but for those of which that explains nothing."""
    found, held = [], frozenset[int]()
    for _ in range(_RESTARTS):
        walk = _Walk(trial, reference, free=True, held=held)
        audit = walk.judged(feed)
        found.append(audit)
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
        self.hints: dict[int, list[Stands]] = {}  # the frames of what a value that stands for nothing was computed from
        self.fits: list[tuple[Traced, Fit, Traced]] = []
        self.lost: list[tuple[tuple[int, ...], str]] = []
        self.framed: list[int] = []
        self.unseen: set[int] = set()  # layers that are wrong, of which nothing shows
        self.certain = False  # every layer was compared, and nothing makes up for another

    def judged(self, feed: Feed) -> Audit:
        """Audit, and say of a layer that it is wrong only where mending it brings the outputs no further off.

        What another layer makes up for, as in a fold in frames, is not wrong, and what no output shows may be right.
        """
        audit = self.audit(feed)
        wrong = sorted((x for x in self.fits if not x[1].right), key=lambda x: -x[1].worst)
        audit = audit.doubted(_COMPUTED, {self._name(x[2]) for x in wrong if _computed(*x)})
        wrong = [x for x in wrong if not _computed(*x)]
        if not wrong:
            return audit
        before = self._outputs(Tracer({}, self.subject.dtype), feed)
        for value, found, ours in wrong[:_MENDED]:
            healed = _Healed(self.subject, value.index, found.wrong, self._wanted(value, found, ours))
            after = self._outputs(healed, feed)
            if not self._error(after) <= _WORSE * max(self._error(before), 2.0**-52):
                return audit.doubted()
            if after and all(np.array_equal(before[name], after[name]) for name in after):
                self.unseen.add(value.index)
        seen = {self._name(x[2]) for x in wrong[:_MENDED] if x[0].index not in self.unseen}
        rest = wrong[_MENDED:] if seen else []  # where nothing shows of those that were mended, nothing is sure
        self.certain = not self.lost
        return audit.doubted(UNSEEN, {self._name(x[2]) for x in wrong} - seen - {self._name(x[2]) for x in rest})

    def _wanted(self, value: Traced, found: Fit, ours: Traced) -> Array:
        stands = Stands(ours.index, found.scale, found.shift) if found.framed else Stands(ours.index)
        return self.reference.held(stands, value.shape)

    def _outputs(self, tracer: Tracer, feed: Feed) -> dict[str, Array]:
        """The candidate's outputs of floats, by the reference's names."""
        outputs = follow(tracer, self.subject, self.trial.feed(feed))
        arrays = {name: to_array(outputs[x.candidate_name]) for name, x in self.trial.comparisons.items()}
        return {name: array for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)}

    def _error(self, outputs: Mapping[str, Array]) -> float:
        return _distance(self.reference.outputs, outputs)

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
        return found.rows(self._name(ours), part)

    def _name(self, ours: Traced) -> str:
        assert ours.form is not None
        return self.reference.trace.name(ours.form.layers)

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
        before = frames(stands for i in value.read for stands in self.stands.get(i) or self.hints.get(i, []))
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
        if not found.right and not self._shows(value, found, ours):
            self.unseen.add(value.index)
        if found.unknown:
            why = f"{plural(found.unknown, 'channel')} of what it reads had one value only, so its scale is not known"
            self.lost.append((value.form.layers, why))
        stands = Stands(ours.index)
        if found.framed:
            self.framed.append(value.index)
            stands = Stands(ours.index, found.scale, found.shift, found.loose)
        self._settle(value, [stands, *self.reference.equals(ours.index, stands)])

    def _shows(self, value: Traced, found: Fit, ours: Traced) -> bool:
        """Whether this run's numbers show that channels are wrong, as `Fit.shown` has it."""
        assert value.form is not None
        axis = value.form.axis
        off = np.abs(value.tensor.detach().double().numpy() - self._wanted(value, found, ours))
        inputs = np.abs(self.trace.values[value.form.root].tensor.detach().double().numpy())
        sizes = [np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).max(1, initial=0.0) for x in (off, inputs)]
        return found.shown(*sizes)

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
            candidates = [(ours, self.reference.dense(ours, root)) for ours in self.reference.forms_on(root.index)]
            if form.is_affine:
                candidates += self.reference.affines_on(root)
            for ours, wanted in candidates:
                found = fit(theirs, wanted, dtype, free=free, loose=root.loose) if wanted is not None else None
                if found is not None:
                    fits.append((found, ours))
        best = max(fits, key=lambda x: x[0].rank(ends=x[1].ends), default=None)
        return best, "no layer of the reference that reads what it reads has its shape"


def _computed(value: Traced, found: Fit, ours: Traced) -> bool:
    """Whether what is wrong may be the rounding of constants that a side computes; a bias may cancel to any degree."""
    computed = any(form is not None and form.computed for form in (value.form, ours.form))
    return computed and found.rounded


def _distance(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    """The largest relative L2 distance of any output; infinite for NaN."""
    worst = 0.0
    for name, array in theirs.items():
        if ours[name].shape == array.shape:
            with np.errstate(invalid="ignore"):  # infinity minus infinity
                gap, size = float(np.linalg.norm(ours[name] - array)), float(np.linalg.norm(ours[name]))
            relative = gap / size if size else gap
            worst = max(worst, np.inf if np.isnan(relative) else relative)
    return worst


def _narrowest(form: Form, default: str) -> str:
    return min((term.dtype or default for term in form.terms), key=_WIDTH.index)
