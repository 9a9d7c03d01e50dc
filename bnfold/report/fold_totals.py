"""How much a model holds and computes, before and after a fold."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.graph import Dim, Graph, Node
from bnfold.plan import Merge, Plan, Remove, ReplaceByClip, SetBias
from bnfold.record import record

_FREE = frozenset(
    {
        ops.Identity,
        ops.Reshape,
        ops.Transpose,
        ops.Expand,
        ops.Take,
        ops.Select,
        ops.Split,
        ops.Flip,
        ops.Tile,
        ops.Concat,
        ops.Stack,
        ops.ShapeOf,
        ops.Cast,
    }
)


@record
class Totals:
    """batch_norms, affines: normalisation layers, and affines of any other form. operators: nodes of the model; a clip
    by channel is one for each side that it has a bound on, the Max and the Min of an ONNX file.

    parameters: the numbers that the operators read, running statistics among them. multiply_adds: of linear operators
    and affines, for one sample; None where a size is known only when the model runs.
    """

    batch_norms: int
    affines: int
    operators: int
    parameters: int
    multiply_adds: int | None


def totals(graph: Graph, plan: Plan) -> tuple[Totals, Totals]:
    """Count before and after; no weight is loaded."""
    costs = {id(node): _multiply_adds(graph, node) for node in graph.nodes}
    return _count(graph, graph.nodes, 0, costs, {}), _after(graph, plan, costs)


def _after(graph: Graph, plan: Plan, costs: Mapping[int, int | None]) -> Totals:
    gone = {edit.node for edit in plan.edits if isinstance(edit, Remove)}
    gone |= plan.merged - {merge.node for merge in plan.merges}
    stand_in = {merge.node: _merged(graph, merge) for merge in plan.merges}
    left = [stand_in.get(node.name, node) for node in graph.nodes if node.name not in gone]
    new = sum(_new_numbers(graph, edit) for edit in (*plan.own, *plan.merges))
    sides = {edit.node: _sides(edit.lo, edit.hi) for edit in plan.own if isinstance(edit, ReplaceByClip)}
    return _count(graph, left, new, costs, sides)


def _new_numbers(graph: Graph, edit: object) -> int:
    match edit:
        case SetBias(node, bias):
            inputs = graph.by_name[node].inputs
            return 0 if len(inputs) > 2 and inputs[2] else bias.size
        case ReplaceByClip(_, _, lo, hi):
            return lo.size + hi.size
        case Merge(node=node):
            shape = graph.shape(graph.by_name[node].output)  # the bias; the weight is the widest branch's
            return shape[1] if shape is not None and isinstance(shape[1], int) else 0
        case _:
            return 0


def _merged(graph: Graph, merge: Merge) -> Node:
    """Give the widest branch's operator in the place of the Sum: the merged kernel is as large as it."""
    sum_node = graph.by_name[merge.node]
    convs = [graph.by_name[name] for name in merge.nodes]
    convs = [node for node in convs if isinstance(node.op, ops.Conv)]
    weights = [node.inputs[1] for node in convs]
    widest = max(weights, key=lambda name: math.prod(graph.constants[name].shape))
    return Node(merge.node, merge.op, (merge.x, widest), sum_node.outputs)


def _sides(lo: Floats, hi: Floats) -> int:
    return max(int(np.isfinite(lo).any()) + int(np.isfinite(hi).any()), 1)


def _operators(graph: Graph, node: Node) -> int:
    match node.op:
        case ops.Parameter():
            return 0
        case ops.ChannelClip() if not node.sources:
            return _sides(*(graph.constants[name].load() for name in node.inputs[1:3]))
        case _:
            return len(node.sources) or 1


def _count(
    graph: Graph, nodes: Sequence[Node], more: int, costs: Mapping[int, int | None], sides: Mapping[str, int]
) -> Totals:
    """Count nodes. more: numbers that none of them reads. costs: the multiply-adds of the graph's own, by identity.

    sides: how many operators those are that become clips by channel.
    """
    norms = sum(isinstance(node.op, ops.BatchNorm) for node in nodes)
    affines = sum(isinstance(node.op, ops.Affine) for node in nodes)
    read = {name for node in nodes for name in node.inputs if name in graph.constants}
    numbers = sum(math.prod(graph.constants[name].shape) for name in read) + more
    each = [costs[id(node)] if id(node) in costs else _multiply_adds(graph, node) for node in nodes]
    known = [cost for cost in each if cost is not None]
    cost = sum(known) if len(known) == len(each) else None
    operators = sum(sides[node.name] if node.name in sides else _operators(graph, node) for node in nodes)
    return Totals(norms, affines, operators, numbers, cost)


def _multiply_adds(graph: Graph, node: Node) -> int | None:
    """Count for one sample, along axis 0 of the output."""
    if type(node.op) in _FREE:
        return 0
    made = _sizes(graph.shape(node.output))
    weight = next((graph.constants[name].shape for name in node.inputs[:2] if name in graph.constants), None)
    match node.op:
        case ops.BatchNorm() | ops.Affine():
            return made
        case ops.Conv() if weight is not None:
            return None if made is None else made * math.prod(weight[1:])
        case ops.ConvTranspose() if weight is not None:
            read = _sizes(graph.shape(node.inputs[0]))
            return None if read is None else read * math.prod(weight[1:])
        case ops.Linear() if weight is not None:
            return None if made is None else made * weight[1]
        case ops.Gemm(trans_b=transposed) if weight is not None and node.inputs[1] in graph.constants:
            return None if made is None else made * weight[1 if transposed else 0]
        case ops.MatMul() if weight is not None and len(weight) > 1:
            right = node.inputs[1] in graph.constants
            return None if made is None else made * weight[-2 if right else -1]
        case _:
            return 0


def _sizes(shape: tuple[Dim, ...] | None) -> int | None:
    """Multiply the sizes behind the batch; None where one isn't known."""
    if shape is None:
        return None
    known = [dim for dim in shape[1:] if isinstance(dim, int)]
    return math.prod(known) if len(known) == max(len(shape) - 1, 0) else None
