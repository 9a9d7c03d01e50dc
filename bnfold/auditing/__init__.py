"""Every changed weight and bias against a float64 recomputation that shares no code with the fold's.

The fold goes from relations to factors and applies these; the audit goes element by element from the definition: put
x = a_x x' + d_x and y = a_y y' + d_y (the plan's frames) into y = alpha * W x + beta * b, so that for the element of W
between input channel i and output channel o

    W'[o, i] = W[o, i] * a_x[i] / a_y[o]        b'[o] = (beta * b[o] + sum_i alpha * W[o, i] * d_x[i] - d_y[o]) / a_y[o]

and an affine that went, y = s x + t, must be the identity between its frames: s a_x = a_y and s d_x + t = d_y. A frame
with scale 0 is that of a channel which such an affine multiplies by 0: W' is 0 there, and b' what makes of it, behind
that affine, what the affine gave (`bnfold.auditing.dead`).
An error is counted in ULP of the stored dtype at the largest term: rounding to the nearest is half of one.
"""

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold import ops
from bnfold.affine import Floats
from bnfold.auditing.affines import axis_of, parameters, scale_and_shift, size_of_shift
from bnfold.auditing.channels import Channels, channels
from bnfold.auditing.comparing import ALLOWED, FLOAT64, AuditRow, Comparison, allowed, errors, ulp
from bnfold.auditing.dead import DeadChannels
from bnfold.auditing.merges import UnlikeError, last_of, merged
from bnfold.auditing.partial import expected
from bnfold.graph import SLAB, Constant, Graph, Node
from bnfold.plan import Merge, Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetConstants

__all__ = ["ALLOWED", "FLOAT64", "AuditRow", "Written", "audit", "ulp"]

Written: TypeAlias = Callable[[str, int], NDArray[np.floating] | None]

IDENTITY = 1e-9  # of the largest term, for a removed affine: the solver's float64 sums along a trunk


def audit(graph: Graph, plan: Plan, written: Written) -> tuple[AuditRow, ...]:
    """Compare what was written with what the plan's frames say, in the graph's order.

    graph: the model before. written(node, operand): what operand `operand` of the node holds now, in a floating
    dtype of NumPy that holds its numbers and in the layout that it had before (a bias: what is added to W x, a Gemm's
    times its beta); None where it is absent.
    """
    auditor = _Auditor(graph, plan, written)
    rows = [row for node in graph.nodes if node.name not in plan.merged for row in auditor.rows(node)]
    return (*rows, *(row for merge in plan.merges for row in auditor.merge(merge)))


