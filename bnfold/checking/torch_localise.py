"""Where two models part: the first value in the graph at which they differ by more than the budget.

Both run in float64, so that what differs is what they compute and not how they round; the budget at a value is what
the reference's own float32 run errs there. Values are mapped by the fold's plan (frames and all) where there is one.
Else a value of the candidate stands for that value of the reference, of its shape, that it equals: comparing by name
would fail correct folds, since a conv's output has one name and two meanings.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch

from bnfold.checking.frames import Correspondence, Frame
from bnfold.checking.providers import parse_targets
from bnfold.checking.result import BudgetRow, Divergence, LayerError
from bnfold.checking.subject import Array, Feed
from bnfold.checking.torch_onnx import OnnxSubject
from bnfold.checking.torch_values import Value, values_of
from bnfold.checking.trial import Trial
from bnfold.errors import BnfoldError, UnverifiedError

_SAME = 1e-3  # values whose relative difference is below this stand for one another


def localise(trial: Trial, correspondence: Correspondence | None) -> Divergence | None:
    """Find the first divergence on the sample that tells most; None where all values agree or none can be compared."""
    sample = trial.smallest_telling()
    try:
        truth, own, theirs = _three_runs(trial, sample.feed)
    except (UnverifiedError, RuntimeError, ValueError):
        return None
    if correspondence is None:
        pairs, mapped_by = list(_by_values(truth, theirs)), "values"
    else:
        pairs, mapped_by = list(_by_plan(truth, theirs, correspondence)), "plan"
    rows = [_compare(trial.row, truth[name], own[name].array, theirs[frame.candidate], frame) for name, frame in pairs]
    first = next((i for i, row in enumerate(rows) if row.beyond), None)
    if first is None:
        return None
    layers = tuple(row.layer for row in rows)
    return rows[first].divergence(trial.candidate.label, sample.name, mapped_by, trial.replay, layers)


def _by_plan(
    truth: Mapping[str, Value], theirs: Mapping[str, Value], correspondence: Correspondence
) -> Iterator[tuple[str, Frame]]:
    for name in truth:
        frame = correspondence.get(name)
        if frame is not None and frame.candidate in theirs:
            yield name, frame


def _by_values(truth: Mapping[str, Value], theirs: Mapping[str, Value]) -> Iterator[tuple[str, Frame]]:
    """Pair in topological order; what finds no equal is paired with the next in line, and so is the divergence."""
    ours, place, matched = list(truth.values()), 0, []
    pending: list[Value] = []
    for value in theirs.values():
        at = _equal_after(ours, place, value.array)
        if at is None:
            pending.append(value)
            continue
        # What lies between two values that agree was only held in another frame.
        pending = []
        matched.append((ours[at].name, Frame(value.name)))
        place = at + 1
    yield from matched
    used = {frame.candidate for _, frame in matched}
    for value in pending:
        partner = _nearest(ours[place:], value)
        if partner is not None and value.name not in used:
            yield partner.name, Frame(value.name)


def _equal_after(ours: list[Value], start: int, array: Array) -> int | None:
    """Find the value that is nearest to `array`, among those behind `start` that equal it."""
    found = [
        (distance, i)
        for i, value in enumerate(ours[start:], start)
        if value.array.shape == array.shape and (distance := _distance(value.array, array)) < _SAME
    ]
    return min(found)[1] if found else None


def _nearest(ours: list[Value], value: Value) -> Value | None:
    same_shape = [other for other in ours if other.array.shape == value.array.shape]
    return min(same_shape, key=lambda other: _distance(other.array, value.array), default=None)


def _distance(a: Array, b: Array) -> float:
    norm = float(np.linalg.norm(a))
    gap = float(np.linalg.norm(a - b))
    if not math.isfinite(gap):
        return math.inf
    return gap / norm if norm else (math.inf if gap else 0.0)


class _Row:
    """One pair of values, compared."""

    def __init__(self, budget: BudgetRow, truth: Value, own: Array, candidate: Value, mapped: Array) -> None:
        self.truth, self.candidate = truth, candidate
        error, noise = np.abs(mapped - truth.array), np.abs(own - truth.array)
        self.scale = math.sqrt(float(np.mean(truth.array**2))) if truth.array.size else 0.0
        level = max(float(np.sqrt(np.mean(noise**2))), budget.floor * budget.unit * self.scale) if noise.size else 0.0
        self.allowed = budget.peak * max(float(noise.max(initial=0.0)), 4 * level)
        self.noise, self.error = noise, error
        self.beyond = bool(error.size) and not float(error.max()) <= self.allowed

    @property
    def layer(self) -> LayerError:
        """The row as a point of the chart."""
        scale = self.scale or 1.0
        noise, error = (float(np.sqrt(np.mean(x**2))) / scale if x.size else 0.0 for x in (self.noise, self.error))
        return LayerError(self.truth.name, self.candidate.name, noise, error, self.allowed / scale)

    def divergence(
        self, label: str, sample: str, mapped_by: str, replay: str, layers: tuple[LayerError, ...]
    ) -> Divergence:
        """The row as the first divergence."""
        index = tuple(int(i) for i in np.unravel_index(int(np.nanargmax(self._ranked())), self.error.shape))
        return Divergence(
            candidate=label,
            layer=self.truth.layer,
            operator=self.truth.operator,
            reference_value=self.truth.name,
            candidate_value=self.candidate.name,
            channel=index[1] if len(index) > 1 else None,
            index=index,
            difference=float(self.error[index]),
            allowed=self.allowed,
            input=sample,
            mapped_by=mapped_by,
            replay=replay,
            layers=layers,
        )

    def _ranked(self) -> Array:
        return np.where(np.isnan(self.error), np.inf, self.error)


def _compare(budget: BudgetRow, truth: Value, own: Array, candidate: Value, frame: Frame) -> _Row:
    mapped = frame.apply(candidate.array)
    if mapped.shape != truth.array.shape:
        mapped = np.full(truth.array.shape, math.nan)
    return _Row(budget, truth, own, candidate, mapped)


@dataclass(frozen=True)
class Parting:
    """The first diverging pair, and the pairs of values before it that agree.

    `agreed`: candidate's name -> reference's. `shapes`: of the reference's values. `starts`: the graph inputs alone.
    """

    agreed: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    ours: str
    theirs: str
    starts: Mapping[str, str]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.agreed, self.shapes, self.ours, self.theirs))

    def from_the_start(self) -> "Parting":
        """The same pair, cut from the models' own inputs."""
        return replace(self, agreed=self.starts)


