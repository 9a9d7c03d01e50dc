"""Splits the unknowns into independent systems, and solves those of one structure at once, a lane each.

Two unknowns belong together when a row names both. Most such components look alike (one for each channel of a conv,
say) and differ in their right-hand sides only, so that one elimination over vectors serves them all.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import every
from bnfold.record import record
from bnfold.solving.rows import Kind, Numbers, Row, Terms
from bnfold.views import Indices

NOTHING: Mapping[int, int] = {}
LaneTerms: TypeAlias = tuple[tuple[int, Numbers], ...]


@record(eq=False)
class LaneRow:
    """One row of a group: its unknowns are numbered within the group; numbers are one for all lanes or one for each."""

    source: int  # which of the rows it comes from; in a joined group, that of the first part
    kind: Kind
    terms: LaneTerms
    right: Numbers


@record(eq=False)
class Group:
    """Components of one structure. unknowns: (unknowns of a component, lanes), by their global number.

    tensors: (unknowns of a component, lanes), the tensor that each belongs to; a lane stands for all that are alike.
    parts: the groups that were joined into it (`bnfold.solving.twins`), whose lanes follow each other.
    """

    unknowns: Indices
    tensors: Indices
    rows: tuple[LaneRow, ...]
    parts: tuple["Group", ...] = ()


def groups(rows: Sequence[Row], starts: Indices, whole: Mapping[int, int] = NOTHING) -> list[Group]:
    """Partition the unknowns as the rows tie them together, in the order of their first unknowns.

    starts: where the unknowns of each tensor start, and at last their number. whole: by the identity of an array, the
    start of the tensor whose unknowns it is known to hold, all in order. Rows that take tensors whole and channel by
    channel, as nearly all do, need no look at single channels.
    """
    found: list[Group] = []
    rest: list[int] = []
    tensors = _Tensors(starts, whole)
    touched = [tensors.of(row.terms) for row in rows]
    for members in _tied_tensors(touched, tensors):
        group = _aligned(rows, touched, members, tensors)
        if group is None:
            rest += members
        else:
            found.append(group)
    if rest:
        table = _Table(rows, sorted(rest), starts)
        found += [table.group(components) for components in table.alike()]
    return sorted(found, key=lambda group: int(group.unknowns[0, 0]))


_Touched: TypeAlias = tuple[list[int], bool]  # a row's tensors, in the terms' order; whether each term takes one whole


class _Tensors:
    """Which tensors unknowns belong to, each named by its first unknown.

    Rows share terms, and these their arrays: each is looked at once.
    """

    def __init__(self, starts: Indices, whole: Mapping[int, int]) -> None:
        self.starts = starts
        self.ends = dict(itertools.pairwise(starts.tolist()))
        self.number = {start: number for number, start in enumerate(self.ends)}
        self._by_terms: dict[int, _Touched] = {}  # by the identity of what the rows hold on to
        self._by_unknowns: dict[int, _Touched] = {array: ([start], True) for array, start in whole.items()}

    def of(self, terms: Terms) -> _Touched:
        """Give the tensors of a row."""
        found = self._by_terms.get(id(terms))
        if found is None:
            named: list[int] = []
            whole = True
            for unknowns, _ in terms:
                own, is_whole = self._by_unknowns.get(id(unknowns)) or self._look(unknowns)
                named += own
                whole = whole and is_whole
            found = self._by_terms[id(terms)] = named, whole
        return found

    def _look(self, unknowns: Indices) -> _Touched:
        first = int(unknowns[0])
        end = self.ends.get(first, -1)
        if len(unknowns) == end - first and every(unknowns == np.arange(first, end)):
            found = [first], True
        else:
            numbers = np.searchsorted(self.starts, unknowns, side="right") - 1
            found = sorted(set(self.starts[numbers].tolist())), False
        self._by_unknowns[id(unknowns)] = found
        return found


def _tied_tensors(touched: Sequence[_Touched], tensors: _Tensors) -> list[list[int]]:
    """Group the rows by the tensors that they tie together. touched: what `tensors.of` says of each row."""
    leader = {start: start for start in tensors.ends}

    def find(tensor: int) -> int:
        while leader[tensor] != tensor:
            leader[tensor] = leader[leader[tensor]]
            tensor = leader[tensor]
        return tensor

    before = None
    for named, _ in touched:
        if named is before:
            continue  # rows that share their terms follow each other
        before, head = named, find(named[0])
        for tensor in named[1:]:
            leader[find(tensor)] = head
    found: dict[int, list[int]] = {}
    for number, (named, _) in enumerate(touched):
        found.setdefault(find(named[0]), []).append(number)
    return list(found.values())


def _aligned(
    rows: Sequence[Row], touched: Sequence[_Touched], members: Sequence[int], tensors: _Tensors
) -> Group | None:
    """Make one group, a lane a channel, of rows that all take their tensors whole; None where one doesn't."""
    if not all(touched[number][1] for number in members):
        return None
    starts = sorted(set().union(*[touched[number][0] for number in members]))
    length = tensors.ends[starts[0]] - starts[0]
    if {tensors.ends[start] - start for start in starts} != {length}:
        return None
    place = {start: index for index, start in enumerate(starts)}
    lane_rows: list[LaneRow] = []
    before: Terms = ()
    terms: LaneTerms = ()
    for number in members:
        row = rows[number]
        if row.terms is not before:
            before = row.terms
            terms = tuple([(place[start], value) for start, (_, value) in zip(touched[number][0], before, strict=True)])
        lane_rows.append(LaneRow(number, row.kind, terms, row.right))
    first = np.array(starts)[:, None]
    numbers = np.array([tensors.number[start] for start in starts])[:, None]
    return Group(first + np.arange(length), numbers, tuple(lane_rows))