class _Auditor:
    def __init__(self, graph: Graph, plan: Plan, written: Written) -> None:
        self.graph, self.plan, self.written = graph, plan, written
        self.removed = {edit.node for edit in plan.edits if isinstance(edit, Remove)}
        self.replaced = {edit.node for edit in plan.edits if isinstance(edit, ReplaceByClip)}
        self.numbers = {edit.node: edit.constants for edit in plan.edits if isinstance(edit, SetConstants)}
        self.linear = {edit.node for edit in plan.edits if isinstance(edit, ScaleWeight | SetBias)}
        self.dead = DeadChannels(graph, plan, self._written_affine)

    def rows(self, node: Node) -> Iterator[AuditRow]:
        """Give the rows of one node; none where no frame touches it."""
        if node.name in self.removed:
            yield self._identity(node)
            return
        framed = any(name in self.plan.frames for name in (*node.inputs, *node.outputs))
        if isinstance(node.op, ops.Parameter):
            if framed:
                yield self._parameter(node)
            return
        linear = channels(node, self.graph) if framed else None
        if linear is not None:
            yield from self._linear(node, linear)
        elif isinstance(node.op, ops.BatchNorm | ops.Affine) and framed:
            yield from self._kept(node)
        elif isinstance(node.op, ops.Recurrent | ops.Bilinear):
            if framed:
                for item in expected(node, self.graph, self._frame):
                    yield self._row(node, item.operand, item.part, item.numbers, item.sizes)
        elif node.name in self.linear:
            yield AuditRow(node.name, "weight", 0, float("inf"), ())  # no definition of ours says what it holds
        elif node.name in self.numbers and node.name not in self.replaced:
            for index, numbers in self.numbers[node.name].items():
                yield self._row(node, index, "constants", numbers, np.abs(numbers))

    def merge(self, merge: Merge) -> Iterator[AuditRow]:
        """Give the rows of the Conv that stands for branches."""
        last, dtype = last_of(self.graph, merge), self.graph.values[merge.x].dtype
        weight, bias = (self.written(merge.node, operand) for operand in (1, 2))
        try:
            right = merged(self.graph, self.plan, merge, (0,) if weight is None else weight.shape)
        except UnlikeError:
            yield AuditRow(merge.node, "weight", 0, float("inf"), (), allowed(dtype))
            return
        dead = self._frame(last.output, 1, len(right[2]))[0] == 0
        if weight is None or bias is None or bias.shape != dead.shape or not self.dead.are_unseen(last, dead):
            yield AuditRow(merge.node, "weight", right[0].size, float("inf"), (), allowed(dtype))
            return
        end = self.dead.arrival(last, bias.astype(np.float64))
        behind = [(end.got, bias), (end.wanted, right[2]), (end.size, right[3])]
        bias_row = (np.where(dead, there, here) for there, here in behind)
        for part, (got, wanted, sizes) in (("weight", (weight, *right[:2])), ("bias", bias_row)):
            compared = Comparison(dtype, wanted.size)
            compared.add(errors(got, wanted, sizes, dtype))
            yield compared.row(merge.node, part)

    def _frame(self, value: str, axis: int, size: int) -> tuple[Floats, Floats]:
        """Give scale and shift along the axis; a frame on another axis passes by."""
        frame = self.plan.frame(value, axis)
        return (np.ones(size), np.zeros(size)) if frame is None else (frame.scale, frame.shift)

    def _linear(self, node: Node, linear: Channels) -> Iterator[AuditRow]:
        weight = self.graph.constants[node.inputs[linear.operand]]
        a_x, d_x = self._frame(linear.x, linear.x_axis, linear.inputs)
        a_y, d_y = self._frame(node.output, linear.y_axis, linear.outputs)
        dead = a_y == 0
        got = self.written(node.name, linear.operand)
        if got is None or got.size != math.prod(weight.shape) or not self.dead.are_unseen(node, dead):
            yield AuditRow(node.name, "weight", math.prod(weight.shape), float("inf"), (), allowed(weight.dtype))
            return
        live, a_y = np.where(dead, 0.0, 1.0), np.where(dead, 1.0, a_y)
        terms = _Terms(linear, d_x)
        compared = Comparison(weight.dtype)
        for rows, slab in _slabs(weight):
            wanted = _times(_times(slab, linear.of_input, a_x, rows), linear.of_output, live / a_y, rows)
            compared.compare(got.reshape(weight.shape)[rows], wanted, rows.start)
            terms.add(slab, rows)
        yield compared.row(node.name, "weight")
        place = (-1, *(1,) * linear.behind)
        total, largest = (live * terms.total).reshape(place), (live * terms.largest).reshape(place)
        old, scale = self._old_bias(node, linear) * live.reshape(place), a_y.reshape(place)
        wanted = (old + total - (live * d_y).reshape(place)) / scale
        sizes = np.maximum(np.maximum(np.abs(old), largest), (live * np.abs(d_y)).reshape(place)) / np.abs(scale)
        got = self.written(node.name, 2)
        if dead.any():
            yield self._dead_bias(node, np.zeros(1) if got is None else got, wanted, sizes, dead)
        elif np.any(wanted != 0) or got is not None:
            yield self._row(node, 2, "bias", wanted, np.broadcast_to(sizes, wanted.shape))

    def _dead_bias(
        self, node: Node, got: NDArray[np.floating], wanted: Floats, sizes: Floats, dead: NDArray[np.bool_]
    ) -> AuditRow:
        """Compare a bias whose dead channels are what the affine ahead makes of them; it has no other axes then."""
        compared = Comparison(self._dtype(node, 2), len(dead))
        if got.size not in (1, len(dead)) or wanted.size != len(dead):
            return AuditRow(node.name, "bias", len(dead), float("inf"), (), allowed(compared.dtype))
        now = np.broadcast_to(got.reshape(-1), len(dead)).astype(np.float64)
        arrival = self.dead.arrival(node, now)
        found = np.where(dead, arrival.got, now)
        expected = np.where(dead, arrival.wanted, wanted.reshape(-1))
        size = np.where(dead, arrival.size, np.broadcast_to(sizes, wanted.shape).reshape(-1))
        compared.add(errors(found, expected, size, compared.dtype))
        return compared.row(node.name, "bias")

    def _old_bias(self, node: Node, linear: Channels) -> Floats:
        name = node.inputs[2] if len(node.inputs) > 2 else ""
        return linear.beta * self.graph.constants[name].load() if name else np.zeros(1)

    def _identity(self, node: Node) -> AuditRow:
        scale, shift = scale_and_shift(node, self.graph)
        axis = axis_of(node)
        a_x, d_x = self._frame(node.inputs[0], axis, len(scale))
        a_y, d_y = self._frame(node.output, axis, len(scale))
        dead = self._dead(node, a_x, a_y) | (scale == 0) & (a_x == 0)  # the layer before says what comes out there
        a_y = np.where(a_y == 0, 1.0, a_y)
        wrong = np.abs(scale * a_x - a_y) / np.abs(a_y)
        sizes = [np.abs(scale * d_x), size_of_shift(node, self.graph), np.abs(d_y), np.full(len(scale), 1e-300)]
        terms = np.maximum.reduce(sizes)
        wrong = np.maximum(wrong, np.abs(scale * d_x + shift - d_y) / terms) / IDENTITY
        compared = Comparison("", len(scale))
        compared.add(np.where(dead, 0.0, wrong))
        return compared.row(node.name, "identity")

    def _kept(self, node: Node) -> Iterator[AuditRow]:
        """s' = s a_x / a_y and t' = (s d_x + t - d_y) / a_y, of the affine that the constants make together.

        A BatchNorm may have any variance that its gamma makes up for.
        """
        axis = axis_of(node)
        scale, shift = scale_and_shift(node, self.graph)
        a_x, d_x = self._frame(node.inputs[0], axis, len(scale))
        a_y, d_y = self._frame(node.output, axis, len(scale))
        dead = self._dead(node, a_x, a_y)  # what comes through here is judged with the bias of the layer before
        a_x, a_y = np.where(dead, 1.0, a_x), np.where(dead, 1.0, a_y)
        if isinstance(node.op, ops.Affine):
            yield self._row(node, 1, "constants", scale * a_x / a_y, np.abs(scale * a_x / a_y), dead)
            sizes = np.maximum.reduce([np.abs(scale * d_x), np.abs(shift), np.abs(d_y)]) / np.abs(a_y)
            yield self._row(node, 2, "constants", (scale * d_x + shift - d_y) / a_y, sizes, dead)
            return
        gamma, beta, mean, variance = parameters(node, self.graph)
        assert isinstance(node.op, ops.BatchNorm)
        deviation = np.sqrt((self._now(node, 4) + node.op.eps) / (variance + node.op.eps))  # of another variance
        slope = gamma * a_x / a_y * deviation
        yield self._row(node, 1, "constants", slope, np.abs(slope), dead)
        sizes = np.maximum(np.abs(beta), np.abs(d_y)) / np.abs(a_y)
        yield self._row(node, 2, "constants", (beta - d_y) / a_y, sizes, dead)
        sizes = np.maximum(np.abs(mean), np.abs(d_x)) / np.abs(a_x)
        yield self._row(node, 3, "constants", (mean - d_x) / a_x, sizes, dead)

    def _parameter(self, node: Node) -> AuditRow:
        """c' = (c - d) / a, of the outer frame and then of the inner one."""
        constant = self.graph.constants[node.inputs[0]].load()
        sizes = np.abs(constant)
        for frames in (self.plan.frames, self.plan.inner):
            frame = frames.get(node.output)
            if frame is not None:
                place = [-1 if axis == frame.axis else 1 for axis in range(constant.ndim)]
                scale, shift = frame.scale.reshape(place), frame.shift.reshape(place)
                sizes = np.maximum(sizes, np.abs(shift)) / np.abs(scale)
                constant = (constant - shift) / scale
        return self._row(node, 0, "constants", constant, sizes)

    def _dead(self, node: Node, a_x: Floats, a_y: Floats) -> NDArray[np.bool_]:
        """Mark the channels that pass an affine unseen, since one ahead multiplied them by 0; all or none of them."""
        dead = (a_x == 0) & (a_y == 0)
        return dead if self.dead.are_unseen(node, dead) else np.zeros(len(dead), np.bool_)

    def _written_affine(self, node: Node) -> tuple[Floats, Floats]:
        """Give scale and shift of an affine as its constants are now."""
        now = [self._now(node, index) for index in range(1, len(node.inputs))]
        if isinstance(node.op, ops.Affine):
            return now[0], now[1]
        assert isinstance(node.op, ops.BatchNorm)
        slope = now[0] / np.sqrt(now[3] + node.op.eps)
        return slope, now[1] - slope * now[2]

    def _now(self, node: Node, index: int) -> Floats:
        """Give a constant of an affine as it is written; that of one that doesn't change needn't be."""
        got = self.written(node.name, index)
        if got is not None:
            return got.astype(np.float64).reshape(-1)
        absent = 1.0 if index == 1 else 0.0  # a BatchNorm without a gamma multiplies by 1
        return np.full(1, absent)

    def _row(
        self,
        node: Node,
        index: int,
        part: str,
        wanted: Floats,
        sizes: Floats,
        unseen: NDArray[np.bool_] | None = None,
    ) -> AuditRow:
        compared = Comparison(self._dtype(node, index), wanted.size)
        got = self.written(node.name, index)
        if got is None:
            absent = 1.0 if part == "constants" and index == 1 else 0.0  # a BatchNorm without a gamma multiplies by 1
            got = np.full(wanted.shape, absent)
        if got.size != wanted.size:
            return AuditRow(node.name, part, wanted.size, float("inf"), (), allowed(compared.dtype))
        wrong = errors(got.reshape(wanted.shape), wanted, sizes, compared.dtype)
        compared.add(wrong if unseen is None else np.where(unseen, 0.0, wrong))
        return compared.row(node.name, part)

    def _dtype(self, node: Node, index: int) -> str:
        constant: Constant | None = self.graph.constants.get(node.inputs[index] if index < len(node.inputs) else "")
        value = node.output or node.inputs[0]  # an output that nobody reads may have no name
        return constant.dtype if constant is not None else self.graph.values[value].dtype


