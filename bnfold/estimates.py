"""What the tensors of a model are on average, as far as its statistics and weights tell.

A BatchNorm knows the mean and variance of what it reads. Behind it they follow the data: affines move them, activations
of a normal variable are integrated, linear operators, poolings and layouts carry them. Where a tensor of which nothing
is known (the model's input) is read by a linear operator before a BatchNorm, the statistics behind tell of it, too.
They are estimates (only rounding in half precision asks for them, where a wrong one costs nothing but its use), so that
no operator must have a rule here.
"""

import math
from collections.abc import Collection, Iterator

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.elementwise import Function, function_of
from bnfold.graph import Constant, Graph, Node
from bnfold.measured import measured
from bnfold.moments import POINTS, Moments, joined, multiplied, normal, share, summed, through, through_affine
from bnfold.relation import Carried, Contracted, Multiplied, Site, Summed
from bnfold.rounding import by_row
from bnfold.rules import relation
from bnfold.rules.affine import VARIANCE, affine_of
from bnfold.rules.linear import channels_of, contraction
from bnfold.rules.weights import constant_times_shift
from bnfold.why import Why

RAISED = 0.75  # deviations by which the greatest of a window lies above the mean: 4 independent ones 1.03, alike ones 0
TRUST = 0.1  # deviations by which statistics behind a layer may miss what its weights give: padding, drift in training


def moments(graph: Graph, wanted: Collection[str]) -> dict[str, Moments]:
    """Estimate what `wanted` tensors and those that these are made of are on average, as far as anything is known."""
    estimates = Estimates(graph)
    for node in made_by(graph, wanted):
        estimates.step(node)
    return estimates.found


def made_by(graph: Graph, wanted: Collection[str]) -> Iterator[Node]:
    """Give the nodes that tensors are made by, in the graph's order."""
    needed, nodes = set(wanted), set[str]()
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            nodes.add(node.name)
            needed.update(node.inputs)
    return (node for node in graph.nodes if node.name in nodes)


def seen(node: Node) -> float:
    """How much of a kernel an output sees: of a transposed convolution's, one tap in as many as it makes positions."""
    return 1 / math.prod(node.op.strides) if isinstance(node.op, ops.ConvTranspose) else 1.0


