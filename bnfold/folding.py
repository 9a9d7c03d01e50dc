"""Graph -> Plan: which affines go, why the others stay, and how every constant changes. Pure, framework-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bnfold.affine import Affine, Frames
from bnfold.candidates import Candidate, candidates
from bnfold.errors import BnfoldError
from bnfold.graph import Graph, Node
from bnfold.numerics import unbearable
from bnfold.ops import Clip, Pad, Relu
from bnfold.plan import Edit, Folded, Kept, Outcome, Plan, Reason, Remove, ScaleWeight, SetBias
from bnfold.relation import Site
from bnfold.rounding import with_balance
from bnfold.rules import rewritten
from bnfold.rules.linear import bias_of, bias_shape, channels_of, contraction
from bnfold.solving.axes import may_have_frame
from bnfold.solving.problem import Solution, solve
from bnfold.why import Why

LEVELS = ("default", "max")
PATIENCE = 3
TRIES = 16  # of affines that are refused for numbers' sake and may not have been the cause; each costs a solution
BENDS = frozenset({Why.KINK, Why.ORDER, Why.BOUNDS, Why.FILL})


def fold(graph: Graph, *, level: str = "default", only: Sequence[str] = (), skip: Sequence[str] = ()) -> Plan:
    """Plan the fold of every affine that the relations allow.

    graph: as `bnfold.raising.raised` gives it. level: "default" never makes the model slower; "max" removes all that
    can be removed exactly, with clips by channel in the place of ReLUs. only, skip: shell patterns of affines' names.
    Raises BnfoldError for an unknown level.
    """
    if level not in LEVELS:
        raise BnfoldError(f"level {level!r} is unknown; it is one of {', '.join(LEVELS)}")
    found = candidates(graph, only, skip)
    plan = _plan(graph, found, level, frozenset())
    if level == "max" and any(reason.why is Why.PRECISION for kept in plan.kept for reason in kept.why):
        bending = frozenset(node.name for node in graph.nodes if isinstance(node.op, Relu) and _may_bend(node))
        other = _plan(graph, found, level, bending)
        return min(plan, other, key=lambda one: len(one.kept))
    return plan


def _plan(graph: Graph, found: Sequence[Candidate], level: str, relaxed: frozenset[str]) -> Plan:
    """Solve, and again without the affines whose fold the numbers can't bear. relaxed: activations that may bend."""
    allowed = list(found)
    attempt = _attempt(graph, allowed, level, relaxed)
    while attempt.trouble:
        allowed = _without(graph, allowed, attempt.solution, attempt.trouble)
        attempt = _attempt(graph, allowed, level, relaxed)
    allowed, attempt = _with_restored(graph, found, allowed, attempt, level, relaxed)
    edits = with_balance(graph, attempt.solution.frames, attempt.edits)
    return Plan(_outcomes(graph, allowed, attempt.solution, edits), edits, _told(allowed, attempt.solution))


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A solution, the edits that follow from it, and what the numbers can't bear of them."""

    solution: Solution
    edits: tuple[Edit, ...]
    trouble: tuple[Reason, ...]


def _attempt(graph: Graph, found: Sequence[Candidate], level: str, relaxed: frozenset[str]) -> _Attempt:
    solution, bent = _solve(graph, found, level, relaxed)
    sites = {node.name: Site(node, graph, node.name in bent, level == "max") for node in graph.nodes}
    edits = _edits(found, solution, sites)
    trouble = tuple(unbearable(graph, found, solution.frames, edits))
    return _Attempt(solution, edits, trouble)


