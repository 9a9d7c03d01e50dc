"""The convolution that stands for parallel branches, from the definition of each branch.

What a node gives is followed from x on, as the terms of a sum: at the offset p from an output's own place,

    y[o] = bias[o] + sum over p, i of taps[p][o, i] * x[i at p]

Conv: p = index * dilation - low padding. An affine scales rows and moves the bias; a Sum adds. x itself, and an affine
of it, are one number a channel at p = 0. Then the frames: x = a_x x' + d_x, y = a_y y' + d_y.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.auditing.affines import axis_of, line
from bnfold.auditing.frames import seen
from bnfold.graph import Graph, Node
from bnfold.plan import Merge, Plan, Remove
from bnfold.record import record

STILL = 1e-9  # of its terms, what a shift that zero padding would cut off may be


class UnlikeError(ValueError):
    """The nodes aren't parallel linear branches of one tensor."""


@record(eq=False)
class Taps:
    """What a value is of x. offsets: (out, in / groups) matrices by offset, and the size of their terms; bias: (out,).

    diagonal: it is one number a channel, whose matrices are (channels, 1). strides: of its convolutions.
    """

    offsets: Mapping[tuple[int, ...], tuple[Floats, Floats]]
    bias: Floats
    size: Floats
    diagonal: bool = False
    strides: tuple[int, ...] = ()


def merged(graph: Graph, plan: Plan, merge: Merge, shape: tuple[int, ...]) -> tuple[Floats, Floats, Floats, Floats]:
    """Give the weight in `shape`, the size of its terms, the bias (out,), and the size of that's, all float64.

    graph: the model before. A channel whose frame has scale 0 has weight 0; its bias says nothing.
    Raises UnlikeError where the merge isn't one of linear branches, UntoldError where frames along other axes don't
    pass it.
    """
    ends = {name for node in merge.nodes for name in (*graph.by_name[node].inputs, *graph.by_name[node].outputs)}
    along = [frame for name in ends for frame in plan.frames.get(name, ()) if frame.axis == 0]
    positions = max((frame.channels for frame in along), default=1)
    first = _Follower(graph, plan, merge, shape, 0).result()
    for position in range(1, positions):
        other = _Follower(graph, plan, merge, shape, position).result()
        for numbers, sizes in ((0, 1), (2, 3)):
            if (np.abs(other[numbers] - first[numbers]) > STILL * first[sizes]).any():
                raise UnlikeError(f"{merge.node}: not one convolution at all positions along axis 0")
    return first


def last_of(graph: Graph, merge: Merge) -> Node:
    """Give the node whose output the merged convolution gives."""
    return graph.by_name[(merge.after or (merge.node,))[-1]]


