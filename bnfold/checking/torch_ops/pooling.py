"""Sliding windows that pool, and global pooling. Sums run as convolutions with ones: every rank, pad and dilation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bnfold.checking.torch_ops.linear import pad, window_pads
from bnfold.checking.torch_ops.registry import Node, operator

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class _Window:
    """The geometry of one pooling: `pads` as declared, and as needed so that a plain window covers every output."""

    def __init__(self, node: Node, x: Tensor) -> None:
        self.kernel = list(node.get("kernel_shape"))
        rank = len(self.kernel)
        self.strides = list(node.get("strides") or [1] * rank)
        self.dilations = list(node.get("dilations") or [1] * rank)
        sizes = list(x.shape[2:])
        self.pads = window_pads(node, sizes, self.kernel, self.strides, self.dilations)
        ends = [self._end(node, axis, size) for axis, size in enumerate(sizes)]
        self.needed = self.pads[:rank] + ends

    def _end(self, node: Node, axis: int, size: int) -> int:
        rank, stride = len(self.kernel), self.strides[axis]
        begin, end = self.pads[axis], self.pads[axis + rank]
        reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        steps = (size + begin + end - reach) / stride
        count = (math.ceil(steps) if node.whole("ceil_mode", 0) else math.floor(steps)) + 1
        if node.whole("ceil_mode", 0) and (count - 1) * stride >= size + begin:
            count -= 1  # the last window must start inside the input or its left padding
        return int((count - 1) * stride + reach - size - begin)

    def sum(self, x: Tensor) -> Tensor:
        """Sum `x`, already padded, over each window; `x`: (N, C, *S)."""
        rank = len(self.kernel)
        flat = x.reshape(-1, 1, *x.shape[2:])
        y = _CONV[rank](flat, x.new_ones(1, 1, *self.kernel), None, self.strides, 0, self.dilations)
        return y.reshape(*x.shape[:2], *y.shape[2:])


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> Tensor:
    """Padding never wins."""
    window = _Window(node, x)
    padded = pad(x, window.needed, -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min)
    return _MAX[len(window.kernel)](padded, window.kernel, window.strides, 0, window.dilations)


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    """Mean over each window; padding counts only where `count_include_pad` says so, what `ceil_mode` adds never."""
    window, rank = _Window(node, x), x.ndim - 2
    ones = x.new_ones(1, 1, *x.shape[2:])
    if node.whole("count_include_pad", 0):
        ones = pad(ones, window.pads, 1.0)
        beyond = [need - own for need, own in zip(window.needed, window.pads, strict=True)]
        counted = pad(ones, beyond)
    else:
        counted = pad(ones, window.needed)
    assert len(window.kernel) == rank
    return window.sum(pad(x, window.needed)) / window.sum(counted)


@operator("LpPool")
def lp_pool(node: Node, x: Tensor) -> Tensor:
    """The p-norm of each window."""
    window, p = _Window(node, x), node.whole("p", 2)
    return window.sum(pad(x.abs() ** p, window.needed)) ** (1 / p)


@operator("GlobalAveragePool")
def global_average_pool(node: Node, x: Tensor) -> Tensor:
    """Mean over every spatial axis."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, x: Tensor) -> Tensor:
    """Maximum over every spatial axis."""
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(node: Node, x: Tensor) -> Tensor:
    """The p-norm over every spatial axis."""
    p = node.whole("p", 2)
    return (x.abs() ** p).sum(tuple(range(2, x.ndim)), keepdim=True) ** (1 / p)
