"""Which channels each element of a weight joins, read off the operators' definitions for the audit."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold import ops
from bnfold.graph import Graph, Node

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """A linear node: of_output and of_input name the channels of every element of its weight, in its shape.

    operand: which operand the weight is. x: the other one. behind: how many axes of y lie behind its channels' (a
    bias is broadcast over them; 0 for a convolution, whose bias has no other axes).
    """

    operand: int
    x: str
    x_axis: int
    y_axis: int
    of_output: Indices
    of_input: Indices
    behind: int = 0
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return int(self.of_output.max()) + 1 if self.of_output.size else 0

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        return int(self.of_input.max()) + 1 if self.of_input.size else 0


def channels(node: Node, graph: Graph) -> Channels | None:
    """Read a node whose weight and bias are constants; None for any other."""
    operand = next((k for k in (1, 0) if len(node.inputs) > k and node.inputs[k] in graph.constants), None)
    if operand is None or (len(node.inputs) > 2 and node.inputs[2] in graph.values):
        return None
    x, shape = node.inputs[1 - operand], graph.constants[node.inputs[operand]].shape
    rank = len(graph.shape(node.output) or ())
    match node.op:
        case ops.Conv(groups=groups) if operand == 1:
            return _convolution(x, shape, groups)
        case ops.ConvTranspose(groups=groups) if operand == 1:
            return _transposed(x, shape, groups)
        case ops.Linear() if operand == 1:
            return Channels(1, x, rank - 1, rank - 1, *_axes(shape, 0, 1))
        case ops.Gemm(alpha, beta, trans_a, trans_b) if operand == 1:
            of = _axes(shape, 0, 1) if trans_b else _axes(shape, 1, 0)
            return Channels(1, x, 0 if trans_a else 1, 1, *of, 0, alpha, beta)
        case ops.Gemm(alpha, beta, trans_a, trans_b):
            of = _axes(shape, 1, 0) if trans_a else _axes(shape, 0, 1)
            return Channels(0, x, 1 if trans_b else 0, 0, *of, 1, alpha, beta)
        case ops.MatMul() if len(shape) > 1 and operand == 1:
            of = _axes(shape, len(shape) - 1, len(shape) - 2)
            return Channels(1, x, len(graph.shape(x) or ()) - 1, rank - 1, *of)
        case ops.MatMul() if len(shape) > 1:
            of = _axes(shape, len(shape) - 2, len(shape) - 1)
            of_x = len(graph.shape(x) or ())
            behind = 1 if of_x > 1 else 0
            return Channels(0, x, max(of_x - 2, 0), rank - 1 - behind, *of, behind)
        case ops.Einsum(equation) if "..." not in equation and len(node.inputs) == 2:
            return _einsum(x, shape, operand, equation)
        case _:
            return None


def _einsum(x: str, shape: tuple[int, ...], operand: int, equation: str) -> Channels | None:
    """An output channel's letter is in W and y alone, an input channel's in W and x alone."""
    given, made = equation.replace(" ", "").split("->")
    of_weight, of_x = given.split(",")[operand], given.split(",")[1 - operand]
    outputs = [letter for letter in of_weight if letter in made and letter not in of_x]
    inputs = [letter for letter in of_weight if letter in of_x and letter not in made]
    if len(outputs) != 1 or len(inputs) != 1:
        return None
    of = _axes(shape, of_weight.index(outputs[0]), of_weight.index(inputs[0]))
    return Channels(operand, x, of_x.index(inputs[0]), made.index(outputs[0]), *of)


def _axes(shape: tuple[int, ...], output: int, given: int) -> tuple[Indices, Indices]:
    """Number the output channels along one axis of the weight and the input channels along another."""
    numbers = np.indices(shape, sparse=True)
    of_output, of_input = np.broadcast_to(numbers[output], shape), np.broadcast_to(numbers[given], shape)
    return of_output, of_input


def _convolution(x: str, shape: tuple[int, ...], groups: int) -> Channels:
    """Output o belongs to group o // (out / groups), whose inputs follow each other."""
    of_output, within = _axes(shape, 0, 1)
    return Channels(1, x, 1, 1, of_output, of_output // (shape[0] // groups) * shape[1] + within)


def _transposed(x: str, shape: tuple[int, ...], groups: int) -> Channels:
    """Input i belongs to group i // (in / groups), whose outputs follow each other."""
    within, of_input = _axes(shape, 1, 0)
    return Channels(1, x, 1, 1, of_input // (shape[0] // groups) * shape[1] + within, of_input)
