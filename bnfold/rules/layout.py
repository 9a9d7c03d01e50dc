"""Layout: the numbers stay the same and move, so every frame moves with its channels."""

from itertools import pairwise

import numpy as np

from bnfold.ops import (
    DepthToSpace,
    Expand,
    Flip,
    Rearrange,
    Reshape,
    Select,
    SpaceToDepth,
    Split,
    Take,
    Tile,
    Transpose,
)
from bnfold.relation import Carried, Site, Tie
from bnfold.rules.base import pinned, ties
from bnfold.views import Aligned, Blocked, Flipped, Permuted, Picked, Rearranged, Reshaped, Tiled
from bnfold.why import Why


@ties.register(Transpose)
def _transpose(op: Transpose, site: Site) -> tuple[Tie, ...]:
    return (Carried(site.x, site.y, Permuted(op.permutation)),)


@ties.register(Reshape)
def _reshape(op: Reshape, site: Site) -> tuple[Tie, ...]:
    return (Carried(site.x, site.y, Reshaped(site.shape(site.x), site.shape(site.y))),)


@ties.register(Rearrange)
def _rearrange(op: Rearrange, site: Site) -> tuple[Tie, ...]:
    return (Carried(site.x, site.y, Rearranged(site.shape(site.x), op.steps)),)


@ties.register(Expand)
def _expand(op: Expand, site: Site) -> tuple[Tie, ...]:
    if site.x not in site.graph.values:  # a constant of one number
        return pinned(site, Why.NO_RULE)
    return (Carried(site.x, site.y, Aligned(site.shape(site.x), site.shape(site.y)), lost=Why.BROADCAST),)


@ties.register(Take)
def _take(op: Take, site: Site) -> tuple[Tie, ...]:
    return (Carried(site.x, site.y, Picked(op.axis, np.asarray(op.indices, np.intp))),)


@ties.register(Select)
def _select(op: Select, site: Site) -> tuple[Tie, ...]:
    return (Carried(site.x, site.y, Picked(op.axis, np.asarray([op.index], np.intp), drop=True)),)


@ties.register(Split)
def _split(op: Split, site: Site) -> tuple[Tie, ...]:
    """Each output has its own stretch of the channels."""
    cuts = pairwise(np.cumsum((0, *op.sizes)))
    return tuple(
        Carried(site.x, output, Picked(op.axis, np.arange(start, stop), drop=op.drop))
        for output, (start, stop) in zip(site.node.outputs, cuts, strict=True)
        if output
    )


@ties.register(Flip)
def _flip(op: Flip, site: Site) -> tuple[Tie, ...]:
    return (Carried(site.x, site.y, Flipped(op.axes)),)


@ties.register(Tile)
def _tile(op: Tile, site: Site) -> tuple[Tie, ...]:
    return (Carried(site.x, site.y, Tiled(op.repeats, len(site.shape(site.x)))),)


@ties.register(DepthToSpace)
def _depth_to_space(op: DepthToSpace, site: Site) -> tuple[Tie, ...]:
    return (Carried(site.x, site.y, Blocked(op.block, op.mode)),)


@ties.register(SpaceToDepth)
def _space_to_depth(op: SpaceToDepth, site: Site) -> tuple[Tie, ...]:
    return (Carried(site.x, site.y, Blocked(op.block, op.mode, to_depth=True)),)
