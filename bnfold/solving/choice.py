"""Which folds to take: all where they agree, else as many as can be had together."""

from collections.abc import Sequence
from dataclasses import field

from bnfold.record import record
from bnfold.solving.system import Mark, Refused, System

SEARCHED = 24  # folds that depend on each other, up to which their subsets are searched
WORK = 20_000  # rows inserted in such a search


def choose(system: System, folds: Sequence[int], weights: Sequence[int]) -> set[int]:
    """Take folds into the system and give those taken, with those that it had: as much weight as can be had.

    Folds that share no group are independent. Of those that do: in topological order, in the reverse order, and, where
    both leave some, by a bounded search over subsets.
    """
    taken = set(system.taken)
    for cluster in _clusters(system, [fold for fold in folds if fold not in taken]):
        taken |= _best(system, cluster, weights)
    return taken


def _best(system: System, cluster: Sequence[int], weights: Sequence[int]) -> set[int]:
    best = set[int]()
    for order in (cluster, cluster[::-1]):
        mark_of, chosen = _greedy(system, order)
        if len(chosen) == len(cluster):
            return chosen
        _release(system, mark_of)
        best = max(best, chosen, key=lambda folds: sum(weights[fold] for fold in folds))
    if len(cluster) <= SEARCHED:
        best = _Search(system, cluster, weights, best).run()
    _greedy(system, [fold for fold in cluster if fold in best])
    return best


def _greedy(system: System, order: Sequence[int]) -> tuple[list[Mark], set[int]]:
    marks, chosen = [], set()
    for fold in order:
        mark = _taken(system, fold)
        if mark is not None:
            marks.append(mark)
            chosen.add(fold)
    return marks, chosen


def _taken(system: System, fold: int) -> Mark | None:
    try:
        return system.take(fold)
    except Refused:
        return None


def _release(system: System, marks: Sequence[Mark]) -> None:
    for mark in reversed(marks):
        system.give_back(mark)


@record(eq=False, frozen=False)
class _Search:
    """Branch and bound over subsets, in topological order, taking before leaving."""

    system: System
    cluster: Sequence[int]
    weights: Sequence[int]
    best: set[int]
    work: int = 0
    chosen: list[int] = field(default_factory=list)

    def run(self) -> set[int]:
        self._from(0, sum(self.weights[fold] for fold in self.cluster))
        return self.best

    def _from(self, place: int, possible: int) -> None:
        if self.work > WORK or possible <= sum(self.weights[fold] for fold in self.best):
            return
        if place == len(self.cluster):
            self.best = set(self.chosen)
            return
        fold = self.cluster[place]
        self.work += len(self.system.rows_of[fold])
        mark = _taken(self.system, fold)
        if mark is not None:
            self.chosen.append(fold)
            self._from(place + 1, possible)
            self.chosen.pop()
            self.system.give_back(mark)
        self._from(place + 1, possible - self.weights[fold])


def _clusters(system: System, folds: Sequence[int]) -> list[list[int]]:
    """Group folds that share a group of unknowns, directly or through others; in topological order."""
    by_group: dict[int, list[int]] = {}
    leader = {fold: fold for fold in folds}

    def find(fold: int) -> int:
        while leader[fold] != fold:
            leader[fold] = leader[leader[fold]]
            fold = leader[fold]
        return fold

    for fold in folds:
        for group in system.groups_of(fold):
            for other in by_group.setdefault(group, []):
                one, two = sorted((find(fold), find(other)))
                leader[two] = one
            by_group[group] = [fold]
    clusters: dict[int, list[int]] = {}
    for fold in folds:
        clusters.setdefault(find(fold), []).append(fold)
    return list(clusters.values())
