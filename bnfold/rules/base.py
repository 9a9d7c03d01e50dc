"""The two questions that every operator answers."""

from functools import singledispatch

from bnfold.affine import Frames
from bnfold.ops import Op, ShapeOf
from bnfold.plan import Edit
from bnfold.relation import Pinned, Site, Tie
from bnfold.why import Why


@singledispatch
def ties(op: Op, site: Site) -> tuple[Tie, ...]:
    """How the frames of the node's tensors go together (`bnfold.relation` has the law). The default: not at all."""
    return (Pinned(site.tensors_of, Why.NO_RULE),)


@singledispatch
def rewritten(op: Op, site: Site, frames: Frames) -> tuple[Edit, ...]:
    """The edits that make op into op' of the law, for frames that satisfy the ties. The default: none."""
    return ()


@ties.register
def _shape_of(op: ShapeOf, site: Site) -> tuple[Tie, ...]:
    return ()


def relation(site: Site) -> tuple[Tie, ...]:
    """Ask the node's operator for its ties; a tensor of unknown rank is left as it is."""
    if any(site.graph.shape(name) is None for name in site.tensors_of):
        return (Pinned(site.tensors_of, Why.NO_RULE),)
    return ties(site.node.op, site)