class _Follower:
    """position: along axis 0, for frames that lie along that too."""

    def __init__(self, graph: Graph, plan: Plan, merge: Merge, shape: tuple[int, ...], position: int) -> None:
        self.graph, self.plan, self.merge, self.shape, self.position = graph, plan, merge, shape, position
        self.removed = {edit.node for edit in plan.edits if isinstance(edit, Remove)}
        self.inside = set(merge.nodes)
        self.sources: set[str] = set()
        self.rank = len(merge.op.strides)
        self.channels = shape[1] * merge.op.groups  # of x, whose own shape may be unknown

    def result(self) -> tuple[Floats, Floats, Floats, Floats]:
        shape, last = self.shape, last_of(self.graph, self.merge)
        taps = self._of(last.output)
        if len(self.sources) != 1 or taps.strides != tuple(self.merge.op.strides):
            raise UnlikeError(f"{self.merge.node}: branches of {sorted(self.sources)} with strides {taps.strides}")
        scale, shift = self._frame(last.output, len(taps.bias))
        weight, size = np.zeros(shape), np.zeros(shape)
        left = dict(_full(taps, shape[1]).offsets)
        flat = [one.reshape(*shape[:2], -1) for one in (weight, size)]
        for number, place in enumerate(itertools.product(*map(range, shape[2:]))):
            found = left.pop(_offset(self.merge.op, place), None)
            if found is not None:
                flat[0][:, :, number], flat[1][:, :, number] = found
        if left:
            raise UnlikeError(f"{self.merge.node}: the kernel leaves out the offsets {sorted(left)}")
        weight[scale == 0] = 0
        scale = np.where(scale == 0, 1.0, scale)
        rows = scale.reshape(-1, *(1,) * (len(shape) - 1))
        return weight / rows, size / abs(rows), (taps.bias - shift) / scale, (taps.size + abs(shift)) / abs(scale)

    def _frame(self, value: str, channels: int) -> tuple[Floats, Floats]:
        return seen(self.plan.frames.get(value, ()), 1, channels, {0: 0}).at(0, self.position)

    def _of(self, value: str) -> Taps:
        node = self.graph.producer.get(value)
        start = self._start(value)
        if node is None or start not in self.inside:
            return self._source(value, start)
        match node.op:
            case ops.Sum(coefficients):
                return self._sum(node, coefficients)
            case ops.Conv():
                return self._conv(node, node.op)
            case ops.BatchNorm() | ops.Affine() if axis_of(node) == 1:
                return self._affine(node)
            case _:
                raise UnlikeError(f"{node.name}: a {type(node.op).__name__} in a merge")

    def _start(self, value: str) -> str:
        """Follow affines that are gone back, and give what makes the tensor now, or its name where nothing does."""
        node = self.graph.producer.get(value)
        while node is not None and node.name in self.removed:
            value = node.inputs[0]
            node = self.graph.producer.get(value)
        return value if node is None else node.name

    def _source(self, value: str, start: str) -> Taps:
        """Read x, in the frame of this name of it."""
        self.sources.add(start)
        shape = self.graph.shape(value)
        wide = shape is not None and isinstance(shape[1], int) and shape[1] != self.channels
        if wide or (shape is not None and len(shape) != self.rank + 2):
            raise UnlikeError(f"{value}: of shape {shape}")
        scale, shift = self._frame(value, self.channels)
        one = scale.reshape(-1, 1)
        return Taps({(0,) * self.rank: (one, abs(one))}, shift, abs(shift), True, (1,) * self.rank)

    def _affine(self, node: Node) -> Taps:
        x = self._of(node.inputs[0])
        own = line(node, self.graph)
        rows = own.slope.reshape(-1, 1)
        offsets = {place: (taps * rows, size * abs(rows)) for place, (taps, size) in x.offsets.items()}
        size = np.maximum(x.size * abs(own.slope), own.size)
        return replace(x, offsets=offsets, bias=own.slope * x.bias + own.shift, size=size)

    def _sum(self, node: Node, coefficients: tuple[float, ...]) -> Taps:
        parts = [self._of(name) for name in node.inputs]
        wide = [part.offsets[next(iter(part.offsets))][0].shape[1] for part in parts if not part.diagonal]
        parts = [_full(part, wide[0]) if wide else part for part in parts]
        if len({part.strides for part in parts}) != 1:
            raise UnlikeError(f"{node.name}: branches with different strides")
        offsets: dict[tuple[int, ...], tuple[Floats, Floats]] = {}
        for part, times in zip(parts, coefficients, strict=True):
            for place, (taps, size) in part.offsets.items():
                before, large = offsets.get(place, (0.0, 0.0))
                offsets[place] = before + times * taps, large + abs(times) * size
        pairs = list(zip(parts, coefficients, strict=True))
        bias = sum((times * part.bias for part, times in pairs), np.zeros(1))
        size = sum((abs(times) * part.size for part, times in pairs), np.zeros(1))
        return Taps(offsets, bias, size, not wide, parts[0].strides)

    def _conv(self, node: Node, op: ops.Conv) -> Taps:
        x = self._of(node.inputs[0])
        self._refuse_unlike(node, op, x)
        weight = self.graph.constants[node.inputs[1]].load()
        outputs, inputs = weight.shape[:2]
        group = np.arange(outputs) // (outputs // op.groups)
        ((scale, _),) = x.offsets.values()
        scale, shift, size = (one.reshape(op.groups, inputs)[group] for one in (scale, x.bias, x.size))
        named = len(node.inputs) > 2 and node.inputs[2]
        bias = self.graph.constants[node.inputs[2]].load() if named else np.zeros(outputs)
        offsets, large = {}, np.abs(bias)
        flat = weight.reshape(outputs, inputs, -1)
        for number, place in enumerate(itertools.product(*map(range, weight.shape[2:]))):
            taps = flat[:, :, number]
            offsets[_offset(op, place)] = taps * scale, np.abs(taps * scale)
            bias, large = bias + (taps * shift).sum(1), large + (np.abs(taps) * size).sum(1)
        return Taps(offsets, bias, large, False, tuple(op.strides))

    def _refuse_unlike(self, node: Node, op: ops.Conv, x: Taps) -> None:
        padded = any(low or high for low, high in op.pads or ())
        alike = op.groups == self.merge.op.groups and (op.pad_mode == self.merge.op.pad_mode or not padded)
        if not x.diagonal or op.pads is None or not alike:
            raise UnlikeError(f"{node.name}: no convolution of x itself that the merged one can stand for")
        if padded and op.pad_mode == "zeros" and (np.abs(x.bias) > STILL * x.size).any():
            raise UnlikeError(f"{node.name}: pads with zeros what has a shift")


def _offset(op: ops.Conv, place: Sequence[int]) -> tuple[int, ...]:
    """Say where a kernel's element reads, from the output's own place."""
    return tuple(k * step - low for k, step, (low, _) in zip(place, op.dilations, op.pads or (), strict=True))


def _full(taps: Taps, inputs: int) -> Taps:
    """Write one number a channel as matrices (out, in / groups): input i of a group is output i of that group."""
    if not taps.diagonal:
        return taps
    offsets = {}
    for place, (numbers, size) in taps.offsets.items():
        every = np.arange(len(numbers))
        matrix, large = np.zeros((2, len(numbers), inputs))
        matrix[every, every % inputs], large[every, every % inputs] = numbers[:, 0], size[:, 0]
        offsets[place] = matrix, large
    return replace(taps, offsets=offsets, diagonal=False)
