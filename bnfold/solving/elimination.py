"""Incremental elimination over lanes: a row comes at a time, can be taken back, and a contradiction names its rows."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Floats, every, some
from bnfold.record import record
from bnfold.solving.rows import Numbers

TIGHT = 1e-9  # equal right-hand sides, relative to their terms: far below float32's 6e-8, far above float64's rounding
NOTHING = 1e-12  # what is left of coefficients that cancel, relative to them
ROUNDING = 1e-13  # a solution this small beside the terms that made it is 0


@record(eq=False)
class Expression:
    """right + sum of coefficient * unknown. size: the largest of the terms that made `right`. rows: a set of bits.

    (Their sum would double whenever a pivot is expressed anew, as what cancels counts twice.)
    """

    terms: dict[int, Numbers]
    right: Numbers
    size: Numbers
    rows: int


class Contradiction(Exception):  # noqa: N818 - an outcome, told apart by type
    """The row can't hold together with the rows (a set of bits) that are there, in some of the lanes (a mask)."""

    def __init__(self, rows: int, lanes: NDArray[np.bool_]) -> None:
        super().__init__(rows)
        self.rows = rows
        self.lanes = lanes


class Divided(Exception):  # noqa: N818
    """The lanes of the group have come to differ in structure: `lanes`, a mask, tells them apart."""

    def __init__(self, lanes: NDArray[np.bool_]) -> None:
        super().__init__()
        self.lanes = lanes


