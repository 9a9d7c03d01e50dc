"""Constants that are data become values: what is added to a tensor, multiplied with it or joined to it, and tables."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bnfold import ops
from bnfold.graph import Constant, Graph, Node, Value
from bnfold.raising.constants import FLOATS
from bnfold.why import Why

LIMIT = 1 << 22  # elements; a plan holds the new ones in float64

_JOINING = (ops.Sum, ops.Product, ops.Extremum, ops.Concat, ops.Stack)
_FIRST = (ops.Expand, ops.Lookup)  # whose other operands are sizes and indices


def with_parameters(graph: Graph) -> Graph:
    """Put a Parameter node before the first reader of each constant that is data, for all readers of that kind.

    Its sources are these readers. A limit "operand" of any of them is its limit "constants".
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in _data_of(node, graph):
            readers.setdefault(name, []).append(node)
    if not readers:
        return graph
    made = {name: _parameter(graph.constants[name], nodes, graph) for name, nodes in readers.items()}
    values = dict(graph.values)
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        mine = {name: made[name] for name in _data_of(node, graph)}
        for name, parameter in mine.items():
            nodes[parameter.name] = parameter
            constant = graph.constants[name]
            values[parameter.output] = Value(parameter.output, constant.shape, constant.dtype)
        inputs = tuple(mine[name].output if name in mine else name for name in node.inputs)
        nodes[node.name] = replace(node, inputs=inputs) if mine else node
    return replace(graph, nodes=tuple(nodes.values()), values=values)


def reads_as_data(node: Node, name: str) -> bool:
    """Whether a node that isn't raised yet may read this operand as data, and nothing else."""
    if isinstance(node.op, _FIRST):
        return node.inputs.index(name) == 0
    return isinstance(node.op, (*_JOINING, ops.Binary))


def is_data(constant: Constant) -> bool:
    """Whether a constant is floats, more than one number, not too large to be held, and finite."""
    size = int(np.prod(constant.shape))
    return constant.dtype in FLOATS and 1 < size <= LIMIT and bool(np.isfinite(constant.load()).all())


def _data_of(node: Node, graph: Graph) -> Iterator[str]:
    """Name the constants that a raised node reads as data, each once."""
    if isinstance(node.op, (*_JOINING, *_FIRST)):
        operands = node.inputs[:1] if isinstance(node.op, _FIRST) else node.inputs
        dtype = graph.values[node.output].dtype
        for name in dict.fromkeys(operands):
            constant = graph.constants.get(name)
            if constant is not None and constant.dtype == dtype and is_data(constant):
                yield name


def _parameter(constant: Constant, readers: list[Node], graph: Graph) -> Node:
    held = next((node.limits["operand"] for node in readers if "operand" in node.limits), None)
    value = f"{constant.name}#value"
    name = value if constant.name in graph.by_name else constant.name
    limits: dict[str, Why] = {} if held is None else {"constants": held}
    return Node(name, ops.Parameter(), (constant.name,), (value,), limits, sources=tuple(one.name for one in readers))
