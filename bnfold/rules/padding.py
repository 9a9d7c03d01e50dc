"""Padding: a mirrored border moves with its tensor, a constant one stays where it is."""

import math

from bnfold.affine import Frames
from bnfold.ops import Pad
from bnfold.plan import Edit, SetBounds
from bnfold.relation import Carried, Site, Tie
from bnfold.rules.base import pinned, rewritten, ties
from bnfold.views import Kept
from bnfold.why import Why


@ties.register(Pad)
def _pad(op: Pad, site: Site) -> tuple[Tie, ...]:
    """A border of v is one of (v - d) / a in the new frame, which must be one number: 0 stays 0, infinite stays so."""
    view = Kept(frozenset(axis for axis, pair in enumerate(op.pads) if any(pair)))
    if op.mode != "constant" or all(size <= 0 for pair in op.pads for size in pair):
        return (Carried(site.x, site.y, view, lost=Why.AXIS),)
    if op.value == 0:
        return (Carried(site.x, site.y, view, still=Why.FILL, lost=Why.FILL),)
    if math.isinf(op.value):
        return (Carried(site.x, site.y, view, positive=Why.FILL, lost=Why.FILL),)
    if site.relaxed:
        return (Carried(site.x, site.y, view, uniform=Why.FILL, lost=Why.FILL),)
    return pinned(site, Why.FILL)


@rewritten.register(Pad)
def _rewrite_pad(op: Pad, site: Site, frames: Frames) -> tuple[Edit, ...]:
    frame = frames.get(site.x)
    if op.mode != "constant" or frame is None:
        return ()
    value = float((op.value - frame.shift[0]) / frame.scale[0])
    return () if value == op.value else (SetBounds(site.node.name, value),)
