"""Quantise, dequantise, and the integer products. Rounding is half to even; its gradient is zero."""

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from bnfold.checking.torch_ops.linear import conv
from bnfold.checking.torch_ops.registry import Node, operator

# What QuantizeLinear gives, by its output_dtype; 0 where that is not told. uint16 is computed as int64.
KINDS = {
    0: torch.uint8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT16: torch.int64,
    TensorProto.INT16: torch.int16,
}
_RANGE = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int64: (0, 65535), torch.int16: (-32768, 32767)}


def _along(value: Tensor, node: Node, x: Tensor) -> Tensor:
    """Lay scales or zero points along their axis: one number, one for each channel, or one for each block."""
    if value.ndim == 0 or value.numel() == 1:
        return value.reshape(())
    axis = node.whole("axis", 1) % x.ndim
    block = node.whole("block_size", 0)
    if value.ndim == x.ndim and block:
        return value.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return value.reshape(-1, *[1] * (x.ndim - axis - 1))


@operator("DequantizeLinear")
def dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x - zero) scale."""
    offset = 0 if zero is None else _along(zero, node, x).to(node.dtype)
    return (x.to(node.dtype) - offset) * _along(scale, node, x)


@operator("QuantizeLinear")
def quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """round(x / scale) + zero, saturated to the zero point's dtype (uint8 by default)."""
    kind = KINDS[node.whole("output_dtype", 0)] if zero is None else zero.dtype
    offset = 0 if zero is None else _along(zero, node, x).to(x.dtype)
    return (torch.round(x / _along(scale, node, x)) + offset).clamp(*_RANGE[kind]).to(kind)


@operator("DynamicQuantizeLinear")
def dynamic_quantize(node: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To uint8, over the range of the input and zero."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round((0 - low) / scale).clamp(0, 255)
    return (torch.round(x / scale) + zero).clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


@operator("MatMulInteger")
def matmul_integer(node: Node, a: Tensor, b: Tensor, *zeros: Tensor | None) -> Tensor:
    """(a - its zero) @ (b - its zero), in int32."""
    return (_centred(a, zeros[:1]) @ _centred(b, zeros[1:2])).to(torch.int32)


@operator("ConvInteger")
def conv_integer(node: Node, x: Tensor, weight: Tensor, *zeros: Tensor | None) -> Tensor:
    """Convolution of centred integers, in int32."""
    weight = _centred(weight, [z if z is None else z.reshape(-1, *[1] * (weight.ndim - 1)) for z in zeros[1:2]])
    return torch.as_tensor(conv(node, _centred(x, zeros[:1]), weight)).to(torch.int32)


@operator("QLinearMatMul")
def q_linear_matmul(node: Node, *q: Tensor) -> Tensor:
    """Inputs a, its scale and zero, b, its scale and zero, the result's scale and zero."""
    y = (_centred(q[0], q[2:3]) * q[1]) @ (_centred(q[3], q[5:6]) * q[4])
    return _requantised(y, q[6], q[7])


@operator("QLinearConv")
def q_linear_conv(node: Node, *q: Any) -> Tensor:
    """Inputs x, its scale and zero, weight, its scales and zeros by row, the result's scale and zero, an int32 bias."""
    column = [-1, *[1] * (q[3].ndim - 1)]
    weight = _centred(q[3], [q[5].reshape(column)]) * q[4].reshape(column)
    bias = q[8].to(node.dtype) * q[1] * q[4] if len(q) > 8 and q[8] is not None else None
    return _requantised(torch.as_tensor(conv(node, _centred(q[0], q[2:3]) * q[1], weight, bias)), q[6], q[7])


def _centred(x: Tensor, zero: Any) -> Tensor:
    x = x.double()
    return x if not len(zero) or zero[0] is None else x - zero[0].double()


def _requantised(y: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return (torch.round(y / scale) + zero.to(y.dtype)).clamp(*_RANGE[zero.dtype]).to(zero.dtype)
