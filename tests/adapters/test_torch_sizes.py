"""Forwards that look at the batch size: refused, also where only a batch far from the example's tells."""

from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import bnfold
from bnfold.adapters.torch_capture import CaptureError, arguments
from bnfold.adapters.torch_module import read_at
from bnfold.adapters.torch_sizes import same_at_other_sizes
from bnfold.errors import DifferentError
from bnfold.why import Why
from tests.adapters.torch_networks import image, randomised


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


class Choosing(nn.Module):
    """Hands its BatchNorm two of four channels, in large batches the other two."""

    def __init__(self, first: object, last: object) -> None:
        super().__init__()
        self.conv, self.norm, self.parts = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(2), (first, last)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x)[:, self.parts[x.shape[0] > 8]])
        return y


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param(slice(2), slice(2, None), id="slices"),
        pytest.param(slice(0, None, 2), slice(1, None, 2), id="steps"),
        pytest.param([0, 1], [2, 3], id="lists"),
        pytest.param(np.array([0, 1]), np.array([2, 3]), id="arrays"),
    ],
)
def test_channels_that_depend_on_the_batch_are_seen(first, last):
    with pytest.raises(CaptureError, match="another path"):
        bnfold.fold(randomised(Choosing(first, last)), image())


class Cropping(nn.Module):
    """Crops what it enlarged to the size that it had, in either layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = F.interpolate(self.norm(self.conv(F.max_pool2d(x, 2))), scale_factor=3.0)
        last = x.permute(0, 2, 3, 1)[:, :height, :width]
        return x[:, :, :height, :width] + x[..., :height, :width] + last.permute(0, 3, 1, 2)


class Windowed(Cropping):
    """Pads to windows of 8 and crops what it computed."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        y = self.norm(self.conv(F.pad(x, (0, -width % 8, 0, -height % 8))))
        return y[:, :, :height, :width]


class Skipping(Cropping):
    """Crops what was pooled and enlarged, where the size is odd."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        up = F.interpolate(F.max_pool2d(y, 2, ceil_mode=True), scale_factor=2.0)
        return torch.cat([y, up[:, :, : y.shape[2], : y.shape[3]]], 1)


@pytest.mark.parametrize(
    ("kind", "size", "larger"), [(Cropping, 7, 39), (Windowed, 30, 31), (Skipping, 9, 10), (Skipping, 8, 9)]
)
def test_parts_that_follow_from_the_size_are_no_other_path(kind, size, larger):
    found = bnfold.fold(randomised(kind()), image((2, 3, size, size)))
    assert len(found.plan.folded) == 1
    assert f"2x3x{larger}x{larger}" in found.notes[0]


def test_a_forward_that_looks_at_no_size_is_checked_at_several():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    given = arguments(torch.randn(2, 3, 8, 8))
    found = same_at_other_sizes(module, given, lambda other: read_at(module, other))
    assert [size.batch for size in found.sizes[:3]] == [2, 1, 3]
    assert all(size.batch != 65 for size in found.sizes)
    assert "1x3x8x8" in found.notes[0]
    assert {size.batch for size, _ in found.traces} == {1, 2, 3, 65}


class Noticing(nn.Module):
    """Takes another path without its BatchNorm, in large batches only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y * 2 if x.shape[0] > 50 and isinstance(self.norm, nn.Identity) else y


def test_a_path_that_only_the_folded_module_takes_in_a_large_batch_is_seen():
    module = Noticing(4).eval()
    with pytest.raises(DifferentError, match="another path"):
        bnfold.fold(module, torch.randn(2, 3, 8, 8))
    assert isinstance(module.norm, nn.BatchNorm2d)


def test_a_large_module_is_run_once_and_followed_at_the_other_sizes():
    class Counting(nn.Sequential):
        batches: ClassVar[list[int]] = []

        def forward(self, x: Tensor) -> Tensor:
            if x.device.type != "meta" and not isinstance(x, FakeTensor):
                self.batches.append(len(x))
            return super().forward(x)

    module = Counting(nn.Conv2d(3, 40_000, 3, bias=False), nn.BatchNorm2d(40_000)).eval()
    result = bnfold.fold(module, torch.randn(2, 3, 3, 3))
    assert len(result.plan.folded) == 1
    assert Counting.batches == [2, 2, 2]  # the original, its truth in float64, the folded one


class SumOverColumns(nn.Module):
    """A BatchNorm whose shift is added up as often as the map has columns."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 1)
        self.last = nn.Linear(24, 2) if fixed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.norm(x).sum(-1, keepdim=True))
        return self.last(y.flatten(1))


@pytest.mark.parametrize("fixed", [True, False])
def test_a_sum_over_any_number_of_columns_has_no_constant_shift(fixed: bool) -> None:
    module = randomised(SumOverColumns(fixed))
    result = bnfold.fold(module, image((2, 3, 6, 5)))
    assert len(result.plan.folded) == int(fixed)
    assert [any(reason.why is Why.LENGTH for reason in kept.why) for kept in result.plan.kept] == [True] * (not fixed)


class Halves(nn.Module):
    """What a cut gives is told apart by its place, also where a layer in front of it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.norm(self.conv(x)).chunk(2, 2)
        return torch.cat([second, first], 2).roll(1, 2)


def test_the_parts_of_a_cut_are_followed_at_every_size() -> None:
    result = bnfold.fold(randomised(Halves()), image((2, 3, 6, 6)))
    assert [outcome.affine for outcome in result.plan.folded] == ["norm"]
