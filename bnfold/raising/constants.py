"""What depends on constants alone is a constant."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, singledispatch

import numpy as np

from bnfold import ops
from bnfold.affine import Floats
from bnfold.dtypes import numpy_dtype
from bnfold.graph import Constant, Graph, Node

LIMIT = 1_000_000  # elements; a file of 167 bytes can ask for a tensor of 11 GB
DEPTH = 100  # nodes; each level of a chain is a level of Python's stack
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
FLOATS = frozenset(_BYTES)

_BINARY: dict[str, Callable[[Floats, Floats], Floats]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "max": np.maximum,
    "min": np.minimum,
}
_UNARY: dict[str, Callable[[Floats], Floats]] = {
    "neg": np.negative,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "square": np.square,
}
_REDUCE: dict[str, Callable[..., Floats]] = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}


@singledispatch
def evaluated(
    op: ops.Op, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str
) -> Sequence[Floats]:
    """Give the outputs, of `shapes` and `dtype`, for float64 operands; KeyError for a kind that isn't known."""
    raise KeyError(type(op).__name__)


@evaluated.register(ops.Binary)
def _(op: ops.Binary, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    left, right = operands
    return (_BINARY[op.kind](left, right if op.alpha == 1 else op.alpha * right),)


@evaluated.register(ops.Unary)
def _(op: ops.Unary, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (_UNARY[op.kind](operands[0]),)


@evaluated.register(ops.Reduce)
def _(op: ops.Reduce, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (np.asarray(_REDUCE[op.kind](operands[0], axis=op.axes, keepdims=op.keepdims)),)


@evaluated.register(ops.Reshape)
def _(op: ops.Op, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (operands[0].reshape(shapes[0]),)


@evaluated.register(ops.Expand)
def _(op: ops.Op, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (np.broadcast_to(operands[0], shapes[0]),)


@evaluated.register(ops.Identity)
def _(op: ops.Op, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (operands[0],)


@evaluated.register(ops.Cast)
def _(op: ops.Op, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    kind = numpy_dtype(dtype)
    return (operands[0].astype(kind).astype(np.float64),)  # a narrower type rounds, and that is meant


@evaluated.register(ops.Transpose)
def _(op: ops.Transpose, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (operands[0].transpose(op.permutation),)


@evaluated.register(ops.Take)
def _(op: ops.Take, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (np.take(operands[0], op.indices, axis=op.axis),)


@evaluated.register(ops.Select)
def _(op: ops.Select, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (np.asarray(np.take(operands[0], op.index, axis=op.axis)),)


@evaluated.register(ops.Split)
def _(op: ops.Split, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    parts = np.split(operands[0], np.cumsum(op.sizes)[:-1], axis=op.axis)
    return [part.squeeze(op.axis) for part in parts] if op.drop else parts


@evaluated.register(ops.Flip)
def _(op: ops.Flip, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (np.flip(operands[0], op.axes),)


@evaluated.register(ops.Tile)
def _(op: ops.Tile, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (np.tile(operands[0], op.repeats),)


@evaluated.register(ops.Stack)
def _(op: ops.Stack, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (np.stack(operands, axis=op.axis),)


@evaluated.register(ops.Concat)
def _(op: ops.Concat, operands: Sequence[Floats], shapes: Sequence[tuple[int, ...]], dtype: str) -> Sequence[Floats]:
    return (np.concatenate(operands, axis=op.axis),)


def with_constants(graph: Graph) -> Graph:
    """Turn the outputs of nodes whose operands are all constants into constants, as far as they are small floats."""
    constants = dict(graph.constants)
    depth: dict[str, int] = {}
    nodes: list[Node] = []
    joined = _joined_to_tensors(graph)
    for node in graph.nodes:
        made: tuple[Constant, ...] = ()
        if node.inputs and constants.keys() >= set(node.inputs) and node.name not in joined:
            level = 1 + max(depth.get(name, 0) for name in node.inputs)
            made = _outputs(node, graph, constants) if level <= DEPTH else ()
        if not made:
            nodes.append(node)
        for constant in made:
            constants[constant.name] = constant
            depth[constant.name] = level
    if len(nodes) == len(graph.nodes) and constants.keys().isdisjoint(graph.values):
        return graph
    values = {name: value for name, value in graph.values.items() if name not in constants}
    return replace(graph, nodes=tuple(nodes), values=values, constants=constants)


def _joined_to_tensors(graph: Graph) -> set[str]:
    """Name the Expands of a constant to a batch, which something computed is joined to: the constant itself is data."""
    fixed = set(graph.constants)
    for node in graph.nodes:
        if node.inputs and fixed.issuperset(filter(None, node.inputs)):
            fixed.update(node.outputs)
    found = set()
    for node in graph.nodes:
        readers = graph.readers.get(node.output, ()) if isinstance(node.op, ops.Expand) else ()
        if readers and all(isinstance(one.op, ops.Concat) and not fixed.issuperset(one.inputs) for one in readers):
            found.add(node.name)
    return found


def _outputs(node: Node, graph: Graph, constants: dict[str, Constant]) -> tuple[Constant, ...]:
    """Give the constants that stand for the outputs of a node that reads constants; none where it must stay a node."""
    if not _is_known(node.op):
        return ()
    operands = [constants[name] for name in node.inputs]
    shapes = [_output_shape(node, name, graph, operands) for name in node.outputs]
    if any(shape is None or int(np.prod(shape)) > LIMIT for shape in shapes):
        return ()
    if any(int(np.prod(operand.shape)) > LIMIT for operand in operands) or any(
        name in graph.outputs for name in node.outputs
    ):
        return ()
    values = [graph.values[name] for name in node.outputs]
    from_floats = isinstance(node.op, ops.Cast) or all(operand.dtype in FLOATS for operand in operands)
    if not from_floats or any(value.dtype not in FLOATS for value in values):
        return ()  # integers count and index: they divide otherwise, and float64 doesn't hold them all

    op = ops.Identity() if isinstance(node.op, ops.Cast) and _holds(values[0].dtype, operands[0].dtype) else node.op
    known = [shape for shape in shapes if shape is not None]

    @cache
    def outputs() -> Sequence[Floats]:
        with np.errstate(all="ignore"):  # whoever takes the numbers asks whether they are finite
            return evaluated(op, [operand.load() for operand in operands], known, values[0].dtype)

    return tuple(
        Constant(value.name, shape, value.dtype, lambda k=k: outputs()[k])  # type: ignore[misc]
        for k, (value, shape) in enumerate(zip(values, known, strict=True))
    )


def _holds(dtype: str, other: str) -> bool:
    """Whether a float type has every number of another, so that a cast doesn't round what a run wouldn't."""
    return dtype == other or _BYTES[dtype] > _BYTES.get(other, 8)


def _is_known(op: ops.Op) -> bool:
    match op:
        case ops.Binary(kind=kind):
            return kind in _BINARY
        case ops.Unary(kind=kind):
            return kind in _UNARY
        case ops.Reduce(kind=kind):
            return kind in _REDUCE
        case _:
            return type(op) in evaluated.registry


def _output_shape(node: Node, name: str, graph: Graph, operands: list[Constant]) -> tuple[int, ...] | None:
    """Give the shape of an output where it is known; an elementwise operator's follows from its operands."""
    shape = graph.values[name].shape if name in graph.values else None
    if shape is not None and all(isinstance(dim, int) for dim in shape):
        return tuple(dim for dim in shape if isinstance(dim, int))
    if isinstance(node.op, ops.Binary | ops.Unary | ops.Identity | ops.Cast):
        return np.broadcast_shapes(*(operand.shape for operand in operands))
    return None
