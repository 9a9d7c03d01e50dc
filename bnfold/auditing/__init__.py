"""Every changed weight and bias against a float64 recomputation that shares no code with the fold's.

The fold goes from relations to factors and applies these; the audit goes element by element from the definition: put
x = a_x x' + d_x and y = a_y y' + d_y (the plan's frames) into y = alpha * W x + beta * b, so that for the element of W
between input channel i and output channel o

    W'[o, i] = W[o, i] * a_x[i] / a_y[o]        b'[o] = (beta * b[o] + sum_i alpha * W[o, i] * d_x[i] - d_y[o]) / a_y[o]

and an affine that went, y = s x + t, must be the identity between its frames: s a_x = a_y and s d_x + t = d_y. A frame
with scale 0 is that of a channel which such an affine multiplies by 0: W' is 0 there, and b' what the affine gives.
An error is counted in ULP of the stored dtype at the largest term: rounding to the nearest is half of one.
"""

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold import ops
from bnfold.affine import Floats
from bnfold.auditing.channels import Channels, channels
from bnfold.auditing.comparing import ALLOWED, FLOAT64, AuditRow, Comparison, allowed, errors, ulp
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
    The nodes of a Merge are left to the comparison of outputs.
    """
    auditor = _Auditor(graph, plan, written)
    return tuple(row for node in graph.nodes if node.name not in auditor.merged for row in auditor.rows(node))


class _Auditor:
    def __init__(self, graph: Graph, plan: Plan, written: Written) -> None:
        self.graph, self.plan, self.written = graph, plan, written
        self.removed = {edit.node for edit in plan.edits if isinstance(edit, Remove)}
        self.merged = {name for edit in plan.edits if isinstance(edit, Merge) for name in edit.nodes}
        self.replaced = {edit.node for edit in plan.edits if isinstance(edit, ReplaceByClip)}
        self.numbers = {edit.node: edit.constants for edit in plan.edits if isinstance(edit, SetConstants)}
        self.linear = {edit.node for edit in plan.edits if isinstance(edit, ScaleWeight | SetBias)}

    def rows(self, node: Node) -> Iterator[AuditRow]:
        """Give the rows of one node; none where no frame touches it."""
        if node.name in self.removed:
            yield self._identity(node)
            return
        framed = any(name in self.plan.frames for name in (*node.inputs, *node.outputs))
        linear = channels(node, self.graph) if framed else None
        if linear is not None:
            yield from self._linear(node, linear)
        elif isinstance(node.op, ops.BatchNorm | ops.Affine) and framed:
            yield from self._kept(node)
        elif node.name in self.linear:
            yield AuditRow(node.name, "weight", 0, float("inf"), ())  # no definition of ours says what it holds
        elif node.name in self.numbers and node.name not in self.replaced:
            for index, numbers in self.numbers[node.name].items():
                yield self._row(node, index, "constants", numbers, np.abs(numbers))

    def _frame(self, value: str, axis: int, size: int) -> tuple[Floats, Floats]:
        """Give scale and shift along the axis; a frame on another axis passes by."""
        frame = self.plan.frames.get(value)
        if frame is None or frame.axis != axis:
            return np.ones(size), np.zeros(size)
        return frame.scale, frame.shift

    def _linear(self, node: Node, linear: Channels) -> Iterator[AuditRow]:
        weight = self.graph.constants[node.inputs[linear.operand]]
        a_x, d_x = self._frame(linear.x, linear.x_axis, linear.inputs)
        a_y, d_y = self._frame(node.output, linear.y_axis, linear.outputs)
        dead = a_y == 0
        got = self.written(node.name, linear.operand)
        if got is None or got.size != math.prod(weight.shape) or self._is_dead_without_need(node, linear, dead):
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
        constant, size = self._constant_behind(node) if dead.any() else (-d_y, np.abs(d_y))
        shift = np.where(dead, -constant, d_y).reshape(place)
        size = np.where(dead, size, np.abs(d_y)).reshape(place)
        wanted = (old + total - shift) / scale
        sizes = np.maximum(np.maximum(np.abs(old), largest), size) / np.abs(scale)
        if np.any(wanted != 0) or self.written(node.name, 2) is not None:
            yield self._row(node, 2, "bias", wanted, np.broadcast_to(sizes, wanted.shape))

    def _old_bias(self, node: Node, linear: Channels) -> Floats:
        name = node.inputs[2] if len(node.inputs) > 2 else ""
        return linear.beta * self.graph.constants[name].load() if name else np.zeros(1)

    def _affine_ahead(self, node: Node) -> Node | None:
        """Give the first affine that went, where nobody else reads what lies between."""
        while node.name not in self.removed:
            readers = self.graph.readers.get(node.output, ())
            if len(readers) != 1 or node.output in self.graph.outputs:
                return None
            node = readers[0]
        return node

    def _is_dead_without_need(self, node: Node, linear: Channels, dead: NDArray[np.bool_]) -> bool:
        return bool(dead.any() and np.any(dead & ~self._multiplied_by_zero(node, linear)))

    def _multiplied_by_zero(self, node: Node, linear: Channels) -> NDArray[np.bool_]:
        ahead = self._affine_ahead(node)
        scale = np.ones(0) if ahead is None else _scale_and_shift(ahead, self.graph)[0]
        if len(scale) != linear.outputs:  # other channels were joined on the way
            return np.zeros(linear.outputs, bool)
        return np.asarray(scale == 0)

    def _constant_behind(self, node: Node) -> tuple[Floats, Floats]:
        """What y' is behind the affine ahead where that multiplies by zero, (t - d_y) / a_y, and its largest term."""
        ahead = self._affine_ahead(node)
        assert ahead is not None, f"{node.name}: nothing ahead multiplies it by zero"
        _, shift = _scale_and_shift(ahead, self.graph)
        axis = ahead.op.axis if isinstance(ahead.op, ops.Affine) else 1
        a_y, d_y = self._frame(ahead.output, axis, len(shift))
        a_y = np.where(a_y == 0, 1.0, a_y)
        return (shift - d_y) / a_y, np.maximum(_size_of_shift(ahead, self.graph), np.abs(d_y)) / np.abs(a_y)

    def _identity(self, node: Node) -> AuditRow:
        scale, shift = _scale_and_shift(node, self.graph)
        axis = node.op.axis if isinstance(node.op, ops.Affine) else 1
        a_x, d_x = self._frame(node.inputs[0], axis, len(scale))
        a_y, d_y = self._frame(node.output, axis, len(scale))
        dead = (scale == 0) & (a_x == 0)  # the bias of the layer before says what comes out there
        a_y = np.where(a_y == 0, 1.0, a_y)
        wrong = np.abs(scale * a_x - a_y) / np.abs(a_y)
        sizes = [np.abs(scale * d_x), _size_of_shift(node, self.graph), np.abs(d_y), np.full(len(scale), 1e-300)]
        terms = np.maximum.reduce(sizes)
        wrong = np.maximum(wrong, np.abs(scale * d_x + shift - d_y) / terms) / IDENTITY
        compared = Comparison("", len(scale))
        compared.add(np.where(dead, 0.0, wrong))
        return compared.row(node.name, "identity")

    def _kept(self, node: Node) -> Iterator[AuditRow]:
        """s' = s a_x / a_y and t' = (s d_x + t - d_y) / a_y, of the affine that the constants make together."""
        axis = node.op.axis if isinstance(node.op, ops.Affine) else 1
        scale, shift = _scale_and_shift(node, self.graph)
        a_x, d_x = self._frame(node.inputs[0], axis, len(scale))
        a_y, d_y = self._frame(node.output, axis, len(scale))
        if isinstance(node.op, ops.Affine):
            yield self._row(node, 1, "constants", scale * a_x / a_y, np.abs(scale * a_x / a_y))
            sizes = np.maximum.reduce([np.abs(scale * d_x), np.abs(shift), np.abs(d_y)]) / np.abs(a_y)
            yield self._row(node, 2, "constants", (scale * d_x + shift - d_y) / a_y, sizes)
            return
        gamma, beta, mean, _ = _parameters(node, self.graph)
        yield self._row(node, 1, "constants", gamma * a_x / a_y, np.abs(gamma * a_x / a_y))
        sizes = np.maximum(np.abs(beta), np.abs(d_y)) / np.abs(a_y)
        yield self._row(node, 2, "constants", (beta - d_y) / a_y, sizes)
        yield self._row(node, 3, "constants", (mean - d_x) / a_x, np.maximum(np.abs(mean), np.abs(d_x)) / np.abs(a_x))

    def _row(self, node: Node, index: int, part: str, wanted: Floats, sizes: Floats) -> AuditRow:
        compared = Comparison(self._dtype(node, index), wanted.size)
        got = self.written(node.name, index)
        if got is None:
            absent = 1.0 if part == "constants" and index == 1 else 0.0  # a BatchNorm without a gamma multiplies by 1
            got = np.full(wanted.shape, absent)
        if got.size != wanted.size:
            return AuditRow(node.name, part, wanted.size, float("inf"), (), allowed(compared.dtype))
        compared.add(errors(got.reshape(wanted.shape), wanted, sizes, compared.dtype))
        return compared.row(node.name, part)

    def _dtype(self, node: Node, index: int) -> str:
        constant: Constant | None = self.graph.constants.get(node.inputs[index] if index < len(node.inputs) else "")
        return constant.dtype if constant is not None else self.graph.values[node.output].dtype


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


