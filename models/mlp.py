"""A multilayer perceptron with BatchNorm1d."""

from torch import Tensor, nn


class MLP(nn.Module):
    """linear-BN-relu twice and a linear; input (N, in_channels, image_size, image_size), output (N, num_classes)."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, image_size: int = 28, width: int = 128) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * image_size * image_size, width, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.fc2 = nn.Linear(width, width)
        self.bn2 = nn.BatchNorm1d(width)
        self.fc3 = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits."""
        x = self.bn1(self.fc1(x.flatten(1))).relu()
        x = self.bn2(self.fc2(x)).relu()
        return self.fc3(x)
