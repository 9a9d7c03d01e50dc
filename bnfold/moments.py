"""How the channels of a tensor are distributed, and by how much they are off once weights are rounded: the algebra.

Each channel is a function of a standard normal variable z, known at the nodes of a quadrature: y = g(z). Elementwise
operators apply to these points, so that an activation written out (x * sigmoid(x), GELU by erf) is one function of z
like any other. What is off is kept as a shift and a stretch of z, y + d = g(z + lean + stretch * z). However g bends,
Stein's lemma gives to first order, with h = (g - E[g])^2 / 2:

    E[d]      = lean * E[z g] + stretch * E[(z^2 - 1) g]
    cov(d, y) = lean * E[z h] + stretch * E[(z^2 - 1) h]
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from bnfold.affine import Affine, Chain, Floats
from bnfold.elementwise import Function
from bnfold.record import record

POINTS = 32  # of the quadrature
SINGULAR = 1e-9  # what is off on average and along itself can't be told apart


@cache
def _quadrature() -> tuple[Floats, Floats]:
    """Give nodes and weights for a standard normal variable (Gauss and Hermite)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(POINTS)
    return nodes.astype(np.float64), (weights / weights.sum()).astype(np.float64)


@record(eq=False)
class Moments:
    """Channels along `axis`. points: (C, POINTS) float64, NaN in channels of which nothing is known.

    lean, stretch: (C,), what the channels are off by, in z.

    origin: names z; only tensors of one origin vary together.
    """

    axis: int
    points: Floats
    lean: Floats
    stretch: Floats
    origin: str

    @property
    def channels(self) -> int:
        """The length of the axis."""
        return len(self.points)

    @property
    def mean(self) -> Floats:
        """E[y]: (C,)."""
        result: Floats = self.points @ _quadrature()[1]
        return result

    @property
    def variance(self) -> Floats:
        """Var(y): (C,)."""
        result: Floats = (self.points - self.mean[:, None]) ** 2 @ _quadrature()[1]
        return result

    @property
    def off(self) -> Floats:
        """What the tensor is off on average: (C,), 0 in channels of which nothing is known."""
        result: Floats = self._off()[0]
        return result

    @property
    def gain(self) -> Floats:
        """What it is off in proportion to its deviation from the mean, cov(d, y) / var(y): (C,), 0 where unknown."""
        result: Floats = share(self._off()[1], self.variance)
        return result

    @property
    def is_off(self) -> bool:
        """Whether any channel is."""
        return bool(self.lean.any() or self.stretch.any())

    def leaning(self, off: Floats, gain: Floats) -> "Moments":
        """Give the same distribution, off by `off` (C,) on average, and by `gain` (C,) times its deviation."""
        (a, b), (c, d) = self._slopes()
        along = gain * self.variance
        with np.errstate(all="ignore"):
            lean, stretch = np.stack([d * off - b * along, a * along - c * off]) / (a * d - b * c)
            singular = ~(np.abs(a * d - b * c) > SINGULAR * (np.abs(a * d) + np.abs(b * c)))
            lean, stretch = np.where(singular, off / a, lean), np.where(singular, 0.0, stretch)
        return replace(self, lean=_finite(lean), stretch=_finite(stretch))

    def _off(self) -> Floats:
        """E[d] and cov(d, y), by Stein's lemma: (2, C)."""
        slopes = self._slopes()
        return _finite(slopes[:, 0] * self.lean + slopes[:, 1] * self.stretch)

    def _slopes(self) -> Floats:
        """What a unit of lean and of stretch adds to E[d] and to cov(d, y): (2, 2, C)."""
        nodes, weights = _quadrature()
        bases = np.stack([nodes * weights, (nodes**2 - 1) * weights], axis=1)
        centred = self.points - self.mean[:, None]
        result: Floats = np.stack([(self.points @ bases).T, (centred**2 @ bases).T / 2])
        return result


def normal(axis: int, mean: Floats, variance: Floats, origin: str) -> Moments:
    """Give normal channels, which are off by nothing. mean, variance: (C,)."""
    points = mean[:, None] + np.sqrt(np.maximum(variance, 0.0))[:, None] * _quadrature()[0]
    return Moments(axis, points, np.zeros(len(mean)), np.zeros(len(mean)), origin)


def through(function: Function, x: Moments) -> Moments:
    """Give the moments of function(x)."""
    with np.errstate(all="ignore"):
        return replace(x, points=function(x.points))


def through_affine(affine: Affine, x: Moments) -> Moments:
    """Give the moments of scale * x + shift."""
    return through(lambda points: affine.scale[:, None] * points + affine.shift[:, None], x)


def summed(terms: Sequence[tuple[Moments, float]], name: str) -> Moments | None:
    """Give those of the sum of factor * term, as if terms of different origins were independent. name: of the sum."""
    first = terms[0][0]
    if any((one.axis, one.channels) != (first.axis, first.channels) for one, _ in terms):
        return None
    zeros = np.zeros(first.channels)
    if all(one.origin == first.origin for one, _ in terms):
        return replace(first, points=sum((factor * one.points for one, factor in terms), zeros[:, None]))
    mean = sum((factor * one.mean for one, factor in terms), zeros)
    variance = sum((factor**2 * one.variance for one, factor in terms), zeros)
    off = sum((factor * one.off for one, factor in terms), zeros)
    along = sum((factor**2 * one.variance * one.gain for one, factor in terms), zeros)
    return normal(first.axis, mean, variance, name).leaning(off, share(along, variance))


def multiplied(u: Moments, v: Moments, name: str) -> Moments | None:
    """Give those of u * v, as if factors of different origins were independent. name: of the product."""
    if (u.axis, u.channels) != (v.axis, v.channels):
        return None
    if u.origin == v.origin:
        return replace(u, points=u.points * v.points)
    square = (u.variance + u.mean**2) * (v.variance + v.mean**2)
    variance = square - (u.mean * v.mean) ** 2
    off = u.mean * v.off + v.mean * u.off
    along = (u.variance + u.mean**2) * (v.gain * v.variance) + (v.variance + v.mean**2) * (u.gain * u.variance)
    along += u.mean * u.off * v.variance + v.mean * v.off * u.variance
    return normal(u.axis, u.mean * v.mean, variance, name).leaning(off, share(along, variance))


def joined(parts: Sequence[Moments]) -> Moments:
    """Put together what several inputs give to one output (a concat), each of them known in channels of its own."""
    whole = parts[0]
    for part in parts[1:]:
        if (part.axis, part.channels) != (whole.axis, whole.channels):
            return part
        known = np.isfinite(whole.points[:, 0])
        points = np.where(known[:, None], whole.points, part.points)
        lean, stretch = np.where(known, (whole.lean, whole.stretch), (part.lean, part.stretch))
        whole = Moments(part.axis, points, lean, stretch, part.origin)
    return whole


def in_frame(one: Moments, chain: Chain) -> Moments | None:
    """Give the moments of T' = (T - shift) / scale, frame by frame; None where one lies along another axis."""
    for frame in chain:
        if (frame.axis, frame.channels) != (one.axis, one.channels):
            return None
        one = through_affine(frame.inverse(), one)
    return one


def share(along: Floats, variance: Floats) -> Floats:
    """Give along / variance, 0 in channels that don't vary."""
    return np.divide(along, variance, out=np.zeros(len(variance)), where=(variance != 0) & np.isfinite(variance))


def _finite(numbers: Floats) -> Floats:
    return np.where(np.isfinite(numbers), numbers, 0.0)
