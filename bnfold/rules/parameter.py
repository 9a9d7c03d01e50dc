"""Constants that are data: each takes what frame it is wanted in, along any axis, by other numbers.

Put c = a c' + d: c' = (c - d) / a.
"""

from bnfold.affine import Frames
from bnfold.ops import Lookup, Parameter
from bnfold.plan import Edit, SetConstants
from bnfold.relation import Carried, Site, Tie
from bnfold.rules.base import pinned, rewritten, ties
from bnfold.views import Looked
from bnfold.why import Why


@ties.register(Parameter)
def _parameter(op: Parameter, site: Site) -> tuple[Tie, ...]:
    held = site.node.limits.get("constants")
    return pinned(site, held) if held is not None else ()


@rewritten.register(Parameter)
def _rewrite_parameter(op: Parameter, site: Site, frames: Frames) -> tuple[Edit, ...]:
    frame = frames.get(site.y)
    constant = site.constant(0)
    if frame is None or frame.is_identity or constant is None:
        return ()
    return (SetConstants(site.node.name, {0: frame.inverse()(constant.load())}),)


@ties.register(Lookup)
def _lookup(op: Lookup, site: Site) -> tuple[Tie, ...]:
    """The rows of a c' + d are a times those of c', plus d, along every axis but that of the rows."""
    if site.x not in site.graph.values:
        return pinned(site, Why.NO_RULE)
    return (Carried(site.x, site.y, Looked(len(site.shape(site.input(1)))), lost=Why.AXIS),)
