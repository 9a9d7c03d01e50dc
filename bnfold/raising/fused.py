"""Arithmetic that is a part of GELU or of a normalisation by the input: it stays as it is.

Exporters take both apart, and runtimes put them together again, into one kernel. A scale that went from there into a
layer would leave them in pieces: on ONNX Runtime a network of Linear and GELU became 7 % slower, with LayerNorm 11 %.
"""

from collections.abc import Iterator
from dataclasses import replace

from bnfold import ops
from bnfold.graph import Graph, Node
from bnfold.why import Why

_CURVES = {"Erf", "Tanh", "aten.erf.default", "aten.tanh.default"}


def with_fused(graph: Graph) -> Graph:
    """Make Unknown of the arithmetic with constants in GELU, LayerNorm and RMSNorm."""
    parts = {node.name for start in graph.nodes for node in (*_of_gelu(start, graph), *_of_norm(start, graph))}
    if not parts:
        return graph
    return replace(graph, nodes=tuple(_held(node) if node.name in parts else node for node in graph.nodes))


def _held(node: Node) -> Node:
    assert isinstance(node.op, ops.Binary)
    return replace(node, op=ops.Unknown(node.op.kind), limits={**node.limits, "frames": Why.FUSED})


def _of_gelu(curve: Node, graph: Graph) -> Iterator[Node]:
    """x (1 + erf(c x)) / 2, or x (1 + tanh(c (x + k x^3))) / 2; the 1/2 stands at x, at the bracket or at the end."""
    if not isinstance(curve.op, ops.Unknown) or curve.op.kind not in _CURVES:
        return
    inner, bracket = graph.producer.get(curve.inputs[0]), _next(curve, graph, "add")
    if inner is None or bracket is None or not _is_with_constant(inner, graph, "mul", "div"):
        return
    parts, gate = [inner, bracket], _only_reader(bracket, graph)
    if gate is not None and _is_with_constant(gate, graph, "mul", "div"):
        parts, gate = [*parts, gate], _only_reader(gate, graph)
    if gate is None or not _is_of_tensors(gate, graph, "mul"):
        return
    gated = next(name for name in gate.inputs if name != parts[-1].output)
    at_x = graph.producer.get(gated)
    halved = at_x if at_x is not None and _is_with_constant(at_x, graph, "mul", "div") else None
    inside, cubic = _insides(inner, graph)
    if gated in inside:
        end = _next(gate, graph, "mul", "div")
        yield from [*parts, *cubic, *([end] if end is not None and len(parts) == 2 else [])]
    elif halved is not None and _variable(halved, graph) in inside:
        yield from [*parts, *cubic, halved]


def _insides(inner: Node, graph: Graph) -> tuple[set[str], list[Node]]:
    """What may be the x of inner(x), and the arithmetic with constants below it: of x + k x^3 both terms may."""
    x = _variable(inner, graph)
    polynomial = graph.producer.get(x)
    if polynomial is None or not _is_of_tensors(polynomial, graph, "add"):
        return {x}, []
    terms = [graph.producer[name] for name in polynomial.inputs if name in graph.producer]
    return {x, *polynomial.inputs}, [term for term in terms if _is_with_constant(term, graph, "mul")]


def _of_norm(root: Node, graph: Graph) -> Iterator[Node]:
    """(x - mean) / sqrt(variance + eps) * gamma + beta over the last axes, or less of it: what has constants."""
    if not isinstance(root.op, ops.Unary) or root.op.kind not in ("sqrt", "rsqrt"):
        return
    eps = graph.producer.get(root.inputs[0])
    if eps is None or not _is_with_constant(eps, graph, "add"):
        return
    spread = graph.producer.get(_variable(eps, graph))
    if spread is None or not _is_mean_of_last(spread, graph):
        return
    quotient = _only_reader(root, graph)
    if quotient is not None and isinstance(quotient.op, ops.Unary) and quotient.op.kind == "reciprocal":
        quotient = _only_reader(quotient, graph)
    if quotient is None or not _is_of_tensors(quotient, graph, "mul", "div"):
        return
    yield eps
    gamma = _next(quotient, graph, "mul")
    beta = _next(gamma, graph, "add") if gamma is not None else None
    yield from (node for node in (gamma, beta) if node is not None)


def _is_mean_of_last(node: Node, graph: Graph) -> bool:
    shape = graph.shape(node.inputs[0]) if isinstance(node.op, ops.Reduce) else None
    return (
        isinstance(node.op, ops.Reduce)
        and node.op.kind == "mean"
        and bool(shape)
        and len(shape or ()) - 1 in node.op.axes
    )


def _only_reader(node: Node, graph: Graph) -> Node | None:
    readers = graph.readers.get(node.output, ())
    return readers[0] if len(readers) == 1 and node.output not in graph.outputs else None


def _next(node: Node, graph: Graph, *kinds: str) -> Node | None:
    """Give the only reader, where it is arithmetic of one of these kinds with a constant."""
    reader = _only_reader(node, graph)
    return reader if reader is not None and _is_with_constant(reader, graph, *kinds) else None


def _is_with_constant(node: Node, graph: Graph, *kinds: str) -> bool:
    constants = sum(name in graph.constants for name in node.inputs)
    return isinstance(node.op, ops.Binary) and node.op.kind in kinds and constants == 1


def _is_of_tensors(node: Node, graph: Graph, *kinds: str) -> bool:
    variable = all(name in graph.values for name in node.inputs)
    return isinstance(node.op, ops.Binary) and node.op.kind in kinds and variable


def _variable(node: Node, graph: Graph) -> str:
    """The operand of arithmetic with a constant that is no constant."""
    return next(name for name in node.inputs if name not in graph.constants)
