"""Which arithmetic is an affine, a sum or a product."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from bnfold import ops
from bnfold.affine import Affine, Floats
from bnfold.graph import Constant, Dim, Graph, Node
from bnfold.raising.axes import channel_axis
from bnfold.raising.constants import FLOATS, LIMIT
from bnfold.raising.parameters import is_data
from bnfold.record import record

Shape = tuple[Dim, ...]


@record(eq=False, slots=False)
class Link:
    """Arithmetic nodes, in the order of the data, that take `x` to `affine(x)`."""

    nodes: tuple[Node, ...]
    x: str
    affine: Affine

    @property
    def y(self) -> str:
        """What the last node computes."""
        return self.nodes[-1].output

    @cached_property
    def is_uniform(self) -> bool:
        """Whether all channels have one scale and one shift, so that the axis doesn't matter."""
        return bool(np.ptp(self.affine.scale) == 0 and np.ptp(self.affine.shift) == 0)


def links(graph: Graph) -> list[Link]:
    """Find the nodes that are an affine of one variable, in the graph's order."""
    found = []
    for node in graph.nodes:
        link = _link(node, graph)
        if link is not None and np.isfinite([link.affine.scale, link.affine.shift]).all():
            found.append(link)
    return found


def with_sums(graph: Graph) -> Graph:
    """Turn the arithmetic that is left into Sum, Product and Unknown."""
    return replace(graph, nodes=tuple(_joined(node, graph) for node in graph.nodes))


def _joined(node: Node, graph: Graph) -> Node:
    match node.op:
        case ops.Binary(kind=kind, alpha=alpha):
            variable = _joins_tensors(node, graph)
            if variable and kind in ("add", "sub"):
                return replace(node, op=ops.Sum((1.0, alpha if kind == "add" else -alpha)))
            if variable and kind == "mul" and alpha == 1:
                return replace(node, op=ops.Product())
            return replace(node, op=ops.Unknown(kind))
        case ops.Unary(kind=kind):
            return replace(node, op=ops.Unknown(kind))
        case _:
            return node


def _joins_tensors(node: Node, graph: Graph) -> bool:
    """Whether the operands are floats that are computed, or one of them a constant that can be data."""
    computed = [graph.values[name].dtype for name in node.inputs if name in graph.values]
    constants = [graph.constants[name] for name in node.inputs if name in graph.constants]
    alike = all(is_data(constant) and [constant.dtype] == computed for constant in constants)
    return alike and len(computed) + len(constants) == 2 and FLOATS.issuperset(computed)


def _link(node: Node, graph: Graph) -> Link | None:
    match node.op:
        case ops.Unary(kind="neg"):
            return _uniform(node, node.inputs[0], graph, -1.0, 0.0)
        case ops.Binary(kind=kind, alpha=alpha):
            left, right = node.inputs
            if right in graph.constants and left in graph.values:
                return _with_constant(node, left, graph.constants[right], kind, (1.0, alpha), graph)
            if left in graph.constants and right in graph.values and kind != "div":
                return _with_constant(node, right, graph.constants[left], kind, (alpha, 1.0), graph)
    return None


def _with_constant(
    node: Node, x: str, constant: Constant, kind: str, factors: tuple[float, float], graph: Graph
) -> Link | None:
    """Give scale * x + shift for kind(x, c) or kind(c, x); factors: alpha where it multiplies x, and c."""
    if int(np.prod(constant.shape)) > LIMIT or not _keeps_type(x, node.output, graph):
        return None
    with np.errstate(all="ignore"):  # `links` leaves out what isn't finite
        line = _line(constant.load(), graph.values[x].shape, _aligned(constant, x, node.output, graph))
        if line is None:
            return None
        axis, c = line
        of_x, of_c = factors
        swapped = node.inputs[0] != x
        match kind:
            case "add":
                scale, shift = np.full_like(c, of_x), of_c * c
            case "sub":
                scale, shift = np.full_like(c, -of_x if swapped else of_x), of_c * c if swapped else -of_c * c
            case "mul":
                scale, shift = of_x * of_c * c, np.zeros_like(c)
            case "div":
                scale, shift = of_x / (of_c * c), np.zeros_like(c)
            case _:
                return None
    if axis is None:
        return _uniform(node, x, graph, float(scale[0]), float(shift[0]))
    return Link((node,), x, Affine(axis, scale, shift))


def _keeps_type(x: str, y: str, graph: Graph) -> bool:
    """Whether the node leaves the float type of x alone: in float16 times a float32 constant hides a cast."""
    return graph.values[x].dtype == graph.values[y].dtype and graph.values[x].dtype in FLOATS


def _aligned(constant: Constant, x: str, y: str, graph: Graph) -> tuple[int, ...] | None:
    """Give the constant's shape with x's rank; None where broadcasting with it may enlarge x."""
    of_x, of_y = graph.values[x].shape, graph.values[y].shape
    if of_x is None or (of_y is not None and len(of_y) != len(of_x)) or len(constant.shape) > len(of_x):
        return None
    shape = (1,) * (len(of_x) - len(constant.shape)) + constant.shape
    return shape if all(size == 1 or size == dim for size, dim in zip(shape, of_x, strict=True)) else None


def _line(c: Floats, of_x: Sequence[Dim] | None, shape: tuple[int, ...] | None) -> tuple[int | None, Floats] | None:
    """Give the one axis along which c varies, with its numbers there: (C,), or (1,) where it varies along none."""
    if of_x is None or shape is None:
        return None
    c = c.reshape(shape)
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    if len(wide) > 1:  # an expanded constant repeats its numbers
        wide = [axis for axis in wide if np.any(c != np.take(c, [0], axis=axis))]
    if len(wide) > 1:
        return None
    if not wide:
        return None, c.reshape(-1)[:1].astype(np.float64)
    return wide[0], np.moveaxis(c, wide[0], 0).reshape(shape[wide[0]], -1)[:, 0].astype(np.float64)


def _uniform(node: Node, x: str, graph: Graph, scale: float, shift: float) -> Link | None:
    """Give the same scale and shift to every channel of the axis that is x's channel axis, as far as one can tell."""
    shape = graph.values[x].shape if x in graph.values else None
    if shape is None or not _keeps_type(x, node.output, graph):
        return None
    axis = channel_axis(graph, x)
    if axis is None:
        return None
    channels = shape[axis]
    assert isinstance(channels, int)
    return Link((node,), x, Affine(axis, np.full(channels, scale), np.full(channels, shift)))
