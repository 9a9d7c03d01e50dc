"""Graph -> Plan: which affines go, why the others stay, and how every constant changes. Pure, framework-free."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bnfold.attempts import Attempt, attempt, may_bend, plan_of
from bnfold.candidates import Candidate, candidates
from bnfold.errors import BnfoldError
from bnfold.graph import Graph
from bnfold.merging import merges_after
from bnfold.ops import Relu
from bnfold.plan import Plan, Reason
from bnfold.record import record
from bnfold.settling import again, along_other_axes
from bnfold.why import Why

LEVELS = ("default", "max")
TRIES = 16  # of affines that are refused for numbers' sake and may not have been the cause; each costs a solution


def fold(
    graph: Graph, *, level: str = "default", only: Sequence[str] = (), skip: Sequence[str] = (), merge: bool = False
) -> Plan:
    """Plan the fold of every affine that the relations allow.

    graph: as `bnfold.raising.raised` gives it. level: "default" never makes the model slower; "max" removes all that
    can be removed exactly, with clips by channel in the place of ReLUs. only, skip: shell patterns of affines' names.
    merge: parallel linear branches become one convolution, too; only writers of graphs can carry that out.
    Raises BnfoldError for an unknown level.
    """
    if level not in LEVELS:
        raise BnfoldError(f"level {level!r} is unknown; it is one of {', '.join(LEVELS)}")
    one = _settled(_Choice(level, tuple(only), tuple(skip), merge), graph)
    return plan_of(graph, one)


@record
class _Choice:
    """What a fold was asked for."""

    level: str
    only: tuple[str, ...]
    skip: tuple[str, ...]
    merge: bool


def _settled(choice: _Choice, graph: Graph) -> Attempt:
    """Fold until a fold of the result would take no more, along whichever axis affines of one number lie."""
    one = _once(choice, graph)
    while (joint := along_other_axes(graph, one, partial(_once, choice))) is not None:
        one = joint
    return one


def _once(choice: _Choice, graph: Graph) -> Attempt:
    found = candidates(graph, choice.only, choice.skip)
    one = _fold(graph, found, choice.level)
    if choice.merge:
        spared = [each.node.name for each in found if each.refusal and each.refusal.why is Why.SKIPPED]
        one = replace(one, tail=merges_after(graph, one.plan, spared))
    while (joint := again(graph, one, partial(_once, choice))) is not None:
        one = joint
    return one


def _fold(graph: Graph, found: Sequence[Candidate], level: str) -> Attempt:
    one = _bearable(graph, found, level, frozenset())
    if level == "max" and any(each.refusal and each.refusal.why is Why.PRECISION for each in one.found):
        bending = frozenset(node.name for node in graph.nodes if isinstance(node.op, Relu) and may_bend(node))
        other = _bearable(graph, found, level, bending)
        return max(one, other, key=lambda each: len(each.taken))
    return one


def _bearable(graph: Graph, found: Sequence[Candidate], level: str, relaxed: frozenset[str]) -> Attempt:
    """Solve, and again without the affines whose fold the numbers can't bear. relaxed: activations that may bend."""
    one = attempt(graph, found, level, relaxed)
    while one.trouble:
        one = attempt(graph, _without(graph, one), level, relaxed)
    return _with_restored(graph, found, one, level, relaxed)


def _with_restored(
    graph: Graph, found: Sequence[Candidate], one: Attempt, level: str, relaxed: frozenset[str]
) -> Attempt:
    """Take back refusals that weren't the cause: another affine, refused too, forced the frame that broke numbers.

    But one stays where it alone tells that the numbers can't bear another: a fold of the result would take that.
    """
    groups = _refused(found, one.found)
    if len(groups) < 2:  # the only one was the cause
        return one
    for group in groups[:TRIES]:
        wider = attempt(graph, _with(found, one.found, group), level, relaxed)
        if wider.trouble or len(wider.taken) <= len(one.taken):
            continue
        rests = _refused(found, wider.found)
        more = (attempt(graph, _with(found, wider.found, rest), level, relaxed) for rest in rests)
        if all(any(reason.node not in wider.taken for reason in other.trouble) for other in more):
            one = wider
    return one


def _refused(found: Sequence[Candidate], allowed: Sequence[Candidate]) -> list[str]:
    """Name the groups of affines (the calls of one module) that are refused for numbers' sake."""
    refused = [new.node for old, new in zip(found, allowed, strict=True) if new.refusal is not old.refusal]
    return list(dict.fromkeys(node.unit or node.name for node in refused))


def _with(found: Sequence[Candidate], allowed: Sequence[Candidate], group: str) -> list[Candidate]:
    """Take back the refusals of one group."""
    pairs = zip(found, allowed, strict=True)
    return [old if (old.node.unit or old.node.name) == group else new for old, new in pairs]


def _without(graph: Graph, one: Attempt) -> list[Candidate]:
    """Refuse the affines that brought trouble: those named, or those nearest to the nodes whose numbers break."""
    found, culprits = one.found, dict[str, Reason]()
    for reason in one.trouble:
        name = reason.node if reason.node in one.taken else _nearest(graph, one, reason.node)
        culprits.setdefault(name, reason)
    units = {c.node.unit: culprits[c.node.name] for c in found if c.node.name in culprits and c.node.unit}
    refusals = {c.node.name: culprits.get(c.node.name) or units.get(c.node.unit) for c in found}
    return [replace(c, refusal=refusals[c.node.name] or c.refusal) for c in found]


def _nearest(graph: Graph, one: Attempt, node: str) -> str:
    place = {other.name: index for index, other in enumerate(graph.nodes)}
    values = set(graph.by_name[node].inputs) | set(graph.by_name[node].outputs)
    related = [name for name in one.taken if one.related[name] & values] or one.taken
    return min(related, key=lambda name: (abs(place[name] - place[node]), name))
