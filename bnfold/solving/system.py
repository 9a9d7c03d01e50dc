"""The rows of a graph as eliminations by group, into which folds are taken one at a time."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Floats
from bnfold.record import record
from bnfold.solving.elimination import Contradiction, Divided, Elimination
from bnfold.solving.lanes import Group, LaneRow
from bnfold.solving.rows import Kind, Row


class Refused(Exception):  # noqa: N818 - an outcome, told apart by type
    """A fold contradicts these rows (their indices)."""

    def __init__(self, rows: tuple[int, ...]) -> None:
        super().__init__(rows)
        self.rows = rows


@record
class Mark:
    """A state to return to."""

    trail: tuple[tuple[int, int, int], ...]  # (group, kind, mark)


class Uneven(Exception):  # noqa: N818
    """The lanes of a group turned out to differ: `lanes` is a mask; part them and start again."""

    def __init__(self, group: int, lanes: NDArray[np.bool_]) -> None:
        super().__init__(group)
        self.group = group
        self.lanes = lanes


@record(eq=False)
class Changes:
    """values: (unknowns,), 0 for what stays as it is. tensors: (tensors,), whether any of its unknowns doesn't."""

    values: Floats
    tensors: NDArray[np.bool_]


class System:
    """All groups with the rows that always hold; `take` adds a fold's rows, or refuses and changes nothing.

    The folds of joined groups are taken at once: `taken` has them. Raises Uneven where that can't be.
    owner: which fold each row belongs to, or -1 for a row that always holds.
    absorbs: (tensors,) whether a shift there is free for the taking, since a bias can hold it.
    """

    def __init__(self, lane_groups: Sequence[Group], owner: Sequence[int], absorbs: NDArray[np.bool_]) -> None:
        self.groups = lane_groups
        self.rows_of: dict[int, list[tuple[int, int, LaneRow]]] = {}
        self.eliminations = [_eliminations(group, absorbs) for group in lane_groups]
        for number, group in enumerate(lane_groups):
            for place, row in enumerate(group.rows):
                fold = owner[row.source]
                if group.parts:
                    self._insert_joined(number, place, row)
                elif fold < 0:
                    self._insert(number, place, row)
                else:
                    self.rows_of.setdefault(fold, []).append((number, place, row))
        parts = (part for group in lane_groups for part in group.parts)
        self.taken = {owner[row.source] for part in parts for row in part.rows} - {-1}

    def groups_of(self, fold: int) -> set[int]:
        """Give the groups in which the fold has rows."""
        return {number for number, _, _ in self.rows_of.get(fold, ())}

    def take(self, fold: int) -> Mark:
        """Add the rows of a fold. Raises Refused."""
        rows = self.rows_of.get(fold, ())
        mark = self._mark({number for number, _, _ in rows})
        for number, place, row in rows:
            try:
                self._insert(number, place, row)
            except Contradiction as contradiction:
                self.give_back(mark)
                raise Refused(self._sources(number, contradiction.rows)) from None
        return mark

    def give_back(self, mark: Mark) -> None:
        """Return to a state from before."""
        for number, kind, position in mark.trail:
            self.eliminations[number][kind].undo(position)

    def fewest_changes(self, kind: Kind, weight: Floats, count: int) -> Changes:
        """Give all unknowns of a kind, as many of them 0 as can be, by the weight of their tensor (tensors,).

        count: the number of unknowns.
        """
        found = Changes(np.zeros(count), np.zeros(len(weight), np.bool_))
        for group, kinds in zip(self.groups, self.eliminations, strict=True):
            for row, numbers in kinds[kind].fewest_changes(weight[group.tensors]).items():
                if group.tensors.shape[1] > 1:
                    found.values[group.unknowns[row]] = numbers
                    found.tensors[group.tensors[row][numbers != 0]] = True
                    continue
                start = group.unknowns[row, 0]  # of a whole tensor
                found.values[start : start + len(numbers)] = numbers
                found.tensors[group.tensors[row]] = True
        return found

    def _mark(self, numbers: Iterable[int]) -> Mark:
        return Mark(tuple((n, kind, self.eliminations[n][kind].mark()) for n in numbers for kind in Kind))

    def _insert(self, number: int, place: int, row: LaneRow) -> None:
        try:
            self.eliminations[number][row.kind].insert(row.terms, row.right, place)
        except Divided as divided:
            raise Uneven(number, divided.lanes) from None

    def _insert_joined(self, number: int, place: int, row: LaneRow) -> None:
        try:
            self._insert(number, place, row)
        except Contradiction as contradiction:
            raise Uneven(number, contradiction.lanes) from None

    def _sources(self, number: int, bits: int) -> tuple[int, ...]:
        rows = self.groups[number].rows
        return tuple(dict.fromkeys(row.source for place, row in enumerate(rows) if bits >> place & 1))


def _eliminations(group: Group, absorbs: NDArray[np.bool_]) -> tuple[Elimination, Elimination, Elimination]:
    """The earliest tensors are the pivots, so that late ones keep scale 1; for shifts, those that a bias holds."""
    size, lanes = group.unknowns.shape
    early = list(range(size))
    biased = [place if absorbs[group.tensors[place, 0]] else size + place for place in early]
    return (
        Elimination(lanes, early, floor=1e-3),
        Elimination(lanes, early, modulus=2),
        Elimination(lanes, biased),
    )


def row_owners(rows: Sequence[Row], folds: Sequence[Sequence[Row]]) -> tuple[list[Row], list[int]]:
    """Put the rows of the folds behind those that always hold, and say whose each is."""
    every = list(rows)
    owner = [-1] * len(rows)
    for number, fold in enumerate(folds):
        every += fold
        owner += [number] * len(fold)
    return every, owner
