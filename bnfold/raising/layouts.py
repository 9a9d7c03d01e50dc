"""Reshapes and transpositions that follow each other are one operator.

In a channel shuffle the channels part into two axes and come together again: only the whole maps channels to channels.
"""

from collections.abc import Sequence
from dataclasses import replace

from bnfold.graph import Graph, Node
from bnfold.ops import Rearrange, Reshape, Transpose
from bnfold.views import Shape

LONG = 3  # nodes from which a chain can part an axis and join it again


def with_rearrangements(graph: Graph) -> Graph:
    """Join chains of Reshape and Transpose whose results in between nobody else reads; names are the last node's."""
    inner: set[str] = set()
    joined: dict[str, Node] = {}
    for node in reversed(graph.nodes):
        if node.name in inner:
            continue
        chain = _chain(graph, node)
        if len(chain) >= LONG and any(isinstance(step.op, Transpose) for step in chain):
            joined[node.name] = _joined(graph, chain)
            inner |= {step.name for step in chain[:-1]}
    gone = {name for node in graph.nodes if node.name in inner for name in node.outputs}
    return replace(
        graph,
        nodes=tuple(joined.get(node.name, node) for node in graph.nodes if node.name not in inner),
        values={name: value for name, value in graph.values.items() if name not in gone},
    )


def _chain(graph: Graph, last: Node) -> list[Node]:
    """Go back from a node as long as layouts feed each other alone."""
    chain: list[Node] = []
    node: Node | None = last
    while node is not None and isinstance(node.op, (Reshape, Transpose)) and graph.shape(node.output) is not None:
        chain.insert(0, node)
        before = graph.producer.get(node.inputs[0])
        private = before is not None and len(graph.readers[node.inputs[0]]) == 1
        node = before if private and node.inputs[0] not in graph.outputs else None
    return chain


def _joined(graph: Graph, chain: Sequence[Node]) -> Node:
    last = chain[-1]
    steps: list[tuple[str, Shape]] = []
    for node in chain:
        if isinstance(node.op, Transpose):
            steps.append(("transpose", node.op.permutation))
        else:
            steps.append(("reshape", graph.shape(node.output) or ()))
    names = tuple(name for node in chain for name in (node.sources or (node.name,)))
    return Node(last.name, Rearrange(tuple(steps)), chain[0].inputs[:1], last.outputs[:1], sources=names)
