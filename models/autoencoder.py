"""A convolutional autoencoder: strided convolutions down, transposed convolutions up."""

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Input and output (N, in_channels, H, W), H and W multiples of 4."""

    def __init__(self, in_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, width // 2, kernel_size=1),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(width // 2, 2 * width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, kernel_size=4, stride=2, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, in_channels, kernel_size=4, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Give the reconstruction of x."""
        return self.decoder(self.encoder(x))
