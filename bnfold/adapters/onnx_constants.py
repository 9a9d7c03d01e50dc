"""What an ONNX file knows before the run: initializers, Constant nodes, and short chains of layout operators on them.

A chain is evaluated only when its numbers are asked for, and never where the result could be larger than what the
file holds: a file of 167 bytes can ask for 11 GB.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from bnfold.adapters.onnx_scopes import FileNode
from bnfold.adapters.onnx_tensors import CODES, DTYPES, Tensor, numpy_dtype
from bnfold.affine import Floats
from bnfold.graph import Constant
from bnfold.record import record

Array: TypeAlias = NDArray[np.generic]
LIMIT = 1 << 16  # elements that a chain may make of fewer
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_STEPS = 1024  # evaluations that a tensor may take: one that is read twice at each of 60 steps takes 2 ** 60
_FEW = 4096  # elements that may be evaluated to learn a shape, or kept in memory


@record(eq=False)
class Known:
    """A tensor that is known before the run; `array` gives it as it is stored.

    tensor: its place in the file, where it has one. node: what makes it, where a node does. steps: how many nodes are
    evaluated for it, each as often as it is read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    array: Callable[[], Array]
    tensor: Tensor | None = None
    node: FileNode | None = None
    steps: int = 0

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def is_quantized(self) -> bool:
        """Whether a DequantizeLinear makes it."""
        return self.node is not None and self.node.kind == "DequantizeLinear"

    def constant(self) -> Constant:
        """Give it as the Graph has it; a small one is read once, for statistics are asked for by many."""
        load = cache(self._shared) if self.size <= _FEW else self.load
        return Constant(self.name, self.shape, self.dtype, load, self._rows if self.tensor is not None else None)

    def _shared(self) -> Floats:
        numbers = self.load()
        numbers.flags.writeable = False
        return numbers

    def _rows(self, start: int, stop: int) -> Floats:
        """Read a stretch of axis 0 from the file."""
        assert self.tensor is not None
        row = math.prod(self.shape[1:])
        numbers = self.tensor.stored(start * row, (stop - start) * row)
        return numbers.astype(np.float64).reshape(stop - start, *self.shape[1:])

    def load(self) -> Floats:
        """Give it in float64."""
        return self.array().astype(np.float64)


@record
class Dequantized:
    """A constant that a DequantizeLinear makes, its axes perhaps in another order.

    node: that DequantizeLinear. axes: which of its output's axes each axis is. names: the constants from there on.
    """

    node: FileNode
    axes: tuple[int, ...]
    names: tuple[str, ...]


def dequantized(item: Known, known: Mapping[str, Known]) -> Dequantized | None:
    """Follow a constant back over Identity and Transpose; None where that leads to no DequantizeLinear."""
    axes, names = tuple(range(len(item.shape))), [item.name]
    while item.node is not None and item.node.kind in ("Identity", "Transpose"):
        if item.node.kind == "Transpose":
            found = item.node.attribute("perm")
            order = tuple(reversed(range(len(axes)))) if found is None else tuple(found.ints)
            axes = tuple(order[axis] for axis in axes)
        item = known[item.node.inputs[0]]
        names.append(item.name)
    return Dequantized(item.node, axes, tuple(names)) if item.node is not None and item.is_quantized else None


def stored(name: str, tensor: Tensor, node: FileNode | None = None) -> Known:
    """A tensor of the file."""
    return Known(name, tensor.shape, tensor.dtype, lambda: tensor.stored().reshape(tensor.shape), tensor, node)


def literal(name: str, array: Array, node: FileNode) -> Known:
    """A tensor that a node's attributes hold."""
    return Known(name, array.shape, array.dtype.name, lambda: array, None, node)


def evaluated(
    node: FileNode, inputs: list[Known | None], shape: tuple[int, ...] | None, dtype: str, opset: int
) -> Known | None:
    """Give the output of a node whose inputs are known, to be computed when it is asked for; None where it can't be.

    shape: what shape inference says of it; where that is nothing, a small chain is computed at once.
    """
    evaluate = _EVALUATORS.get(node.kind)
    operands = [item for item in inputs if item is not None]
    largest = max((item.size for item in operands), default=0)
    if evaluate is None or not operands or any(item.dtype in ("str", "unknown") for item in operands):
        return None
    steps = 1 + sum(item.steps for item in operands)
    if steps > _STEPS or not _can_be(node, operands):
        return None

    def compute() -> Array:
        arrays = [None if item is None else item.array() for item in inputs]
        return evaluate(_Call(node, arrays, dtype, opset))

    if shape is not None and dtype in CODES:
        within = math.prod(shape) <= max(LIMIT, largest)
        return Known(node.outputs[0], shape, dtype, compute, None, node, steps) if within else None
    if largest > _FEW:
        return None
    try:
        result = compute()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return Known(node.outputs[0], result.shape, result.dtype.name, lambda: result, None, node)


def _can_be(node: FileNode, operands: list[Known]) -> bool:
    """Whether the evaluator covers this use: of arithmetic, that on sizes (`bnfold.raising` sees that on floats)."""
    if node.kind in _ARITHMETIC:
        return len(operands) == 2 and all(item.dtype in ("int32", "int64") for item in operands)
    blocks = node.attribute("block_size")
    return blocks is None or blocks.i == 0


