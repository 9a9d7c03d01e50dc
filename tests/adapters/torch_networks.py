"""Small modules for tests, with statistics that no two channels share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHAPE = (2, 3, 8, 8)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm random statistics, some gammas negative and one zero where there are four or more; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):
            _randomise(part, generator)
    return module.eval()


def _randomise(norm: nn.modules.batchnorm._NormBase, generator: torch.Generator) -> None:
    count = norm.num_features
    with torch.no_grad():
        if norm.affine:
            norm.weight.copy_(torch.rand(count, generator=generator) + 0.5)
            norm.weight[1::3] *= -1
            norm.bias.copy_(torch.randn(count, generator=generator))
        if norm.track_running_stats:
            norm.running_mean.copy_(torch.randn(count, generator=generator))
            norm.running_var.copy_(torch.rand(count, generator=generator) + 0.3)


def image(shape: Sequence[int] = SHAPE, seed: int = 1) -> Tensor:
    """Give a seeded normal tensor."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def conv_bn(channels: int = 4, **options: object) -> nn.Sequential:
    """Give conv3x3, BN, relu on three channels."""
    return nn.Sequential(nn.Conv2d(3, channels, 3, **options), nn.BatchNorm2d(channels), nn.ReLU())
