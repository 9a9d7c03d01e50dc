"""What an affine computes, from the definition of BatchNorm, for the audit."""

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.graph import Graph, Node


def axis_of(node: Node) -> int:
    """Give the axis along which its constants lie."""
    return node.op.axis if isinstance(node.op, ops.Affine) else 1


def parameters(node: Node, graph: Graph) -> tuple[Floats, Floats, Floats, Floats]:
    """Give gamma, beta, running_mean and running_var of a BatchNorm."""
    mean, variance = (graph.constants[name].load() for name in node.inputs[3:5])
    gamma, beta = node.inputs[1:3]
    return (
        graph.constants[gamma].load() if gamma else np.ones_like(mean),
        graph.constants[beta].load() if beta else np.zeros_like(mean),
        mean,
        variance,
    )


def scale_and_shift(node: Node, graph: Graph) -> tuple[Floats, Floats]:
    """gamma (x - mean) / sqrt(var + eps) + beta, taken at x = 0 and by its slope."""
    if isinstance(node.op, ops.Affine):
        return graph.constants[node.inputs[1]].load(), graph.constants[node.inputs[2]].load()
    assert isinstance(node.op, ops.BatchNorm)
    gamma, beta, mean, variance = parameters(node, graph)
    slope = gamma * (variance + node.op.eps) ** -0.5
    return slope, beta - slope * mean


def size_of_shift(node: Node, graph: Graph) -> Floats:
    """Give the largest term of t: beta and mean * s may cancel, and leave their rounding."""
    slope, shift = scale_and_shift(node, graph)
    if isinstance(node.op, ops.Affine):
        return np.abs(shift)
    return np.maximum(np.abs(shift), np.abs(slope * graph.constants[node.inputs[3]].load()))
