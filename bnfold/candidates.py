"""The affines of a graph: what each computes, and what speaks against folding it before anything else is known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from fnmatch import fnmatchcase

import numpy as np

from bnfold.affine import Affine, Floats, every, of_batch_norm, some
from bnfold.batches import in_rows
from bnfold.graph import Graph, Node
from bnfold.ops import Affine as AffineOp
from bnfold.ops import BatchNorm
from bnfold.plan import Reason
from bnfold.record import record
from bnfold.relation import Mapped, Site
from bnfold.rules.affine import affine_of
from bnfold.why import Why

NORMAL = float(np.finfo(np.float64).smallest_normal)  # from here on an inverse is finite
UNSOUND = frozenset(
    {Why.TRAINING, Why.NO_STATISTICS, Why.COMPUTED, Why.AXIS, Why.NOT_FINITE, Why.VARIANCE, Why.MALFORMED}
)


@record
class Candidate:
    """One affine node.

    function: what it computes; channels with scale 0 ("dead") have scale 1, given that `zeroed` nodes give 0 in them.
    refusal: why it can't be folded, whatever the rest of the graph says. held: its tensors must stay as they are.
    """

    node: Node
    tie: Mapped
    function: Affine | None
    refusal: Reason | None = None
    held: bool = False
    zeroed: Mapping[str, np.ndarray] = field(default_factory=dict)  # by linear node: a mask of its out channels
    unseen: tuple[str, ...] = ()  # the values on the way from there, whose dead channels nobody sees


def candidates(graph: Graph, only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[Candidate]:
    """Find every affine, in the graph's order. only, skip: shell patterns of names."""
    nodes = [node for node in graph.nodes if isinstance(node.op, (BatchNorm, AffineOp))]
    sound = _sound(graph, nodes)
    found = [_candidate(graph, node, sound.get(node.name), only, skip) for node in nodes]
    return [_with_whole_units(graph, candidate, found) for candidate in found]


def _candidate(graph: Graph, node: Node, sound: Affine | None, only: Sequence[str], skip: Sequence[str]) -> Candidate:
    """Look at one affine. sound: what it computes, where that is known."""
    axis = node.op.axis if isinstance(node.op, AffineOp) else 1
    tie = Mapped(node.inputs[0], node.output, axis)
    why = node.limits.get("remove")
    function = why if why is not None and why in UNSOUND else sound or _function(graph, node)
    if isinstance(function, Why):
        return Candidate(node, tie, None, Reason(node.name, function), held=True)
    held = "constants" in node.limits
    if why is None and not is_selected(node.name, only, skip):
        why = Why.SKIPPED
    if why is not None:
        return Candidate(node, tie, function, Reason(node.name, why), held)
    dead = function.scale == 0
    if not some(dead):
        return Candidate(node, tie, function, None, held)
    from bnfold.dead_channels import way_to  # few affines have such channels

    way = way_to(graph, node, axis, dead, lambda other: _known(graph, other))
    if way is None:
        return Candidate(node, tie, function, Reason(node.name, Why.GAMMA_ZERO), held)
    scale, shift = function.scale.copy(), function.shift.copy()
    scale[dead] = 1.0
    shift[dead] -= way.constant
    return Candidate(node, tie, Affine(axis, scale, shift), None, held, {way.linear: dead}, way.values)


def _known(graph: Graph, node: Node) -> Affine | None:
    """Give what an affine on the way to another computes; None where no fold could use its statistics."""
    function = _function(graph, node) if node.limits.get("remove") not in UNSOUND else None
    return function if isinstance(function, Affine) else None


def is_selected(name: str, only: Sequence[str], skip: Sequence[str]) -> bool:
    """Whether an affine's name is one of `only`, where there are such, and none of `skip`."""
    wanted = not only or any(fnmatchcase(name, pattern) for pattern in only)
    return wanted and not any(fnmatchcase(name, pattern) for pattern in skip)


