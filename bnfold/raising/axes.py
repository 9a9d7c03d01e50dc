"""Which axis holds the channels of a tensor, where nothing but a number is applied to it."""

from bnfold import ops
from bnfold.graph import CHANNELS, Graph, Node

REACH = 16  # nodes; whoever is farther away doesn't decide

_SAME_SHAPE = (
    ops.Affine,
    ops.Binary,
    ops.Unary,
    ops.Relu,
    ops.LeakyRelu,
    ops.PRelu,
    ops.Abs,
    ops.Clip,
    ops.Identity,
    ops.Cast,
)


def channel_axis(graph: Graph, value: str) -> int | None:
    """Give the axis that the layers around a value use; else axis 1, or the last one; None where no size is known.

    A scalar affine is the same along every axis, and only one of them is the axis that a neighbour can take it on.
    """
    shape = graph.shape(value)
    if not shape:
        return None
    found = _behind(graph, value, REACH)
    if found is None:
        found = _ahead(graph, value, REACH)
    for axis in (found, 1 if len(shape) > 1 else None, len(shape) - 1):
        size = shape[axis] if axis is not None else None
        if isinstance(size, int) and size <= CHANNELS:
            return axis
    return None


def linear_axis(graph: Graph, node: Node) -> int | None:
    """Give the output channels' axis of a linear node; None for any other."""
    shape = graph.shape(node.output)
    match node.op:
        case ops.Conv() | ops.ConvTranspose() | ops.BatchNorm():
            return 1
        case ops.Linear():
            return None if shape is None else len(shape) - 1
        case ops.Gemm() | ops.MatMul():
            sides = [name in graph.constants for name in node.inputs[:2]]
            if shape is None or sides[0] == sides[1]:
                return None
            return len(shape) - (1 if sides[1] else 2)
        case _:
            return None


def _behind(graph: Graph, value: str, reach: int) -> int | None:
    """Follow the value back to the layer that made its channels."""
    node = graph.producer.get(value)
    if node is None or reach == 0:
        return None
    axis = linear_axis(graph, node)
    if axis is not None:
        return axis
    if isinstance(node.op, ops.Transpose):
        before = _behind(graph, node.inputs[0], reach - 1)
        return None if before is None else node.op.permutation.index(before)
    if isinstance(node.op, ops.MaxPool | ops.AvgPool):
        return _behind(graph, node.inputs[0], reach - 1)
    if isinstance(node.op, _SAME_SHAPE):
        wide = (name for name in node.inputs if name in graph.values and graph.shape(name) == graph.shape(value))
        return next((axis for name in wide if (axis := _behind(graph, name, reach - 1)) is not None), None)
    return None


def _ahead(graph: Graph, value: str, reach: int) -> int | None:
    """Follow the value to the first layer that contracts its channels."""
    for node in graph.readers.get(value, ()) if reach else ():
        axis = _read_along(graph, node, value, reach)
        if axis is not None:
            return axis
    return None


def _read_along(graph: Graph, node: Node, value: str, reach: int) -> int | None:
    shape = graph.shape(value)
    match node.op:
        case ops.Conv() | ops.ConvTranspose() | ops.BatchNorm():
            return 1
        case ops.Linear():
            return None if shape is None else len(shape) - 1
        case ops.MatMul() if shape is not None and node.inputs[1] in graph.constants:
            return len(shape) - 1
        case ops.Transpose(permutation=permutation):
            after = _ahead(graph, node.output, reach - 1)
            return None if after is None else permutation[after]
        case op if isinstance(op, _SAME_SHAPE) and shape == graph.shape(node.output):
            return _ahead(graph, node.output, reach - 1)
        case _:
            return None
