"""Moves: affines and activations."""

import numpy as np

from bnfold import ops
from tests.networks.growth import Growth


def batch_norm(g: Growth, x: str) -> None:
    g.normed(x)


def affine(g: Growth, x: str) -> None:
    axis = int(g.rng.integers(g.rank(x)))
    channels = g.shape(x)[axis]
    scale = g.rng.uniform(0.5, 2, channels) * (
        np.ones(channels) if g.positive_only else g.rng.choice([-1, 1], channels)
    )
    shift = g.rng.normal(size=channels) * g.chance(0.6)
    g.put(ops.Affine(axis), [x, g.vector(scale), g.vector(shift)], g.shape(x))


def activation(g: Growth, x: str) -> None:
    clip = ops.Clip(*g.any((0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 0.5), (None, None)))
    op = g.any(ops.Relu(), ops.Relu(), ops.Relu(), ops.LeakyRelu(0.1), ops.Abs(), clip, ops.Identity(), ops.Cast())
    g.put(op, [x], g.shape(x))


def other_activation(g: Growth, x: str) -> None:
    if g.chance(0.2):
        axis = int(g.rng.integers(g.rank(x)))
        low, high = np.sort(g.rng.normal(size=(2, g.shape(x)[axis])), axis=0)
        low[g.rng.random(len(low)) < 0.5], high[g.rng.random(len(high)) < 0.5] = -np.inf, np.inf
        g.put(ops.ChannelClip(axis), [x, g.vector(low), g.vector(high)], g.shape(x))
    elif g.chance(0.5) and g.rank(x) > 1:
        slopes = g.rng.normal(size=(g.shape(x)[1], *[1] * (g.rank(x) - 2)))
        g.put(ops.PRelu(), [x, g.vector(slopes)], g.shape(x))
    else:
        g.put(ops.Unknown(str(g.any("sigmoid", "sin", "softplus"))), [x], g.shape(x))
