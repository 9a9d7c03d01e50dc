"""A convolutional network for signals, with BatchNorm1d on (N, C, L)."""

from torch import Tensor, nn


class Conv1dNet(nn.Module):
    """Four strided conv-BN-relu; input (N, in_channels, L), output (N, num_classes)."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(in_channels, width, kernel_size=9, stride=2, padding=4)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, 2 * width, kernel_size=9, stride=2, padding=4, bias=False)
        self.bn2 = nn.BatchNorm1d(2 * width)
        self.conv3 = nn.Conv1d(2 * width, 4 * width, kernel_size=9, stride=2, padding=4, groups=2, bias=False)
        self.bn3 = nn.BatchNorm1d(4 * width)
        self.conv4 = nn.Conv1d(4 * width, 4 * width, kernel_size=9, stride=2, padding=4, bias=False)
        self.bn4 = nn.BatchNorm1d(4 * width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveMaxPool1d(1)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.relu(self.bn3(self.conv3(x)))
        x = self.relu(self.bn4(self.conv4(x)))
        return self.fc(self.pool(x).flatten(1))