class _Terms:
    """sum_i alpha * W[o, i] * d_x[i], by output channel, and the size of the largest term; nothing without a shift."""

    def __init__(self, linear: Channels, shift: Floats) -> None:
        self.linear, self.shift = linear, shift
        self.total, self.largest = np.zeros(linear.outputs), np.zeros(linear.outputs)

    def add(self, weight: Floats, rows: slice) -> None:
        """Take in some rows of the weight."""
        if not self.shift.any():
            return
        linear = self.linear
        terms = linear.alpha * weight * linear.of_input(self.shift, rows)
        others = tuple(axis for axis in range(weight.ndim) if axis not in (0, linear.out_axis))
        at = linear.of_output(np.arange(linear.outputs), rows)
        sums, maxima = terms.sum(others, keepdims=True), np.abs(terms).max(others, keepdims=True, initial=0.0)
        np.add.at(self.total, np.broadcast_to(at, sums.shape), sums)
        np.maximum.at(self.largest, np.broadcast_to(at, sums.shape), maxima)


def _slabs(constant: Constant) -> Iterator[tuple[slice, Floats]]:
    """Give stretches of axis 0 that fit the processor's cache; a row at the least."""
    for rows, slab in constant.slabs():
        step = max(1, SLAB * len(slab) // max(1, slab.size))
        for start in range(0, len(slab), step):
            stop = min(start + step, len(slab))
            yield slice(rows.start + start, rows.start + stop), slab[start:stop]


def _times(weight: Floats, along: Callable[[Floats, slice], Floats], factors: Floats, rows: slice) -> Floats:
    return weight if np.all(factors == 1) else weight * along(factors, rows)
