"""RepVGG as it is trained: a 3x3, a 1x1 and an identity branch, each with its own BatchNorm, not yet merged."""

from torch import Tensor, nn


class RepVGGBlock(nn.Module):
    """relu of the branches' sum, the identity only where the shape stays; input (N, in_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.rbr_dense = self._conv_bn(in_channels, out_channels, kernel_size=3, stride=stride)
        self.rbr_1x1 = self._conv_bn(in_channels, out_channels, kernel_size=1, stride=stride)
        self.rbr_identity: nn.Module | None = None
        if stride == 1 and in_channels == out_channels:
            self.rbr_identity = nn.BatchNorm2d(in_channels)
        self.nonlinearity = nn.ReLU()

    @staticmethod
    def _conv_bn(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Sequential:
        block = nn.Sequential()
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
        block.add_module("conv", conv)
        block.add_module("bn", nn.BatchNorm2d(out_channels))
        return block

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, out_channels, H / stride, W / stride)."""
        out = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            out = out + self.rbr_identity(x)
        return self.nonlinearity(out)


class RepVGG(nn.Module):
    """Three stages of `blocks` blocks, each halving the size; input (N, in_channels, H, W), output (N, num_classes)."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.stage1 = self._stage(in_channels, width, blocks)
        self.stage2 = self._stage(width, 2 * width, blocks)
        self.stage3 = self._stage(2 * width, 4 * width, blocks)
        self.gap = nn.AdaptiveAvgPool2d(output_size=1)
        self.linear = nn.Linear(4 * width, num_classes)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
        first = RepVGGBlock(in_channels, out_channels, stride=2)
        return nn.Sequential(first, *(RepVGGBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits."""
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.linear(self.gap(x).flatten(1))
