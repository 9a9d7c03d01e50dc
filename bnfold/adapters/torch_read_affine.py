"""Normalisations with constant statistics, and the arithmetic that others are written in."""

import torch

from bnfold import ops
from bnfold.adapters.torch_call import Call, Draft, Operand, dtype_of, is_tensor, reads
from bnfold.why import Why


@reads("batch_norm.default", "cudnn_batch_norm.default", "native_batch_norm.default")
def _batch_norm(call: Call) -> Draft | None:
    return _normalisation(call, by_input=call["training"])


@reads("_native_batch_norm_legit_functional.default", "_native_batch_norm_legit.default")
def _decomposed(call: Call) -> Draft | None:
    """What decompositions make of batch_norm in training mode."""
    return _normalisation(call, by_input=call["training"])


@reads("_native_batch_norm_legit_no_training.default")
def _no_training(call: Call) -> Draft | None:
    return _normalisation(call, by_input=False)


@reads("instance_norm.default")
def _instance_norm(call: Call) -> Draft | None:
    """With running statistics it is BatchNorm: the same numbers for every instance. Without, it is no affine."""
    return None if call["use_input_stats"] else _normalisation(call, by_input=False)


def _normalisation(call: Call, *, by_input: bool) -> Draft | None:
    mean, variance = call["running_mean"], call["running_var"]
    if call.rank < 2:
        return None
    limits = {}
    if by_input:
        limits = {"remove": Why.NO_STATISTICS if mean is None else Why.TRAINING}
    return Draft(ops.BatchNorm(float(call["eps"])), (call.x, call["weight"], call["bias"], mean, variance), limits)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _operand(value: object) -> Operand:
    return float(value) if _number(value) else value  # type: ignore[arg-type, return-value]


def _binary(call: Call, kind: str, left: object, right: object, alpha: object = 1) -> Draft | None:
    """Read floating-point arithmetic; for integers it wraps and rounds, which no affine does."""
    if not _floating(call) or not all(is_tensor(side) or _number(side) for side in (left, right)):
        return None
    if not _number(alpha):
        return None
    return Draft(ops.Binary(kind, float(alpha)), (_operand(left), _operand(right)))  # type: ignore[arg-type]


def _floating(call: Call) -> bool:
    value = call.node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    tensors = [item for item in call.arguments.values() if is_tensor(item)]
    return all(dtype_of(item).is_floating_point for item in tensors)


@reads("add.Tensor", "add.Scalar")
def _add(call: Call) -> Draft | None:
    return _binary(call, "add", call["self"], call["other"], call["alpha"])


@reads("sub.Tensor", "sub.Scalar")
def _sub(call: Call) -> Draft | None:
    return _binary(call, "sub", call["self"], call["other"], call["alpha"])


@reads("rsub.Tensor", "rsub.Scalar")
def _rsub(call: Call) -> Draft | None:
    """other - alpha * self."""
    return _binary(call, "sub", call["other"], call["self"], call["alpha"])


@reads("mul.Tensor", "mul.Scalar", "multiply.Tensor")
def _mul(call: Call) -> Draft | None:
    return _binary(call, "mul", call["self"], call["other"])


@reads("div.Tensor", "div.Scalar", "true_divide.Tensor", "divide.Tensor")
def _div(call: Call) -> Draft | None:
    return _binary(call, "div", call["self"], call["other"])


@reads("pow.Tensor_Scalar")
def _pow(call: Call) -> Draft | None:
    return _binary(call, "pow", call["self"], call["exponent"])


def _unary(kind: str, *targets: str) -> None:
    @reads(*targets)
    def _read(call: Call) -> Draft | None:
        return Draft(ops.Unary(kind), (call.x,)) if _floating(call) else None


_unary("neg", "neg.default", "negative.default")
_unary("sqrt", "sqrt.default")
_unary("rsqrt", "rsqrt.default")
_unary("reciprocal", "reciprocal.default")
_unary("square", "square.default")


@reads("lerp.Scalar")
def _lerp(call: Call) -> Draft | None:
    operands = call["self"], call["end"]
    weight = float(call["weight"])
    return Draft(ops.Sum((1 - weight, weight)), operands) if all(map(is_tensor, operands)) else None
