"""A convolutional network for volumes and clips, with BatchNorm3d."""

from torch import Tensor, nn


class Conv3dNet(nn.Module):
    """Three conv-BN-relu; input (N, in_channels, D, H, W), output (N, num_classes)."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv3d(in_channels, width, kernel_size=3, padding=1),
            nn.BatchNorm3d(width),
            nn.ReLU(),
            nn.MaxPool3d(kernel_size=(1, 2, 2)),
            nn.Conv3d(width, 2 * width, kernel_size=3, stride=(2, 1, 1), padding=1, bias=False),
            nn.BatchNorm3d(2 * width),
            nn.ReLU(),
            nn.MaxPool3d(kernel_size=(1, 2, 2)),
            nn.Conv3d(2 * width, 4 * width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm3d(4 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
        )
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits."""
        return self.classifier(self.features(x).flatten(1))