class Elimination:
    """A consistent linear system in solved form: pivot unknowns as expressions of the others.

    preference: the unknowns in the order in which they are wanted as pivots, least first.
    modulus: 2 for arithmetic over GF(2), 0 for the reals. floor: right-hand sides below it count as that large when
    they are compared (logarithms near 0 belong to scales near 1).
    """

    def __init__(self, lanes: int, preference: Sequence[float], modulus: int = 0, floor: float = 1e-300) -> None:
        self.lanes = lanes
        self.preference = preference
        self.modulus = modulus
        self.floor = floor
        self.pivots: dict[int, Expression] = {}
        self._trail: list[tuple[int, Expression | None]] = []

    def mark(self) -> int:
        """Give a point to which `undo` can return."""
        return len(self._trail)

    def undo(self, mark: int) -> None:
        """Take back every row since the mark."""
        while len(self._trail) > mark:
            pivot, before = self._trail.pop()
            if before is None:
                del self.pivots[pivot]
            else:
                self.pivots[pivot] = before

    def insert(self, terms: Sequence[tuple[int, Numbers]], right: Numbers, row: int) -> None:
        """Add sum of coefficient * unknown == right. Raises Contradiction or Divided, and then changes nothing."""
        left: dict[int, Numbers] = {}
        for unknown, coefficient in terms:
            _add(left, unknown, coefficient, self.modulus)
        rest = self._reduced(Expression(left, -right, _magnitude(right), 1 << row))
        if not rest.terms:
            apart = np.abs(rest.right) > TIGHT * np.maximum(rest.size, self.floor)
            if np.count_nonzero(apart):
                raise Contradiction(rest.rows, np.broadcast_to(apart, self.lanes))
            return
        pivot = self._pivot(rest.terms)
        divisor = rest.terms[pivot]
        others = {
            unknown: _tidy(_quotient(value, -divisor), self.modulus)
            for unknown, value in rest.terms.items()
            if unknown != pivot
        }
        size = _quotient(rest.size, _magnitude(divisor))
        self._set(pivot, Expression(others, self._wrap(_quotient(rest.right, -divisor)), size, rest.rows))

    def solution(self) -> dict[int, Floats]:
        """Give the unknowns that aren't 0 in all lanes, (lanes,) each; those that aren't pivots are 0."""
        values: dict[int, Floats] = {}
        for pivot in list(self.pivots):
            solved = self._solved(pivot)
            if some(solved.right):
                nothing = np.abs(solved.right) <= ROUNDING * solved.size
                right = np.where(nothing, 0.0, solved.right) if some(nothing) else solved.right
                values[pivot] = np.full(self.lanes, right) if np.ndim(right) == 0 else np.asarray(right)
        return values

    def fewest_changes(self, weight: Floats) -> dict[int, Floats]:
        """Give the unknowns that aren't 0, as `solution` does, with as much weight at 0 as moving each free one gives.

        Each is moved once. weight: (unknowns, lanes), or (unknowns, 1) where it is the same in all lanes.
        """
        values = self.solution()
        followers: dict[int, list[tuple[int, Numbers]]] = {}
        for pivot, expression in self.pivots.items() if values else ():
            for free, coefficient in expression.terms.items():
                followers.setdefault(free, [(free, 1.0)]).append((pivot, coefficient))
        for free in sorted(followers):
            members = [member for member, _ in followers[free]]
            if _is_settled(members, values, weight):
                continue
            slopes = self._stacked([slope for _, slope in followers[free]])
            before = np.stack([values.get(member, np.zeros(self.lanes)) for member in members])
            step = _heaviest(before if slopes is None else before / slopes, weight[members])
            if not some(step):
                continue
            change = step if slopes is None else slopes * step
            moved = before - change
            moved[np.abs(moved) <= ROUNDING * (np.abs(before) + np.abs(change))] = 0.0
            values.update(zip(members, np.asarray(self._wrap(moved)), strict=True))
        return {unknown: numbers for unknown, numbers in values.items() if some(numbers)}

    def _stacked(self, coefficients: Sequence[Numbers]) -> Floats | None:
        """Give (n, lanes), or (n, 1) where no coefficient differs from lane to lane; None where all are 1."""
        numbers = [value for value in coefficients if isinstance(value, float)]
        if len(numbers) == len(coefficients):
            return None if set(numbers) == {1.0} else np.array(numbers)[:, None]
        return np.stack([np.broadcast_to(value, self.lanes) for value in coefficients])

    def _pivot(self, terms: dict[int, Numbers]) -> int:
        sound = [
            unknown
            for unknown, value in terms.items()
            if isinstance(value, float) or np.count_nonzero(value) == self.lanes
        ]
        if not sound:
            raise Divided(np.asarray(next(iter(terms.values()))) == 0)
        return min(sound, key=self.preference.__getitem__)

    def _set(self, pivot: int, expression: Expression) -> None:
        self._trail.append((pivot, self.pivots.get(pivot)))
        self.pivots[pivot] = expression

    def _wrap(self, right: Numbers) -> Numbers:
        if not self.modulus or isinstance(right, float):
            return _tidy(right, self.modulus)
        turns = np.floor(right * (1 / self.modulus))  # `%` takes ten times as long
        wrapped: Floats = right - self.modulus * turns
        return wrapped

    def _reduced(self, expression: Expression) -> Expression:
        """Replace the pivots in the terms by what they stand for."""
        known = [unknown for unknown in expression.terms if unknown in self.pivots]
        for unknown in known:
            self._solved(unknown)
        return self._flat(expression) if known else expression

    def _solved(self, pivot: int) -> Expression:
        """Give a pivot's expression with no pivot in it, and keep that (chains are walked once)."""
        found = self.pivots[pivot]
        if self.pivots.keys().isdisjoint(found.terms):
            return found
        stack = [pivot]
        while stack:
            unknown = stack[-1]
            inner = [other for other in self.pivots[unknown].terms if other in self.pivots]
            deeper = [other for other in inner if not self.pivots.keys().isdisjoint(self.pivots[other].terms)]
            if deeper:
                stack.extend(deeper)
                continue
            stack.pop()
            if inner:
                self._set(unknown, self._flat(self.pivots[unknown]))
        return self.pivots[pivot]

    def _flat(self, expression: Expression) -> Expression:
        """Replace pivots whose own terms hold no pivot."""
        terms: dict[int, Numbers] = {}
        right, size, rows = expression.right, expression.size, expression.rows
        for unknown, coefficient in expression.terms.items():
            meaning = self.pivots.get(unknown)
            if meaning is None:
                _add(terms, unknown, coefficient, self.modulus)
                continue
            rows |= meaning.rows
            if not isinstance(meaning.size, float) or meaning.size:
                right = self._wrap(right + _product(coefficient, meaning.right))
                size = _larger(size, _product(_magnitude(coefficient), meaning.size))
            for other, value in meaning.terms.items():
                _add(terms, other, coefficient * value, self.modulus)
        return Expression(terms, right, size, rows)


