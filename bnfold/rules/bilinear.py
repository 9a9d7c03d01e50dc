"""A bilinear operator: scales of either input, and any affine of the output.

Put x1 = a1 x1', x2 = a2 x2' and y = a_y y' + d_y into y[o] = sum x1[i] W[o, i, j] x2[j] + b[o]:

    W'[o, i, j] = W[o, i, j] a1[i] a2[j] / a_y[o]        b' = (b - d_y) / a_y

A shift of one input would add what is linear in the other one, and no bias is.
"""

import numpy as np

from bnfold.affine import Frames
from bnfold.ops import Bilinear
from bnfold.plan import Edit, SetBias, SetConstants
from bnfold.relation import Absorbed, Site, Tie
from bnfold.rules.base import frame_of, pinned, rewritten, ties
from bnfold.why import Why

WEIGHT, BIAS, OTHER = 1, 2, 3  # operands besides the first


@ties.register(Bilinear)
def _bilinear(op: Bilinear, site: Site) -> tuple[Tie, ...]:
    inputs = (site.x, site.input(OTHER))
    computed = site.input(BIAS) in site.graph.values or any(name not in site.graph.values for name in inputs)
    if site.constant(WEIGHT) is None or computed:
        return pinned(site, Why.COMPUTED)
    ends = (Absorbed(name, len(site.shape(name)) - 1, still=Why.GATE) for name in dict.fromkeys(inputs))
    return (*ends, Absorbed(site.y, len(site.shape(site.y)) - 1, site.input(BIAS)))


@rewritten.register(Bilinear)
def _rewrite_bilinear(op: Bilinear, site: Site, frames: Frames) -> tuple[Edit, ...]:
    weight, bias = site.constant(WEIGHT), site.constant(BIAS)
    if weight is None or all(name not in frames for name in site.tensors_of):
        return ()
    outputs, *inputs = weight.shape
    names = (site.x, site.input(OTHER))
    first, second = (
        frame_of(frames, name, len(site.shape(name)) - 1, size) for name, size in zip(names, inputs, strict=True)
    )
    after = frame_of(frames, site.y, len(site.shape(site.y)) - 1, outputs)
    edits: list[Edit] = []
    factors = first.scale[:, None] * second.scale / after.scale[:, None, None]
    if (factors != 1).any():
        edits.append(SetConstants(site.node.name, {WEIGHT: weight.load() * factors}))
    old = np.zeros(outputs) if bias is None else bias.load()
    new = (old - after.shift) / after.scale
    if not np.array_equal(new, old):
        edits.append(SetBias(site.node.name, new))
    return tuple(edits)
