"""What every operator computes, in float64 and NumPy, written from its definition. Shares no code with the rules."""

from collections.abc import Mapping

import tests.oracle.elementwise
import tests.oracle.layout
import tests.oracle.linear
import tests.oracle.recurrent
import tests.oracle.sampling  # noqa: F401  importing them fills the registry
from bnfold import ops
from bnfold.graph import Graph
from tests.oracle.base import Array, Operands, compute

__all__ = ["Array", "compute", "run", "run_graph"]


def run(op: ops.Op, inputs: Operands, *shapes: tuple[int, ...]) -> tuple[Array, ...]:
    """Evaluate one operator; an absent operand is None. shapes: those of the outputs, which some operators need."""
    result = compute(op, inputs, shapes)
    return result if isinstance(result, tuple) else (result,)


def run_graph(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Evaluate a graph whose shapes are all numbers; gives every value by its name."""
    known: dict[str, Array] = dict(feeds)
    for node in graph.nodes:
        operands = [
            None if not name else known[name] if name in known else graph.constants[name].load() for name in node.inputs
        ]
        shapes = [graph.values[name].shape for name in node.outputs if name]
        results = run(node.op, operands, *shapes)
        for name, result in zip(node.outputs, results, strict=True):
            assert not name or result.shape == graph.values[name].shape, f"{node}: {result.shape}"
            known[name] = result
    return known
