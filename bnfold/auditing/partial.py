"""What operators that are linear at some of their ends hold after a fold, from their definitions, for the audit.

recurrent: W x + b         W'[g, i] = W[g, i] a_x[i]        b'[g] = b[g] + sum_i W[g, i] d_x[i]
bilinear: x1 W x2 + b      W'[o, i, j] = W[o, i, j] a_x1[i] a_x2[j] / a_y[o]        b'[o] = (b[o] - d_y[o]) / a_y[o]
"""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.graph import Graph, Node
from bnfold.record import record

FrameOf: TypeAlias = Callable[[str, int, int], tuple[Floats, Floats]]  # value, axis, channels: scale and shift


@record(eq=False)
class Expected:
    """An operand's numbers. sizes: of the largest term of each."""

    operand: int
    part: str
    numbers: Floats
    sizes: Floats


def expected(node: Node, graph: Graph, frame_of: FrameOf) -> Iterator[Expected]:
    """Give every weight and bias of the node that frames count in; none of a node whose weights are computed."""
    if isinstance(node.op, ops.Recurrent):
        for weight, bias in node.op.parts:
            if node.inputs[weight] in graph.constants:
                yield from _recurrent(node, graph, frame_of, weight, bias)
    elif isinstance(node.op, ops.Bilinear) and node.inputs[1] in graph.constants:
        yield from _bilinear(node, graph, frame_of)


def _recurrent(node: Node, graph: Graph, frame_of: FrameOf, weight: int, bias: int) -> Iterator[Expected]:
    old = graph.constants[node.inputs[weight]].load()
    scale, shift = frame_of(node.inputs[0], _last(graph, node.inputs[0]), old.shape[-1])
    new = np.einsum("...gi,i->...gi", old, scale)
    yield Expected(weight, "weight", new, np.abs(new))
    *stack, gates = old.shape[:-1]
    name = node.inputs[bias] if bias < len(node.inputs) else ""
    before = graph.constants[name].load() if name else np.zeros((*stack, 2 * gates))
    behind = [(0, 0)] * len(stack) + [(0, before.shape[-1] - gates)]
    terms = np.einsum("...gi,i->...gi", old, shift)
    total, largest = terms.sum(-1), np.abs(terms).max(-1, initial=0.0)
    sizes = np.maximum(np.abs(before), np.pad(largest, behind))
    yield Expected(bias, "bias", before + np.pad(total, behind), sizes)


def _bilinear(node: Node, graph: Graph, frame_of: FrameOf) -> Iterator[Expected]:
    old = graph.constants[node.inputs[1]].load()
    first, second, y = node.inputs[0], node.inputs[3], node.output
    a_1, _ = frame_of(first, _last(graph, first), old.shape[1])
    a_2, _ = frame_of(second, _last(graph, second), old.shape[2])
    a_y, d_y = frame_of(y, _last(graph, y), old.shape[0])
    new = np.einsum("oij,i,j,o->oij", old, a_1, a_2, 1 / a_y)
    yield Expected(1, "weight", new, np.abs(new))
    bias = graph.constants[node.inputs[2]].load() if node.inputs[2] else np.zeros(len(old))
    yield Expected(2, "bias", (bias - d_y) / a_y, np.maximum(np.abs(bias), np.abs(d_y)) / np.abs(a_y))


def _last(graph: Graph, name: str) -> int:
    shape = graph.shape(name)
    return len(shape) - 1 if shape is not None else 0
