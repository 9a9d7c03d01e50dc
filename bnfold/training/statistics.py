"""The BatchNorms of a network, whatever their make, and random statistics for them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class BatchNormTensors:
    """The tensors of one BatchNorm, all with C elements; None where the layer has none."""

    name: str
    gamma: Tensor | None
    beta: Tensor | None
    mean: Tensor | None
    var: Tensor | None

    def present(self) -> list[Tensor]:
        """Give those that are there."""
        return [tensor for tensor in (self.gamma, self.beta, self.mean, self.var) if tensor is not None]


def batch_norms(module: nn.Module) -> Iterator[BatchNormTensors]:
    """Find the BatchNorms in `module`: PyTorch's, and hand-written ones that have a moving_mean and a moving_var."""
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            yield BatchNormTensors(name, layer.weight, layer.bias, layer.running_mean, layer.running_var)
        elif hasattr(layer, "moving_mean") and hasattr(layer, "moving_var"):
            tensors = (getattr(layer, key, None) for key in ("gamma", "beta", "moving_mean", "moving_var"))
            yield BatchNormTensors(name, *tensors)


def randomise_(module: nn.Module, seed: int, *, negative: bool = True, zero: bool = False) -> nn.Module:
    """Give every BatchNorm in `module` random statistics and affine parameters, in place, no two channels alike.

    Variances lie in [0.3, 3] and |gamma| in [0.4, 1.8]. With `negative`, about a third of the gammas (of two or
    more, at least one) are negative. With `zero`, about a quarter (at least one) are exactly zero, the only values
    that can be equal. Fresh statistics hide mixed-up channels; these don't.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, count: int) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for layer in batch_norms(module):
            for tensor, low, high in ((layer.beta, -1.0, 1.0), (layer.mean, -1.0, 1.0)):
                if tensor is not None:
                    tensor.copy_(uniform(low, high, tensor.numel()).view_as(tensor))
            if layer.var is not None:
                layer.var.copy_(uniform(math.log(0.3), math.log(3.0), layer.var.numel()).exp().view_as(layer.var))
            if layer.gamma is not None:
                count = layer.gamma.numel()
                gamma = uniform(0.4, 1.8, count)
                order = torch.randperm(count, generator=generator)
                if negative:
                    gamma[order[: count // 3 or count // 2]] *= -1
                if zero:
                    gamma[order[-max(1, count // 4) :]] = 0
                layer.gamma.copy_(gamma.view_as(layer.gamma))
    return module


def non_finite(module: nn.Module) -> list[str]:
    """Name the BatchNorms that hold a NaN, an infinity or a negative variance."""
    return [
        layer.name
        for layer in batch_norms(module)
        if not all(bool(tensor.isfinite().all()) for tensor in layer.present())
        or (layer.var is not None and bool((layer.var < 0).any()))
    ]