def parting(reference: onnx.ModelProto, candidate: onnx.ModelProto, *, by_position: bool = False) -> Parting | None:
    """Find where two ONNX models part, for cutting them; None where no value inside differs beyond the budget.

    Raises `BnfoldError` where their values could not be compared.
    """
    from bnfold.checking.session import Check, Options

    sides = OnnxSubject(reference, "reference"), OnnxSubject(candidate, "candidate")
    options = Options(localise=False, allow_folded_reference=True, by_position=by_position)
    checked = Check(sides[0], [sides[1]], parse_targets("cpu"), options)
    reasons = checked.run(None).reasons
    (trial,) = checked.trials
    if trial.telling is None:
        raise BnfoldError(f"can't reduce: {reasons[0] if reasons else 'nothing was compared'}")
    sample = trial.smallest_telling()
    truth, own, theirs = _three_runs(trial, sample.feed)
    rows = [
        (name, frame.candidate, _compare(trial.row, truth[name], own[name].array, theirs[frame.candidate], frame))
        for name, frame in _by_values(truth, theirs)
    ]
    first = next((i for i, (_, _, row) in enumerate(rows) if row.beyond), None)
    if first is None:
        return None
    shapes = {name: value.array.shape for name, value in truth.items()}
    shapes |= {spec.name: array.shape for spec, array in zip(trial.reference.inputs, sample.feed, strict=True)}
    starts = {spec.name: trial.reference.inputs[i].name for spec, i in zip(sides[1].inputs, trial.order, strict=True)}
    agreed = {b: a for a, b, row in rows[:first] if not row.beyond}
    return Parting(starts | agreed, shapes, rows[first][0], rows[first][1], starts)


def _three_runs(trial: Trial, feed: Feed) -> tuple[Mapping[str, Value], Mapping[str, Value], Mapping[str, Value]]:
    return (
        values_of(trial.reference, feed),
        values_of(trial.reference, feed, torch.float32),
        values_of(trial.candidate, trial.feed(feed)),
    )