def _sound(graph: Graph, nodes: Sequence[Node]) -> dict[str, Affine]:
    """Compute BatchNorms, many at once; those against which something may speak are for a look at each."""
    names: list[str] = []
    layers: list[tuple[Floats, ...]] = []
    for node in nodes:
        shapes = [graph.constants[name].shape for name in node.inputs[1:5] if name in graph.constants]
        if isinstance(node.op, BatchNorm) and len(shapes) == 4 and len({*shapes}) == 1 == len(shapes[0]):
            channels = shapes[0][0]
            if _fits(graph, node, channels):
                names.append(node.name)
                loaded = (graph.constants[name].load() for name in node.inputs[1:5])
                layers.append((*loaded, np.full(channels, node.op.eps)))
    found: dict[str, Affine] = {}
    for row, (gamma, beta, mean, variance, eps) in in_rows(layers):
        with np.errstate(all="ignore"):
            joined = of_batch_norm(1, gamma, beta, mean, variance, eps)
        size = np.abs(joined.scale)  # of what isn't finite, or has no root, it isn't a number in between
        sound = np.isfinite(beta) & np.isfinite(mean) & (size >= NORMAL) & (size < np.inf)
        end = 0
        for name, (own, *_) in zip(names[row], layers[row], strict=True):
            start, end = end, end + len(own)
            if every(sound[start:end]):
                found[name] = Affine(1, joined.scale[start:end], joined.shift[start:end])
    return found


def _function(graph: Graph, node: Node) -> Affine | Why:
    """Give what the affine computes, or why no fold can use its statistics."""
    names = node.inputs[1:]
    if isinstance(node.op, BatchNorm) and not (len(names) >= 4 and names[2] and names[3]):
        return Why.NO_STATISTICS
    if any(name and name not in graph.constants for name in names):
        return Why.COMPUTED
    arrays = [graph.constants[name].load() for name in names if name]
    if not _fits(graph, node, len(arrays[-1])):
        return Why.AXIS
    if not all(every(np.isfinite(array)) for array in arrays):
        return Why.NOT_FINITE
    if isinstance(node.op, BatchNorm) and some(arrays[-1] + node.op.eps <= 0):
        return Why.VARIANCE
    function = affine_of(Site(node, graph))
    if not every(np.isfinite(function.scale)):
        return Why.NOT_FINITE
    if every(np.abs(function.scale) >= NORMAL):
        return function
    with np.errstate(over="ignore"):  # only a float64 model has a number that small
        inverse = 1 / function.scale[function.scale != 0]
    return function if every(np.isfinite(inverse)) else Why.UNDERFLOW


def _fits(graph: Graph, node: Node, channels: int) -> bool:
    """Whether the tensor has as many channels as the constants (an unknown rank or number is for others to judge)."""
    axis = node.op.axis if isinstance(node.op, AffineOp) else 1
    shape = graph.shape(node.inputs[0])
    return shape is None or (axis < len(shape) and (not isinstance(shape[axis], int) or shape[axis] == channels))


def _with_whole_units(graph: Graph, candidate: Candidate, found: Sequence[Candidate]) -> Candidate:
    """Refuse to zero rows of a module that is called elsewhere too, unless those calls are dead in the same way."""
    for name, mask in candidate.zeroed.items():
        unit = graph.by_name[name].unit
        calls = [node.name for node in graph.nodes if unit and node.unit == unit and node.name != name]
        agreeing = set(_zeroed_alike(candidate, found, mask))
        if any(call not in agreeing for call in calls):
            reason = Reason(candidate.node.name, Why.GAMMA_ZERO)
            return Candidate(candidate.node, candidate.tie, candidate.function, reason, candidate.held)
    return candidate


def _zeroed_alike(candidate: Candidate, found: Sequence[Candidate], mask: np.ndarray) -> Iterator[str]:
    for other in found:
        if other.node.unit == candidate.node.unit:
            for name, dead in other.zeroed.items():
                if np.array_equal(dead, mask):
                    yield name
