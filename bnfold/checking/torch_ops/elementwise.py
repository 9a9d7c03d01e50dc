"""Arithmetic, comparison, logic and casts: broadcast, element by element."""

import functools
from collections.abc import Callable

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from bnfold.checking.torch_ops.registry import MissingOperatorError, Node, operator, to_tensor

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "Softsign": F.softsign,
    "Mish": lambda x: x * torch.tanh(torch.logaddexp(x, torch.zeros_like(x))),
    "Erf": torch.erf,
    "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not,
    "IsNaN": torch.isnan,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": lambda a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc"),
    "Pow": lambda a, b: torch.pow(a, b).to(a.dtype),
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}

_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Sum": torch.add,
    "Max": torch.maximum,
    "Min": torch.minimum,
}


@operator(*_UNARY)
def unary(node: Node, x: Tensor) -> Tensor:
    """One tensor in, one of its shape out."""
    return _UNARY[node.operator](x)


@operator(*_BINARY)
def binary(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Two tensors, broadcast; before opset 7 the second one's axes start at `axis`."""
    if node.opset < 7 and node.whole("broadcast", 0) and "axis" in node.attributes:
        axis = node.get("axis") % a.ndim
        b = b.reshape(*b.shape, *[1] * (a.ndim - axis - b.ndim))
    return _BINARY[node.operator](a, b)


@operator(*_VARIADIC)
def variadic(node: Node, *operands: Tensor) -> Tensor:
    """Any number of tensors, broadcast."""
    return functools.reduce(_VARIADIC[node.operator], operands)


@operator("Mean")
def mean(node: Node, *operands: Tensor) -> Tensor:
    """Mean of the operands, broadcast."""
    return functools.reduce(torch.add, operands) / len(operands)


@operator("Mod")
def mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Sign of the divisor, or of the dividend where `fmod`."""
    return torch.fmod(a, b) if node.whole("fmod", 0) else torch.remainder(a, b)


@operator("IsInf")
def is_inf(node: Node, x: Tensor) -> Tensor:
    """Infinite, of the signs asked for."""
    positive = (x == torch.inf) & bool(node.whole("detect_positive", 1))
    return positive | ((x == -torch.inf) & bool(node.whole("detect_negative", 1)))


@operator("Where")
def where(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The first where the condition holds, else the second."""
    return torch.where(condition, a, b)


@operator("Dropout")
def dropout(node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> tuple[Tensor, ...]:
    """Inference: the input, and a mask that drops nothing."""
    if training is not None and bool(training):
        raise MissingOperatorError(("Dropout in training mode",))
    return x, torch.ones_like(x, dtype=torch.bool)


@operator("Cast")
def cast(node: Node, x: Tensor) -> Tensor:
    """To another kind of number; to any float is to the working dtype."""
    return _cast(x, node.get("to"), node.dtype)


@operator("CastLike")
def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    """To the second one's kind of number."""
    return x.to(like.dtype)


def _cast(x: Tensor, to: int, working: torch.dtype) -> Tensor:
    kind = to_tensor(np.zeros(1, onnx.helper.tensor_dtype_to_np_dtype(to))).dtype
    return x.to(working if kind.is_floating_point else kind)
