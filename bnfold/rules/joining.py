"""Operators of several tensors: each channel kept (concat), one scale (sum), one frame (maximum), or their product."""

from bnfold.ops import Concat, Extremum, Product, Stack, Sum
from bnfold.relation import Carried, Multiplied, Site, Summed, Tie
from bnfold.rules.base import pinned, ties
from bnfold.views import Aligned, Inserted, Kept, Picked, View
from bnfold.why import Why


@ties.register(Concat)
def _concat(op: Concat, site: Site) -> tuple[Tie, ...]:
    """By channel along the axis, equal along any other; after an operand of unknown length no channel has a place."""
    if any(name not in site.graph.values for name in site.node.inputs):
        return pinned(site, Why.NO_RULE)
    found: list[Tie] = []
    offset: int | None = 0
    for name in site.node.inputs:
        size = site.shape(name)[op.axis]
        view: View = Kept(frozenset({op.axis})) if offset is None else Picked(op.axis, None, offset)
        found.append(Carried(name, site.y, view, lost=Why.AXIS))
        offset = offset + size if offset is not None and isinstance(size, int) else None
    length = site.shape(site.y)[op.axis]
    if isinstance(offset, int) and isinstance(length, int) and offset != length:
        return pinned(site, Why.MALFORMED)
    return tuple(found)


@ties.register(Stack)
def _stack(op: Stack, site: Site) -> tuple[Tie, ...]:
    """Equal along every axis that the operands have."""
    if any(name not in site.graph.values for name in site.node.inputs):
        return pinned(site, Why.NO_RULE)
    return tuple(Carried(name, site.y, Inserted(op.axis), lost=Why.AXIS) for name in site.node.inputs)


@ties.register(Sum)
def _sum(op: Sum, site: Site) -> tuple[Tie, ...]:
    """sum c (a x' + d) == a sum c x' + sum c d; a tensor that is added twice counts twice, or cancels."""
    if any(name not in site.graph.values for name in site.node.inputs):
        return pinned(site, Why.NO_RULE)
    total: dict[str, float] = {}
    for name, coefficient in zip(site.node.inputs, op.coefficients, strict=True):
        total[name] = total.get(name, 0.0) + coefficient
    return (Summed(tuple((name, times) for name, times in total.items() if times), site.y),)


@ties.register(Product)
def _product(op: Product, site: Site) -> tuple[Tie, ...]:
    """(a u') (b v') == a b (u' v'); a shift of one would multiply the other."""
    if any(name not in site.graph.values for name in site.node.inputs):
        return pinned(site, Why.NO_RULE)
    return (Multiplied(site.node.inputs, site.y),)


@ties.register(Extremum)
def _extremum(op: Extremum, site: Site) -> tuple[Tie, ...]:
    """max(a u + d, a v + d) == a max(u, v) + d, for a > 0."""
    if any(name not in site.graph.values for name in site.node.inputs):
        return pinned(site, Why.NO_RULE)
    views = {name: Aligned(site.shape(name), site.shape(site.y)) for name in site.node.inputs}
    return tuple(Carried(name, site.y, view, positive=Why.ORDER, lost=Why.BROADCAST) for name, view in views.items())
