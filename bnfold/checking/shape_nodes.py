"""Which nodes of an ONNX model compute shapes alone: execution providers leave those to the CPU by design."""

from collections.abc import Collection, Iterator
from pathlib import Path

import onnx

_TELLS_A_SHAPE = frozenset({"Shape", "Size"})
_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"})


def shape_nodes(model: bytes | Path) -> frozenset[tuple[str, str]]:
    """Give (name, operator) of the nodes whose results follow from constants and from tensors' shapes.

    A node without a name is told by its operator, and only where every node of that operator computes shapes.
    """
    if isinstance(model, bytes):
        graph = onnx.load_from_string(model).graph
    else:
        graph = onnx.load(model, load_external_data=False).graph
    found, others = _sorted_out(graph)
    kinds = {node.op_type for node in others if not node.name}
    return frozenset((node.name, node.op_type) for node in found if node.name or node.op_type not in kinds)


def _sorted_out(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    known = {x.name for x in graph.initializer} | {x.values.name for x in graph.sparse_initializer} | {""}
    known -= {value.name for value in graph.input}
    shapes: list[onnx.NodeProto] = []
    others: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in _TELLS_A_SHAPE or (node.op_type not in _RANDOM and known.issuperset(_read(node))):
            shapes.append(node)
            known.update(node.output)
        else:
            others.append(node)
    results = {value.name for value in graph.output}
    return [node for node in shapes if not results.intersection(node.output)], others


def _read(node: onnx.NodeProto) -> Collection[str]:
    return [*node.input, *(name for inner in _inner(node) for name in _outside(inner))]


def _inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs)


def _outside(graph: onnx.GraphProto) -> set[str]:
    """The names that a graph takes from outside of it."""
    made = {x.name for x in graph.initializer} | {value.name for value in graph.input}
    made |= {name for node in graph.node for name in node.output}
    return {name for node in graph.node for name in _read(node)} - made
