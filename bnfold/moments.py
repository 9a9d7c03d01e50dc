"""What a tensor is on average, channel by channel, as far as the statistics of the model tell.

A BatchNorm knows the mean and variance of what it reads. Behind it they follow the data: an affine moves them, an
activation of a normal variable is integrated, poolings and layouts carry them. They are estimates (only rounding in
half precision asks for them, where a wrong one costs nothing but its use), so that no operator must have a rule here.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeAlias

import numpy as np

from bnfold import ops
from bnfold.affine import Affine, Floats
from bnfold.graph import Graph, Node
from bnfold.record import record
from bnfold.relation import Carried, Multiplied, Site, Summed
from bnfold.rules import relation
from bnfold.rules.affine import MEAN, VARIANCE, affine_of

Function: TypeAlias = Callable[[Floats], Floats]

POINTS = 32  # of a quadrature, for expectations of a normal variable
RAISED = 0.75  # deviations by which the greatest of a window lies above the mean: 4 independent ones 1.03, alike ones 0


@record(eq=False)
class Moments:
    """mean, variance: (C,) float64, along `axis`."""

    axis: int
    mean: Floats
    variance: Floats


def moments(graph: Graph) -> dict[str, Moments]:
    """Estimate the moments of values, by name; those of which nothing is known are left out. Loads no weight."""
    found = _measured(graph)
    for node in graph.nodes:
        for name, one in _given_by(node, graph, found):
            found.setdefault(name, one)
    return found


def _measured(graph: Graph) -> dict[str, Moments]:
    """What a BatchNorm reads has its running statistics."""
    found: dict[str, Moments] = {}
    for node in graph.nodes:
        statistics = [graph.constants.get(name) for name in node.inputs[MEAN : VARIANCE + 1]]
        if isinstance(node.op, ops.BatchNorm) and len(statistics) == 2 and all(statistics):
            mean, variance = (constant.load() for constant in statistics if constant is not None)
            if np.isfinite(mean).all() and np.isfinite(variance).all():
                found.setdefault(node.inputs[0], Moments(1, mean, np.maximum(variance, 0.0)))
    return found


def _given_by(node: Node, graph: Graph, found: Mapping[str, Moments]) -> list[tuple[str, Moments]]:
    """Give what a node makes of the moments of its inputs."""
    if isinstance(node.op, (ops.BatchNorm, ops.Affine)):
        one = _through_affine(Site(node, graph), found)
        return [(node.output, one)] if one is not None else []
    function = _function(node, graph)
    if function is not None:
        x = found.get(node.inputs[0])
        return [(node.output, _through(function, x))] if x is not None else []
    given = []
    for tie in relation(Site(node, graph)):
        match tie:
            case Carried(source, target):
                one = _carried(node, graph, tie, found[source]) if source in found else None
                given += [(target, one)] if one is not None else []
            case Summed(terms, target) if terms and all(name in found for name, _ in terms):
                given += [(target, one) for one in _summed([(found[name], factor) for name, factor in terms])]
            case Multiplied(factors, target) if all(name in found for name in factors):
                given += [(target, one) for one in _multiplied(factors, graph, found)]
    return _joined(given)


def _joined(given: list[tuple[str, Moments]]) -> list[tuple[str, Moments]]:
    """Put together what several inputs give to one output (a concat); NaN where an input is unknown: mean 0 there."""
    whole: dict[str, Moments] = {}
    for name, one in given:
        old = whole.get(name)
        if old is None or old.axis != one.axis or old.mean.shape != one.mean.shape:
            whole[name] = one
            continue
        known = np.isfinite(old.mean)
        whole[name] = Moments(
            one.axis, np.where(known, old.mean, one.mean), np.where(known, old.variance, one.variance)
        )
    return list(whole.items())


def _through_affine(site: Site, found: Mapping[str, Moments]) -> Moments | None:
    """s x + t; without statistics it is taken for a normalisation, whose output has mean 0 and variance 1."""
    if any(name not in site.graph.constants for name in site.node.inputs[1:] if name):
        return None
    if isinstance(site.node.op, ops.BatchNorm) and len(site.node.inputs) <= VARIANCE:
        return None
    affine, x = affine_of(site), found.get(site.x)
    if x is None or (x.axis, len(x.mean)) != (affine.axis, affine.channels):
        return Moments(affine.axis, np.zeros(affine.channels), np.ones(affine.channels))
    with np.errstate(all="ignore"):
        return Moments(x.axis, affine.scale * x.mean + affine.shift, affine.scale**2 * x.variance)


def _carried(node: Node, graph: Graph, tie: Carried, x: Moments) -> Moments | None:
    image = tie.view.image(x.axis, len(x.mean))
    shape = graph.shape(tie.target)
    if image is None or shape is None:
        return None
    size = shape[image.axis]
    if not isinstance(size, int):
        size = int(image.target.max(initial=-1)) + 1
    mean, variance = np.full(size, np.nan), np.full(size, np.nan)
    raised = RAISED * np.sqrt(x.variance) if _takes_greatest(node) else 0.0
    mean[image.target] = (tie.times * (x.mean + raised))[image.source]
    variance[image.target] = (abs(tie.times) * x.variance)[image.source]
    return Moments(image.axis, mean, variance)


def _takes_greatest(node: Node) -> bool:
    return isinstance(node.op, ops.MaxPool) or (isinstance(node.op, ops.Reduce) and node.op.kind == "max")


def _summed(terms: list[tuple[Moments, float]]) -> list[Moments]:
    """As if the terms were independent."""
    first = terms[0][0]
    if any((one.axis, one.mean.shape) != (first.axis, first.mean.shape) for one, _ in terms):
        return []
    mean = sum((factor * one.mean for one, factor in terms), np.zeros_like(first.mean))
    variance = sum((factor**2 * one.variance for one, factor in terms), np.zeros_like(first.mean))
    return [Moments(first.axis, mean, variance)]


def _multiplied(factors: tuple[str, ...], graph: Graph, found: Mapping[str, Moments]) -> list[Moments]:
    """As if the factors were independent, less x * f(x), which is one function of x (SiLU as x * sigmoid(x))."""
    u, v = (found[name] for name in (factors[0], factors[-1]))
    if len(factors) != 2 or (u.axis, u.mean.shape) != (v.axis, v.mean.shape):
        return []
    for x, other in (factors, factors[::-1]):
        maker = graph.producer.get(other)
        function = _function(maker, graph) if maker is not None and maker.inputs[:1] == (x,) else None
        if function is not None:
            return [_through(_times_itself(function), found[x])]
    square = (u.variance + u.mean**2) * (v.variance + v.mean**2)
    return [Moments(u.axis, u.mean * v.mean, square - (u.mean * v.mean) ** 2)]


def _times_itself(function: Function) -> Function:
    return lambda x: x * function(x)


@cache
def _quadrature() -> tuple[Floats, Floats]:
    """Give nodes and weights for a standard normal variable (Gauss and Hermite)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(POINTS)
    return nodes.astype(np.float64), (weights / weights.sum()).astype(np.float64)


