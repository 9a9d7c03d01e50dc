"""Shapes that inference leaves out: it says little of what an If, a Loop's body or a function computes.

A rank and the number of channels are enough for most relations; lengths that nobody knows stay None.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import TypeAlias

from bnfold.adapters.onnx_protos import NodeProto
from bnfold.adapters.onnx_shapes import contracted
from bnfold.graph import Constant, Dim, Value

Operand: TypeAlias = Value | Constant | None
Shape: TypeAlias = tuple[Dim, ...]

# Operators whose output has the shape and type of their first input.
_SAME = frozenset(
    {"BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "Sigmoid", "Tanh", "Softplus", "Mish"}
    | {"HardSigmoid", "HardSwish", "Softmax", "Clip", "Abs", "Neg", "Sqrt", "Reciprocal", "Identity", "Dropout"}
)
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min"})
_OF_ONE_RANK = frozenset({"Conv", "ConvTranspose", "Gemm"})  # whose input has as many axes as their weight
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})


def completed(value: Value, kind: str, proto: NodeProto, operands: Sequence[Operand]) -> Value:
    """Add what inference left out of a node's first output. operands: the node's, None for an absent one.

    A symbol that inference made (of a weight that is itself computed, say) gives way to a number; batches stay.
    """
    x = operands[0] if operands else None
    if x is None or is_settled(value):
        return value
    shape = _shape(kind, proto, operands)
    if value.shape is not None:
        return value if shape is None else Value(value.name, _numbered(value.shape, shape), value.dtype)
    weight = operands[1] if len(operands) > 1 else None
    return Value(value.name, shape, weight.dtype if weight is not None and x.dtype == "unknown" else x.dtype)


def told_by_weight(x: Value, proto: NodeProto, weight: tuple[int, ...]) -> Value:
    """Give a node's first input with the length that its weight, of this shape, tells of one axis."""
    axis, length = contracted(proto, weight)
    known = x.shape
    if known is None and proto.op_type in _OF_ONE_RANK:
        known = (None,) * len(weight)
    if length is None or known is None or not -len(known) <= axis < len(known):
        return x
    shape = list(known)
    if not isinstance(shape[axis], int):
        shape[axis] = length
    return x if tuple(shape) == x.shape else Value(x.name, tuple(shape), x.dtype)


def is_settled(value: Value) -> bool:
    """Whether all lengths but the batch's are known."""
    return value.shape is not None and all(isinstance(dim, int) for dim in value.shape[1:])


def of_branches(value: Value, branches: Sequence[Operand]) -> Value:
    """Add what inference left out of an If's output, where its branches' results have one rank: what they agree on."""
    ranks = [branch.shape for branch in branches if branch is not None and branch.shape is not None]
    if is_settled(value) or len(ranks) < len(branches) or len({len(shape) for shape in ranks}) != 1:
        return value
    dims = (set(along) for along in zip(*ranks, strict=True))
    shape = tuple(along.pop() if len(along) == 1 else None for along in dims)
    if value.shape is not None:
        return Value(value.name, _numbered(value.shape, shape), value.dtype)
    dtypes = {branch.dtype for branch in branches if branch is not None}
    return Value(value.name, shape, dtypes.pop() if len(dtypes) == 1 else value.dtype)


def _shape(kind: str, proto: NodeProto, operands: Sequence[Operand]) -> Shape | None:
    shapes = [None if operand is None else operand.shape for operand in operands]
    x, weight = shapes[0], operands[1] if len(operands) > 1 else None
    if kind in _SAME:
        return x
    if kind in ("Conv", "ConvTranspose") and isinstance(weight, Constant):
        return _of_conv(x, weight.shape, _number(proto, "group", 1) if kind == "ConvTranspose" else 0)
    if kind == "Gemm" and isinstance(weight, Constant) and len(weight.shape) == 2:
        return (None, weight.shape[0 if _number(proto, "transB", 0) else 1])
    known = [shape for shape in shapes if shape is not None]
    if x is None or len(known) < len(shapes):
        return None
    if kind in _ELEMENTWISE:
        return _broadcast(known)
    if kind == "MatMul" and isinstance(weight, Constant) and len(weight.shape) == 2 and x:
        return (*x[:-1], weight.shape[1])
    if kind == "Concat" and len({len(shape) for shape in known}) == 1:
        return _joined(known, _number(proto, "axis", 1))
    if kind in _POOLS | {"GlobalAveragePool", "GlobalMaxPool"} and len(x) > 2:
        return (*x[:2], *((None if kind in _POOLS else 1),) * (len(x) - 2))
    return None


def _numbered(shape: Shape, other: Shape) -> Shape:
    """Put numbers from a second finding in the place of symbols, if both agree on the rank."""
    if len(shape) != len(other):
        return shape
    return tuple(two if isinstance(two, int) else one for one, two in zip(shape, other, strict=True))


def _number(proto: NodeProto, name: str, default: int) -> int:
    return next((item.i for item in proto.attribute if item.name == name), default)


def _of_conv(x: Shape | None, weight: tuple[int, ...], groups: int) -> Shape | None:
    """groups: of a transposed convolution; 0 for another."""
    if len(weight) < 3:
        return None
    channels = weight[1] * groups if groups else weight[0]
    return (x[0] if x else None, channels, *(None,) * (len(weight) - 2))


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    """NumPy's rule; a length beside which an unknown one stands is that, or the model can't run."""
    along = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return tuple(reversed([_widest(dims) for dims in along]))


def _widest(dims: Sequence[Dim]) -> Dim:
    others = {dim for dim in dims if dim != 1}
    sizes = [dim for dim in others if isinstance(dim, int)]
    if not others:
        return 1
    if sizes:
        return sizes[0]
    return others.pop() if len(others) == 1 else None


def _joined(shapes: Sequence[Shape], axis: int) -> Shape | None:
    """Shapes of one rank; along the axis the lengths add up."""
    rank = len(shapes[0])
    if not -rank <= axis < rank:
        return None
    dims: list[Dim] = [
        next((dim for dim in along if isinstance(dim, int)), None) for along in zip(*shapes, strict=True)
    ]
    lengths = [shape[axis] for shape in shapes]
    known = [length for length in lengths if isinstance(length, int)]
    dims[axis] = sum(known) if len(known) == len(lengths) else None
    return tuple(dims)
