"""The two questions that every operator answers."""

from functools import singledispatch

from bnfold.affine import Affine, Frames
from bnfold.ops import Op, ShapeOf
from bnfold.plan import Edit
from bnfold.relation import Absorbed, Carried, Contracted, Mapped, Multiplied, Pinned, Site, Summed, Tie
from bnfold.why import Why

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


@singledispatch
def ties(op: Op, site: Site) -> tuple[Tie, ...]:
    """How the frames of the node's tensors go together (`bnfold.relation` has the law). The default: not at all."""
    return pinned(site, site.node.limits.get("frames", Why.NO_RULE))


@singledispatch
def rewritten(op: Op, site: Site, frames: Frames) -> tuple[Edit, ...]:
    """The edits that make op into op' of the law, for frames that satisfy the ties. The default: none."""
    return ()


@ties.register(ShapeOf)
def _shape_of(op: ShapeOf, site: Site) -> tuple[Tie, ...]:
    return ()


def relation(site: Site) -> tuple[Tie, ...]:
    """Ask the node's operator for its ties; what isn't floats that are computed, of known rank, is left."""
    if not site.has_ranks:
        return pinned(site, Why.UNKNOWN_SHAPE)
    found = ties(site.node.op, site)
    for tie in found:
        for name in tied(tie):
            value = site.graph.values.get(name)
            if value is None or value.dtype not in FLOATS:
                return pinned(site, Why.NO_RULE)
    return found


def tied(tie: Tie) -> tuple[str, ...]:
    """Give the names of the tensors whose frames the tie is about."""
    match tie:
        case Carried(source, target) | Contracted(source, target) | Mapped(source, target):  # nearly all are these
            return (source, target)
        case Pinned(values):
            return values
        case Absorbed(value):
            return (value,)
        case Summed(terms, target):
            return (*(name for name, _ in terms), target)
        case Multiplied(factors, target):
            return (*factors, target)


def pinned(site: Site, why: Why) -> tuple[Tie, ...]:
    """Leave every tensor of the node as it is."""
    return (Pinned(site.tensors_of, why),)


def frame_of(frames: Frames, name: str, axis: int, channels: int) -> Affine:
    """Give the frame of a value along `axis`; one that is not named, or is the identity, has no axis of its own."""
    frame = frames.get(name)
    if frame is None or frame.is_identity:
        return Affine.identity(axis, channels)
    assert (frame.axis, frame.channels) == (axis, channels), f"{name}: the frame contradicts its ties"
    return frame
