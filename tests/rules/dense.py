"""The ties of operators as dense linear systems, and all their solutions. Shares no code with the real solver.

Every channel of every tensor is an unknown of three systems: log |scale|, sign over GF(2), shift.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from bnfold.affine import Affine
from bnfold.relation import Absorbed, Carried, Contracted, Mapped, Multiplied, Pinned, Site, Summed, Tie
from bnfold.views import View
from bnfold.why import Why
from tests.oracle import Array


class Aspect(Enum):
    SCALE = "scale"
    SIGN = "sign"
    SHIFT = "shift"


SCALE, SIGN, SHIFT = Aspect

Axes = Mapping[str, int]  # of the tensors that have channels
Unknown = tuple[str, int]  # a value and a channel


@dataclass(frozen=True)
class Row:
    """sum of coefficient * unknown == right, in one of the three systems."""

    aspect: Aspect
    terms: Mapping[Unknown, float]
    why: Why | None = None
    right: float = 0.0

    def holds(self, frames: Mapping[str, Affine]) -> bool:
        total = sum(times * self._of(frames[name], c) for (name, c), times in self.terms.items()) - self.right
        return bool(abs(total % 2 if self.aspect is SIGN else total) < 1e-9)

    def _of(self, frame: Affine, channel: int) -> float:
        match self.aspect:
            case Aspect.SCALE:
                return float(np.log(np.abs(frame.scale[channel])))
            case Aspect.SIGN:
                return float(frame.scale[channel] < 0)
            case Aspect.SHIFT:
                return float(frame.shift[channel])


@dataclass(frozen=True)
class Rows:
    """Writes down what the ties of a node demand."""

    site: Site
    axes: Axes

    def of(self, ties: Iterable[Tie]) -> Iterator[Row]:
        for tie in ties:
            match tie:
                case Pinned(values, why):
                    for name in values:
                        yield from self.held(name, why)
                case Carried():
                    yield from self._carried(tie)
                case Contracted():
                    yield from self._contracted(tie)
                case Absorbed():
                    yield from self._absorbed(tie)
                case Summed():
                    yield from self._summed(tie)
                case Multiplied():
                    yield from self._multiplied(tie)
                case Mapped():
                    pass

    def channels(self, name: str) -> int:
        size = self.site.shape(name)[self.axes[name]] if name in self.axes else 0
        assert isinstance(size, int)
        return size

    def held(self, name: str, why: Why, *aspects: Aspect) -> Iterator[Row]:
        for c in range(self.channels(name)):
            for aspect in aspects or Aspect:
                yield Row(aspect, {(name, c): 1}, why)

    def folded(self, tie: Mapped, function: Affine) -> Iterator[Row]:
        """frame_y == function after frame_x, where those that vary along another axis are the identity."""
        for c, (scale, shift) in enumerate(zip(function.scale.tolist(), function.shift.tolist(), strict=True)):
            ends = {tie.source: -1.0, tie.target: 1.0}
            ratio = {(name, c): sign for name, sign in ends.items() if self.axes.get(name) == tie.axis}
            moved = {(name, c): scale * sign if sign < 0 else sign for (name, c), sign in ratio.items()}
            yield Row(SCALE, ratio, right=float(np.log(abs(scale))))
            yield Row(SIGN, ratio, right=float(scale < 0))
            yield Row(SHIFT, moved, right=shift)

    def equal(self, left: str, right: str, why: Why) -> Iterator[Row]:
        for c in range(self.channels(left)):
            for aspect in Aspect:
                yield Row(aspect, {(left, c): 1, (right, c): -1}, why)

    def _carried(self, tie: Carried) -> Iterator[Row]:
        pairs = self._pairs(tie.view, tie.source, tie.target)
        if pairs is None and (back := tie.view.inverse()):
            turned = self._pairs(back, tie.target, tie.source)
            pairs = turned and [(s, t) for t, s in turned]
        if pairs is None:
            yield from self.held(tie.source, tie.lost)
            yield from self.held(tie.target, tie.lost)
            return
        for s, t in pairs:
            x, y = (tie.source, s), (tie.target, t)
            yield from _scales(Row(SCALE, {x: 1, y: -1}))
            yield Row(SHIFT, {x: tie.times, y: -1})
            if tie.positive:
                yield Row(SIGN, {x: 1}, tie.positive)
            if tie.still:
                yield Row(SHIFT, {x: 1}, tie.still)
            if tie.uniform and s:
                yield from _scales(Row(SCALE, {x: 1, (tie.source, 0): -1}, tie.uniform))
                yield Row(SHIFT, {x: 1, (tie.source, 0): -1}, tie.uniform)

    def _pairs(self, view: View, source: str, target: str) -> list[tuple[int, int]] | None:
        """Pair the channels that the view says are the same; None where the axes part."""
        image = view.image(self.axes[source], self.channels(source)) if source in self.axes else None
        if image is None or image.axis != self.axes.get(target):
            return None
        return list(zip(image.source.tolist(), image.target.tolist(), strict=True))

    def _summed(self, tie: Summed) -> Iterator[Row]:
        along = [(name, times) for name, times in tie.terms if self._along(name, tie.target)]
        for name, _ in tie.terms:
            if not self._along(name, tie.target):
                yield from self.held(name, Why.BROADCAST)
                yield from self.held(tie.target, Why.BROADCAST, SCALE, SIGN)
        for c in range(self.channels(tie.target)):
            for name, _ in along:
                yield from _scales(Row(SCALE, {(name, c): 1, (tie.target, c): -1}, Why.SUM))
            yield Row(SHIFT, {(tie.target, c): 1} | {(name, c): -times for name, times in along})

    def _multiplied(self, tie: Multiplied) -> Iterator[Row]:
        along = [name for name in tie.factors if self._along(name, tie.target)]
        for name in tie.factors:
            if name not in along:
                yield from self.held(name, Why.BROADCAST)
        for c in range(self.channels(tie.target)):
            terms = {(name, c): float(along.count(name)) for name in along} | {(tie.target, c): -1.0}
            yield from _scales(Row(SCALE, terms))
        for name in (*along, tie.target):
            yield from self.held(name, Why.GATE, SHIFT)

    def _along(self, name: str, target: str) -> bool:
        """Whether the channels of an operand are, without broadcasting, those of the result."""
        if name not in self.axes or target not in self.axes:
            return False
        from_right = [len(self.site.shape(value)) - self.axes[value] for value in (name, target)]
        return from_right[0] == from_right[1] and self.channels(name) == self.channels(target)

    def _contracted(self, tie: Contracted) -> Iterator[Row]:
        passes = (self.axes.get(tie.source), self.axes.get(tie.target)) in tie.passes and not tie.bias
        if passes:
            for c in range(self.channels(tie.source)):
                yield from _scales(Row(SCALE, {(tie.source, c): 1, (tie.target, c): -1}))
        for name, free in ((tie.source, tie.source_axis), (tie.target, tie.target_axis)):
            if self.axes.get(name) != free:
                yield from self.held(name, Why.AXIS, *((SHIFT,) if passes else Aspect))
            elif tie.still and name == tie.source:
                yield from self.held(name, tie.still, SHIFT)

    def _absorbed(self, tie: Absorbed) -> Iterator[Row]:
        if self.axes.get(tie.value) != tie.axis:
            yield from self.held(tie.value, Why.AXIS)
        elif tie.still:
            yield from self.held(tie.value, tie.still, SHIFT)


def _scales(row: Row) -> Iterator[Row]:
    """Demand of the signs what is demanded of the sizes."""
    yield row
    yield replace(row, aspect=SIGN)


@dataclass(frozen=True)
class Freedom:
    """All frames that satisfy the ties: the null space of the rows of each aspect, (solutions, unknowns)."""

    unknowns: tuple[Unknown, ...]
    basis: Mapping[Aspect, Array]

    def of(self, name: str, aspect: Aspect) -> int:
        """Count the degrees of freedom that the channels of one value have."""
        mine = [k for k, (value, _) in enumerate(self.unknowns) if value == name]
        part = self.basis[aspect][:, mine]
        return len(part) - len(_null_space_mod_2(part.T)) if aspect is SIGN else int(np.linalg.matrix_rank(part))

    def draw(self, axes: Axes, rng: np.random.Generator, spread: float) -> dict[str, Affine]:
        """Draw frames: scales of both signs, which vary by e^spread, and shifts."""
        log, sign, shift = (rng.normal(size=len(self.basis[aspect])) @ self.basis[aspect] for aspect in Aspect)
        sign = np.rint(rng.integers(0, 2, len(self.basis[SIGN])) @ self.basis[SIGN]) % 2
        scale = np.exp(spread * log) * (1 - 2 * sign)
        frames = {}
        for name, axis in axes.items():
            mine = [k for k, (value, _) in enumerate(self.unknowns) if value == name]
            frames[name] = Affine(axis, scale[mine], 3 * shift[mine])
        return frames


def freedom(unknowns: Sequence[Unknown], rows: Iterable[Row]) -> Freedom:
    """Solve rows whose right sides are 0."""
    matrices = {aspect: matrix for aspect, (matrix, _) in _systems(unknowns, rows).items()}
    basis = {aspect: _null_space(matrices[aspect]) for aspect in (SCALE, SHIFT)}
    return Freedom(tuple(unknowns), basis | {SIGN: _null_space_mod_2(matrices[SIGN])})


def solvable(unknowns: Sequence[Unknown], rows: Iterable[Row]) -> bool:
    """Whether any frames satisfy all the rows."""
    systems = _systems(unknowns, rows)
    for aspect in (SCALE, SHIFT):
        matrix, right = systems[aspect]
        x = np.linalg.lstsq(matrix, right, rcond=None)[0]
        if np.max(np.abs(matrix @ x - right)) > 1e-7 * max(1, np.max(np.abs(right))):
            return False
    matrix, right = systems[SIGN]
    both = np.column_stack([matrix, right])
    return len(_pivots_mod_2(both)[1]) == 0 or _pivots_mod_2(both)[1][-1] < len(unknowns)


def _systems(unknowns: Sequence[Unknown], rows: Iterable[Row]) -> dict[Aspect, tuple[Array, Array]]:
    place = {unknown: k for k, unknown in enumerate(unknowns)}
    lines = {aspect: [np.zeros(len(unknowns) + 1)] for aspect in Aspect}
    for row in rows:
        lines[row.aspect].append(line := np.zeros(len(unknowns) + 1))
        line[-1] = row.right
        for unknown, coefficient in row.terms.items():
            line[place[unknown]] += coefficient
    return {aspect: (np.array(found)[:, :-1], np.array(found)[:, -1]) for aspect, found in lines.items()}


def _null_space(matrix: Array) -> Array:
    """Give an orthonormal basis, cleaned of rounding, so that what is held is held exactly."""
    _, values, right = np.linalg.svd(matrix)
    rank = int(np.sum(values > 1e-9))
    basis = right[rank:]
    return np.where(np.abs(basis) < 1e-12, 0, basis)


def _null_space_mod_2(matrix: Array) -> Array:
    work, pivots = _pivots_mod_2(matrix)
    solutions = np.zeros((work.shape[1] - len(pivots), work.shape[1]))
    for solution, column in zip(solutions, (k for k in range(work.shape[1]) if k not in pivots), strict=True):
        solution[column] = 1
        for row, pivot in enumerate(pivots):
            solution[pivot] = work[row, column]
    return solutions


def _pivots_mod_2(matrix: Array) -> tuple[Array, list[int]]:
    """Eliminate over GF(2): the reduced rows, and the column of the one that leads each."""
    work = np.rint(matrix).astype(int) % 2
    pivots: list[int] = []
    for column in range(work.shape[1]):
        below = np.flatnonzero(work[len(pivots) :, column]) + len(pivots)
        if not len(below):
            continue
        work[[len(pivots), below[0]]] = work[[below[0], len(pivots)]]
        others = np.flatnonzero(work[:, column])
        others = others[others != len(pivots)]
        work[others] = (work[others] + work[len(pivots)]) % 2
        pivots.append(column)
    return work, pivots
