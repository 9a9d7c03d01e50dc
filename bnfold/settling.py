"""Once is enough: what a fold of the result would take is taken at once.

A second fold sees another graph than the first: frames that the first one chose among many may suit the numbers of an
affine that it refused, and an affine that is gone stands in nobody's way. The result is made in memory, exactly, and
folded; both folds together are one: T = scale T' + shift of the first, T' = scale' T'' + shift' of the second.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from bnfold.affine import Affine
from bnfold.attempts import Attempt
from bnfold.candidates import Candidate
from bnfold.composing import composed_edits, composed_frames
from bnfold.graph import Graph
from bnfold.plan import Remove
from bnfold.raising.uniform import laid_otherwise
from bnfold.why import Why

# What may speak against an affine now, and no more when others are gone. All else are relations, which stay, but for
# those of tensors whose frames lie along the axis of an affine that is gone.
NUMBERS = frozenset({Why.PRECISION, Why.OVERFLOW, Why.UNDERFLOW, Why.GAMMA_ZERO})
PASSING = NUMBERS | {Why.AXIS, Why.RESHAPE, Why.REPEATED}


def again(graph: Graph, one: Attempt, refold: Callable[[Graph], Attempt]) -> Attempt | None:
    """Fold the result of an attempt, and give both folds as one; None where that changes nothing more.

    Each of the two was judged by the numbers of its own graph (`bnfold.numerics`), whose statistics stay those of their
    tensors. refold: gives the attempt for another graph.
    """
    if not one.tail and not _may_go_on(one):
        return None
    result, later = _result(graph, one)
    more = refold(result)
    return _both(one, more, later) if more.plan.edits else None


def along_other_axes(graph: Graph, one: Attempt, refold: Callable[[Graph], Attempt]) -> Attempt | None:
    """Fold the result of an attempt with the affines of one number that stay laid along another axis; as `again`."""
    staying = (each for each in one.found if each.node.name not in one.taken)
    free = (each for each in staying if each.refusal is None or each.refusal.why in NUMBERS)
    names = [each.node.name for each in free if each.function and _is_one_number(each.function)]
    if not names:
        return None
    result, later = _result(graph, one)
    for other in laid_otherwise(result, [name for name in names if name in result.by_name]):
        more = refold(other)
        if more.taken:
            return _both(one, more, later)
    return None


def _is_one_number(function: Affine) -> bool:
    return bool(np.ptp(function.scale) == 0 and np.ptp(function.shift) == 0)


def _result(graph: Graph, one: Attempt) -> tuple[Graph, dict[str, str]]:
    """Carry an attempt out; by the names of the graph's values, too, those of the result's which stand for them."""
    from bnfold.adapters.memory import joined, written  # which carries out merges, too

    result = written(graph, one.plan, is_exact=True)
    names, _ = joined(graph, {edit.node for edit in one.edits if isinstance(edit, Remove)})
    return result, {name: names.get(name, name) for name in graph.values if names.get(name, name) in result.values}


def _both(one: Attempt, more: Attempt, later: Mapping[str, str]) -> Attempt:
    """Say both in the first graph's terms. later: by its values' names, those of the second which stand for them."""
    related = {
        affine: frozenset(name for name, other in later.items() if other in values)
        for affine, values in more.related.items()
    }
    last = {candidate.node.name: candidate for candidate in more.found}
    found = tuple(_told(old, last.get(old.node.name), later) for old in one.found)
    made = {merge.node for merge in one.plan.merges}
    edits = composed_edits(one.edits, (edit for edit in more.edits if edit.node not in made))
    tail = (*one.tail, *(edit for edit in more.edits if edit.node in made), *more.tail)
    frames = composed_frames(one.frames, more.frames, later)
    return Attempt(
        found=found,
        taken=one.taken | more.taken,
        frames=frames,
        reasons=more.reasons,
        related={**one.related, **related},
        edits=edits,
        tail=tail,
    )


def _may_go_on(one: Attempt) -> bool:
    if not one.taken or len(one.taken) == len(one.found):
        return False
    refused = {candidate.refusal.why for candidate in one.found if candidate.refusal}
    reasons = {row.why for rows in one.reasons.values() for row in rows}
    gone = {candidate.node.output for candidate in one.found if candidate.node.name in one.taken}
    staying = (candidate for candidate in one.found if candidate.node.name not in one.taken)
    if any(candidate.zeroed and gone & set(candidate.unseen) for candidate in staying):
        return True  # what its dead channels are given was a shift of the affines on the way
    return len({candidate.tie.axis for candidate in one.found}) > 1 or bool(PASSING & (refused | reasons))


def _told(old: Candidate, new: Candidate | None, later: Mapping[str, str]) -> Candidate:
    """Say of an affine, in the first graph's terms, what the fold says that came to it last."""
    if new is None:
        return old
    unseen = tuple(name for name, other in later.items() if other in new.unseen)
    return replace(old, refusal=new.refusal, held=new.held, zeroed=new.zeroed, unseen=unseen)