def _through(function: Function, x: Moments) -> Moments:
    """Integrate function(x) and its square for a normal x."""
    nodes, weights = _quadrature()
    points = x.mean[:, None] + np.sqrt(x.variance)[:, None] * nodes
    with np.errstate(all="ignore"):
        values = function(points)
        mean = values @ weights
        variance = (values - mean[:, None]) ** 2 @ weights
    return Moments(x.axis, mean, variance)


def _function(node: Node, graph: Graph) -> Function | None:
    """Give what an elementwise node computes of (channels, points); None for any other node."""
    match node.op:
        case ops.Relu():
            return lambda x: np.maximum(x, 0.0)
        case ops.LeakyRelu(slope):
            return lambda x: np.where(x > 0, x, slope * x)
        case ops.PRelu() if node.inputs[1] in graph.constants:
            slopes = graph.constants[node.inputs[1]].load().reshape(-1, 1)
            return lambda x: np.where(x > 0, x, (slopes if len(slopes) == len(x) else slopes.mean()) * x)
        case ops.Abs():
            return np.abs
        case ops.Clip(lo, hi):
            return lambda x: np.clip(x, lo if lo is not None else -np.inf, hi if hi is not None else np.inf)
        case ops.Unknown(kind) if len(node.inputs) == 1:
            return FUNCTIONS.get(kind.removeprefix("aten.").split(".")[0].lower())
        case _:
            return None


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 + 0.5 * np.tanh(0.5 * x)
    return result


def _softplus(x: Floats) -> Floats:
    result: Floats = np.logaddexp(0.0, x)
    return result


FUNCTIONS: Mapping[str, Function] = {  # by ATen's and ONNX's names, in small letters
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": _softplus,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * _sigmoid(1.702 * x),  # within 0.02 of x Phi(x): Hendrycks and Gimpel 2016
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0.0, 1.0),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0),
}


def in_frame(one: Moments, frame: Affine | None) -> Moments | None:
    """Give the moments of T' = (T - shift) / scale; None where the frame lies along another axis."""
    if frame is None or frame.is_identity:
        return one
    if (frame.axis, frame.channels) != (one.axis, len(one.mean)):
        return None
    return Moments(one.axis, (one.mean - frame.shift) / frame.scale, one.variance / frame.scale**2)
