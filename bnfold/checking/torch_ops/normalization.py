"""Normalisations: with stored statistics (BatchNormalization) and with the input's own."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bnfold.checking.torch_ops.registry import Node, operator


def along_channels(value: Tensor, rank: int) -> Tensor:
    """Lay a vector (C,) along axis 1 of a tensor of `rank` axes."""
    return value.reshape(-1, *[1] * (rank - 2)) if value.ndim == 1 and rank > 1 else value


@operator("BatchNormalization")
def batch_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> tuple[Tensor, ...]:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, channels on axis 1; training mode takes the batch's own."""
    training = node.whole("training_mode", 0) if node.opset >= 7 else not node.whole("is_test", 0)
    running = (mean, var)
    if training:
        axes = (0, *range(2, x.ndim))
        momentum = node.number("momentum", 0.9)
        own = (x.mean(axes), x.var(axes, correction=0))
        running = (mean * momentum + own[0] * (1 - momentum), var * momentum + own[1] * (1 - momentum))
        mean, var = own
    scale, bias, mean, var = (along_channels(v, x.ndim) for v in (scale, bias, mean, var))
    return ((x - mean) / torch.sqrt(var + node.number("epsilon", 1e-5)) * scale + bias, *running)


@operator("InstanceNormalization")
def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """By sample and channel, over the spatial axes."""
    y = _standardise(x, tuple(range(2, x.ndim)), node.number("epsilon", 1e-5))
    return y * along_channels(scale, x.ndim) + along_channels(bias, x.ndim)


@operator("LayerNormalization")
def layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    """Over every axis from `axis` on; also gives the mean and the inverse standard deviation."""
    axes = tuple(range(node.whole("axis", -1) % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + node.number("epsilon", 1e-5))
    y = (x - mean) * inverse * scale
    return y if bias is None else y + bias, mean, inverse


@operator("RMSNormalization")
@operator("SimplifiedLayerNormalization")
def rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * scale."""
    axes = tuple(range(node.whole("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + node.number("epsilon", 1e-5)) * scale


@operator("GroupNormalization")
def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """By sample and group; opset 18's scale and bias are by group, later ones by channel."""
    groups = node.get("num_groups")
    flat = x.reshape(x.shape[0], groups, -1)
    y = _standardise(flat, (2,), node.number("epsilon", 1e-5)).reshape(x.shape)
    if node.opset < 21:
        scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
    return y * along_channels(scale, x.ndim) + along_channels(bias, x.ndim)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    """Over the axes given; batch and space by default."""
    axes = tuple(node.get("axes") or (0, 2, 3))
    return (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True).sqrt() + 1e-9)


@operator("LpNormalization")
def lp_normalization(node: Node, x: Tensor) -> Tensor:
    """x over its p-norm along an axis."""
    norm = torch.as_tensor(torch.linalg.vector_norm(x, node.whole("p", 2), dim=node.whole("axis", -1), keepdim=True))
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@operator("LRN")
def lrn(node: Node, x: Tensor) -> Tensor:
    """x / (bias + alpha / size * sum of squares over the channels around)^beta."""
    size = node.whole("size", 1)
    squares = F.pad(x.square().transpose(1, -1), ((size - 1) // 2, size // 2))
    total = squares.unfold(-1, size, 1).sum(-1).transpose(1, -1)
    base = node.number("bias", 1.0) + node.number("alpha", 1e-4) / size * total
    return x / base.pow(node.number("beta", 0.75))


def _standardise(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
