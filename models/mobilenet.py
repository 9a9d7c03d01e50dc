"""A MobileNetV2 for small images: inverted residuals around depthwise convolutions."""

from torch import Tensor, nn


def conv_bn_relu6(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution without bias, BatchNorm and relu6."""
    padding = (kernel_size - 1) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand by 1x1, depthwise 3x3, project by 1x1 without activation; added to the input where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        layers = [] if expansion == 1 else [conv_bn_relu6(in_channels, hidden, kernel_size=1)]
        self.conv = nn.Sequential(
            *layers,
            conv_bn_relu6(hidden, hidden, kernel_size=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, out_channels, H / stride, W / stride)."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNet(nn.Module):
    """Five inverted residuals; input (N, in_channels, H, W), output (N, num_classes)."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn_relu6(in_channels, width, kernel_size=3, stride=2),
            InvertedResidual(width, width, stride=1, expansion=1),
            InvertedResidual(width, 2 * width, stride=2, expansion=4),
            InvertedResidual(2 * width, 2 * width, stride=1, expansion=4),
            InvertedResidual(2 * width, 4 * width, stride=2, expansion=4),
            InvertedResidual(4 * width, 4 * width, stride=1, expansion=4),
            conv_bn_relu6(4 * width, 8 * width, kernel_size=1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(8 * width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(x.flatten(1))
