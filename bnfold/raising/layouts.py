"""Reshapes and transpositions that follow each other are one operator.

In a channel shuffle the channels part into two axes and come together again: only the whole maps channels to channels.
"""

from collections.abc import Sequence
from dataclasses import replace

from bnfold.graph import Graph, Node
from bnfold.ops import Identity, Rearrange, Reshape, Transpose
from bnfold.views import Shape

LAYOUTS = (Reshape, Transpose)
LONG = 3  # of these, from which a chain can part an axis and join it again


def with_rearrangements(graph: Graph) -> Graph:
    """Join chains of Reshape and Transpose whose results in between nobody else reads; names are the last node's.

    What changes nothing in between (torch's contiguous) belongs to a chain, too.
    """
    inner: set[str] = set()
    joined: dict[str, Node] = {}
    for node in reversed(graph.nodes):
        if node.name in inner:
            continue
        chain = _chain(graph, node) if isinstance(node.op, LAYOUTS) else []
        layouts = sum(isinstance(step.op, LAYOUTS) for step in chain)
        if layouts >= LONG and any(isinstance(step.op, Transpose) for step in chain):
            joined[node.name] = _joined(graph, chain)
            inner |= {step.name for step in chain[:-1]}
    if not joined:
        return graph
    gone = {name for node in graph.nodes if node.name in inner for name in node.outputs}
    return replace(
        graph,
        nodes=tuple(joined.get(node.name, node) for node in graph.nodes if node.name not in inner),
        values={name: value for name, value in graph.values.items() if name not in gone},
    )


def _chain(graph: Graph, last: Node) -> list[Node]:
    """Go back from a node as long as layouts feed each other alone; the first one is a layout, too."""
    chain: list[Node] = []
    node: Node | None = last
    while node is not None and isinstance(node.op, (*LAYOUTS, Identity)) and graph.shape(node.output) is not None:
        chain.append(node)
        before = graph.producer.get(node.inputs[0])
        private = before is not None and len(graph.readers[node.inputs[0]]) == 1
        node = before if private and node.inputs[0] not in graph.outputs else None
    while chain and not isinstance(chain[-1].op, LAYOUTS):
        chain.pop()
    return chain[::-1]


def _joined(graph: Graph, chain: Sequence[Node]) -> Node:
    last = chain[-1]
    steps: list[tuple[str, Shape]] = []
    for node in chain:
        if isinstance(node.op, Transpose):
            steps.append(("transpose", node.op.permutation))
        elif isinstance(node.op, Reshape):
            steps.append(("reshape", graph.shape(node.output) or ()))
    names = tuple(name for node in chain for name in (node.sources or (node.name,)))
    return Node(last.name, Rearrange(tuple(steps)), chain[0].inputs[:1], last.outputs[:1], sources=names)
