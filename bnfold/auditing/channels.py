"""Which channels each element of a weight joins, read off the operators' definitions for the audit."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold import ops
from bnfold.graph import Graph, Node
from bnfold.record import record


@record
class Channels:
    """A linear node. shape: of its weight, whose output channels lie along out_axis and input channels along in_axis.

    operand: which operand the weight is. x: the other one. x_axis, y_axis: where the channels lie in x and in y.
    groups: axis 0 is cut into that many, and axis 1 numbers the channels within one of them. behind: how many axes of y
    lie behind its channels' (a bias is broadcast over them; 0 for a convolution, whose bias has no other axes).
    passes: the axes of x along which each position is one of y, and which that is.
    """

    operand: int
    x: str
    x_axis: int
    y_axis: int
    shape: tuple[int, ...]
    out_axis: int
    in_axis: int
    groups: int = 1
    behind: int = 0
    alpha: float = 1.0
    beta: float = 1.0
    passes: Mapping[int, int] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self.shape[self.out_axis] * (self.groups if self.out_axis == 1 else 1)

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        return self.shape[self.in_axis] * (self.groups if self.in_axis == 1 else 1)

    def of_output(self, numbers: NDArray[Any], rows: slice) -> NDArray[Any]:
        """Shape numbers, one an output channel, so that they broadcast against these rows of the weight."""
        return self._along(self.out_axis, numbers, rows)

    def of_input(self, numbers: NDArray[Any], rows: slice) -> NDArray[Any]:
        """Shape numbers, one an input channel, so that they broadcast against these rows of the weight."""
        return self._along(self.in_axis, numbers, rows)

    def _along(self, axis: int, numbers: NDArray[Any], rows: slice) -> NDArray[Any]:
        rank = len(self.shape)
        if axis == 1 and self.groups > 1:
            group = np.arange(self.shape[0])[rows] // (self.shape[0] // self.groups)
            return numbers.reshape(self.groups, self.shape[1])[group].reshape(-1, self.shape[1], *(1,) * (rank - 2))
        of_rows = numbers[rows] if axis == 0 else numbers
        return of_rows.reshape([-1 if k == axis else 1 for k in range(rank)])


def channels(node: Node, graph: Graph) -> Channels | None:
    """Read a node whose weight and bias are constants; None for any other."""
    operand = next((k for k in (1, 0) if len(node.inputs) > k and node.inputs[k] in graph.constants), None)
    if operand is None or (len(node.inputs) > 2 and node.inputs[2] in graph.values):
        return None
    x, shape = node.inputs[1 - operand], graph.constants[node.inputs[operand]].shape
    rank, of_x, last = len(graph.shape(node.output) or ()), len(graph.shape(x) or ()), len(shape) - 1
    if last < 1:
        return None
    match node.op:
        case ops.Conv(groups=groups) if operand == 1:
            return Channels(1, x, 1, 1, shape, 0, 1, groups, passes={0: 0})
        case ops.ConvTranspose(groups=groups) if operand == 1:
            return Channels(1, x, 1, 1, shape, 1, 0, groups, passes={0: 0})
        case ops.Linear() if operand == 1:
            passes = {axis: axis for axis in range(rank - 1)}
            return Channels(1, x, rank - 1, rank - 1, shape, 0, 1, passes=passes)
        case ops.Gemm(alpha, beta, trans_a, trans_b) if operand == 1:
            axes, rows = (0, 1) if trans_b else (1, 0), 1 if trans_a else 0
            return Channels(1, x, 1 - rows, 1, shape, *axes, alpha=alpha, beta=beta, passes={rows: 0})
        case ops.Gemm(alpha, beta, trans_a, trans_b):
            axes, columns = (1, 0) if trans_a else (0, 1), 0 if trans_b else 1
            passes = {columns: 1}
            return Channels(0, x, 1 - columns, 0, shape, *axes, behind=1, alpha=alpha, beta=beta, passes=passes)
        case ops.MatMul() if operand == 1:
            passes = {axis: axis + rank - of_x for axis in range(of_x - 1)}
            return Channels(1, x, of_x - 1, rank - 1, shape, last, last - 1, passes=passes)
        case ops.MatMul():
            behind, rows = 1 if of_x > 1 else 0, max(of_x - 2, 0)
            passes = {axis: axis + rank - of_x for axis in range(of_x) if axis != rows}
            return Channels(0, x, rows, rank - 1 - behind, shape, last - 1, last, behind=behind, passes=passes)
        case ops.Einsum(equation) if equation.count(",") == 1:
            return _einsum(x, shape, operand, _spelled(equation, operand, len(shape), of_x))
        case _:
            return None


def _einsum(x: str, shape: tuple[int, ...], operand: int, equation: str) -> Channels | None:
    """An output channel's letter is in W and y alone, an input channel's in W and x alone."""
    given, made = equation.split("->")
    of_weight, of_x = given.split(",")[operand], given.split(",")[1 - operand]
    outputs = [letter for letter in of_weight if letter in made and letter not in of_x]
    inputs = [letter for letter in of_weight if letter in of_x and letter not in made]
    if len(outputs) != 1 or len(inputs) != 1:
        return None
    axes = (of_weight.index(outputs[0]), of_weight.index(inputs[0]))
    x_axis, y_axis = of_x.index(inputs[0]), made.index(outputs[0])
    passes = {axis: made.index(letter) for axis, letter in enumerate(of_x) if letter in made}
    return Channels(operand, x, x_axis, y_axis, shape, *axes, behind=len(made) - 1 - y_axis, passes=passes)


def _spelled(equation: str, operand: int, of_weight: int, of_x: int) -> str:
    """Write letters for the dots, digits that nobody else has, and the result that is meant where none is written."""
    given, arrow, made = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if not arrow:
        once = sorted(letter for letter in set(given) - {",", "."} if given.count(letter) == 1)
        made = "..." * ("..." in given) + "".join(once)
    ranks = (of_x, of_weight) if operand == 1 else (of_weight, of_x)
    counts = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    dots = "0123456789"[: max(0, *counts)]
    spelled = [term.replace("...", dots[len(dots) - count :]) for term, count in zip(terms, counts, strict=True)]
    return f"{spelled[0]},{spelled[1]}->{made.replace('...', dots)}"
