"""Modules that hand functions to an operator: the branches of torch.cond are followed, other ones refused by name."""

import copy

import pytest
import torch
from torch import nn

from bnfold.checking import Verdict, check


class Choosing(nn.Module):
    """A layer in the branch that most inputs take, with a cast in it, and none in the other."""

    def __init__(self):
        super().__init__()
        self.conv, self.inner = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.conv(x)
        return torch.cond(x.mean() > -100, lambda x: torch.relu(self.inner(x.float())), lambda x: x - 1, (x,))


class Looping(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)

    def forward(self, x):
        return torch.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, x * 2), (torch.tensor(0), self.conv(x)))[1]


@pytest.fixture
def x():
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("exported", [False, True])
def test_a_branch_is_followed_in_float64(x, exported):
    torch.manual_seed(0)
    model = Choosing().eval().requires_grad_(False)
    other = copy.deepcopy(model)
    other.inner.weight[0, 0] *= 1 + 2.0**-8
    sides = [
        torch.export.export(side, (x,)).module(check_guards=False) if exported else side for side in (model, other)
    ]
    right = check(sides[0], copy.deepcopy(model), (x,), only_given=exported, localise=False)
    assert right.passed, right.reasons
    assert right.runs[0].outputs[0].reference.rms > 0  # the cast rounds nothing in the truth
    assert right.coverage.layers  # the ReLU of the branch
    wrong = check(sides[0], sides[1], (x,), only_given=exported, localise=False)
    assert wrong.verdict is Verdict.DIFFERENT


def test_a_loop_is_refused_by_name(x):
    model = Looping().eval()
    result = check(model, model, (x,))
    assert result.verdict is Verdict.UNVERIFIED
    assert "torch.while_loop" in result.reasons[0]
    assert "ONNX" in result.reasons[0]
