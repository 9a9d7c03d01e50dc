"""The form of a graph, without its names and sizes: what has to be equal at every size, and after the write."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import TypeAlias

from bnfold import ops
from bnfold.adapters.torch_steps import part_of, same_line
from bnfold.graph import Graph, Node

Line: TypeAlias = tuple[str, ...]


def form(
    graph: Graph,
    weights: Collection[str],
    removed: Collection[str] = (),
    biased: Mapping[str, str] | None = None,
    clipped: Mapping[str, int] | None = None,
) -> tuple[Line, ...]:
    """Give a line for each node: operator, attributes without lengths, and where each operand comes from.

    weights: constants that are told apart by their names. removed: nodes that are left out, as if their first input
    were their output. biased: nodes that have this bias. clipped: nodes that are clips by channel along this axis.
    Nodes that leave numbers as they are don't count.
    """
    origin: dict[str, str] = {name: f"input {index}" for index, name in enumerate(graph.inputs)}
    lines: list[Line] = []
    for node in graph.nodes:
        operands = [_operand(name, graph, weights, origin) for name in node.inputs]
        moving = next((name for name in node.inputs if name in graph.values), "")
        if _is_same(node, graph) or node.name in removed:
            origin[node.output] = origin.get(moving, "constant")
            continue
        if biased and node.name in biased:
            operands[2:3] = [biased[node.name]]
        for index, name in enumerate(node.outputs):
            origin[name] = f"{len(lines)}.{index}"
        if clipped and node.name in clipped:
            lines.append((f"ChannelClip {clipped[node.name]}", operands[0]))
        elif isinstance(node.op, ops.ChannelClip):
            lines.append((_operator(node), operands[0]))
        else:
            lines.append((_operator(node), *_part(node, graph), *operands))
    lines.append(("output", *dict.fromkeys(origin.get(name, name) for name in graph.outputs)))
    return tuple(lines)


def _is_same(node: Node, graph: Graph) -> bool:
    """Whether the output is the input; torch gives back the very tensor for a flatten that has nothing to do."""
    if isinstance(node.op, ops.Reshape):
        return graph.shape(node.inputs[0]) == graph.shape(node.output)
    return isinstance(node.op, ops.Identity)


def _operand(name: str, graph: Graph, weights: Collection[str], origin: Mapping[str, str]) -> str:
    if not name:
        return ""
    if name in origin:
        return origin[name]
    if name in weights:
        return name
    constant = graph.constants[name]
    return repr(float(constant.load())) if constant.shape == () else "constant"


def _operator(node: Node) -> str:
    """Write the operator with its attributes, less the part of an axis that it takes, which `_part` writes."""
    match node.op:
        case ops.Unknown(kind=kind):
            return kind
        case ops.Pad(mode=mode, value=value):
            return f"Pad {mode} {value}"
        case ops.Take(axis=axis) | ops.Select(axis=axis):
            return f"{type(node.op).__name__} {axis}"
        case ops.Split(axis=axis, sizes=sizes, drop=drop):
            return f"Split {axis} {len(sizes)}{' drop' if drop else ''}"
        case op:
            return " ".join([type(op).__name__, *(str(getattr(op, item.name)) for item in fields(op))])


def _part(node: Node, graph: Graph) -> Line:
    match node.op:
        case ops.Take(axis=axis, indices=part) | ops.Select(axis=axis, index=part) | ops.Split(axis=axis, sizes=part):
            shape = graph.shape(node.inputs[0])
            return (part_of(str(part), axis, None if shape is None else shape[axis]),)
        case _:
            return ()


def difference(first: tuple[Line, ...], second: tuple[Line, ...], *, larger: bool = False) -> str:
    """Say where two forms part; empty where they are equal. larger: as in `torch_steps.same_line`."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if not same_line(one, other, larger=larger):
            return f"at operator {index} there is {_brief(one)} on one side and {_brief(other)} on the other"
    if len(first) != len(second):
        return f"one has {len(first) - 1} operators and the other {len(second) - 1}"
    return ""


def _brief(line: Line) -> str:
    text = f"{line[0]}({', '.join(line[1:])})"
    return text if len(text) <= 80 else f"{text[:77]}..."
