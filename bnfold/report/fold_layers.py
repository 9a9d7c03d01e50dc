"""Which part of a graph to draw, and where: layers from top to bottom, as few crossings as two sweeps leave."""

from collections.abc import Iterable, Mapping, Sequence

from bnfold.graph import Graph, Node
from bnfold.plan import Plan
from bnfold.record import record

SWEEPS = 4


@record
class Drawing:
    """layers: names of nodes, from left to right. edges: (from, to), both shown. hidden: nodes that were left out."""

    layers: tuple[tuple[str, ...], ...]
    edges: tuple[tuple[str, str], ...]
    hidden: int


def around_kept(graph: Graph, plan: Plan, steps: int = 2, limit: int = 150) -> set[str]:
    """Name the affines that stay, the nodes that hold them, and what is within `steps` of them; `limit` at most."""
    centres = [name for outcome in plan.kept for name in (outcome.affine, *(reason.node for reason in outcome.why))]
    found = dict.fromkeys(name for name in centres if name in graph.by_name)
    edge = list(found)
    for _ in range(steps):
        edge = [
            near.name for name in edge for near in _neighbours(graph, graph.by_name[name]) if near.name not in found
        ]
        found |= dict.fromkeys(edge)
    return set(list(found)[:limit])


def drawing(graph: Graph, shown: set[str]) -> Drawing:
    """Lay the shown nodes out; an edge is drawn where one reads what another gives."""
    nodes = [node for node in graph.nodes if node.name in shown]
    edges = [
        (before.name, node.name)
        for node in nodes
        for name in dict.fromkeys(node.inputs)
        if (before := graph.producer.get(name)) is not None and before.name in shown
    ]
    parents: dict[str, list[str]] = {node.name: [] for node in nodes}
    children: dict[str, list[str]] = {node.name: [] for node in nodes}
    for first, second in edges:
        parents[second].append(first)
        children[first].append(second)
    depth: dict[str, int] = {}
    for node in nodes:  # topological: parents come first
        depth[node.name] = 1 + max((depth[name] for name in parents[node.name]), default=-1)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, level in depth.items():
        layers[level].append(name)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        _sweep(layers if down else layers[::-1], parents if down else children)
    return Drawing(tuple(map(tuple, layers)), tuple(edges), len(graph.nodes) - len(nodes))


def _sweep(layers: Sequence[list[str]], towards: Mapping[str, Sequence[str]]) -> None:
    """Order every layer by the mean place of its neighbours on one side (Sugiyama, Tagawa and Toda 1981)."""
    place: dict[str, float] = {}
    for layer in layers:
        own = {name: float(k) for k, name in enumerate(layer)}
        layer.sort(key=lambda name, own=own: _mean([place[n] for n in towards[name] if n in place], own[name]))  # type: ignore[misc]
        place |= {name: float(k) for k, name in enumerate(layer)}


def _mean(places: Sequence[float], otherwise: float) -> float:
    return sum(places) / len(places) if places else otherwise


def _neighbours(graph: Graph, node: Node) -> Iterable[Node]:
    for name in node.inputs:
        if name in graph.producer:
            yield graph.producer[name]
    for name in node.outputs:
        yield from graph.readers.get(name, ())
