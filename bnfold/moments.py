"""How the channels of a tensor are distributed, and by how much they are off once weights are rounded: the algebra.

Each channel is a function of a standard normal variable z, known at the nodes of a quadrature: y = g(z). Elementwise
operators apply to these points, so that an activation written out (x * sigmoid(x), GELU by erf) is one function of z
like any other. What is off is kept as a shift of z: by Stein's lemma E[g(z + lean)] - E[g(z)] is lean * E[z g(z)], to
first order, however g bends.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from bnfold.affine import Affine, Floats
from bnfold.elementwise import Function
from bnfold.record import record

POINTS = 32  # of the quadrature


@cache
def _quadrature() -> tuple[Floats, Floats]:
    """Give nodes and weights for a standard normal variable (Gauss and Hermite)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(POINTS)
    return nodes.astype(np.float64), (weights / weights.sum()).astype(np.float64)


@record(eq=False)
class Moments:
    """Channels along `axis`. points: (C, POINTS) float64, NaN in channels of which nothing is known. lean: (C,).

    origin: names z; only tensors of one origin vary together.
    """

    axis: int
    points: Floats
    lean: Floats
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
        nodes, weights = _quadrature()
        slope = self.points @ (nodes * weights)
        result: Floats = np.where(np.isfinite(slope), self.lean * slope, 0.0)
        return result

    def leaning(self, off: Floats) -> "Moments":
        """Give the same distribution, off by `off` (C,)."""
        nodes, weights = _quadrature()
        slope = self.points @ (nodes * weights)
        lean = np.divide(off, slope, out=np.zeros(self.channels), where=np.isfinite(slope) & (slope != 0))
        return replace(self, lean=lean)


def normal(axis: int, mean: Floats, variance: Floats, origin: str) -> Moments:
    """Give normal channels, which are off by nothing. mean, variance: (C,)."""
    points = mean[:, None] + np.sqrt(np.maximum(variance, 0.0))[:, None] * _quadrature()[0]
    return Moments(axis, points, np.zeros(len(mean)), origin)


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
    return normal(first.axis, mean, variance, name).leaning(sum((factor * one.off for one, factor in terms), zeros))


def multiplied(u: Moments, v: Moments, name: str) -> Moments | None:
    """Give those of u * v, as if factors of different origins were independent. name: of the product."""
    if (u.axis, u.channels) != (v.axis, v.channels):
        return None
    if u.origin == v.origin:
        return replace(u, points=u.points * v.points)
    square = (u.variance + u.mean**2) * (v.variance + v.mean**2)
    product = normal(u.axis, u.mean * v.mean, square - (u.mean * v.mean) ** 2, name)
    return product.leaning(u.mean * v.off + v.mean * u.off)


def joined(parts: Sequence[Moments]) -> Moments:
    """Put together what several inputs give to one output (a concat), each of them known in channels of its own."""
    whole = parts[0]
    for part in parts[1:]:
        if (part.axis, part.channels) != (whole.axis, whole.channels):
            return part
        known = np.isfinite(whole.points[:, 0])
        points = np.where(known[:, None], whole.points, part.points)
        whole = Moments(part.axis, points, np.where(known, whole.lean, part.lean), part.origin)
    return whole


def in_frame(one: Moments, frame: Affine | None) -> Moments | None:
    """Give the moments of T' = (T - shift) / scale; None where the frame lies along another axis."""
    if frame is None or frame.is_identity:
        return one
    if (frame.axis, frame.channels) != (one.axis, one.channels):
        return None
    return through_affine(frame.inverse(), one)
