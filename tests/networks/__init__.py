"""Random graphs of all the operators, with random affines everywhere: what a fold is tried on.

A network grows by moves; each puts one operator, or a few, on tensors that are there, where their shapes let it.
"""

from collections.abc import Callable, Mapping

import numpy as np

from bnfold.graph import Graph
from tests.networks.elementwise import activation, affine, batch_norm, other_activation
from tests.networks.growth import Growth
from tests.networks.joining import branches, concat, extremum, gate, join, lookup, position, residual
from tests.networks.layout import expand, flip, pixels, reshape, shape_of, shuffle, split, stack, take, tile, transpose
from tests.networks.linear import again, conv, conv_transpose, einsum, gemm, linear, mat_mul, tied
from tests.networks.partial import bilinear, recurrent
from tests.networks.sampling import pad, pooling, reduction, resize

Move = Callable[[Growth, str], None]
INPUTS = [(2, 3, 4, 4), (2, 4, 5, 3), (1, 2, 3, 2, 3), (2, 4, 6), (3, 6), (2, 5, 4), (2, 1, 4, 4)]

MOVES: dict[Move, float] = {
    batch_norm: 6, affine: 1, conv: 6, conv_transpose: 1, again: 1, tied: 0.5, linear: 1.5, gemm: 1, mat_mul: 1,
    einsum: 0.5, activation: 3, other_activation: 0.7, pooling: 1.5, reduction: 1, resize: 0.7, pad: 0.7,
    transpose: 1, reshape: 1.5, shuffle: 0.5, expand: 0.4, take: 0.7, split: 0.7, pixels: 0.6, concat: 1.5,
    position: 0.7, lookup: 0.3,
    extremum: 0.4, flip: 0.3, tile: 0.4, stack: 0.4, join: 1.5, residual: 2, branches: 1, gate: 0.5, shape_of: 0.2,
}  # fmt: skip

# With layers that are linear at some of their ends only, and more along their axis.
LAYERS: dict[Move, float] = MOVES | {recurrent: 3, bilinear: 2, transpose: 3, linear: 3, affine: 3}

# Affines that stand in each other's way: where one takes the frame of a trunk, another can't.
RIVALS: dict[Move, float] = {
    batch_norm: 6,
    residual: 2,
    concat: 1,
    join: 3,
    activation: 3,
    conv: 1,
    split: 0.5,
    take: 0.5,
}


def network(
    seed: int, moves: int | None = None, chances: Mapping[Move, float] = MOVES, *, plain: bool = False
) -> Graph:
    """Give the network of this seed, always the same one.

    moves: how many; 4 to 16 by default. plain: no gamma is zero, and no node has limits.
    """
    g = Growth(seed, positive_only=seed % 3 == 0, zeros=not plain, limits=not plain)
    for k in range(1 + g.chance(0.2)):
        g.live.append(g.input(*INPUTS[g.rng.integers(len(INPUTS))], name=f"x{k}"))
    if g.chance(0.6):
        conv(g, g.live[0])
    probabilities = np.array(list(chances.values())) / sum(chances.values())
    for number in g.rng.choice(len(chances), size=moves or int(g.rng.integers(4, 17)), p=probabilities):
        list(chances)[number](g, g.pick())
    for x in _unread(g):
        if g.chance(0.5):
            g.any(linear, conv, reduction, activation)(g, x)
    inner = [name for name in g.live if name not in (*_unread(g), *g.inputs)]
    seen = [inner[g.rng.integers(len(inner))]] if inner and g.chance(0.1) else []
    return g.graph(*_unread(g), *seen)


def _unread(g: Growth) -> list[str]:
    read = {name for node in g.nodes for name in node.inputs}
    return [name for name in g.values if name not in read and name not in g.inputs]
