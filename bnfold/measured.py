"""What the running statistics of BatchNorms tell of the tensors before them."""

import math

import numpy as np

from bnfold import ops
from bnfold.graph import Graph, Node
from bnfold.moments import Moments, normal
from bnfold.relation import Carried, Site
from bnfold.rules import relation
from bnfold.rules.affine import MEAN, VARIANCE
from bnfold.why import Why

LEAST = 0.05  # of a sum's variance, for an operand whose own comes out as less: the others vary with it


def measured(graph: Graph) -> dict[str, Moments]:
    """Give the moments of what BatchNorms read, and of what that is a mere layout of or, but for one operand, a sum of.

    Statistics of a residual trunk before and after a block tell of what the block adds.
    """
    found: dict[str, Moments] = {}
    for node in graph.nodes:
        one = _read_by(node, graph)
        if one is not None:
            found.setdefault(node.inputs[0], one)
    for node in [*reversed(graph.nodes)] * 2:  # an operand of a sum may be known by a reader that comes before the sum
        if node.output in found:
            _go_back(node, graph, found)
    return found


def _read_by(node: Node, graph: Graph) -> Moments | None:
    if not isinstance(node.op, ops.BatchNorm) or len(node.inputs) <= VARIANCE:
        return None
    if node.limits.get("remove") is Why.MALFORMED:
        return None
    mean, variance = (graph.constants.get(name) for name in node.inputs[MEAN : VARIANCE + 1])
    if mean is None or variance is None:
        return None
    numbers = mean.load(), variance.load()
    if not all(math.isfinite(one.sum()) for one in numbers):
        return None
    return normal(1, *numbers, node.inputs[0])


def _go_back(node: Node, graph: Graph, found: dict[str, Moments]) -> None:
    """Add what the moments of a node's output tell of its inputs."""
    y = found[node.output]
    match node.op:
        case ops.Transpose() | ops.Reshape() | ops.Identity() | ops.Cast() if node.inputs[0] not in found:
            x = _laid_out(node, graph, y)
            if x is not None:
                found[node.inputs[0]] = x
        case ops.Sum(coefficients):
            unknown = [index for index, name in enumerate(node.inputs) if name not in found]
            if len(unknown) == 1:
                x = _operand(node, coefficients, unknown[0], graph, found)
                if x is not None:
                    found[node.inputs[unknown[0]]] = x


def _laid_out(node: Node, graph: Graph, y: Moments) -> Moments | None:
    """Find the axis of x that becomes the axis of y, channel by channel."""
    (tie,) = relation(Site(node, graph))
    shape = graph.shape(node.inputs[0])
    if not isinstance(tie, Carried) or shape is None:
        return None
    for axis, size in enumerate(shape):
        image = tie.view.image(axis, y.channels) if size == y.channels else None
        if image is not None and image.axis == y.axis and image.is_whole:
            return normal(axis, y.mean, y.variance, node.inputs[0])
    return None


def _operand(
    node: Node, coefficients: tuple[float, ...], index: int, graph: Graph, found: dict[str, Moments]
) -> Moments | None:
    """Take the known operands off a sum, as if they varied independently."""
    y = found[node.output]
    if any(graph.shape(name) != graph.shape(node.output) for name in node.inputs) or not coefficients[index]:
        return None
    terms = zip(node.inputs, coefficients, strict=True)
    others = [(found[name], factor) for place, (name, factor) in enumerate(terms) if place != index]
    if any((one.axis, one.channels) != (y.axis, y.channels) for one, _ in others):
        return None
    mean, variance = y.mean, y.variance
    for one, factor in others:
        mean, variance = mean - factor * one.mean, variance - factor**2 * one.variance
    variance = np.maximum(variance, LEAST * y.variance) / coefficients[index] ** 2
    return normal(y.axis, mean / coefficients[index], variance, node.inputs[index])
