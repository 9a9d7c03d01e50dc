"""The small convolutional network of many a tutorial."""

from torch import Tensor, nn


class ConvNet(nn.Module):
    """conv5x5-BN-relu-maxpool twice and two linears; input (N, in_channels, 28, 28), output (N, num_classes)."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=5, padding=2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.layer2 = nn.Sequential(
            nn.Conv2d(width, 2 * width, kernel_size=5, padding=2),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.dropout = nn.Dropout(0.25)
        self.fc1 = nn.Linear(7 * 7 * 2 * width, 64)
        self.fc2 = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits."""
        x = self.layer2(self.layer1(x)).flatten(1)
        x = self.fc1(self.dropout(x)).relu()
        return self.fc2(x)