def _with_restored(
    graph: Graph,
    found: Sequence[Candidate],
    allowed: list[Candidate],
    attempt: _Attempt,
    level: str,
    relaxed: frozenset[str],
) -> tuple[list[Candidate], _Attempt]:
    """Take back refusals that weren't the cause: another affine, refused too, forced the frame that broke numbers.

    But one stays where it alone tells that the numbers can't bear another: a fold of the result would take that.
    """
    groups = _refused(found, allowed)
    if len(groups) < 2:  # the only one was the cause
        return allowed, attempt
    for group in groups[:TRIES]:
        wider = _with(found, allowed, group)
        other = _attempt(graph, wider, level, relaxed)
        if other.trouble or len(other.solution.taken) <= len(attempt.solution.taken):
            continue
        more = (_attempt(graph, _with(found, wider, rest), level, relaxed) for rest in _refused(found, wider))
        if all(any(reason.node not in other.solution.taken for reason in one.trouble) for one in more):
            allowed, attempt = wider, other
    return allowed, attempt


def _refused(found: Sequence[Candidate], allowed: Sequence[Candidate]) -> list[str]:
    """Name the groups of affines (the calls of one module) that are refused for numbers' sake."""
    refused = [new.node for old, new in zip(found, allowed, strict=True) if new.refusal is not old.refusal]
    return list(dict.fromkeys(node.unit or node.name for node in refused))


def _with(found: Sequence[Candidate], allowed: Sequence[Candidate], group: str) -> list[Candidate]:
    """Take back the refusals of one group."""
    pairs = zip(found, allowed, strict=True)
    return [old if (old.node.unit or old.node.name) == group else new for old, new in pairs]


def _solve(
    graph: Graph, found: Sequence[Candidate], level: str, relaxed: frozenset[str]
) -> tuple[Solution, frozenset[str]]:
    """Solve; then relax the activations that stand in a contradiction, as long as that folds more.

    A contradiction names one such activation, though others may stand behind it: a step that folds no more is followed
    by others, up to PATIENCE.
    """
    best = solve(graph, found, relaxed, tensors=level == "max"), relaxed
    solution, patience = best[0], PATIENCE
    while patience:
        wider = relaxed | _in_the_way(graph, solution, level)
        if wider == relaxed:
            break
        solution, relaxed = solve(graph, found, wider, tensors=level == "max"), wider
        if len(solution.taken) > len(best[0].taken):
            best, patience = (solution, relaxed), PATIENCE
        else:
            patience -= 1
    return best


def _in_the_way(graph: Graph, solution: Solution, level: str) -> frozenset[str]:
    named = {reason.node for reasons in solution.reasons.values() for reason in reasons if reason.why in BENDS}
    free = {name for name in named if _may_bend(graph.by_name[name])}
    return frozenset(name for name in free if level == "max" or isinstance(graph.by_name[name].op, (Clip, Pad)))


def _may_bend(node: Node) -> bool:
    return "constants" not in node.limits


def _taken(found: Sequence[Candidate], solution: Solution) -> list[Candidate]:
    return [candidate for candidate in found if candidate.node.name in solution.taken]


def _edits(found: Sequence[Candidate], solution: Solution, sites: Mapping[str, Site]) -> tuple[Edit, ...]:
    """Ask every operator how its constants follow from the frames, and take the folded affines out."""
    zeroed: dict[str, np.ndarray] = {}
    for candidate in _taken(found, solution):
        for name, mask in candidate.zeroed.items():
            zeroed[name] = mask | zeroed.get(name, False)
    edits: list[Edit] = []
    for name, site in sites.items():
        if name in solution.taken:
            edits.append(Remove(name))
            continue
        own = rewritten(site.node.op, site, solution.frames)
        edits += _with_dead_rows(site, own, zeroed[name], solution.frames) if name in zeroed else own
    return tuple(edits)


def _told(found: Sequence[Candidate], solution: Solution) -> Frames:
    """Give the frames, with scale 0 in the dead channels, where the new tensor says nothing of the old one."""
    frames = dict(solution.frames)
    for candidate in _taken(found, solution):
        for dead in candidate.zeroed.values():
            for name in candidate.unseen:
                axis, channels = candidate.tie.axis, len(dead)
                frame = frames.get(name, Affine.identity(axis, channels))
                frames[name] = Affine(axis, np.where(dead, 0.0, frame.scale), np.where(dead, 0.0, frame.shift))
    return frames


