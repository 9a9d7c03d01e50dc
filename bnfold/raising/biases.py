"""A constant that is added to the output of a MatMul or an Einsum is its bias."""

from dataclasses import replace

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.graph import Constant, Graph, Node
from bnfold.raising.arithmetic import Link, links
from bnfold.raising.axes import linear_axis
from bnfold.relation import Site
from bnfold.rules.linear import contraction


def with_biases(graph: Graph) -> Graph:
    """Join each product without a bias with the Add of a constant that alone reads it."""
    added = {link.x: link for link in links(graph) if _adds(link)}
    constants = dict(graph.constants)
    nodes: dict[str, Node] = {}
    gone: set[str] = set()
    for node in graph.nodes:
        link = added.get(node.output) if node.outputs else None
        bias = None if link is None or node.name in gone else _bias(node, link, graph)
        if link is None or bias is None:
            if node.name not in gone:
                nodes[node.name] = node
            continue
        constants[bias.name] = bias
        nodes[link.nodes[0].name] = _with_bias(node, link.nodes[0], bias.name)
        gone.add(link.nodes[0].name)
    if not gone:
        return graph
    produced = {name for node in nodes.values() for name in node.outputs}
    values = {name: value for name, value in graph.values.items() if name in produced or name in graph.inputs}
    ordered = [nodes[node.name] for node in graph.nodes if node.name in nodes]
    return replace(graph, nodes=tuple(ordered), values=values, constants=constants)


def _adds(link: Link) -> bool:
    """Whether the node is a plain Add: a hand-written BatchNorm begins with a Sub, and is to stay one thing."""
    op = link.nodes[0].op
    return isinstance(op, ops.Binary) and op.kind == "add" and bool(np.all(link.affine.scale == 1))


def _bias(node: Node, link: Link, graph: Graph) -> Constant | None:
    """Give the bias operand; None where the node has one, can't have one, or is read by others too."""
    add = link.nodes[0]
    axis = _axis(node, graph)
    if axis is None or any(node.inputs[2:]) or node.unit or add.unit or "bias" in node.limits:
        return None
    if len(graph.readers[node.output]) != 1 or node.output in graph.outputs:
        return None
    shape, output = graph.shape(node.output), graph.values[add.output]
    channels = shape[axis] if shape is not None else None
    if shape is None or not isinstance(channels, int) or (link.affine.axis != axis and not link.is_uniform):
        return None
    wanted = (channels, *(1,) * (len(shape) - 1 - axis))
    given = graph.constants[next(name for name in add.inputs if name in graph.constants)]
    if given.shape == wanted and isinstance(add.op, ops.Binary) and add.op.alpha == 1:
        return given
    numbers: Floats = np.broadcast_to(
        link.affine.shift if link.affine.axis == axis else link.affine.shift[:1], channels
    )
    return Constant(f"{node.name}#bias", wanted, output.dtype, lambda: numbers.reshape(wanted).copy())


def _axis(node: Node, graph: Graph) -> int | None:
    """Give the axis that a product's weight makes; None for what has a bias of its own.

    Such an operator takes the Add as it takes any affine, and the Add is gone.
    """
    match node.op:
        case ops.MatMul():
            return linear_axis(graph, node)
        case ops.Einsum():
            contracted = contraction(Site(node, graph))
            return None if contracted is None else contracted.target_axis
        case _:
            return None


def _with_bias(node: Node, add: Node, bias: str) -> Node:
    """Give the node that stands for both. What keeps the Add's constant from changing keeps the bias."""
    limits = dict(node.limits)
    held = add.limits.get("constants") or add.limits.get("remove")
    if held is not None:
        limits["bias"] = held
    inputs = (*node.inputs[:2], bias)
    return replace(node, inputs=inputs, outputs=add.outputs, limits=limits, sources=(node.name, add.name))
