"""MatMul and Einsum, which have no bias operand: what can stand for one, and whether that saves an operator.

With an Add behind it, either has a bias (`bnfold.raising`); a MatMul of matrices becomes a Gemm. Any other, and an
Einsum, gets an Add of its own, which costs an operator: an affine next to it has to go for that.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from bnfold import ops
from bnfold.folding import fold
from bnfold.graph import Graph, Node
from bnfold.plan import Plan, Remove, SetBias
from bnfold.why import Why

_LAYOUT = (ops.Transpose, ops.Reshape, ops.Rearrange, ops.Identity)


def without_biases(graph: Graph) -> Graph:
    """Say of each node that could only have a bias by an Add that it has none, where no affine could go for that."""
    bare = [node.name for node in graph.nodes if wants_add(node, graph) and not list(_neighbours(node, graph))]
    return held(graph, bare)


def fold_sparingly(graph: Graph, *, level: str, only: Sequence[str], skip: Sequence[str], merge: bool = False) -> Plan:
    """Fold, and again without the biases that cost more operators than go. graph: as `without_biases` gives it."""
    plan = fold(graph, level=level, only=only, skip=skip, merge=merge)
    while names := costly(graph, plan):
        graph = held(graph, names)
        plan = fold(graph, level=level, only=only, skip=skip, merge=merge)
    return plan


def held(graph: Graph, names: Iterable[str]) -> Graph:
    """Say of nodes that they have no bias and are given none."""
    limited = set(names)
    if not limited:
        return graph
    nodes = (
        replace(node, limits={**node.limits, "bias": Why.NO_BIAS}) if node.name in limited else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes))


def costly(graph: Graph, plan: Plan) -> list[str]:
    """Name the nodes that the plan gives a bias by an Add for which no operator next to them goes."""
    removed = {edit.node for edit in plan.edits if isinstance(edit, Remove)}
    left = Counter({name: max(1, len(graph.by_name[name].sources)) for name in removed})
    found = []
    for edit in plan.own:
        node = graph.by_name[edit.node]
        if not isinstance(edit, SetBias) or not wants_add(node, graph):
            continue
        payer = next((name for name in _neighbours(node, graph) if left[name]), None)
        if payer is None:
            found.append(node.name)
        left[payer or ""] -= 1
    return found


def wants_add(node: Node, graph: Graph) -> bool:
    """Whether a bias would need an operator of its own."""
    if not isinstance(node.op, ops.MatMul | ops.Einsum) or any(node.inputs[2:]) or "bias" in node.limits:
        return False
    shapes = [graph.shape(name) for name in node.inputs[:2]]
    matrices = all(shape is not None and len(shape) == 2 for shape in shapes)
    return not (isinstance(node.op, ops.MatMul) and node.inputs[1] in graph.constants and matrices)


def _neighbours(node: Node, graph: Graph) -> Iterator[str]:
    """Name the affines behind and before the node that it alone gives to, or is given by; layout may lie between."""
    behind, seen = node.output, 0
    while behind not in graph.outputs and len(graph.readers.get(behind, ())) == 1:
        reader = graph.readers[behind][0]
        if _saves(reader, graph):
            yield reader.name
        if not isinstance(reader.op, (*_LAYOUT, ops.Affine)) or seen == len(graph.nodes):
            break
        behind, seen = reader.output, seen + 1
    for name in node.inputs[:2]:
        before = name
        while before in graph.producer and before not in graph.outputs and len(graph.readers[before]) == 1:
            maker = graph.producer[before]
            if _saves(maker, graph):
                yield maker.name
            if not isinstance(maker.op, _LAYOUT):
                break
            before = maker.inputs[0]


def _saves(node: Node, graph: Graph) -> bool:
    """Whether an Add in the node's place is something else than the node."""
    if isinstance(node.op, ops.Affine):
        return len(node.sources) > 1 or bool(np.any(graph.constants[node.inputs[1]].load() != 1))
    return isinstance(node.op, ops.BatchNorm)
