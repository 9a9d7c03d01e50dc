"""A graph's frames as one problem: which affines can be folded together, and the frames that this gives."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial

import numpy as np

from bnfold import ops
from bnfold.affine import Affine, Floats, every
from bnfold.candidates import Candidate
from bnfold.graph import Graph, Node
from bnfold.plan import Reason
from bnfold.record import record
from bnfold.relation import Site, Tie
from bnfold.rules import relation
from bnfold.solving.axes import frame_axes
from bnfold.solving.calls import equate, folds, off_axis, units
from bnfold.solving.choice import choose
from bnfold.solving.ends import kept_ends, linear_ends, parameter_ends
from bnfold.solving.lanes import groups
from bnfold.solving.rows import Kind, Lowering, Row
from bnfold.solving.spreading import biased, handed_on, handing_sets
from bnfold.solving.system import Changes, Refused, System, Uneven, row_owners
from bnfold.solving.telling import nearest_first
from bnfold.solving.twins import divided, joined
from bnfold.why import Why

TRIES = 8  # of shifts that are handed on: each costs a solution
OPERATOR = 3.0  # what an operator is worth that needn't be added, beside an unchanged weight
TIE = 16  # folds: of as many, those are taken without which tensors would have to stay as they are
TENSOR = 1e-3  # what an unchanged tensor is worth beside an unchanged weight


@record(eq=False)
class Solution:
    """taken: the affines (by name) that are folded. frames: those that aren't the identity.

    reasons: the contradiction of every affine that could have been folded and isn't. related: for each affine, the
    values whose frames depend on the same rows.
    """

    taken: frozenset[str]
    frames: Mapping[str, Affine]
    reasons: Mapping[str, tuple[Reason, ...]]
    related: Mapping[str, frozenset[str]]


def solve(
    graph: Graph, found: Sequence[Candidate], relaxed: frozenset[str] = frozenset(), *, tensors: bool
) -> Solution:
    """Fold as many affines as the relations allow.

    relaxed: nodes that may take their wider relation (`bnfold.relation.Site`). tensors: with bounds by channel.
    """
    best, problem = _solved(graph, found, relaxed, tensors, frozenset())
    for bare in handing_sets(problem.ties, graph, best.reasons):
        solution, problem = _solved(graph, found, relaxed, tensors, bare)
        if len(solution.taken) > len(best.taken) and not problem.biased(solution.frames) & bare:
            best = solution
    return best


def _solved(
    graph: Graph, found: Sequence[Candidate], relaxed: frozenset[str], tensors: bool, bare: frozenset[str]
) -> tuple[Solution, "_Problem"]:
    """Solve. bare: operators that can't be given a bias, and may take up a shift where they don't need one then."""
    held = [candidate for candidate in found if candidate.refusal and candidate.held]
    gone = {candidate.node.unit for candidate in found} & set(units(graph))
    reasons: dict[str, tuple[Reason, ...]] = {}
    while True:
        again = partial(_Problem, graph, found, held, gone, relaxed, tensors, bare)
        problem = again()
        taken = problem.take()
        reasons |= problem.reasons  # what is held from now on isn't asked again
        left = [candidate for candidate in found if candidate.node.name not in taken]
        stuck = [candidate for candidate in left if candidate.held and candidate not in held]
        staying = gone & {candidate.node.unit for candidate in left}
        if not stuck and not staying:
            return _handing_on(replace(problem.solution(taken), reasons=reasons), problem, again), problem
        held += stuck
        gone -= staying


def _handing_on(solution: Solution, problem: "_Problem", again: Callable[[Sequence[Row]], "_Problem"]) -> Solution:
    """Let operators that have no bias hand their shifts on, as long as that spares biases.

    again: gives the problem anew, with rows that it may leave out.
    """
    best, needing = solution, problem.biased(solution.frames)
    fewest = len(needing)
    for _ in range(TRIES):  # what follows another one is known once that hands on
        if not needing:
            break
        problem = again(problem.spread_rows(solution.frames))
        if problem.take() != solution.taken:
            break
        solution = replace(problem.solution(solution.taken), reasons=solution.reasons)
        before, needing = needing, problem.biased(solution.frames)
        if len(needing) < fewest:
            best, fewest = solution, len(needing)
        if needing == before:
            break
    return best


class _Problem:
    def __init__(
        self,
        graph: Graph,
        found: Sequence[Candidate],
        held: Sequence[Candidate],
        gone: Set[str],
        relaxed: frozenset[str],
        tensors: bool,
        bare: frozenset[str],
        wishes: Sequence[Row] = (),
    ) -> None:
        self.graph = graph
        ties: dict[str, tuple[Tie, ...]] = {
            node.name: relation(Site(node, graph, node.name in relaxed, tensors)) for node in graph.nodes
        }
        self.ties = ties
        self.lowering = Lowering(graph, frame_axes(graph, ties), ties, bare)
        self._hard_rows(ties, found, held, gone)
        self.folds = folds(self.lowering, found, held)
        fold_rows = [
            [row for c in fold if c.function for row in self.lowering.folded(c.tie, c.function)] for fold in self.folds
        ]
        fold_rows += [*self._sums_alone(found), *([row] for row in wishes)]  # which are taken last, or left
        self.rows, self.owner = row_owners(self.lowering.rows, fold_rows)
        self.ends = [*linear_ends(self.lowering, ties), *parameter_ends(self.lowering)]
        self.absorbs = np.zeros(len(self.lowering.unknowns.alike), dtype=np.bool_)
        for end in self.ends:
            self.absorbs[end.tensor] |= end.takes_shift
        unknowns = self.lowering.unknowns
        self.groups = joined(groups(self.rows, unknowns.starts, unknowns.whole()), self.owner, self.absorbs)
        self.system: System

    def take(self) -> frozenset[str]:
        """Choose the folds; lanes that come to differ are parted, and all starts again."""
        weights = [TIE * len(fold) + sum(candidate.held for candidate in fold) for fold in self.folds]
        while True:
            try:
                self.system = System(self.groups, self.owner, self.absorbs)
                chosen = choose(self.system, range(len(self.folds)), weights) & set(range(len(self.folds)))
                self.reasons = self._reasons(chosen)
                self._take_wishes()
            except Uneven as uneven:
                self.groups = divided(self.groups, uneven.group, uneven.lanes)
                continue
            return frozenset(c.node.name for number in chosen for c in self.folds[number])

    def _take_wishes(self) -> None:
        for number in range(len(self.folds), max(self.owner, default=0) + 1):
            with contextlib.suppress(Refused):
                self.system.take(number)

    def _sums_alone(self, found: Sequence[Candidate]) -> Iterator[list[Row]]:
        """Ask that affines which only add have one scale at both ends, or a kept one would have to multiply, too."""
        for candidate in found:
            if not isinstance(candidate.node.op, ops.Affine) or candidate.function is None:
                continue
            if every(candidate.function.scale == 1) and not off_axis(self.lowering, candidate):
                yield self.lowering.equal_scales(candidate.tie.source, candidate.tie.target)

    def spread_rows(self, frames: Mapping[str, Affine]) -> list[Row]:
        """Ask that the outputs of operators that lack a bias have the shifts which these hand on."""
        rows = []
        for tie, shift in handed_on(self.graph, self.ties, frames).values():
            if shift.any() and self.lowering.axes.get(tie.target) == tie.target_axis:
                rows.append(Row(Kind.SHIFT, ((self.lowering.unknowns.of(tie.target), 1.0),), shift))
        return rows

    def biased(self, frames: Mapping[str, Affine]) -> frozenset[str]:
        """Name the operators that need a bias which they lack."""
        return biased(handed_on(self.graph, self.ties, frames), frames)

    def solution(self, taken: frozenset[str]) -> Solution:
        """Read the frames off the eliminations."""
        unknowns, axes = self.lowering.unknowns, self.lowering.axes
        self.ends += kept_ends(self.lowering, self.ties, taken)
        operators = self._operators()
        changes = partial(self.system.fewest_changes, count=int(unknowns.starts[-1]))
        shift = changes(Kind.SHIFT, self._weights() + operators)
        negative = changes(Kind.SIGN, self._weights(shift))
        size = changes(Kind.SCALE, self._weights(shift, negative))
        # Scales tell now what is rewritten anyway.
        shift = changes(Kind.SHIFT, self._weights(size, negative) + operators)
        moved = (negative.tensors | size.tensors | shift.tensors).tolist()
        frames = {}
        for name in (name for name, number in unknowns.tensor.items() if moved[number]):
            span = unknowns.span(name)
            scale = np.copysign(np.exp(size.values[span]), 0.5 - negative.values[span])  # which are 0 or 1
            frame = Affine(axes[name], scale, shift.values[span])
            if not frame.is_identity:
                frames[name] = frame
        return Solution(taken, frames, self.reasons, self._related(frames))

    def _weights(self, *moved: Changes) -> Floats:
        """Say what it is worth to leave a tensor at 0: a weight that isn't rewritten, then a value as it was.

        A node at whose ends something has moved already is rewritten anyway.
        """
        changed = np.logical_or.reduce([changes.tensors for changes in moved]) if moved else self.absorbs & False
        rewritten = {end.node for end in self.ends if changed[end.tensor]}
        weight = TENSOR * self.lowering.unknowns.alike
        for end in self.ends:
            if end.node not in rewritten:
                weight[end.tensor] += 1
        return weight

    def _operators(self) -> Floats:
        """Say what it is worth to leave a shift at 0 where it would need an operator."""
        weight = np.zeros(len(self.lowering.unknowns.alike))
        for end in self.ends:
            weight[end.tensor] += OPERATOR * end.wants_operator
        return weight

    def _hard_rows(
        self,
        ties: Mapping[str, tuple[Tie, ...]],
        found: Sequence[Candidate],
        held: Sequence[Candidate],
        gone: Set[str],
    ) -> None:
        """Demand what always holds. gone: modules whose calls are all folded; of no others may the calls differ."""
        lowering = self.lowering
        for name in self.graph.inputs:
            lowering.pin([name], Reason(name, Why.INPUT))
        for node in self.graph.nodes:
            for tie in ties[node.name]:
                lowering.add(node, tie)
        for name in self.graph.outputs:
            lowering.pin([name], Reason(name, Why.OUTPUT))
        for candidate in found:
            if candidate in held:
                why = candidate.refusal.why if candidate.refusal else candidate.node.limits["constants"]
                lowering.pin([candidate.tie.source, candidate.tie.target], Reason(candidate.node.name, why))
            elif apart := off_axis(lowering, candidate):
                lowering.pin(apart, Reason(candidate.node.name, Why.AXIS))
        for unit, calls in units(self.graph).items():
            if unit not in gone:
                equate(lowering, calls)

    def _reasons(self, chosen: set[int]) -> dict[str, tuple[Reason, ...]]:
        """Ask the finished system again for each fold that was left, to hear what contradicts it."""
        reasons = {}
        for number, fold in enumerate(self.folds):
            if number in chosen:
                continue
            try:
                self.system.give_back(self.system.take(number))
            except Refused as refused:
                for candidate in fold:
                    reasons[candidate.node.name] = self._explained(candidate.node, refused.rows, fold)
        return reasons

    def _explained(self, node: Node, rows: Sequence[int], fold: Sequence[Candidate]) -> tuple[Reason, ...]:
        """Turn rows into reasons: their causes, and the rivals that own others."""
        own = {candidate.node.name for candidate in fold}
        causes: dict[Reason, None] = {}
        for row in rows:
            cause = self.rows[row].cause
            if cause is not None:
                causes[cause] = None
            elif 0 <= self.owner[row] < len(self.folds):
                rivals = (Reason(c.node.name, Why.RIVAL) for c in self.folds[self.owner[row]] if c.node.name not in own)
                causes.update(dict.fromkeys(rivals))
        return nearest_first(causes, node, self.graph)

    def _related(self, frames: Mapping[str, Affine]) -> dict[str, frozenset[str]]:
        """Give the values whose frames depend on the rows of each affine, also by what is handed on."""
        parts = [part for group in self.groups for part in group.parts or (group,)]
        parts_in: dict[int, set[int]] = {}  # by tensor
        parts_of: dict[int, set[int]] = {}
        for number, part in enumerate(parts):
            for tensor in set(part.tensors.reshape(-1).tolist()):
                parts_in.setdefault(tensor, set()).add(number)
            for row in part.rows:
                parts_of.setdefault(self.owner[row.source], set()).add(number)
        parts_at = {name: parts_in[self.lowering.unknowns.tensor[name]] for name in frames}
        members: dict[int, set[str]] = {}
        for name, own in parts_at.items():
            for number in own:
                members.setdefault(number, set()).add(name)
        spread = handed_on(self.graph, self.ties, frames)
        needing = biased(spread, frames)
        for tie in (tie for node, (tie, _) in spread.items() if node not in needing):
            for own in parts_of.values():
                own |= parts_at.get(tie.target, set()) if own & parts_at[tie.source] else set()
        return {
            c.node.name: frozenset().union(*(members.get(part, ()) for part in parts_of.get(number, ())))
            for number, fold in enumerate(self.folds)
            for c in fold
        }
