"""The activation that takes a ReLU's place where a BatchNorm was folded through it: a clip by channel."""

import torch
from torch import Tensor, nn


class ChannelClip(nn.Module):
    """min(max(x, lo), hi), channel by channel; s * ReLU(x) with a shift is one (`--level max`).

    lo, hi: buffers of shape (C, 1, ..., 1), which broadcasts against x along its channels; infinite is no bound.
    """

    lo: Tensor
    hi: Tensor

    def __init__(self, lo: Tensor, hi: Tensor) -> None:
        super().__init__()
        self.register_buffer("lo", lo)
        self.register_buffer("hi", hi)

    def forward(self, x: Tensor) -> Tensor:
        """Clip; x and the result have one shape and dtype."""
        return torch.clamp(x, self.lo, self.hi)
