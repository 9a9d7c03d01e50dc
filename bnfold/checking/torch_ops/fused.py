"""ONNX Runtime's own fused operators, as its optimiser writes them into a saved model."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bnfold.checking.torch_ops.linear import conv, gemm
from bnfold.checking.torch_ops.registry import Node, operator

_DOMAIN = "com.microsoft"


def _activated(name: str, parameters: list[float], y: Tensor) -> Tensor:
    if name in ("", "Relu"):
        return y.clamp(min=0) if name else y
    if name == "LeakyRelu":
        return torch.where(y < 0, (parameters or [0.01])[0] * y, y)
    if name == "Clip":
        return y.clamp(*(parameters or [-math.inf, math.inf]))
    if name == "HardSigmoid":
        alpha, beta = parameters or [0.2, 0.5]
        return (alpha * y + beta).clamp(0, 1)
    return {"Sigmoid": torch.sigmoid, "Tanh": torch.tanh}[name](y)


@operator("FusedConv", domain=_DOMAIN)
def fused_conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, z: Tensor | None = None) -> Tensor:
    """Conv, then a sum, then an activation."""
    y = torch.as_tensor(conv(node, x, weight, bias))
    return _activated(node.get("activation", ""), list(node.get("activation_params") or []), y if z is None else y + z)


@operator("FusedGemm", domain=_DOMAIN)
def fused_gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Gemm, then an activation."""
    y = torch.as_tensor(gemm(node, a, b, c))
    alpha = node.get("activation_alpha")
    return _activated(node.get("activation", ""), [] if alpha is None else [alpha], y)


@operator("FusedMatMul", domain=_DOMAIN)
def fused_matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """alpha * op(a) @ op(b)."""
    a = a.transpose(-1, -2) if node.whole("transA", 0) else a
    b = b.transpose(-1, -2) if node.whole("transB", 0) else b
    return node.number("alpha", 1.0) * (a @ b)


@operator("Gelu", domain=_DOMAIN)
def gelu(node: Node, x: Tensor) -> Tensor:
    """x Phi(x)."""
    return F.gelu(x)


@operator("FastGelu", domain=_DOMAIN)
def fast_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gelu's tanh approximation, after a bias."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("BiasGelu", domain=_DOMAIN)
def bias_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    """Gelu after a bias."""
    return F.gelu(x + bias)


@operator("QuickGelu", domain=_DOMAIN)
def quick_gelu(node: Node, x: Tensor) -> Tensor:
    """x sigmoid(alpha x)."""
    return x * torch.sigmoid(node.number("alpha", 1.702) * x)
