"""Once is enough: what a fold of the result would take is taken at once.

A second fold sees another graph than the first: frames that the first one chose among many may suit the numbers of an
affine that it refused, and an affine that is gone stands in nobody's way. The result is made in memory, exactly, and
folded; both folds together are one: T = scale T' + shift of the first, T' = scale' T'' + shift' of the second.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from bnfold.affine import Affine, Floats, Frames
from bnfold.attempts import Attempt, attempt_of
from bnfold.candidates import Candidate
from bnfold.graph import Graph
from bnfold.plan import Plan, Remove
from bnfold.solving.problem import Solution
from bnfold.why import Why

# What may speak against an affine now, and no more when others are gone. All else are relations, which stay.
PASSING = frozenset({Why.PRECISION, Why.OVERFLOW, Why.UNDERFLOW, Why.GAMMA_ZERO, Why.AXIS, Why.RESHAPE})


def again(graph: Graph, one: Attempt, level: str, refold: Callable[[Graph], Attempt]) -> Attempt | None:
    """Fold the result of an attempt, and give both folds as one; None where that takes nothing more.

    None, too, where numbers of the first graph speak against it. refold: gives the attempt for another graph.
    """
    from bnfold.adapters.memory import joined, written  # which carries out merges, too

    if not one.solution.taken or not _may_go_on(one):
        return None
    result = written(graph, Plan((), one.edits), is_exact=True)
    more = refold(result)
    if not more.solution.taken:
        return None
    names, _ = joined(graph, {edit.node for edit in one.edits if isinstance(edit, Remove)})
    later = {name: names.get(name, name) for name in graph.values}
    frames = _composed(one.solution.frames, more.solution.frames, later)
    if frames is None or not _zeroes_along(graph, one.solution.frames, more):
        return None
    solution = Solution(
        one.solution.taken | more.solution.taken,
        frames,
        more.solution.reasons,
        {**_earlier(more.solution.related, later), **one.solution.related},
    )
    found = _joint(graph, one, more, later)
    joint = attempt_of(graph, found, solution, one.bent | more.bent, level)
    return None if joint.trouble else joint


def _may_go_on(one: Attempt) -> bool:
    refused = {candidate.refusal.why for candidate in one.found if candidate.refusal}
    return bool(PASSING & (refused | {row.why for rows in one.solution.reasons.values() for row in rows}))


def _composed(first: Frames, second: Frames, later: Mapping[str, str]) -> Frames | None:
    """Compose the frames of every value; None where one would have frames along two axes.

    later: by the name of every value of the first graph, that of the second's which stands for it.
    """
    frames: dict[str, Affine] = {}
    for name, other in later.items():
        outer, inner = first.get(name), second.get(other)
        frame = outer or inner
        if outer is not None and inner is not None:
            if outer.axis != inner.axis:
                return None
            frame = outer.after(inner)
        if frame is not None:
            frames[name] = frame
    return {name: frame for name, frame in frames.items() if not frame.is_identity}


def _zeroes_along(graph: Graph, first: Frames, more: Attempt) -> bool:
    """Whether what the second fold zeroes has its channels where the first fold's frame has them."""
    return all(
        graph.by_name[linear].output not in first or first[graph.by_name[linear].output].axis == candidate.tie.axis
        for candidate in more.found
        for linear in candidate.zeroed
    )


def _earlier(related: Mapping[str, frozenset[str]], later: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Say it of the first graph's values."""
    return {
        affine: frozenset(name for name, other in later.items() if other in values)
        for affine, values in related.items()
    }


def _joint(graph: Graph, one: Attempt, more: Attempt, later: Mapping[str, str]) -> list[Candidate]:
    """Take of each affine what the fold says that came to it last, in the first graph's terms."""
    last = {candidate.node.name: candidate for candidate in more.found}
    zeroed: dict[str, Floats] = {}
    for candidate in more.found:
        if candidate.node.name in more.solution.taken:
            for name, given in candidate.zeroed.items():
                zeroed[name] = np.where(np.isnan(given), zeroed.get(name, np.nan), _before(graph, name, one, given))
    return [_told(old, last.get(old.node.name), zeroed, later) for old in one.found]


def _before(graph: Graph, linear: str, one: Attempt, given: Floats) -> Floats:
    """Say of what a linear node gives after the first fold, what it would be before."""
    frame = one.solution.frames.get(graph.by_name[linear].output)
    return given if frame is None else frame.scale * given + frame.shift


def _told(old: Candidate, new: Candidate | None, zeroed: Mapping[str, Floats], later: Mapping[str, str]) -> Candidate:
    """Say of an affine what came of it. zeroed: what linear nodes give in the channels that the second fold zeroes."""
    own = (new or old).zeroed
    told = {name: _over(given, zeroed.get(name, given)) for name, given in own.items()}
    if new is None:
        return replace(old, zeroed=told)
    unseen = tuple(name for name, other in later.items() if other in new.unseen)
    return replace(old, refusal=new.refusal, held=new.held, zeroed=told, unseen=unseen)


def _over(given: Floats, later: Floats) -> Floats:
    """Let what is given later count in the channels that are dead here."""
    return np.where(np.isnan(given) | np.isnan(later), given, later)
