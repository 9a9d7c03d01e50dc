"""What ONNX's layout operators, and integer arithmetic on sizes, make of constants."""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from bnfold.adapters.onnx_scopes import FileNode
from bnfold.adapters.onnx_tensors import CODES, DTYPES
from bnfold.dtypes import numpy_dtype
from bnfold.record import record

Array: TypeAlias = NDArray[np.generic]
Operand = TypeVar("Operand")
LIMIT = 1 << 16  # elements that a chain may make of fewer
ARITHMETIC = ("Add", "Sub", "Mul", "Div")


@record
class Call:
    """A node with the numbers of its operands."""

    node: FileNode
    arrays: list[Array | None]
    dtype: str
    opset: int

    @property
    def x(self) -> Array:
        """The first operand."""
        return _given(self.arrays[0])

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


def _given(operand: Operand | None) -> Operand:
    """Demand an operand that the operator can't do without."""
    if operand is None:
        raise ValueError("an operand is missing")
    return operand


def _within(shape: tuple[int, ...], of: Array) -> tuple[int, ...]:
    if math.prod(shape) > max(LIMIT, of.size):
        raise ValueError(f"{shape} is larger than any chain of constants needs")
    return shape


def _identity(call: Call) -> Array:
    return call.x


def _cast(call: Call) -> Array:
    found = call.node.attribute("to")
    name = DTYPES[found.i][0] if found is not None and found.i in DTYPES else call.dtype
    if name not in CODES:
        raise ValueError(f"{name} is no type of numbers")
    return call.x.astype(numpy_dtype(name))


def _reshape(call: Call) -> Array:
    target = _given(call.ints(1, "shape"))
    if not call.number("allowzero", 0):
        target = [call.x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(target)]
    return call.x.reshape(target)


def _flatten(call: Call) -> Array:
    axis = call.number("axis", 1) % (call.x.ndim + 1)
    return call.x.reshape(math.prod(call.x.shape[:axis]), -1)


def _squeeze(call: Call) -> Array:
    axes = call.ints(1, "axes")
    return np.squeeze(call.x, None if axes is None else tuple(axes))


def _unsqueeze(call: Call) -> Array:
    return np.expand_dims(call.x, tuple(call.ints(1, "axes") or ()))


def _transpose(call: Call) -> Array:
    return np.transpose(call.x, call.ints(len(call.arrays), "perm"))


def _expand(call: Call) -> Array:
    target = np.broadcast_shapes(call.x.shape, tuple(call.ints(1, "shape") or ()))
    return np.broadcast_to(call.x, _within(target, call.x))


def _constant_of_shape(call: Call) -> Array:
    from onnx import numpy_helper

    found = call.node.attribute("value")
    value = np.zeros(1, np.float32) if found is None else numpy_helper.to_array(found.t)
    return np.broadcast_to(value.reshape(()), _within(tuple(int(dim) for dim in call.x.reshape(-1)), value))


def _gather(call: Call) -> Array:
    indices = _given(call.operand(1))
    return np.take(call.x, indices.astype(np.intp), axis=call.number("axis", 0))


def _slice(call: Call) -> Array:
    starts, ends = call.ints(1, "starts") or [], call.ints(2, "ends") or []
    axes = call.ints(3, "axes") or list(range(len(starts)))
    steps = call.ints(4, "steps") or [1] * len(starts)
    index = [slice(None)] * call.x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -call.x.shape[axis] else end, step)
    return call.x[tuple(index)]


def _concat(call: Call) -> Array:
    return np.concatenate([array for array in call.arrays if array is not None], axis=call.number("axis", 0))


def _arithmetic(call: Call) -> Array:
    """Integers: sizes and places."""
    other = _given(call.operand(1))
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


def _dequantize(call: Call) -> Array:
    """(q - zero_point) * scale, along `axis` where scale is (C,); exact in float64."""
    q, scale, zero = call.x.astype(np.float64), _given(call.operand(1)), call.operand(2)
    place = [1] * q.ndim
    if scale.size > 1:
        place[call.number("axis", 1)] = scale.size
    shifted = q if zero is None else q - zero.astype(np.float64).reshape(place if zero.size > 1 else [1] * q.ndim)
    return np.asarray(shifted * scale.astype(np.float64).reshape(place))


EVALUATORS: Mapping[str, Callable[[Call], Array]] = {
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
    **dict.fromkeys(ARITHMETIC, _arithmetic),
    "DequantizeLinear": _dequantize,
}
