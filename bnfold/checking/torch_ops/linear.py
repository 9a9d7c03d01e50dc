"""Convolutions and matrix products."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bnfold.checking.torch_ops.registry import Node, operator

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def window_pads(node: Node, sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """Give the pads of a sliding window: all begins, then all ends, as ONNX lists them."""
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return list(node.get("pads") or [0] * 2 * len(sizes))
    if mode == "VALID":
        return [0] * 2 * len(sizes)
    begins, ends = [], []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


def pad(x: Tensor, pads: list[int], value: float = 0.0) -> Tensor:
    """Pad the last axes of `x` by ONNX's pads (begins, then ends); a negative pad crops."""
    rank = len(pads) // 2
    order = [pad for axis in reversed(range(rank)) for pad in (pads[axis], pads[axis + rank])]
    return F.pad(x, order, value=value) if any(order) else x


@operator("Conv")
def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x`: (N, in, *S), `weight`: (out, in / group, *kernel)."""
    rank = weight.ndim - 2
    strides, dilations = node.get("strides") or [1] * rank, node.get("dilations") or [1] * rank
    pads = window_pads(node, list(x.shape[2:]), list(weight.shape[2:]), strides, dilations)
    return _CONV[rank](pad(x, pads), weight, bias, strides, 0, dilations, node.whole("group", 1))


@operator("ConvTranspose")
def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x`: (N, in, *S), `weight`: (in, out / group, *kernel)."""
    rank = weight.ndim - 2
    strides, dilations = node.get("strides") or [1] * rank, node.get("dilations") or [1] * rank
    extra = node.get("output_padding") or [0] * rank
    full = _CONV_TRANSPOSE[rank](x, weight, None, strides, 0, 0, node.whole("group", 1), dilations)
    pads = _transposed_pads(node, list(x.shape[2:]), list(full.shape[2:]), strides, extra)
    # What lies beyond the last window gets no contribution but the bias, which is why the bias comes last.
    y = pad(full, [-p for p in pads[:rank]] + [e - p for e, p in zip(extra, pads[rank:], strict=True)])
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _transposed_pads(node: Node, sizes: list[int], full: list[int], strides: list[int], extra: list[int]) -> list[int]:
    mode, wanted = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if wanted is None and mode in ("NOTSET", "VALID", ""):
        return list(node.get("pads") or [0] * 2 * len(sizes)) if mode != "VALID" else [0] * 2 * len(sizes)
    wanted = wanted or [size * stride for size, stride in zip(sizes, strides, strict=True)]
    begins, ends = [], []
    for whole, more, target in zip(full, extra, wanted[-len(sizes) :], strict=True):
        total = whole + more - target  # negative where the output reaches beyond the last window
        begin = max(total, 0) // 2 if mode == "SAME_UPPER" else max(total, 0) - max(total, 0) // 2
        begins.append(begin)
        ends.append(total - begin)
    return begins + ends


@operator("Gemm")
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha * op(a) @ op(b) + beta * c."""
    a = a.T if node.whole("transA", 0) else a
    b = b.T if node.whole("transB", 0) else b
    y = node.number("alpha", 1.0) * (a @ b)
    return y if c is None else y + node.number("beta", 1.0) * c


@operator("MatMul")
def matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """a @ b, as NumPy does it."""
    return a @ b


@operator("Einsum")
def einsum(node: Node, *operands: Tensor) -> Tensor:
    """Sum over the letters that the result does not bear."""
    return torch.einsum(node.get("equation").replace(" ", ""), *operands)


@operator("Det")
def det(node: Node, x: Tensor) -> Tensor:
    """Determinant of the last two axes."""
    return torch.as_tensor(torch.linalg.det(x))
