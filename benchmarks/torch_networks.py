"""Networks of real size, as the model zoos have them, without their packages."""

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """ResNet's block: 1x1, 3x3, 1x1, each with BatchNorm, around a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 4 * width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """ResNet with bottlenecks: (3, 4, 6, 3) is ResNet-50, (3, 8, 36, 3) ResNet-152 (60 million parameters)."""

    def __init__(self, blocks: tuple[int, int, int, int] = (3, 8, 36, 3), num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        channels = 64
        stages = []
        for index, count in enumerate(blocks):
            width = 64 * 2**index
            layers = [Bottleneck(channels, width, 1 if index == 0 else 2)]
            channels = 4 * width
            layers += [Bottleneck(channels, width, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits of (N, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.avgpool(self.stages(x)).flatten(1))


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm random statistics near those of a trained network; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):
            for tensor, low, width in (
                (part.weight, 0.3, 0.5),
                (part.bias, -0.2, 0.4),
                (part.running_mean, -0.3, 0.6),
                (part.running_var, 0.5, 1.0),
            ):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * width + low)
    return module.eval()
