"""Forwards that look at the batch size: refused, also where only a batch far from the example's tells."""

import pytest
import torch
from torch import Tensor, nn

from bnfold.adapters.torch_capture import CaptureError, arguments
from bnfold.adapters.torch_module import read_at
from bnfold.adapters.torch_sizes import same_at_other_sizes


class Watching(nn.Module):
    def __init__(self, least: int) -> None:
        super().__init__()
        self.conv, self.norm, self.least = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), least

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y * 2 if x.shape[0] >= self.least else y


@pytest.mark.parametrize("least", [3, 5, 8, 32, 65])
def test_a_branch_on_a_large_batch_is_seen(least):
    module = Watching(least).eval()
    with pytest.raises(CaptureError, match="another path"):
        same_at_other_sizes(module, arguments(torch.randn(2, 3, 8, 8)), lambda given: read_at(module, given))


def test_a_forward_that_looks_at_no_size_is_checked_at_several():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    given = arguments(torch.randn(2, 3, 8, 8))
    sizes, notes = same_at_other_sizes(module, given, lambda other: read_at(module, other))
    assert [size.batch for size in sizes[:3]] == [2, 1, 3]
    assert all(size.batch != 65 for size in sizes)
    assert "1x3x8x8" in notes[0]
