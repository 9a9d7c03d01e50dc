"""Affines of one number for the whole tensor, which are affines along any other axis just as well."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
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


def with_uniform_affines(graph: Graph) -> Graph:
    """Lay each affine of one number along an axis that a layer around it works on, where none works on its own.

    Like this it can go; a BatchNorm can't be rewritten there, since its constants are of one channel.
    """
    functions = {node.name: function for node in graph.nodes if (function := _uniform(graph, node)) is not None}
    if not functions:
        return graph
    ends = _Ends(graph)
    moved = {
        name: replace(function, axis=axis)
        for name, function in functions.items()
        if (axis := ends.better_axis(graph.by_name[name], function.axis)) is not None
    }
    constants = dict(graph.constants)
    for name, function in moved.items():
        constants.update((item.name, item) for item in _constants(graph, graph.by_name[name], function))
    nodes = (_moved(node, moved[node.name].axis) if node.name in moved else node for node in graph.nodes)
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
    """Where layers take frames up."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.by_value: dict[str, list[Tie]] = {}
        for node in graph.nodes:
            for tie in relation(Site(node, graph)):
                for name in dict.fromkeys(tied(tie)):
                    self.by_value.setdefault(name, []).append(tie)

    def better_axis(self, node: Node, axis: int) -> int | None:
        """Give an axis of fixed length that a layer works on; None where one works on the node's own, or on none."""
        shape = self.graph.shape(node.output) or ()
        if self._is_taken_up(node, axis):
            return None
        others = (k for k in reversed(range(len(shape))) if k != axis and may_have_frame(self.graph, node.output, k))
        return next((k for k in others if self._is_taken_up(node, k)), None)

    def _is_taken_up(self, node: Node, axis: int) -> bool:
        """Whether a frame of the node's tensors along the axis comes to the end of a layer."""
        ahead = deque([(node.inputs[0], axis), (node.output, axis)])
        seen: set[str] = set()
        while ahead:
            name, place = ahead.popleft()
            if name in seen or not may_have_frame(self.graph, name, place):
                continue
            seen.add(name)
            for tie in self.by_value.get(name, ()):
                if (name, place) in _ends(tie):
                    return True
                if not isinstance(tie, Mapped) or tie.axis == place or self._is_single(tie):
                    ahead.extend(neighbours(self.graph, tie, name, place))
        return False

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
    inputs = (node.inputs[0], *_names(node).values())
    held: Mapping[str, Why] = {"constants": Why.AXIS} if isinstance(node.op, ops.BatchNorm) else {}
    limits = {**held, **node.limits}
    return replace(node, op=ops.Affine(axis), inputs=inputs, limits=limits)
