"""Forwards that depend on what a fold changes: that stays, and the rest folds."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bnfold
from bnfold.errors import DifferentError
from bnfold.why import Why
from tests.adapters.torch_networks import conv_bn, image, randomised


class WithoutBias(nn.Conv2d):
    """Never adds its bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, None, self.stride, self.padding)


class AddedBias(nn.Conv2d):
    """Adds its bias by itself, where there is one."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weight, None, self.stride, self.padding)
        return y if self.bias is None else y + self.bias.reshape(-1, 1, 1)


class WatchedBias(nn.Conv2d):
    """Does something else where it has a bias."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return y if self.bias is None else y.abs()


class PassedBias(nn.Conv2d):
    """Has a forward of its own that takes a bias as any layer does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("layer", "takes_bias"),
    [(WithoutBias, False), (AddedBias, False), (WatchedBias, False), (PassedBias, True)],
)
def test_a_layer_whose_forward_takes_no_bias_gets_none(layer: type[nn.Conv2d], takes_bias: bool, inplace: bool) -> None:
    module = randomised(nn.Sequential(conv_bn(bias=False), layer(4, 4, 3, bias=False), nn.BatchNorm2d(4)))
    with torch.no_grad():
        before = module(image())
    result = bnfold.fold(module, image(), inplace=inplace)
    assert {outcome.affine for outcome in result.plan.folded} == {"0.1", *(["2"] if takes_bias else [])}
    assert all(Why.NO_BIAS in {reason.why for reason in outcome.why} for outcome in result.plan.kept)
    assert (result.model[1].bias is not None) == takes_bias
    with torch.no_grad():
        torch.testing.assert_close(result.model(image()), before, rtol=1e-4, atol=1e-4)


class Everything(nn.Module):
    """A norm that is looked at, a layer that takes no bias, and an activation that is called as a statement."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.watched, self.layer, self.second, self.third = (
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), WithoutBias(4, 4, 1, bias=False), nn.BatchNorm2d(4),
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        )  # fmt: skip
        self.relu, self.last = nn.ReLU(inplace=True), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.watched(y) if isinstance(self.watched, nn.BatchNorm2d) else y
        y = self.third(self.second(self.layer(y)))
        z = self.last(y)
        self.relu(z)
        return z + y


def test_several_such_reasons_are_heeded_one_after_the_other() -> None:
    module = randomised(Everything())
    with torch.no_grad():
        before = module(image())
    result = bnfold.fold(module, image())
    assert {outcome.affine for outcome in result.plan.kept} == {"watched", "second", "last"}
    assert [outcome.affine for outcome in result.plan.folded] == ["third.2"]
    assert any(note.startswith("watched: the forward looks at it") for note in result.notes)
    with torch.no_grad():
        torch.testing.assert_close(result.model(image()), before, rtol=1e-4, atol=1e-4)


def test_a_plan_that_is_given_is_not_made_anew() -> None:
    module = randomised(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    plan = bnfold.fold(module, image(), dry_run=True).plan
    module[0] = WithoutBias(3, 4, 3, bias=False)
    with pytest.raises(DifferentError, match="takes another path"):
        bnfold.fold(module, image(), plan=plan)
