"""Every changed weight and bias against a float64 recomputation that shares no code with the fold's.

The fold goes from relations to factors and applies these; the audit goes element by element from the definition: put
x = a_x x' + d_x and y = a_y y' + d_y (the plan's frames) into y = alpha * W x + beta * b, so that for the element of W
between input channel i and output channel o

    W'[o, i] = W[o, i] * a_x[i] / a_y[o]        b'[o] = (beta * b[o] + sum_i alpha * W[o, i] * d_x[i] - d_y[o]) / a_y[o]

and an affine that went, y = s x + t, must be the identity between its frames: s a_x = a_y and s d_x + t = d_y. A frame
with scale 0 is that of a channel which such an affine multiplies by 0: W' is 0 there, and b' what the affine gives.
An error is counted in ULP of the stored dtype at the largest term: one rounding is half of one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold import ops
from bnfold.affine import Floats
from bnfold.auditing.channels import Channels, channels
from bnfold.graph import Constant, Graph, Node
from bnfold.plan import Merge, Plan, Remove, ReplaceByClip, ScaleWeight, SetBias, SetConstants

Written: TypeAlias = Callable[[str, int], Floats | None]

ALLOWED = 1.0  # ULP: 0.5 for the one rounding, the rest for a bias that is a Gemm's beta times a rounded number
FLOAT64 = 16.0  # ULP, where the file holds float64: the sums of fold and audit are ordered differently
IDENTITY = 1e-9  # of the largest term, for a removed affine: the solver's float64 sums along a trunk
# Bits behind the leading one, and the exponent of the smallest normal number, by dtype (IEEE 754).
FORMATS = {"float16": (10, -14), "bfloat16": (7, -126), "float32": (23, -126), "float64": (52, -1022)}


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One constant. ulp: the greatest error, infinite where a number is missing or NaN. index: where that is.

    part: weight, bias, constants or identity (of an affine that went). elements: how many were compared.
    """

    node: str
    part: str
    elements: int
    ulp: float
    index: tuple[int, ...]
    allowed: float = ALLOWED

    @property
    def passed(self) -> bool:
        """Whether the greatest error is allowed."""
        return self.ulp <= self.allowed

    def __str__(self) -> str:
        """`conv1: weight: 432 elements, 0.50 ULP at (3, 0, 1, 1), 1 allowed`."""
        return (
            f"{self.node}: {self.part}: {self.elements} elements, {self.ulp:.2f} ULP at {self.index}, "
            f"{self.allowed:g} allowed"
        )


def audit(graph: Graph, plan: Plan, written: Written) -> tuple[AuditRow, ...]:
    """Compare what was written with what the plan's frames say, in the graph's order.

    graph: the model before. written(node, operand): what operand `operand` of the node holds now, in float64, in the
    layout that it had before (a bias: what is added to W x, a Gemm's times its beta); None where it is absent.
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
        weight = self.graph.constants[node.inputs[linear.operand]].load()
        a_x, d_x = self._frame(linear.x, linear.x_axis, linear.inputs)
        a_y, d_y = self._frame(node.output, linear.y_axis, linear.outputs)
        dead = a_y == 0
        if dead.any() and np.any(dead & ~self._multiplied_by_zero(node, linear)):
            yield AuditRow(node.name, "weight", weight.size, float("inf"), ())
            return
        live, a_y = np.where(dead, 0.0, 1.0), np.where(dead, 1.0, a_y)
        wanted = weight * a_x[linear.of_input] * live[linear.of_output] / a_y[linear.of_output]
        yield self._row(node, linear.operand, "weight", wanted, np.abs(wanted))
        place = (-1, *(1,) * linear.behind)
        total = largest = np.zeros(linear.outputs).reshape(place)
        if d_x.any():
            terms = linear.alpha * weight * d_x[linear.of_input] * live[linear.of_output]
            total, largest = (summed(terms, linear).reshape(place) for summed in (_sums, _maxima))
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
        return _worst(node.name, "identity", np.where(dead, 0.0, wrong), ALLOWED)

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
        dtype = self._dtype(node, index)
        allowed = FLOAT64 if dtype == "float64" else ALLOWED
        got = self.written(node.name, index)
        if got is None:
            absent = 1.0 if part == "constants" and index == 1 else 0.0  # a BatchNorm without a gamma multiplies by 1
            got = np.full(wanted.shape, absent)
        if got.size != wanted.size:
            return AuditRow(node.name, part, wanted.size, float("inf"), (), allowed)
        got = got.reshape(wanted.shape)
        units = ulp(np.maximum(sizes, np.abs(wanted)), dtype)  # a sum may be larger than its terms
        with np.errstate(invalid="ignore"):
            errors = np.where(got == wanted, 0.0, np.abs(got - wanted) / units)  # a clip may have infinite bounds
        return _worst(node.name, part, errors, allowed)

    def _dtype(self, node: Node, index: int) -> str:
        constant: Constant | None = self.graph.constants.get(node.inputs[index] if index < len(node.inputs) else "")
        return constant.dtype if constant is not None else self.graph.values[node.output].dtype


def ulp(sizes: Floats, dtype: str) -> Floats:
    """Give the spacing of a dtype's numbers at each size, its subnormal spacing below the smallest normal one."""
    bits, smallest = FORMATS.get(dtype, FORMATS["float32"])
    mantissas, exponents = np.frexp(np.asarray(sizes, np.float64))
    places = np.where(mantissas == 0, smallest, np.maximum(exponents - 1, smallest))
    return np.asarray(np.ldexp(1.0, places - bits))


def _worst(node: str, part: str, errors: Floats, allowed: float) -> AuditRow:
    errors = np.where(np.isnan(errors), np.inf, errors)
    if not errors.size:
        return AuditRow(node, part, 0, 0.0, (), allowed)
    index = np.unravel_index(int(np.argmax(errors)), errors.shape)
    return AuditRow(node, part, errors.size, float(errors[index]), tuple(int(place) for place in index), allowed)


def _sums(terms: Floats, linear: Channels) -> Floats:
    total = np.zeros(linear.outputs)
    if np.any(terms):  # most layers take no shift, and a walk over every weight takes its time
        np.add.at(total, linear.of_output, terms)
    return total


def _maxima(terms: Floats, linear: Channels) -> Floats:
    largest = np.zeros(linear.outputs)
    if np.any(terms):
        np.maximum.at(largest, linear.of_output, np.abs(terms))
    return largest


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
