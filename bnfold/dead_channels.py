"""Dead channels: where gamma == 0 an affine gives its shift whatever it is given, so that its layer need give nothing.

gamma == 0 has no inverse, but with the rows of such a channel zero, the linear node before it gives 0 there, and what
lies between makes one constant c of that: the affine is y = x + (t - c).
"""

from collections.abc import Callable, Iterator
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from bnfold import ops
from bnfold.affine import Affine, Floats
from bnfold.graph import Graph, Node
from bnfold.record import record
from bnfold.relation import Site
from bnfold.rules.linear import contraction


@record(eq=False)
class Way:
    """The way to an affine from the linear node whose rows can become zero.

    values: those on it, the affine's input first. constant: (dead channels,) what the affine is given then.
    """

    linear: str
    values: tuple[str, ...]
    constant: Floats


def way_to(
    graph: Graph, node: Node, axis: int, dead: NDArray[np.bool_], function_of: Callable[[Node], Affine | None]
) -> Way | None:
    """Find the way to an affine along `axis`; None where nothing can be zeroed for it.

    Nobody else may read what lies between. function_of: what an affine on the way computes; None if that isn't known.
    """
    between = list(_feeding(graph, node))
    for place, maker in enumerate(between):
        linear = contraction(Site(maker, graph))
        if linear is None:
            continue
        if linear.target_axis != axis or {"weight", "bias"} & set(maker.limits):
            return None
        constant: Floats | None = np.zeros(int(dead.sum()))
        for step in reversed(between[:place]):
            if constant is not None:
                constant = _given(graph, step, constant, axis, dead, function_of)
        values = tuple(one.output for one in between[: place + 1])
        return None if constant is None else Way(maker.name, values, constant)
    return None


def _feeding(graph: Graph, node: Node) -> Iterator[Node]:
    """Go back over the nodes that feed this one alone, each by its first input."""
    reader, name = node, node.inputs[0]
    while name in graph.producer and graph.readers[name] == (reader,) and name not in graph.outputs:
        reader = graph.producer[name]
        yield reader
        if not reader.inputs:
            return
        name = reader.inputs[0]


def _given(
    graph: Graph,
    node: Node,
    constant: Floats,
    axis: int,
    dead: NDArray[np.bool_],
    function_of: Callable[[Node], Affine | None],
) -> Floats | None:
    """What channels that are constant become; None where they become something else, or nobody knows."""
    if isinstance(node.op, ops.BatchNorm | ops.Affine):
        function = function_of(node)
        along = function is not None and function.axis == axis and function.channels == len(dead)
        return function.scale[dead] * constant + function.shift[dead] if function is not None and along else None
    if isinstance(node.op, ops.MaxPool | ops.AvgPool) and axis > 1:
        return None  # it pools over this axis: a channel of its output sees several of its input
    return _steady(node.op, constant)


@singledispatch
def _steady(op: ops.Op, constant: Floats) -> Floats | None:
    return None


@_steady.register(ops.Identity)
@_steady.register(ops.MaxPool)
def _same(op: ops.Op, constant: Floats) -> Floats:
    return constant


@_steady.register
def _relu(op: ops.Relu, constant: Floats) -> Floats:
    return np.maximum(constant, 0)


@_steady.register
def _leaky_relu(op: ops.LeakyRelu, constant: Floats) -> Floats:
    return np.where(constant > 0, constant, op.slope * constant)


@_steady.register
def _p_relu(op: ops.PRelu, constant: Floats) -> Floats | None:
    return constant if np.all(constant >= 0) else None


@_steady.register
def _abs(op: ops.Abs, constant: Floats) -> Floats:
    return np.abs(constant)


@_steady.register
def _avg_pool(op: ops.AvgPool, constant: Floats) -> Floats | None:
    return None if op.counts_padding and np.any(constant != 0) else constant
