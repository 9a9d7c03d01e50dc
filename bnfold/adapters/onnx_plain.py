"""Shapes of networks that are made of a few plain operators with known sizes, as ONNX's own inference gives them.

ONNX's takes ten milliseconds for its tables of all operators and their versions before it looks at the first node.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from bnfold.adapters.onnx_protos import AttributeProto, ModelProto, NodeProto
from bnfold.adapters.onnx_shapes import Shapes, type_of
from bnfold.adapters.onnx_tensors import DTYPES
from bnfold.graph import Dim

Shape: TypeAlias = tuple[Dim, ...]
Attributes: TypeAlias = Mapping[str, AttributeProto]
Rule: TypeAlias = Callable[[NodeProto, Sequence[Shape]], Shape | None]
_UNKNOWN = (None, "unknown")
_NO_TYPE = ("unknown", 0)


def initializer_shapes(proto: ModelProto) -> dict[str, tuple[int, ...]]:
    """Give the shape of every initializer of the main graph; of two of one name, which no model may have, the first's.

    To be asked once: every access to a proto costs.
    """
    return {item.name: tuple(item.dims) for item in reversed(proto.graph.initializer)}


def plain_shapes(proto: ModelProto, dims: Mapping[str, tuple[int, ...]]) -> Shapes | None:
    """Give the shape and dtype of every input and value; None where a node has no rule here, or a size isn't known.

    dims: the `initializer_shapes`.
    """
    graph = proto.graph
    if proto.functions or graph.sparse_initializer:
        return None
    found: Shapes = {}
    for item in graph.initializer:
        found[item.name] = dims[item.name], DTYPES.get(item.data_type, _NO_TYPE)[0]
    for given in graph.input:
        shape, dtype = type_of(given.type)
        if shape is None or None in shape or found.setdefault(given.name, (shape, dtype)) != (shape, dtype):
            return None
    for node in graph.node:
        made = _made(node, found)
        if made is None:
            return None
        found[node.output[0]] = made
    return found


def _made(node: NodeProto, found: Shapes) -> tuple[Shape, str] | None:
    rule = _RULES.get(node.op_type)
    if rule is None or len(node.output) != 1 or node.domain not in ("", "ai.onnx"):
        return None
    operands = [found.get(name, _UNKNOWN) for name in node.input if name]
    shapes = [shape for shape, _ in operands if shape is not None]
    if not shapes or len(shapes) < len(operands):
        return None
    shape = rule(node, shapes)
    return None if shape is None else (shape, operands[0][1])


def _attributes(node: NodeProto) -> Attributes:
    return {item.name: item for item in node.attribute}


def _same(node: NodeProto, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _conv(node: NodeProto, shapes: Sequence[Shape]) -> Shape | None:
    if len(shapes) < 2 or len(shapes[0]) < 3 or len(shapes[0]) != len(shapes[1]):
        return None
    kernel, attributes = shapes[1][2:], _attributes(node)
    given = attributes.get("kernel_shape")
    if given is not None and tuple(given.ints) != kernel:
        return None
    return _slid(attributes, shapes[0], shapes[1][0], kernel)


def _pool(node: NodeProto, shapes: Sequence[Shape]) -> Shape | None:
    attributes = _attributes(node)
    kernel, ceil = attributes.get("kernel_shape"), attributes.get("ceil_mode")
    if kernel is None or (ceil is not None and ceil.i) or len(shapes[0]) != len(kernel.ints) + 2:
        return None
    return _slid(attributes, shapes[0], shapes[0][1], tuple(kernel.ints))


def _slid(attributes: Attributes, x: Shape, channels: Dim, kernel: Shape) -> Shape | None:
    """Give what a window leaves of x (N, C, *S)."""
    mode, spatial = attributes.get("auto_pad"), len(kernel)
    if mode is not None and mode.s != b"NOTSET":
        return None
    strides, dilations = (_numbers(attributes, name, [1] * spatial) for name in ("strides", "dilations"))
    pads = _numbers(attributes, "pads", [0] * 2 * spatial)
    if len(strides) != spatial or len(dilations) != spatial or len(pads) != 2 * spatial or min(strides) < 1:
        return None
    sizes: list[Dim] = []
    for axis, (size, taps) in enumerate(zip(x[2:], kernel, strict=True)):
        if not isinstance(size, int) or not isinstance(taps, int):
            return None
        room = size + pads[axis] + pads[spatial + axis] - dilations[axis] * (taps - 1) - 1
        if room < 0:
            return None
        sizes.append(room // strides[axis] + 1)
    return (x[0], channels, *sizes)


def _pool_all(node: NodeProto, shapes: Sequence[Shape]) -> Shape | None:
    x = shapes[0]
    return (*x[:2], *(1,) * (len(x) - 2)) if len(x) > 2 else None


def _broadcast(node: NodeProto, shapes: Sequence[Shape]) -> Shape | None:
    """NumPy's rule, where equal lengths and ones are enough to tell."""
    first, *others = shapes
    for other in others:
        if other == first:
            continue
        rank = max(len(first), len(other))
        pairs = zip((1,) * (rank - len(first)) + first, (1,) * (rank - len(other)) + other, strict=True)
        dims = [two if one == 1 else one if two in (1, one) else None for one, two in pairs]
        if None in dims:
            return None
        first = tuple(dims)
    return first


def _flatten(node: NodeProto, shapes: Sequence[Shape]) -> Shape | None:
    axis, x = _attributes(node).get("axis"), shapes[0]
    sizes = [dim for dim in x[1:] if isinstance(dim, int)]
    if (axis is not None and axis.i != 1) or len(x) < 2 or len(sizes) != len(x) - 1:
        return None
    return x[0], math.prod(sizes)


def _gemm(node: NodeProto, shapes: Sequence[Shape]) -> Shape | None:
    if len(shapes) < 2 or len(shapes[0]) != 2 or len(shapes[1]) != 2:
        return None
    attributes = _attributes(node)
    trans_a, trans_b = (attributes[name].i if name in attributes else 0 for name in ("transA", "transB"))
    return shapes[0][1 if trans_a else 0], shapes[1][0 if trans_b else 1]


def _concat(node: NodeProto, shapes: Sequence[Shape]) -> Shape | None:
    axis, rank = _attributes(node).get("axis"), len(shapes[0])
    if axis is None or not 0 <= axis.i < rank or {len(shape) for shape in shapes} != {rank}:
        return None
    lengths = [shape[axis.i] for shape in shapes]
    sizes = [length for length in lengths if isinstance(length, int)]
    if len(sizes) < len(lengths) or len({(*shape[: axis.i], *shape[axis.i + 1 :]) for shape in shapes}) != 1:
        return None
    return (*shapes[0][: axis.i], sum(sizes), *shapes[0][axis.i + 1 :])


def _numbers(attributes: Attributes, name: str, default: list[int]) -> list[int]:
    return list(attributes[name].ints) if name in attributes else default


_SAME = ("BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Clip", "HardSigmoid", "HardSwish")
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys((*_SAME, "Elu", "Selu", "Softplus", "Softmax", "Identity", "Dropout"), _same),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _broadcast),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _pool_all),
    "Conv": _conv,
    "Gemm": _gemm,
    "Flatten": _flatten,
    "Concat": _concat,
}
