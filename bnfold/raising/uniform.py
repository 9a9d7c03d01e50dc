"""Affines of one number for the whole tensor, which are affines along any other axis just as well."""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from bnfold import ops
from bnfold.affine import Affine
from bnfold.graph import Constant, Graph, Node
from bnfold.relation import Absorbed, Contracted, Mapped, Site, Tie
from bnfold.rules import relation
from bnfold.rules.affine import affine_of
from bnfold.rules.base import tied
from bnfold.solving.axes import may_have_frame, neighbours
from bnfold.why import Why

ALONE = 8  # affines of one number that stay, up to which each is laid otherwise by itself: it costs a fold


def with_uniform_affines(graph: Graph) -> Graph:
    """Lay each affine of one number along an axis that a layer around it works on, where none works on its own.

    Like this it can go; a BatchNorm can't be rewritten there, since its constants are of one channel.
    """
    functions = {node.name: function for node in graph.nodes if (function := _uniform(graph, node)) is not None}
    if not functions:
        return graph
    ends, axes = _Ends(graph), dict[str, int]()
    for name, function in functions.items():
        node = graph.by_name[name]
        if not ends.take_up(node, function.axis) and (others := ends.other_axes(node, function.axis)):
            axes[name] = others[0]
    return _laid(graph, functions, axes)


def laid_otherwise(graph: Graph, names: Collection[str]) -> Iterator[Graph]:
    """Lay affines of one number, of those named, along other axes that layers or affines work on.

    First all of them together, then one by one. None can be rewritten there: an edit of its constants would be one
    along its own axis.
    """
    nodes = (graph.by_name[name] for name in names)
    functions = {node.name: function for node in nodes if (function := _uniform(graph, node)) is not None}
    ends = _Ends(graph, with_affines=True) if functions else None
    axes = {name: ends.other_axes(graph.by_name[name], found.axis) for name, found in functions.items() if ends}
    for number in range(max(map(len, axes.values()), default=0)):
        yield _held_along(graph, functions, {name: own[number] for name, own in axes.items() if number < len(own)})
    if 1 < len(axes) <= ALONE:
        yield from (_held_along(graph, functions, {name: axis}) for name, own in axes.items() for axis in own)


def _held_along(graph: Graph, functions: Mapping[str, Affine], axes: Mapping[str, int]) -> Graph:
    laid = _laid(graph, functions, axes)
    return replace(laid, nodes=tuple(_held(node) if node.name in axes else node for node in laid.nodes))


def _laid(graph: Graph, functions: Mapping[str, Affine], axes: Mapping[str, int]) -> Graph:
    if not axes:
        return graph
    constants = dict(graph.constants)
    for name, axis in axes.items():
        moved = replace(functions[name], axis=axis)
        constants.update((item.name, item) for item in _constants(graph, graph.by_name[name], moved))
    nodes = (_moved(node, axes[node.name]) if node.name in axes else node for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _uniform(graph: Graph, node: Node) -> Affine | None:
    """Give what an affine of one number computes, where it can be folded at all."""
    if not isinstance(node.op, ops.BatchNorm | ops.Affine) or "remove" in node.limits:
        return None
    names = [name for name in node.inputs[1:] if name]
    if any(name not in graph.constants for name in names):
        return None
    wide = any(graph.constants[name].shape != (1,) for name in names)
    if wide and not (isinstance(node.op, ops.Affine) and _are_one(graph, names)):
        return None
    if isinstance(node.op, ops.BatchNorm) and not (len(node.inputs) == 5 and node.inputs[3] and node.inputs[4]):
        return None
    with np.errstate(all="ignore"):
        function = affine_of(Site(node, graph))
    sound = np.isfinite(function.scale).all() and np.isfinite(function.shift).all() and function.scale.all()
    return function if sound else None


def _are_one(graph: Graph, names: Sequence[str]) -> bool:
    """Whether each constant is one number, repeated."""
    return all(np.ptp(graph.constants[name].load()) == 0 for name in names)


class _Ends:
    """Where layers take frames up; with_affines: or affines, which may stay."""

    def __init__(self, graph: Graph, *, with_affines: bool = False) -> None:
        self.graph, self.with_affines = graph, with_affines
        self.by_value: dict[str, list[Tie]] = {}
        for node in graph.nodes:
            for tie in relation(Site(node, graph)):
                for name in dict.fromkeys(tied(tie)):
                    self.by_value.setdefault(name, []).append(tie)

    def other_axes(self, node: Node, axis: int) -> list[int]:
        """Give the axes of fixed length, but for one, along which a layer takes up what the node does."""
        shape = self.graph.shape(node.output) or ()
        others = (k for k in reversed(range(len(shape))) if k != axis and may_have_frame(self.graph, node.output, k))
        return [k for k in others if self.take_up(node, k)]

    def take_up(self, node: Node, axis: int) -> bool:
        """Whether a frame of the node's tensors along the axis comes to the end of a layer."""
        ahead = deque([(node.inputs[0], axis), (node.output, axis)])
        seen: set[str] = set()
        while ahead:
            name, place = ahead.popleft()
            if name in seen or not may_have_frame(self.graph, name, place):
                continue
            seen.add(name)
            for tie in self.by_value.get(name, ()):
                if (name, place) in _ends(tie) or self._is_beside(tie, place, node):
                    return True
                if not isinstance(tie, Mapped) or tie.axis == place or self._is_single(tie):
                    ahead.extend(neighbours(self.graph, tie, name, place))
        return False

    def _is_beside(self, tie: Tie, axis: int, node: Node) -> bool:
        """Whether another affine than the node lies along the axis, where such ones count."""
        return self.with_affines and isinstance(tie, Mapped) and tie.axis == axis and tie.target != node.output

    def _is_single(self, tie: Mapped) -> bool:
        """Whether an affine has one channel, and its axis says nothing."""
        shape = self.graph.shape(tie.source)
        return shape is not None and shape[tie.axis] == 1


def _ends(tie: Tie) -> Iterator[tuple[str, int]]:
    """Give the tensors, with the axis, whose frames a layer's constants take up."""
    if isinstance(tie, Contracted):
        yield from ((tie.source, tie.source_axis), (tie.target, tie.target_axis))
    elif isinstance(tie, Absorbed):
        yield tie.value, tie.axis


def _names(node: Node) -> Mapping[str, str]:
    return {part: f"{node.name}#{part}" for part in ("scale", "shift")}


def _constants(graph: Graph, node: Node, function: Affine) -> Iterator[Constant]:
    shape = graph.shape(node.output)
    size = shape[function.axis] if shape is not None else None
    assert isinstance(size, int)
    dtype = graph.values[node.output].dtype
    for part, name in _names(node).items():
        yield Constant(name, (size,), dtype, partial(np.full, size, float(getattr(function, part)[0])))


def _moved(node: Node, axis: int) -> Node:
    laid = replace(node, op=ops.Affine(axis), inputs=(node.inputs[0], *_names(node).values()))
    return _held(laid) if isinstance(node.op, ops.BatchNorm) else laid


def _held(node: Node) -> Node:
    return replace(node, limits={"constants": Why.AXIS, **node.limits})
