"""Neighbouring affines are one affine."""

from collections import defaultdict

import numpy as np

from bnfold.affine import Affine, Floats
from bnfold.graph import Graph, Node
from bnfold.raising.arithmetic import Link

_ROUNDINGS = 8 * np.finfo(np.float64).eps  # relative


def chained(links: list[Link], graph: Graph) -> list[Link]:
    """Compose links that follow each other and that nobody else reads; in the order of their last nodes."""
    units = _units(graph) if links else {}
    ends: dict[str, Link] = {}
    for link in links:
        last: Link | None = link
        while last is not None:  # what has become uniform may join one that its parts couldn't
            link = last
            before = ends.get(link.x)
            last = _joined(before, link) if before is not None and _is_private(before, link, graph, units) else None
            if last is not None:
                del ends[link.x]
        ends[link.y] = link
    return list(ends.values())


def _joined(first: Link, second: Link) -> Link | None:
    """Give second(first(x)); None where both vary, along two axes, or the numbers overflow."""
    one, two = first.affine, second.affine
    if one.axis != two.axis and first.is_uniform:
        one = _along(two, one)
    elif one.axis != two.axis and second.is_uniform:
        two = _along(one, two)
    if one.axis != two.axis:
        return None
    with np.errstate(all="ignore"):
        affine = _without_roundings(two.after(one))
    if not np.isfinite([affine.scale, affine.shift]).all():
        return None
    return Link(first.nodes + second.nodes, first.x, affine)


def _without_roundings(affine: Affine) -> Affine:
    """Take numbers that only the roundings of a composition tell apart for one, as in x / c * c."""
    return Affine(affine.axis, _even(affine.scale), _even(affine.shift))


def _even(numbers: Floats) -> Floats:
    is_one = numbers.size > 0 and np.ptp(numbers) <= _ROUNDINGS * abs(numbers[0])
    return np.full_like(numbers, numbers[0]) if is_one else numbers


def _along(other: Affine, uniform: Affine) -> Affine:
    ones = np.ones(other.channels)
    return Affine(other.axis, uniform.scale[0] * ones, uniform.shift[0] * ones)


def _units(graph: Graph) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        found[node.unit].append(node)
    return found


def _is_private(first: Link, second: Link, graph: Graph, units: dict[str, list[Node]]) -> bool:
    """Whether second alone reads first's output; of nodes that go together, at every place where they stand."""
    before, after = first.nodes[-1].unit, second.nodes[0].unit
    if not before and not after:
        return _sole_reader(first.nodes[-1], graph) is not None
    if not before or not after or len(units[before]) != len(units[after]):
        return False
    readers = [_sole_reader(node, graph) for node in units[before]]
    return all(reader is not None and reader.unit == after for reader in readers)


def _sole_reader(node: Node, graph: Graph) -> Node | None:
    readers = graph.readers.get(node.output, ())
    return readers[0] if len(readers) == 1 and node.output not in graph.outputs else None
