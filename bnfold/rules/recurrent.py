"""Recurrent layers: linear in what they read of each step, and in nothing else.

Put x = a x' + d into W x + b, which all gates read:

    W' = W a        b' = b + W d

Their output is what the next step reads, behind tanh and sigmoid: no weight takes up a frame there.
"""

import numpy as np

from bnfold.affine import Floats, Frames
from bnfold.ops import Recurrent
from bnfold.plan import Edit, SetConstants
from bnfold.relation import Absorbed, Pinned, Site, Tie
from bnfold.rules.base import pinned, rewritten, ties
from bnfold.why import Why


@ties.register(Recurrent)
def _recurrent(op: Recurrent, site: Site) -> tuple[Tie, ...]:
    """The states that it starts from are as little to be moved as those that it gives."""
    weights = [site.constant(weight) for weight, _ in op.parts]
    biases = [site.input(bias) for _, bias in op.parts]
    if site.x not in site.graph.values or None in weights or any(name in site.graph.values for name in biases):
        return pinned(site, Why.COMPUTED)
    states = (*site.node.inputs[1:], *site.node.outputs)
    held = tuple(dict.fromkeys(name for name in states if name in site.graph.values))
    return (Pinned(held, Why.RECURRENT), Absorbed(site.x, len(site.shape(site.x)) - 1))


@rewritten.register(Recurrent)
def _rewrite_recurrent(op: Recurrent, site: Site, frames: Frames) -> tuple[Edit, ...]:
    frame = frames.get(site.x)
    if frame is None or frame.is_identity:
        return ()
    new: dict[int, Floats] = {}
    for place, bias in op.parts:
        constant = site.constant(place)
        assert constant is not None
        weight = constant.load()
        if (frame.scale != 1).any():
            new[place] = weight * frame.scale
        if frame.shift.any():
            new[bias] = _bias(site, bias, weight, weight @ frame.shift)
    return (SetConstants(site.node.name, new),)


def _bias(site: Site, index: int, weight: Floats, added: Floats) -> Floats:
    """Add to b, (*D, gates), and leave the recurrent bias behind it; both are zero where there is no bias."""
    *stack, gates, _ = weight.shape
    old = site.constant(index)
    bias = np.zeros((*stack, 2 * gates)) if old is None else old.load().copy()
    bias[..., :gates] += added
    return bias
