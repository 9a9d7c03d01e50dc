"""Activations: one number in, one number out, and the softmax family."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bnfold.checking.torch_ops.registry import Node, operator


@operator("Relu")
def relu(node: Node, x: Tensor) -> Tensor:
    """max(x, 0); NaN stays."""
    return x.clamp(min=0)


@operator("LeakyRelu")
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """x, or alpha x where x < 0."""
    return torch.where(x < 0, node.number("alpha", 0.01) * x, x)


@operator("PRelu")
def p_relu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """Slope broadcasts to x from the right; before opset 7 a vector lies along the channels."""
    if node.opset < 7 and slope.ndim == 1 and x.ndim > 1:
        slope = slope.reshape(-1, *[1] * (x.ndim - 2))
    return torch.where(x < 0, slope * x, x)


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """x where x > alpha, else 0."""
    return torch.where(x > node.number("alpha", 1.0), x, torch.zeros_like(x))


@operator("Elu")
def elu(node: Node, x: Tensor) -> Tensor:
    """x, or alpha (e^x - 1) where x < 0."""
    return torch.where(x < 0, node.number("alpha", 1.0) * torch.expm1(x.clamp(max=0)), x)


@operator("Celu")
def celu(node: Node, x: Tensor) -> Tensor:
    """max(0, x) + min(0, alpha (e^(x / alpha) - 1))."""
    alpha = node.number("alpha", 1.0)
    return x.clamp(min=0) + alpha * torch.expm1(x.clamp(max=0) / alpha)


@operator("Selu")
def selu(node: Node, x: Tensor) -> Tensor:
    """gamma (x, or alpha (e^x - 1) where x <= 0)."""
    alpha = node.number("alpha", 1.6732631921768188)
    gamma = node.number("gamma", 1.0507010221481323)
    return gamma * torch.where(x <= 0, alpha * torch.expm1(x.clamp(max=0)), x)


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """alpha x + beta, within [0, 1]."""
    return (node.number("alpha", 0.2) * x + node.number("beta", 0.5)).clamp(0, 1)


@operator("HardSwish")
def hard_swish(node: Node, x: Tensor) -> Tensor:
    """x times the hard sigmoid of slope 1/6."""
    return x * (x / 6 + 0.5).clamp(0, 1)


@operator("Clip")
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bounds are attributes before opset 11, inputs from then on; where they cross, the upper one wins."""
    if node.opset < 11:
        return x.clamp(node.get("min", -math.inf), node.get("max", math.inf))
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@operator("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    """x Phi(x), or its tanh approximation."""
    return F.gelu(x, approximate=node.get("approximate", "none"))


@operator("Swish")
def swish(node: Node, x: Tensor) -> Tensor:
    """x sigmoid(alpha x)."""
    return x * torch.sigmoid(node.number("alpha", 1.0) * x)


@operator("Shrink")
def shrink(node: Node, x: Tensor) -> Tensor:
    """x moved towards zero by bias where |x| > lambd, else 0."""
    bias, bound = node.number("bias", 0.0), node.number("lambd", 0.5)
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, torch.zeros_like(x)))


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node, x: Tensor) -> Tensor:
    """Along one axis; before opset 13 over everything from `axis` on, as one."""
    if node.opset >= 13:
        return _normalised(node.operator, x, node.whole("axis", -1))
    axis = node.whole("axis", 1) % max(x.ndim, 1)
    rows = x.reshape(math.prod(x.shape[:axis]), -1)
    return _normalised(node.operator, rows, 1).reshape(x.shape)


def _normalised(name: str, x: Tensor, axis: int) -> Tensor:
    if name == "Softmax":
        return torch.softmax(x, axis)
    if name == "LogSoftmax":
        return torch.log_softmax(x, axis)
    first = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1.0)