def _with_dead_rows(site: Site, own: Sequence[Edit], dead: np.ndarray, frames: Frames) -> list[Edit]:
    """Let a linear node give exactly 0 in the dead channels, before its frame: W' = 0, b' = (0 - shift) / scale."""
    linear = contraction(site)
    assert linear is not None
    outputs, inputs = channels_of(linear, site.graph.constants[linear.weight].shape)[::-1]
    frame = frames.get(linear.target, Affine.identity(linear.target_axis, outputs))
    scaled = next((e for e in own if isinstance(e, ScaleWeight)), None)
    scaled = scaled or ScaleWeight(site.node.name, np.ones(outputs), np.ones(inputs))
    biased = next((e for e in own if isinstance(e, SetBias)), None)
    place = bias_shape(site, linear)
    bias = biased.bias if biased else bias_of(site, linear)
    bias = np.where(dead.reshape(place), (-frame.shift / frame.scale).reshape(place), bias)
    return [replace(scaled, out_factor=np.where(dead, 0.0, scaled.out_factor)), SetBias(site.node.name, bias)]


def _outcomes(
    graph: Graph, found: Sequence[Candidate], solution: Solution, edits: Sequence[Edit]
) -> tuple[Outcome, ...]:
    edited = {edit.node for edit in edits if not isinstance(edit, Remove)}
    place = {node.name: number for number, node in enumerate(graph.nodes) if node.name in edited}
    touching: dict[str, list[str]] = {name: [] for name in solution.frames}
    for node in graph.nodes:
        if node.name in edited:
            for name in {*node.inputs, *node.outputs} & solution.frames.keys():
                touching[name].append(node.name)
    return tuple(_outcome(graph, candidate, solution, touching, place) for candidate in found)


def _outcome(
    graph: Graph,
    candidate: Candidate,
    solution: Solution,
    touching: Mapping[str, Sequence[str]],
    place: Mapping[str, int],
) -> Outcome:
    """Say what became of an affine. touching: the edited nodes at each framed value; place: their order."""
    name = candidate.node.name
    if name in solution.taken:
        into = {node for value in solution.related[name] for node in touching[value]}
        into |= candidate.zeroed.keys() & place.keys()
        return Folded(name, tuple(sorted(into, key=place.__getitem__)))
    if candidate.refusal:
        return Kept(name, (candidate.refusal,))
    return Kept(name, solution.reasons.get(name) or (Reason(name, _without_a_place(graph, candidate)),))


def _without_a_place(graph: Graph, candidate: Candidate) -> Why:
    """Say why an affine was never tried: its frames have no axis, or another call of its module stays."""
    tie = candidate.tie
    if not all(may_have_frame(graph, value, tie.axis) for value in (tie.source, tie.target)):
        return Why.UNKNOWN_SHAPE
    return Why.REPEATED if candidate.node.unit else Why.AXIS


def _without(
    graph: Graph, found: Sequence[Candidate], solution: Solution, trouble: Sequence[Reason]
) -> list[Candidate]:
    """Refuse the affines that brought trouble: those named, or those nearest to the nodes whose numbers break."""
    culprits: dict[str, Reason] = {}
    for reason in trouble:
        name = reason.node if reason.node in solution.taken else _nearest(graph, solution, reason.node)
        culprits.setdefault(name, reason)
    units = {c.node.unit: culprits[c.node.name] for c in found if c.node.name in culprits and c.node.unit}
    refusals = {c.node.name: culprits.get(c.node.name) or units.get(c.node.unit) for c in found}
    return [replace(c, refusal=refusals[c.node.name] or c.refusal) for c in found]


def _nearest(graph: Graph, solution: Solution, node: str) -> str:
    place = {other.name: index for index, other in enumerate(graph.nodes)}
    values = set(graph.by_name[node].inputs) | set(graph.by_name[node].outputs)
    related = [name for name in solution.taken if solution.related[name] & values] or solution.taken
    return min(related, key=lambda name: (abs(place[name] - place[node]), name))
