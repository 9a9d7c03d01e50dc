"""Max and Min with a constant as clips: what a ReLU becomes where its tensor has a frame by channel (`--level max`)."""

from dataclasses import replace

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.graph import Constant, Graph, Node
from bnfold.plan import SetBounds
from bnfold.record import record
from bnfold.rules.base import FLOATS
from bnfold.why import Why

_LARGEST = 1 << 16  # elements of bounds


@record(eq=False)
class _Clip:
    """min(max(x, lo), hi) by nodes one after the other. axis: None where the bounds, (1,) then, are one number."""

    nodes: tuple[Node, ...]
    x: str
    axis: int | None
    lo: Floats
    hi: Floats

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the two sides doesn't matter."""
        return bool(np.all(self.lo <= self.hi))


def with_clips(graph: Graph) -> Graph:
    """Turn Max and Min (Binary of that kind) with a constant into Clip and ChannelClip, neighbours into one. Pure.

    A ChannelClip's constants are synthetic (NAME#lo, NAME#hi, (C,)); its `sources` are the nodes of the file. The limit
    "sides" says why one that has a single node can't take a negative scale, which would need the other one.
    """
    found: dict[str, _Clip] = {}  # by its output
    for node in graph.nodes:
        clip = _clip(node, graph)
        if clip is not None:
            found[node.output] = _joined(clip, found, graph)
    if not found:
        return graph
    hidden = {node.name for clip in found.values() for node in clip.nodes[:-1]}
    made = {clip.nodes[-1].name: clip for clip in found.values() if clip.nodes[-1].name not in hidden}
    constants = dict(graph.constants)
    nodes = [
        _node(made[n.name], graph, constants) if n.name in made else n for n in graph.nodes if n.name not in hidden
    ]
    inner = {node.output for clip in made.values() for node in clip.nodes[:-1]}
    values = {name: value for name, value in graph.values.items() if name not in inner}
    return replace(graph, nodes=tuple(nodes), values=values, constants=constants)


def _clip(node: Node, graph: Graph) -> _Clip | None:
    """Read one node; None where it is none such, or its constant varies along more axes than one."""
    if not isinstance(node.op, ops.Binary) or node.op.kind not in ("max", "min"):
        return None
    bounds = [name for name in node.inputs if name in graph.constants]
    others = [name for name in node.inputs if name in graph.values]
    if len(bounds) != 1 or len(others) != 1:
        return None
    x, constant = others[0], graph.constants[bounds[0]]
    shape, value = graph.values[x].shape, graph.values[node.output]
    size = int(np.prod(constant.shape))
    if shape is None or value.shape != shape or value.dtype not in FLOATS or size > _LARGEST or size == 0:
        return None
    if len(constant.shape) > len(shape):
        return None
    numbers = constant.load()
    numbers = numbers.reshape((1,) * (len(shape) - numbers.ndim) + numbers.shape)
    wide = [axis for axis, count in enumerate(numbers.shape) if count > 1]
    if np.isnan(numbers).any() or len(wide) > 1 or (wide and numbers.shape[wide[0]] != shape[wide[0]]):
        return None
    flat = numbers.reshape(-1)
    free = np.full_like(flat, np.inf)
    lo, hi = (flat, free) if node.op.kind == "max" else (-free, flat)
    return _Clip((node,), x, wide[0] if wide else None, lo, hi)


def _joined(clip: _Clip, found: dict[str, _Clip], graph: Graph) -> _Clip:
    """Join a clip with the one before it, where nobody else reads what lies between and each has one side."""
    before = found.get(clip.x)
    if before is None or len(before.nodes) > 1 or clip.x in graph.outputs or len(graph.readers[clip.x]) > 1:
        return clip
    kinds = {node.op.kind for part in (before, clip) for node in part.nodes if isinstance(node.op, ops.Binary)}
    axes = {part.axis for part in (before, clip) if part.axis is not None}
    if len(kinds) < 2 or len(axes) > 1:
        return clip
    lo, hi = np.maximum(before.lo, clip.lo), np.minimum(before.hi, clip.hi)
    both = _Clip((*before.nodes, *clip.nodes), before.x, next(iter(axes), None), lo, hi)
    return both if both.is_ordered else clip


def _node(clip: _Clip, graph: Graph, constants: dict[str, Constant]) -> Node:
    last = clip.nodes[-1]
    sources = tuple(node.name for node in clip.nodes)
    if clip.axis is None:
        lo, hi = (float(side[0]) if np.isfinite(side[0]) else None for side in (clip.lo, clip.hi))
        return Node(last.name, ops.Clip(lo, hi), (clip.x,), last.outputs, last.limits, sources=sources)
    dtype = graph.values[last.output].dtype
    names = (f"{last.name}#lo", f"{last.name}#hi")
    for name, side in zip(names, (clip.lo, clip.hi), strict=True):
        constants[name] = Constant(name, side.shape, dtype, side.copy)
    limits = {**last.limits, **({"sides": Why.ORDER} if len(sources) == 1 else {})}
    return Node(last.name, ops.ChannelClip(clip.axis), (clip.x, *names), last.outputs, limits, sources=sources)


def clip_steps(lo: Floats, hi: Floats, rank: int, axis: int | None) -> list[tuple[str, list[Floats]]]:
    """Give Max with the lower bounds and Min with the upper ones (ONNX's Clip takes scalars only), where there are any.

    lo, hi: (C,) along `axis` of a tensor of that rank, or (1,) where `axis` is None; infinite: no bound.
    """
    behind = () if axis is None else (-1, *(1,) * (rank - 1 - axis))
    sides = [("Max", lo)] * bool(np.isfinite(lo).any()) + [("Min", hi)] * bool(np.isfinite(hi).any())
    return [(kind, [bound.reshape(behind)]) for kind, bound in sides]


def open_bounds(edit: SetBounds) -> tuple[Floats, Floats]:
    """Give the bounds as arrays (1,); none is infinite."""
    lo, hi = -np.inf if edit.lo is None else edit.lo, np.inf if edit.hi is None else edit.hi
    return np.full(1, lo), np.full(1, hi)
