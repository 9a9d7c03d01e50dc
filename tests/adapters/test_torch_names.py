"""Parameters and buffers that bear the name of an operator, or of an input, are told from what that computes."""

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.training.statistics import randomise_


class MeanAndStd(nn.Module):
    """An input normalisation with buffers `mean` and `std`, and a mean over H and W."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(3, 1, 1))
        self.register_buffer("std", torch.rand(3, 1, 1) + 0.5)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.last, self.head = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv((x - self.mean) / self.std)))
        return self.head(self.last(y.mean((2, 3))))


class Input(nn.Module):
    """A parameter `x` and an input `x`."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.randn(4, 3, 1, 1))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.conv2d(x, self.x))


class Chain(nn.Module):
    """A buffer `view`, and a view of a product of constants."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("view", torch.rand(4, 1, 1) + 0.5)
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        twice = (self.view * 2).view(4, 1, 1)
        return self.norm(self.conv(x)) * self.view + twice


class Parts(nn.Module):
    """Parameters `getitem` and `getitem_1`, and a split."""

    def __init__(self) -> None:
        super().__init__()
        self.getitem, self.getitem_1 = nn.Parameter(torch.randn(2, 1, 1)), nn.Parameter(torch.randn(2, 1, 1))
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv(x).split(2, 1)
        return self.norm(first) * self.getitem + self.norm(second) * self.getitem_1


@pytest.mark.parametrize("network", [MeanAndStd, Input, Chain, Parts])
def test_names_are_told_apart(network):
    torch.manual_seed(0)
    module, x = randomise_(network(), 0).eval(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        program = torch.export.export(module, (x,))
        wanted = module(x)
        as_module, as_program = bnfold.fold(module, x), bnfold.fold(program)
        got = [as_module.model(x), as_program.model.module()(x)]
    assert len(str(as_module.graph).split("\n")) == len(as_module.graph.nodes)
    assert not as_program.plan.kept
    for item in got:
        torch.testing.assert_close(item, wanted, rtol=1e-4, atol=1e-5)


def test_a_norm_behind_a_mean_folds_beside_a_buffer_of_that_name():
    torch.manual_seed(0)
    module = randomise_(MeanAndStd(), 0).eval()
    folded = bnfold.fold(module, torch.randn(2, 3, 6, 6)).plan.folded
    assert {outcome.affine for outcome in folded} >= {"norm", "last"}