def _is_settled(members: Sequence[int], values: Collection[int], weight: Floats) -> bool:
    """Whether most weight stands at 0 in every lane, by more than rounding. values: the unknowns that aren't all 0."""
    moved = [member for member in members if member in values]
    still = [member for member in members if member not in values]
    return every(weight[still].sum(axis=0) > (1 + TIGHT) * weight[moved].sum(axis=0))


def _heaviest(values: Floats, weight: Floats) -> Floats:
    """Give, by lane, the one of (n, lanes) values at which most weight stands; 0 where that has as much as any."""
    at_zero = (weight * (values == 0)).sum(axis=0)
    whole = weight.sum(axis=0) if weight.shape == values.shape else np.add.accumulate(weight)[-1]  # in the same order
    chosen = np.zeros(values.shape[1])
    unsettled = np.flatnonzero(at_zero < whole - at_zero)
    if unsettled.size:
        weight = np.broadcast_to(weight, values.shape)[:, unsettled]
        chosen[unsettled] = _heaviest_run(values[:, unsettled], weight, at_zero[unsettled])
    return chosen


def _heaviest_run(values: Floats, weight: Floats, best: Floats) -> Floats:
    """Give the value whose weight is more than `best`, and the most; 0 where none has it."""
    order = np.argsort(values, axis=0, kind="stable")
    values, weight = np.take_along_axis(values, order, 0), np.take_along_axis(weight, order, 0)
    chosen, run = np.zeros(values.shape[1]), np.zeros_like(best)
    for place, here in enumerate(values):
        same = place > 0 and np.abs(here - values[place - 1]) <= ROUNDING * np.abs(here)
        run = np.where(same, run, 0.0) + weight[place]
        chosen = np.where(run > best, here, chosen)
        best = np.maximum(best, run)
    return chosen


def _product(factor: Numbers, numbers: Numbers) -> Numbers:
    """Multiply; a factor is nearly always 1 or -1, for which there is less to do in all lanes."""
    if isinstance(factor, float) and abs(factor) == 1:
        return numbers if factor > 0 else -numbers
    return factor * numbers


def _quotient(numbers: Numbers, divisor: Numbers) -> Numbers:
    """Divide, as `_product` multiplies."""
    if isinstance(divisor, float) and abs(divisor) == 1:
        return numbers if divisor > 0 else -numbers
    return numbers / divisor


def _magnitude(numbers: Numbers) -> Numbers:
    return abs(numbers) if isinstance(numbers, float) else np.abs(numbers)


def _larger(one: Numbers, other: Numbers) -> Numbers:
    return max(one, other) if isinstance(one, float) and isinstance(other, float) else np.maximum(one, other)


def _tidy(value: Numbers, modulus: int) -> Numbers:
    return value % modulus if modulus else value


def _add(terms: dict[int, Numbers], unknown: int, value: Numbers, modulus: int) -> None:
    """terms[unknown] += value; what cancels in every lane goes, what cancels in some becomes exactly 0 there."""
    before = terms.get(unknown)
    if before is None:
        tidied = _tidy(value, modulus) if modulus else value
        if some(tidied):
            terms[unknown] = tidied
        return
    total = _tidy(before + value, modulus)
    if isinstance(total, float) and isinstance(before, float) and isinstance(value, float):
        if abs(total) <= NOTHING * (abs(before) + abs(value)):
            del terms[unknown]
        else:
            terms[unknown] = total
        return
    gone = np.abs(total) <= NOTHING * (np.abs(before) + np.abs(value))
    many = np.count_nonzero(gone)
    if many == gone.size:
        del terms[unknown]
    else:
        terms[unknown] = np.where(gone, 0.0, total) if many else total
