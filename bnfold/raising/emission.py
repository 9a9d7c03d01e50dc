"""Affine nodes in the place of the arithmetic that they stand for."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from bnfold import ops
from bnfold.affine import Floats
from bnfold.graph import Constant, Graph, Node
from bnfold.raising.arithmetic import Link
from bnfold.why import Why

_SEPARATORS = "/.:"


def with_affines(graph: Graph, links: list[Link]) -> Graph:
    """Put one Affine node where the last node of each link stands."""
    if not links:
        return graph
    members = {node.name: link for link in links for node in link.nodes}
    count = Counter(prefix for node in graph.nodes for prefix in _prefixes(node.name))
    taken = {node.name for node in graph.nodes}
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        link = members.get(node.name)
        if link is None:
            nodes.append(node)
        elif node is link.nodes[-1]:
            name = _name(link, count, taken)
            taken.add(name)
            made = _constants(name, link, graph.values[link.y].dtype)
            constants.update((constant.name, constant) for constant in made)
            nodes.append(_affine(name, link, made))
    hidden = {inner.output for link in links for inner in link.nodes[:-1]}
    values = {name: value for name, value in graph.values.items() if name not in hidden}
    return replace(graph, nodes=tuple(nodes), values=values, constants=constants)


def _affine(name: str, link: Link, constants: tuple[Constant, Constant]) -> Node:
    limits: dict[str, Why] = {}
    for node in link.nodes:
        limits |= node.limits
    sources = tuple(source for node in link.nodes for source in node.sources or (node.name,))
    return Node(
        name,
        ops.Affine(link.affine.axis),
        (link.x, *(constant.name for constant in constants)),
        (link.y,),
        limits,
        link.nodes[-1].unit,
        () if sources == (name,) else sources,
    )


def _constants(name: str, link: Link, dtype: str) -> tuple[Constant, Constant]:
    return (
        _synthetic(f"{name}#scale", link.affine.scale, dtype),
        _synthetic(f"{name}#shift", link.affine.shift, dtype),
    )


def _synthetic(name: str, numbers: Floats, dtype: str) -> Constant:
    return Constant(name, numbers.shape, dtype, lambda: numbers)


def _name(link: Link, count: Counter[str], taken: set[str]) -> str:
    """Give the path of the layer whose whole body the link is, as its nodes' names tell; else the last node's name."""
    last = link.nodes[-1].name
    for prefix in _prefixes(last):
        whole = count[prefix] == len(link.nodes)
        if whole and prefix not in taken and all(prefix in _prefixes(node.name) for node in link.nodes):
            return prefix
    return last


def _prefixes(name: str) -> Iterator[str]:
    """Give `/net/net.1` and `/net/net`, `/net` for `/net/net.1/Div`: the layers that may own the node."""
    for end in range(len(name) - 1, 0, -1):
        if name[end] in _SEPARATORS:
            yield name[:end]
