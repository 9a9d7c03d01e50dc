"""Pooling, reduction and resampling: the axes that they work along carry no channels, the others keep theirs."""

import math

from bnfold.ops import AvgPool, MaxPool, Reduce, Resize
from bnfold.relation import Carried, Site, Tie
from bnfold.rules.base import pinned, ties
from bnfold.views import Kept
from bnfold.why import Why


@ties.register(MaxPool)
def _max_pool(op: MaxPool, site: Site) -> tuple[Tie, ...]:
    """max(a x + d) == a max(x) + d, for a > 0; padding is -inf, so it never wins."""
    return (Carried(site.x, site.y, _spatial(site), positive=Why.ORDER, lost=Why.AXIS),)


@ties.register(AvgPool)
def _avg_pool(op: AvgPool, site: Site) -> tuple[Tie, ...]:
    """The weights of a mean add up to 1, unless zeros of the padding have a part in it."""
    still = Why.SPREAD if op.counts_padding else None
    return (Carried(site.x, site.y, _spatial(site), still=still, lost=Why.AXIS),)


@ties.register(Reduce)
def _reduce(op: Reduce, site: Site) -> tuple[Tie, ...]:
    """A mean passes any affine, an extremum a positive scale, and a sum over n positions has n times the shift."""
    if op.kind not in ("mean", "sum", "max", "min"):
        return pinned(site, Why.NO_RULE)
    view = Kept(frozenset(op.axes), dropped=not op.keepdims)
    if op.kind in ("max", "min"):
        return (Carried(site.x, site.y, view, positive=Why.ORDER, lost=Why.AXIS),)
    if op.kind == "mean":
        return (Carried(site.x, site.y, view, lost=Why.AXIS),)
    sizes = [size for axis, size in enumerate(site.shape(site.x)) if axis in op.axes]
    numbers = [size for size in sizes if isinstance(size, int)]
    if len(numbers) < len(sizes) or "length" in site.node.limits:
        return (Carried(site.x, site.y, view, still=Why.LENGTH, lost=Why.AXIS),)
    return (Carried(site.x, site.y, view, times=float(math.prod(numbers)), lost=Why.AXIS),)


@ties.register(Resize)
def _resize(op: Resize, site: Site) -> tuple[Tie, ...]:
    """Each number of y is a mean of numbers of x, with weights that add up to 1."""
    before, after = site.shape(site.x), site.shape(site.y)
    if not op.affine or len(before) != len(after):
        return pinned(site, Why.NO_RULE)
    changed = {axis for axis, size in enumerate(before) if size is None or size != after[axis]}
    return (Carried(site.x, site.y, Kept(frozenset(changed.union(op.moved))), lost=Why.AXIS),)


def _spatial(site: Site) -> Kept:
    return Kept(frozenset(range(2, len(site.shape(site.x)))))
