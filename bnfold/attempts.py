"""One try at a fold: a solution, the edits that follow from it, and what the numbers can't bear of them."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import numpy as np

from bnfold.affine import Affine, Chain, Chains, Frames
from bnfold.candidates import Candidate
from bnfold.graph import Graph, Node
from bnfold.numerics import unbearable
from bnfold.ops import Clip, Pad
from bnfold.plan import Edit, Folded, Kept, Outcome, Plan, Reason, Remove, ScaleWeight, SetBias
from bnfold.record import record
from bnfold.relation import Site
from bnfold.rounding import HALF
from bnfold.rules import rewritten
from bnfold.rules.linear import bias_of, bias_shape, channels_of, contraction
from bnfold.solving.axes import may_have_frame
from bnfold.solving.problem import Solution, solve
from bnfold.why import Why

PATIENCE = 3
BENDS = frozenset({Why.KINK, Why.ORDER, Why.BOUNDS, Why.FILL})


@record(eq=False)
class Attempt:
    """found: every affine, some refused. taken: the names of those that are folded. frames: as a plan has them.

    reasons, related: as of a `Solution`. trouble: what the numbers can't bear; none in a fold that may be carried out.
    tail: merges, and edits of what they make, which come after the other edits.
    """

    found: tuple[Candidate, ...]
    taken: frozenset[str]
    frames: Chains
    reasons: Mapping[str, tuple[Reason, ...]]
    related: Mapping[str, frozenset[str]]
    edits: tuple[Edit, ...]
    trouble: tuple[Reason, ...] = ()
    tail: tuple[Edit, ...] = ()

    @property
    def plan(self) -> Plan:
        """All that it does, without a word on why."""
        return Plan((), (*self.edits, *self.tail), self.frames)


def attempt(graph: Graph, found: Sequence[Candidate], level: str, relaxed: frozenset[str]) -> Attempt:
    """Fold all that the relations allow. relaxed: activations that may bend from the start."""
    solution, bent = _solve(graph, found, level, relaxed)
    edits = _edits(graph, found, solution, bent, level)
    frames = {name: (frame,) for name, frame in solution.frames.items()}
    trouble = tuple(unbearable(graph, found, solution.frames, edits))
    return Attempt(tuple(found), solution.taken, frames, solution.reasons, solution.related, edits, trouble)


def plan_of(graph: Graph, one: Attempt) -> Plan:
    """Say what an attempt does, with what half precision needs to be rounded well."""
    edits = (*_balanced(graph, one), *one.tail)
    outcomes = _outcomes(graph, one, edits)
    merged = {name: merge.node for merge in one.plan.merges for name in merge.nodes}
    outcomes = tuple(
        Folded(each.affine, (merged[each.affine],)) if isinstance(each, Kept) and each.affine in merged else each
        for each in outcomes
    )
    return Plan(outcomes, edits, _told(one))


def _balanced(graph: Graph, one: Attempt) -> tuple[Edit, ...]:
    """Tell the edits of weights in half precision what to make up for; in other models nobody asks for that."""
    if not any(constant.dtype in HALF for constant in graph.constants.values()):
        return one.edits
    from bnfold.balancing import with_balance

    return with_balance(graph, one.frames, one.edits)


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
    free = {name for name in named if may_bend(graph.by_name[name])}
    return frozenset(name for name in free if level == "max" or isinstance(graph.by_name[name].op, (Clip, Pad)))


def may_bend(node: Node) -> bool:
    """Whether an activation can be replaced."""
    return "constants" not in node.limits


def _taken(found: Sequence[Candidate], taken: Set[str]) -> list[Candidate]:
    return [candidate for candidate in found if candidate.node.name in taken]


def _edits(
    graph: Graph, found: Sequence[Candidate], solution: Solution, bent: Set[str], level: str
) -> tuple[Edit, ...]:
    """Ask every operator beside a frame how its constants follow, and take the folded affines out."""
    zeroed: dict[str, np.ndarray] = {}
    for candidate in _taken(found, solution.taken):
        for name, mask in candidate.zeroed.items():
            zeroed[name] = mask | zeroed.get(name, False)
    edits: list[Edit] = []
    framed = solution.frames.keys()
    for node in graph.nodes:
        name = node.name
        if name in solution.taken:
            edits.append(Remove(name))
            continue
        if name not in zeroed and framed.isdisjoint(node.inputs) and framed.isdisjoint(node.outputs):
            continue
        site = Site(node, graph, name in bent, level == "max")
        own = rewritten(site.node.op, site, solution.frames)
        edits += _with_dead_rows(site, own, zeroed[name], solution.frames) if name in zeroed else own
    return tuple(edits)


def _told(one: Attempt) -> Chains:
    """Give the frames with scale 0 in dead channels, where the new tensor says nothing of the old."""
    frames = dict(one.frames)
    for candidate in _taken(one.found, one.taken):
        for dead in candidate.zeroed.values():
            for name in candidate.unseen:
                frames[name] = _without_channels(frames.get(name, ()), candidate.tie.axis, dead)
    return frames


def _without_channels(chain: Chain, axis: int, dead: np.ndarray) -> Chain:
    """Give 0 for the scale of dead channels along an axis."""
    place = next((number for number, frame in enumerate(chain) if frame.axis == axis), len(chain))
    frame = chain[place] if place < len(chain) else Affine.identity(axis, len(dead))
    dying = Affine(axis, np.where(dead, 0.0, frame.scale), np.where(dead, 0.0, frame.shift))
    return (*chain[:place], dying, *chain[place + 1 :])


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
    edits: list[Edit] = [replace(scaled, out_factor=np.where(dead, 0.0, scaled.out_factor))]
    if linear.bias or bias.any():
        edits.append(SetBias(site.node.name, bias))
    return edits


def _outcomes(graph: Graph, one: Attempt, edits: Sequence[Edit]) -> tuple[Outcome, ...]:
    edited = {edit.node for edit in edits if not isinstance(edit, Remove)}
    place = {node.name: number for number, node in enumerate(graph.nodes) if node.name in edited}
    touching: dict[str, list[str]] = {name: [] for name in one.frames}
    for node in graph.nodes:
        if node.name in edited:
            for name in {*node.inputs, *node.outputs} & one.frames.keys():
                touching[name].append(node.name)
    return tuple(_outcome(graph, candidate, one, touching, place) for candidate in one.found)


def _outcome(
    graph: Graph,
    candidate: Candidate,
    one: Attempt,
    touching: Mapping[str, Sequence[str]],
    place: Mapping[str, int],
) -> Outcome:
    """Say what became of an affine. touching: the edited nodes at each framed value; place: their order."""
    name = candidate.node.name
    if name in one.taken:
        into = {node for value in one.related[name] for node in touching.get(value, ())}
        into |= candidate.zeroed.keys() & place.keys()
        return Folded(name, tuple(sorted(into, key=place.__getitem__)))
    if candidate.refusal:
        return Kept(name, (candidate.refusal,))
    return Kept(name, one.reasons.get(name) or (Reason(name, _without_a_place(graph, candidate)),))


def _without_a_place(graph: Graph, candidate: Candidate) -> Why:
    """Say why an affine was never tried: its frames have no axis, or another call of its module stays."""
    tie = candidate.tie
    if not all(may_have_frame(graph, value, tie.axis) for value in (tie.source, tie.target)):
        return Why.UNKNOWN_SHAPE
    return Why.REPEATED if candidate.node.unit else Why.AXIS