class _Table:
    """Every (row, channel) is an instance, every unknown in it a slot; all sorted by component."""

    def __init__(self, every: Sequence[Row], numbers: Sequence[int], starts: Indices) -> None:
        self.numbers, self.starts = numbers, starts
        self.rows = rows = [every[number] for number in numbers]
        lengths = [len(row.terms[0][0]) for row in rows]
        self.first = np.concatenate([[0], np.cumsum(lengths)])
        row_of = np.repeat(np.arange(len(rows)), lengths)
        self.component = _components(rows, int(starts[-1]))
        head = np.concatenate([row.terms[0][0] for row in rows])
        self.instance_component = self.component[head]
        self.rank = _rank(self.component)
        self.row_of = row_of
        # Sorted by component, then row, then channel: the instances of a component stand together; so do its members.
        self.order = np.lexsort((np.arange(len(row_of)), row_of, self.instance_component))
        self.ordered = self.instance_component[self.order]
        self.members = np.argsort(self.component, kind="stable")
        self.member_of = self.component[self.members]

    def alike(self) -> Iterator[Indices]:
        """Give the components that have rows, grouped by structure."""
        names, starts = np.unique(self.ordered, return_index=True)
        signature = self._signatures(names, starts)
        _, first, member = np.unique(signature, return_index=True, return_inverse=True)
        by_member = np.argsort(member, kind="stable")
        bounds = np.searchsorted(member[by_member], np.arange(len(first) + 1))
        for group in np.argsort(names[first], kind="stable"):
            yield np.sort(names[by_member[bounds[group] : bounds[group + 1]]])

    def _signatures(self, names: Indices, starts: Indices) -> NDArray[np.uint64]:
        """Hash (row, slot, the unknown's rank in its component) in sorted order: equal for equal structures."""
        sizes = np.diff(np.append(starts, len(self.order)))
        place = np.arange(len(self.order)) - np.repeat(starts, sizes)
        token = _mix(
            place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + self.row_of[self.order].astype(np.uint64)
        )
        for slot in range(max(len(row.terms) for row in self.rows)):
            ranks = np.concatenate(
                [
                    self.rank[row.terms[slot][0]] + 1
                    if slot < len(row.terms)
                    else np.zeros(len(row.terms[0][0]), np.intp)
                    for row in self.rows
                ]
            )
            token = _mix(token + ranks[self.order].astype(np.uint64))
        result: NDArray[np.uint64] = np.add.reduceat(token, starts)
        return result

    def group(self, components: Indices) -> Group:
        """Collect the lanes of components of one structure."""
        instances = self.order[_runs(self.ordered, components)]
        unknowns = self.members[_runs(self.member_of, components)]
        tensors = np.searchsorted(self.starts, unknowns, side="right") - 1
        return Group(unknowns, tensors, tuple(self._lane_row(line) for line in instances))

    def _lane_row(self, instances: Indices) -> LaneRow:
        source = int(self.row_of[instances[0]])
        row = self.rows[source]
        channel = instances - self.first[source]
        terms = tuple((int(self.rank[unknowns[channel[0]]]), of_lanes(value, channel)) for unknowns, value in row.terms)
        return LaneRow(self.numbers[source], row.kind, terms, of_lanes(row.right, channel))


def of_lanes(numbers: Numbers, lanes: Indices) -> Numbers:
    """Give the numbers of some lanes."""
    return numbers if isinstance(numbers, float) else numbers[lanes]


def _runs(ordered: Indices, names: Indices) -> Indices:
    """Give (length of a run, names): where the equally long runs of each name stand in a sorted array."""
    start = np.searchsorted(ordered, names)
    length = int(np.searchsorted(ordered, names[0], side="right") - start[0])
    result: Indices = start[None, :] + np.arange(length)[:, None]
    return result


def _components(rows: Sequence[Row], count: int) -> Indices:
    """Label every unknown with the least unknown that it is connected to."""
    pairs = [(row.terms[0][0], other) for row in rows for other, _ in row.terms[1:]]
    label = np.arange(count)
    if not pairs:
        return label
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    while True:
        one, two = label[left], label[right]
        apart = one != two
        if not apart.any():
            return label
        left, right, one, two = left[apart], right[apart], one[apart], two[apart]
        np.minimum.at(label, np.maximum(one, two), np.minimum(one, two))
        while True:
            jumped = label[label]
            if np.array_equal(jumped, label):
                break
            label = jumped


def _rank(component: Indices) -> Indices:
    """Number the unknowns of each component from 0, in their order."""
    order = np.argsort(component, kind="stable")
    ordered = component[order]
    start = np.searchsorted(ordered, ordered)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - start
    return rank


def _mix(token: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble the bits (Steele, Lea and Flood 2014, the finaliser of SplitMix64)."""
    token = (token ^ (token >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    token = (token ^ (token >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return token ^ (token >> np.uint64(31))