def _parameters(node: Node, graph: Graph) -> tuple[Floats, Floats, Floats, Floats]:
    mean, variance = (graph.constants[name].load() for name in node.inputs[3:5])
    gamma, beta = node.inputs[1:3]
    return (
        graph.constants[gamma].load() if gamma else np.ones_like(mean),
        graph.constants[beta].load() if beta else np.zeros_like(mean),
        mean,
        variance,
    )


def _scale_and_shift(node: Node, graph: Graph) -> tuple[Floats, Floats]:
    """gamma (x - mean) / sqrt(var + eps) + beta, taken at x = 0 and by its slope."""
    if isinstance(node.op, ops.Affine):
        return graph.constants[node.inputs[1]].load(), graph.constants[node.inputs[2]].load()
    assert isinstance(node.op, ops.BatchNorm)
    gamma, beta, mean, variance = _parameters(node, graph)
    slope = gamma * (variance + node.op.eps) ** -0.5
    return slope, beta - slope * mean


def _size_of_shift(node: Node, graph: Graph) -> Floats:
    """Give the largest term of t: beta and mean * s may cancel, and leave their rounding."""
    slope, shift = _scale_and_shift(node, graph)
    if isinstance(node.op, ops.Affine):
        return np.abs(shift)
    return np.maximum(np.abs(shift), np.abs(slope * graph.constants[node.inputs[3]].load()))
