"""The linear branches of a Sum: what each operand is of which tensor."""

from collections.abc import Iterator

import numpy as np

from bnfold import ops
from bnfold.affine import Affine
from bnfold.graph import Graph, Node
from bnfold.record import record
from bnfold.relation import Site
from bnfold.rules.affine import affine_of

DEPTH = 8  # Sums within each other: what a person writes
FAR = 64  # values that are looked at behind an operand


@record(eq=False)
class Branch:
    """coefficient * affine(conv(x)), where both are optional; nodes in the order of the data."""

    x: str
    coefficient: float
    nodes: tuple[Node, ...] = ()

    @property
    def conv(self) -> Node | None:
        """The convolution; None of x itself."""
        return next((node for node in self.nodes if isinstance(node.op, ops.Conv)), None)


def may_merge(graph: Graph, node: Node) -> bool:
    """Whether the operands of a Sum may be linear in one tensor, by the kinds of the operators before them alone.

    What folds and merges take out doesn't matter to that: the operands of a residual block have no such tensor.
    """
    behind = [_may_be_linear_in(graph, name) for name in node.inputs]
    return any(len(found) > FAR for found in behind) or bool(set.intersection(*behind))


def _may_be_linear_in(graph: Graph, value: str) -> set[str]:
    found, ahead = {value}, [value]
    while ahead and len(found) <= FAR:
        made = graph.producer.get(ahead.pop())
        if made is None or not isinstance(made.op, ops.Conv | ops.BatchNorm | ops.Affine | ops.Sum):
            continue
        inputs = made.inputs if isinstance(made.op, ops.Sum) else made.inputs[:1]
        ahead += [name for name in inputs if name not in found]
        found.update(inputs)
    return found


def branches_of(
    graph: Graph, node: Node, coefficient: float = 1.0, depth: int = 0
) -> tuple[list[Branch], tuple[str, ...]]:
    """Follow every operand back; Sums that only this one reads are opened. Gives the branches and those Sums."""
    assert isinstance(node.op, ops.Sum)
    branches: list[Branch] = []
    inner: tuple[str, ...] = ()
    for name, factor in zip(node.inputs, node.op.coefficients, strict=True):
        made = _private_producer(graph, name)
        if made is not None and isinstance(made.op, ops.Sum) and depth < DEPTH:
            more, sums = branches_of(graph, made, coefficient * factor, depth + 1)
            branches += more
            inner += (*sums, made.name)
        else:
            branches.append(_branch(graph, name, coefficient * factor))
    return branches, inner


def _branch(graph: Graph, value: str, coefficient: float) -> Branch:
    """Take an affine and a Conv that nobody else reads; what is before them is x."""
    nodes: tuple[Node, ...] = ()
    made = _private_producer(graph, value)
    if made is not None and _is_affine(graph, made):
        nodes, value = (made,), made.inputs[0]
        made = _private_producer(graph, value)
    if made is not None and _is_conv(graph, made):
        nodes, value = (made, *nodes), made.inputs[0]
    return Branch(value, coefficient, nodes)


def _private_producer(graph: Graph, value: str) -> Node | None:
    node = graph.producer.get(value)
    return node if node is not None and len(graph.readers[value]) == 1 and value not in graph.outputs else None


def _is_affine(graph: Graph, node: Node) -> bool:
    if not isinstance(node.op, ops.BatchNorm | ops.Affine) or node.unit or "remove" in node.limits:
        return False
    if any(name not in graph.constants for name in node.inputs[1:] if name):
        return False
    affine = affine_of(Site(node, graph))
    return affine.axis == 1 and bool(np.isfinite([affine.scale, affine.shift]).all())


def _is_conv(graph: Graph, node: Node) -> bool:
    constant = all(name in graph.constants for name in node.inputs[1:] if name)
    return isinstance(node.op, ops.Conv) and constant and node.op.pads is not None and not (node.unit or node.limits)


def affine_behind(graph: Graph, node: Node) -> Node | None:
    """Give the affine that alone reads a node's output."""
    readers = graph.readers.get(node.output, ())
    if len(readers) != 1 or node.output in graph.outputs or not _is_affine(graph, readers[0]):
        return None
    return readers[0]


def affines_of(graph: Graph, branch: Branch) -> Iterator[Affine]:
    """Give the affines of a branch, in the order of the data."""
    for node in branch.nodes:
        if not isinstance(node.op, ops.Conv):
            yield affine_of(Site(node, graph))