@record
class _Call:
    """A node with the numbers of its operands."""

    node: FileNode
    arrays: list[Array | None]
    dtype: str
    opset: int

    @property
    def x(self) -> Array:
        """The first operand."""
        array = self.arrays[0]
        assert array is not None
        return array

    def operand(self, index: int) -> Array | None:
        """Give an operand; None where it is absent."""
        return self.arrays[index] if index < len(self.arrays) else None

    def ints(self, index: int, attribute: str) -> list[int] | None:
        """Give integers that are an operand in newer opsets and an attribute in older ones."""
        array = self.operand(index)
        if array is not None:
            return [int(item) for item in array.reshape(-1)]
        found = self.node.attribute(attribute)
        return None if found is None else list(found.ints)

    def number(self, attribute: str, default: int) -> int:
        """Give an integer attribute."""
        found = self.node.attribute(attribute)
        return default if found is None else int(found.i)


def _within(shape: tuple[int, ...], of: Array) -> tuple[int, ...]:
    if math.prod(shape) > max(LIMIT, of.size):
        raise ValueError(f"{shape} is larger than any chain of constants needs")
    return shape


def _identity(call: _Call) -> Array:
    return call.x


def _cast(call: _Call) -> Array:
    found = call.node.attribute("to")
    name = DTYPES[found.i][0] if found is not None and found.i in DTYPES else call.dtype
    return call.x.astype(numpy_dtype(name))


def _reshape(call: _Call) -> Array:
    target = call.ints(1, "shape")
    assert target is not None
    if not call.number("allowzero", 0):
        target = [call.x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(target)]
    return call.x.reshape(target)


def _flatten(call: _Call) -> Array:
    axis = call.number("axis", 1) % (call.x.ndim + 1)
    return call.x.reshape(math.prod(call.x.shape[:axis]), -1)


def _squeeze(call: _Call) -> Array:
    axes = call.ints(1, "axes")
    return np.squeeze(call.x, None if axes is None else tuple(axes))


def _unsqueeze(call: _Call) -> Array:
    return np.expand_dims(call.x, tuple(call.ints(1, "axes") or ()))


def _transpose(call: _Call) -> Array:
    return np.transpose(call.x, call.ints(len(call.arrays), "perm"))


def _expand(call: _Call) -> Array:
    target = np.broadcast_shapes(call.x.shape, tuple(call.ints(1, "shape") or ()))
    return np.broadcast_to(call.x, _within(target, call.x))


def _constant_of_shape(call: _Call) -> Array:
    found = call.node.attribute("value")
    value = np.zeros(1, np.float32) if found is None else onnx.numpy_helper.to_array(found.t)
    return np.broadcast_to(value.reshape(()), _within(tuple(int(dim) for dim in call.x.reshape(-1)), value))


def _gather(call: _Call) -> Array:
    indices = call.operand(1)
    assert indices is not None
    return np.take(call.x, indices.astype(np.intp), axis=call.number("axis", 0))


def _slice(call: _Call) -> Array:
    starts, ends = call.ints(1, "starts") or [], call.ints(2, "ends") or []
    axes = call.ints(3, "axes") or list(range(len(starts)))
    steps = call.ints(4, "steps") or [1] * len(starts)
    index = [slice(None)] * call.x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -call.x.shape[axis] else end, step)
    return call.x[tuple(index)]


def _concat(call: _Call) -> Array:
    return np.concatenate([array for array in call.arrays if array is not None], axis=call.number("axis", 0))


def _arithmetic(call: _Call) -> Array:
    """Integers: sizes and places."""
    other = call.operand(1)
    assert other is not None
    _within(np.broadcast_shapes(call.x.shape, other.shape), call.x)
    left, right = call.x.astype(np.int64), other.astype(np.int64)
    match call.node.kind:
        case "Add":
            return np.asarray(left + right)
        case "Sub":
            return np.asarray(left - right)
        case "Mul":
            return np.asarray(left * right)
    if np.any(right == 0):
        raise ValueError("division by zero")
    return np.asarray(np.trunc(left / right).astype(np.int64))


def _dequantize(call: _Call) -> Array:
    """(q - zero_point) * scale, along `axis` where scale is (C,); exact in float64."""
    q, scale, zero = call.x.astype(np.float64), call.operand(1), call.operand(2)
    assert scale is not None
    place = [1] * q.ndim
    if scale.size > 1:
        place[call.number("axis", 1)] = scale.size
    shifted = q if zero is None else q - zero.astype(np.float64).reshape(place if zero.size > 1 else [1] * q.ndim)
    return np.asarray(shifted * scale.astype(np.float64).reshape(place))


_EVALUATORS: Mapping[str, Callable[[_Call], Array]] = {
    "Identity": _identity,
    "Cast": _cast,
    "CastLike": _cast,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    "DequantizeLinear": _dequantize,
}
EVALUATED = frozenset(_EVALUATORS) | {"Shape", "Constant"}