class Estimates:
    """Moments by tensor, found node by node. Statistics that were measured stay; what is off is added to them.

    apart: linear nodes for which somebody else tells what is off behind them.
    """

    def __init__(self, graph: Graph, apart: Collection[str] = ()) -> None:
        self.graph, self.apart = graph, apart
        self.found = measured(graph)
        self._measured = frozenset(self.found)

    def step(self, node: Node) -> None:
        """Take in what a node tells. Those before it must have been taken in."""
        linear = contraction(Site(node, self.graph))
        if linear is not None and linear.source not in self.found and linear.target in self._measured:
            self.found.update(self._in_front(node, linear))
        for name, one in self._given_by(node, linear):
            old = self.found.get(name)
            if old is None:
                self.found[name] = one
            elif (old.axis, old.channels) == (one.axis, one.channels):
                self.found[name] = old.leaning(one.off, one.gain) if one.is_off else old

    def of_channels(self, name: str, axis: int, channels: int) -> Moments | None:
        """Give what is known of a tensor along an axis."""
        one = self.found.get(name)
        return one if one is not None and (one.axis, one.channels) == (axis, channels) else None

    def _given_by(self, node: Node, linear: Contracted | None) -> list[tuple[str, Moments]]:
        """Give what a node makes of the moments of its inputs."""
        if linear is not None:
            one = self._through_linear(node, linear)
        elif isinstance(node.op, (ops.BatchNorm, ops.Affine)):
            one = self._through_affine(Site(node, self.graph))
        else:
            function = function_of(node, self.graph)
            if function is None:
                return self._tied(node)
            x = self.found.get(node.inputs[0])
            one = through(function, x) if x is not None else None
        return [(node.output, one)] if one is not None else []

    def _tied(self, node: Node) -> list[tuple[str, Moments]]:
        """Give what follows from a node's relation."""
        given: dict[str, list[Moments]] = {}
        for tie in relation(Site(node, self.graph)):
            one = None
            match tie:
                case Carried(source, target) if source in self.found:
                    one = self._carried(node, tie, self.found[source])
                case Summed(terms, target) if terms and all(name in self.found for name, _ in terms):
                    one = summed([(self.found[name], factor) for name, factor in terms], target)
                case Multiplied((u, v), target) if u in self.found and v in self.found:
                    one = multiplied(self.found[u], self.found[v], target)
                case _:
                    continue
            if one is not None:
                given.setdefault(target, []).append(one)
        return [(name, joined(parts)) for name, parts in given.items()]

    def _through_affine(self, site: Site) -> Moments | None:
        """s x + t; without statistics it is taken for a normalisation, whose output has mean 0 and variance 1."""
        if any(name not in self.graph.constants for name in site.node.inputs[1:] if name):
            return None
        if isinstance(site.node.op, ops.BatchNorm) and len(site.node.inputs) <= VARIANCE:
            return None
        affine = affine_of(site)
        x = self.of_channels(site.x, affine.axis, affine.channels)
        if x is None:
            return normal(affine.axis, np.zeros(affine.channels), np.ones(affine.channels), site.y)
        return through_affine(affine, x)

    def _through_linear(self, node: Node, linear: Contracted) -> Moments | None:
        """W x + b, as if the numbers that are added up were independent."""
        weight = self.graph.constants[linear.weight]
        inputs, outputs = channels_of(linear, weight.shape)
        x = self.of_channels(linear.source, linear.source_axis, inputs)
        if x is None or linear.still is Why.AXIS:  # of a stack of weights, each position has one of its own
            return None
        carries = x.is_off and node.name not in self.apart
        if linear.target in self._measured and not carries:
            return None
        alpha = linear.alpha * seen(node)
        mean = alpha * constant_times_shift(linear, weight, np.nan_to_num(x.mean)) + self._bias(linear, outputs)
        spread = np.nan_to_num(x.variance, nan=1.0)
        square = elementwise(weight, np.square)
        variance = linear.alpha * alpha * constant_times_shift(linear, square, spread)
        y = normal(linear.target_axis, mean, variance, linear.target)
        if not carries:
            return y
        off = alpha * constant_times_shift(linear, weight, x.off)
        along = linear.alpha * alpha * constant_times_shift(linear, square, x.gain * spread)
        return y.leaning(off, share(along, variance))

    def _in_front(self, node: Node, linear: Contracted) -> dict[str, Moments]:
        """Estimate an unknown x from the statistics of y = W x + b, group by group.

        One variance for all channels: var(y) = v * sum W^2. The means solve W m = mean(y) - b, weighted least squares
        beside m ~ N(0, v).
        """
        weight = self.graph.constants[linear.weight]
        inputs, outputs = channels_of(linear, weight.shape)
        y = self.of_channels(linear.target, linear.target_axis, outputs)
        if y is None or not linear.alpha or linear.still is Why.AXIS:
            return {}
        shape = linear.groups, outputs // linear.groups, inputs // linear.groups, -1
        rows = by_row(linear, weight.load()).reshape(shape)
        mean = (y.mean - self._bias(linear, outputs)).reshape(linear.groups, -1)
        variance, size = y.variance.reshape(mean.shape), np.square(rows).sum(axis=(1, 2, 3))
        size *= linear.alpha**2 * seen(node)
        of_x = variance.sum(axis=1) / np.where(size > 0, size, np.nan)
        if not (np.isfinite(of_x).all() and np.isfinite(mean).all() and (of_x > 0).all()):
            return {}
        taps = linear.alpha * seen(node) * rows.sum(axis=3)
        trust = 1 / (TRUST**2 * np.maximum(variance, 1e-6 * variance.max(axis=1, keepdims=True)))
        left = np.einsum("goi,go,goj->gij", taps, trust, taps, optimize=True)
        left += np.eye(left.shape[1]) / of_x[:, None, None]
        solved = np.linalg.solve(left, np.einsum("goi,go->gi", taps, trust * mean)[..., None])
        spread = np.repeat(of_x, left.shape[1])
        return {linear.source: normal(linear.source_axis, solved.reshape(-1), spread, linear.source)}

    def _bias(self, linear: Contracted, outputs: int) -> Floats:
        """Give what is added to W x, (out,); zeros where it isn't one number a channel."""
        bias = self.graph.constants[linear.bias].load().reshape(-1) if linear.bias else np.zeros(outputs)
        return linear.beta * bias if len(bias) == outputs else np.zeros(outputs)

    def _carried(self, node: Node, tie: Carried, x: Moments) -> Moments | None:
        image = tie.view.image(x.axis, x.channels)
        shape = self.graph.shape(tie.target)
        if image is None or shape is None:
            return None
        size = shape[image.axis]
        if not isinstance(size, int):
            size = int(image.target.max(initial=-1)) + 1
        points, lean, stretch = np.full((size, POINTS), np.nan), np.zeros(size), np.zeros(size)
        raised = RAISED * np.sqrt(x.variance)[:, None] if _takes_greatest(node) else 0.0
        points[image.target] = (tie.times * (x.points + raised))[image.source]
        lean[image.target], stretch[image.target] = x.lean[image.source], x.stretch[image.source]
        return Moments(image.axis, points, lean, stretch, tie.target)


def _takes_greatest(node: Node) -> bool:
    return isinstance(node.op, ops.MaxPool) or (isinstance(node.op, ops.Reduce) and node.op.kind == "max")


def elementwise(weight: Constant, function: Function) -> Constant:
    """Give function(weight), of a function that takes each number by itself."""
    rows = weight.rows
    return Constant(
        weight.name,
        weight.shape,
        weight.dtype,
        lambda: function(weight.load()),
        (lambda start, stop: function(rows(start, stop))) if rows is not None else None,
    )
