"""Arithmetic as an adapter reads it becomes affines, biases, sums, products and constants."""

from bnfold.graph import Graph
from bnfold.raising.arithmetic import links, with_sums
from bnfold.raising.biases import with_biases
from bnfold.raising.chains import chained
from bnfold.raising.constants import with_constants
from bnfold.raising.emission import with_affines
from bnfold.raising.fused import with_fused
from bnfold.raising.layouts import with_rearrangements
from bnfold.raising.parameters import with_parameters
from bnfold.raising.uniform import with_uniform_affines

__all__ = ["raised"]


def raised(graph: Graph) -> Graph:
    """Give the same function without Binary and Unary nodes. Pure; weights are loaded only where their values decide.

    - What depends on constants alone becomes a Constant that is evaluated, in float64, when it is loaded. Its name is
      that of the value that it was, and no such constant is in the model's file: a writer that must change it stores
      `load()`, changed, as a new one, and drops the nodes that nobody reads any more.
    - Arithmetic with constants inside of a GELU or a normalisation by the input becomes Unknown, and stays.
    - A constant added to the output of a MatMul or an Einsum becomes its bias operand. The node's `sources` are (the
      product, the Add). A writer changes the Add's constant, in the shape that it had.
    - Arithmetic with constants that is a scale and a shift along one axis becomes an Affine; neighbours that are read
      by nobody else become one. Its constants are synthetic (NAME#scale and NAME#shift, (C,), float64); `sources` are
      the nodes on the way from its input to its output. A writer that removes the affine removes all of them; one
      that changes its constants puts one affine operator (axis 1: BatchNormalization, else Mul and Add) in their
      place. "remove" and "constants" among the limits of any source are limits of the whole.
    - An affine of one number is laid along an axis that the layers around it work on, where they don't on its own.
    - Reshapes and transpositions that follow each other become one Rearrange; nothing of it is ever rewritten.
    - Sums and products of tensors become Sum and Product; all other arithmetic becomes Unknown.
    - A constant that is data (it is added to a tensor, multiplied with it, joined to it, or a table of rows) gets a
      Parameter node, named as the constant, whose output the readers read in its place; `sources` are these readers.
      A writer that changes the Parameter's constant gives them, and nobody else, new numbers for that operand.
    """
    graph = with_biases(with_fused(with_constants(graph)))
    graph = with_sums(with_affines(graph, chained(links(graph), graph)))
    return with_uniform_affines(with_parameters(with_rearrangements(graph)))
