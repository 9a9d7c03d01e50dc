"""A DenseNet for small images: every layer reads all that came before it in its block."""

import torch
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """BN-relu-conv1x1-BN-relu-conv3x3, appended to its input; (N, C, H, W) to (N, C + growth, H, W)."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        bottleneck = 4 * growth
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, bottleneck, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(bottleneck, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Give the input with `growth` new channels behind it."""
        out = self.conv1(self.relu1(self.norm1(x)))
        out = self.conv2(self.relu2(self.norm2(out)))
        return torch.cat([x, out], dim=1)


class Transition(nn.Sequential):
    """BN-relu-conv1x1-avgpool; halves the channels and the size."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)


class DenseNet(nn.Module):
    """Two dense blocks of `layers` layers; input (N, in_channels, H, W), output (N, num_classes)."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, growth: int = 8, layers: int = 4) -> None:
        super().__init__()
        channels = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False))
        self.features.add_module("pool0", nn.MaxPool2d(kernel_size=2, stride=2))
        for block in (1, 2):
            dense = nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(layers)))
            self.features.add_module(f"denseblock{block}", dense)
            channels += layers * growth
            if block == 1:
                self.features.add_module("transition1", Transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits."""
        x = self.relu(self.features(x))
        return self.classifier(self.pool(x).flatten(1))
