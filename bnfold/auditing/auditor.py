"""Every changed weight and bias against a float64 recomputation that shares no code with the fold's.

The fold goes from relations to factors and applies these; the audit goes element by element from the definition: put
x = a_x x' + d_x and y = a_y y' + d_y (the plan's frames) into y = alpha * W x + beta * b, so that for the element of W
between input channel i and output channel o

    W'[o, i] = W[o, i] * a_x[i] / a_y[o]        b'[o] = (beta * b[o] + sum_i alpha * W[o, i] * d_x[i] - d_y[o]) / a_y[o]

and an affine that went, y = s x + t, must be the identity between its frames: s a_x = a_y and s d_x + t = d_y. Of
tensors that changed along several axes this holds at every position along the others (`bnfold.auditing.frames`). A
frame with scale 0 is that of a channel which such an affine multiplies by 0: W' is 0 there, and b' what makes of it,
behind that affine, what the affine gave (`bnfold.auditing.dead`).
An error is counted in ULP of the stored dtype at the largest term: rounding to the nearest is half of one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold import ops
from bnfold.affine import Floats
from bnfold.auditing.affines import around, axis_of, gone, identity_error, line, parameters
from bnfold.auditing.channels import Channels, channels
from bnfold.auditing.comparing import ALLOWED, FLOAT64, AuditRow, Comparison, allowed, errors, ulp
from bnfold.auditing.dead import DeadChannels
from bnfold.auditing.frames import Product, Seen, Term, UntoldError, ratios, refuse_unlike, seen
from bnfold.auditing.merges import UnlikeError, last_of, merged
from bnfold.auditing.partial import expected
from bnfold.auditing.spread import Spread, slabs, times
from bnfold.graph import Constant, Graph, Node
from bnfold.plan import Merge, Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetConstants

__all__ = ["ALLOWED", "FLOAT64", "AuditRow", "Written", "audit", "ulp"]

Marks: TypeAlias = NDArray[np.bool_]
Written: TypeAlias = Callable[[str, int], NDArray[np.floating] | None]

NOTHING: Product = {}
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
        try:
            yield from self._rows(node)
        except UntoldError:
            yield AuditRow(node.name, "frames", 0, float("inf"), ())

    def _rows(self, node: Node) -> Iterator[AuditRow]:
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
        wrong = AuditRow(merge.node, "weight", 0 if weight is None else weight.size, float("inf"), (), allowed(dtype))
        if weight is None or bias is None:
            yield wrong
            return
        try:
            right = merged(self.graph, self.plan, merge, weight.shape)
            dead = seen(self.plan.frames.get(last.output, ()), 1, len(right[2]), {0: 0}).scale == 0
            if bias.shape != dead.shape or not self.dead.are_unseen(last, 1, dead):
                yield wrong
                return
            end = self.dead.arrival(last, 1, bias.astype(np.float64)) if dead.any() else None
        except (UnlikeError, UntoldError):
            yield wrong
            return
        parts = {"weight": (weight, *right[:2]), "bias": (bias, *right[2:])}
        if end is not None:
            there = end.got, end.wanted, end.size
            got, wanted, sizes = (np.where(dead, *pair) for pair in zip(there, parts["bias"], strict=True))
            parts["bias"] = got, wanted, sizes
        for part, (got, wanted, sizes) in parts.items():
            compared = Comparison(dtype, wanted.size)
            compared.add(errors(got, wanted, sizes, dtype))
            yield compared.row(merge.node, part)

    def _frame(self, value: str, axis: int, size: int) -> tuple[Floats, Floats]:
        """Give scale and shift along the axis; UntoldError where there are frames along others."""
        found = seen(self.plan.frames.get(value, ()), axis, size)
        return found.scale, found.shift

    def _linear(self, node: Node, linear: Channels) -> Iterator[AuditRow]:
        weight = self.graph.constants[node.inputs[linear.operand]]
        x = seen(self.plan.frames.get(linear.x, ()), linear.x_axis, linear.inputs, linear.passes)
        passed = {axis: axis for axis in linear.passes.values()}
        y = seen(self.plan.frames.get(node.output, ()), linear.y_axis, linear.outputs, passed)
        refuse_unlike(x.elsewhere, y.elsewhere)
        self._refuse_visible(node, y)
        dead = y.scale == 0
        got = self.written(node.name, linear.operand)
        if got is None or got.size != math.prod(weight.shape) or not self.dead.are_unseen(node, linear.y_axis, dead):
            yield AuditRow(node.name, "weight", math.prod(weight.shape), float("inf"), (), allowed(weight.dtype))
            return
        live, y = np.where(dead, 0.0, 1.0), y.alive()
        spread = [Spread(linear, term.channels) for term in x.shifts]
        compared = Comparison(weight.dtype)
        for rows, slab in slabs(weight):
            wanted = times(times(slab, linear.of_input, x.scale, rows), linear.of_output, live / y.scale, rows)
            compared.compare(got.reshape(weight.shape)[rows], wanted, rows.start)
            for one in spread:
                one.add(slab, rows)
        yield compared.row(node.name, "weight")
        moved = [one.term(term.elsewhere) for one, term in zip(spread, x.shifts, strict=True)]
        yield from self._bias(node, linear, [*moved, *y.negative()], y, dead)

    def _bias(self, node: Node, linear: Channels, added: Sequence[Term], y: Seen, dead: Marks) -> Iterator[AuditRow]:
        """Compare what is added to W x: b and `added`, in the unit of y, whose dead channels have scale 1 here."""
        got, old = self.written(node.name, 2), self._old_bias(node, linear)
        if old.size not in (1, linear.outputs):
            yield from self._wide_bias(node, linear, added, y, dead)
            return
        flat, compared = np.broadcast_to(old.reshape(-1), linear.outputs), Comparison(self._dtype(node, 2))
        now = np.zeros(1) if got is None else got.reshape(-1)
        if now.size not in (1, linear.outputs):
            yield AuditRow(node.name, "bias", linear.outputs, float("inf"), (), allowed(compared.dtype))
            return
        now = np.broadcast_to(now, linear.outputs)
        wrong, is_wanted = np.zeros(linear.outputs), got is not None
        for wanted, sizes in ratios([Term(flat, {}, np.abs(flat)), *added], y):
            wrong = np.maximum(wrong, errors(now, wanted, sizes, compared.dtype).max(0, initial=0.0))
            is_wanted |= bool(np.any(wanted != 0))
        if dead.any():
            end, is_wanted = self.dead.arrival(node, linear.y_axis, now.astype(np.float64)), True
            wrong = np.where(dead, errors(end.got, end.wanted, end.size, compared.dtype), wrong)
        if is_wanted:
            compared.elements = linear.outputs
            compared.add(wrong)
            yield compared.row(node.name, "bias")

    def _wide_bias(
        self, node: Node, linear: Channels, added: Sequence[Term], y: Seen, dead: Marks
    ) -> Iterator[AuditRow]:
        """Compare a bias that varies along other axes, too; there no dead channels are, and no frames along these."""
        if dead.any() or y.elsewhere or any(term.elsewhere for term in added):
            raise UntoldError("a bias of several axes")
        place = (-1, *(1,) * linear.behind)
        ((total, sizes),) = ratios(added, y)
        old = self._old_bias(node, linear) / y.scale.reshape(place)
        wanted = old + total.reshape(place)
        yield self._row(node, 2, "bias", wanted, np.maximum(np.abs(old), sizes.reshape(place)))

    def _old_bias(self, node: Node, linear: Channels) -> Floats:
        name = node.inputs[2] if len(node.inputs) > 2 else ""
        return linear.beta * self.graph.constants[name].load() if name else np.zeros(1)

    def _identity(self, node: Node) -> AuditRow:
        one = gone(node, self.graph, self.plan.frames)
        self._refuse_visible(node, one.y)
        stopped = (one.line.slope == 0) & (one.x.scale == 0)  # the layer before says what comes out there
        dead = self._dead(node, one.axis, one.x, one.y) | stopped
        compared = Comparison("", len(dead))
        compared.add(np.where(dead, 0.0, identity_error(one.line, one.x, one.y) / IDENTITY))
        return compared.row(node.name, "identity")

    def _kept(self, node: Node) -> Iterator[AuditRow]:
        """s' = s a_x / a_y and t' = (s d_x + t - d_y) / a_y, of the affine that the constants make together.

        A BatchNorm may have any variance that its gamma makes up for.
        """
        own = line(node, self.graph)
        x, y = around(node, self.plan.frames, len(own.slope))
        self._refuse_visible(node, y)
        dead = self._dead(
            node, axis_of(node), x, y
        )  # what comes through here is judged with the bias of the layer before
        x, y = (replace(one, scale=np.where(dead, 1.0, one.scale)) for one in (x, y))
        if isinstance(node.op, ops.Affine):
            yield self._numbers(node, 1, [_term(own.slope * x.scale, x.elsewhere)], y, dead)
            yield self._numbers(node, 2, [*x.times(own.slope), _term(own.shift), *y.negative()], y, dead)
            return
        gamma, beta, mean, variance = parameters(node, self.graph)
        assert isinstance(node.op, ops.BatchNorm)
        deviation = np.sqrt((self._now(node, 4) + node.op.eps) / (variance + node.op.eps))  # of another variance
        yield self._numbers(node, 1, [_term(gamma * x.scale * deviation, x.elsewhere)], y, dead)
        yield self._numbers(node, 2, [_term(beta), *y.negative()], y, dead)
        yield self._numbers(node, 3, [_term(mean), *x.negative()], x, dead)

    def _numbers(self, node: Node, index: int, terms: Sequence[Term], scale: Seen, unseen: Marks) -> AuditRow:
        """Compare an operand with (sum of terms) / scale at every position; (C,), like `unseen`."""
        compared = Comparison(self._dtype(node, index), len(unseen))
        got = self._now(node, index)
        if got.size not in (1, len(unseen)):
            return AuditRow(node.name, "constants", len(unseen), float("inf"), (), allowed(compared.dtype))
        wrong = np.zeros(len(unseen))
        for wanted, sizes in ratios(terms, scale):
            wrong = np.maximum(wrong, errors(got, wanted, sizes, compared.dtype).max(0, initial=0.0))
        compared.add(np.where(unseen, 0.0, wrong))
        return compared.row(node.name, "constants")

    def _parameter(self, node: Node) -> AuditRow:
        """c' = (c - d) / a, frame by frame, the outermost first."""
        constant = self.graph.constants[node.inputs[0]].load()
        sizes = np.abs(constant)
        for frame in self.plan.frames[node.output]:
            place = [-1 if axis == frame.axis else 1 for axis in range(constant.ndim)]
            scale, shift = frame.scale.reshape(place), frame.shift.reshape(place)
            sizes = np.maximum(sizes, np.abs(shift)) / np.abs(scale)
            constant = (constant - shift) / scale
        return self._row(node, 0, "constants", constant, sizes)

    def _dead(self, node: Node, axis: int, x: Seen, y: Seen) -> Marks:
        """Mark the channels that pass an affine unseen, since one ahead multiplied them by 0; all or none of them."""
        dead = (x.scale == 0) & (y.scale == 0)
        return dead if self.dead.are_unseen(node, axis, dead) else np.zeros(len(dead), np.bool_)

    def _refuse_visible(self, node: Node, y: Seen) -> None:
        """Raise UntoldError where frames of its output have scale 0 along another axis, and nothing ahead has."""
        for axis, numbers in y.elsewhere.items():
            if not self.dead.are_unseen(node, axis, numbers == 0):
                raise UntoldError(f"channels of scale 0 along axis {axis} that somebody sees")

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

    def _row(self, node: Node, index: int, part: str, wanted: Floats, sizes: Floats) -> AuditRow:
        compared = Comparison(self._dtype(node, index), wanted.size)
        got = self.written(node.name, index)
        if got is None:
            got = np.zeros(wanted.shape)
        if got.size != wanted.size:
            return AuditRow(node.name, part, wanted.size, float("inf"), (), allowed(compared.dtype))
        compared.add(errors(got.reshape(wanted.shape), wanted, sizes, compared.dtype))
        return compared.row(node.name, part)

    def _dtype(self, node: Node, index: int) -> str:
        constant: Constant | None = self.graph.constants.get(node.inputs[index] if index < len(node.inputs) else "")
        value = node.output or node.inputs[0]  # an output that nobody reads may have no name
        return constant.dtype if constant is not None else self.graph.values[value].dtype


def _term(channels: Floats, elsewhere: Product = NOTHING) -> Term:
    return Term(channels, elsewhere, np.abs(channels))
